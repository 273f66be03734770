"""Runs the real command line in a folder of its own, and reads the store there."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import requests

from benchmarks.bench import median, seconds
from ecgexp import CONF
from ecgexp.tracking.store import open_store

ROOT = Path(__file__).parents[1]


def command(folder: Path, *arguments: str) -> float:
    """Seconds of `python -m ecgexp` in a folder."""
    return seconds(lambda: python(folder, "-m", "ecgexp", *arguments))


def measured(folder: Path, *arguments: str) -> tuple[float, float]:
    """Seconds of `python -m ecgexp`, and GB of the largest of its processes."""
    code = (
        "import resource, subprocess, sys, time\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "from benchmarks.racer import gigabytes\n"
        "begun = time.perf_counter()\n"
        f"done = subprocess.run([sys.executable, '-m', 'ecgexp', *{arguments!r}], stdout=subprocess.DEVNULL)\n"
        "print(time.perf_counter() - begun, gigabytes(resource.RUSAGE_CHILDREN))\n"
        "sys.exit(done.returncode)"
    )
    took, largest = python(folder, "-c", code).split()
    return float(took), float(largest)


def together(folder: Path, *arguments: str) -> float:
    """Largest GB of all processes of `python -m ecgexp` together, sampled twice a second; shared memory counts once."""
    most = 0.0
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with psutil.Popen([sys.executable, "-m", "ecgexp", *arguments], cwd=folder, **silent) as process:
        while process.poll() is None:
            most = max(most, sum(map(_gigabytes, [process, *process.children(recursive=True)])))
            time.sleep(0.5)
    if process.returncode:
        raise SystemExit(f"python -m ecgexp {' '.join(arguments)[:200]} failed.")
    return most


def _gigabytes(process: psutil.Process) -> float:
    try:
        return float(process.memory_full_info().pss) / 1e9
    except psutil.Error:  # it has just ended
        return 0.0


def python(folder: Path, *arguments: str) -> str:
    """The output of Python in a folder."""
    done = subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"python {' '.join(arguments)[:200]} failed:\n{done.stderr[-2000:]}")
    return done.stdout


def imports(folder: Path) -> float:
    """Seconds that Python takes to import the packages alone."""
    return seconds(lambda: python(folder, "-c", "import torch, pytorch_lightning, mlflow, mlflow.pytorch"))


def composition(folder: Path) -> float:
    """Seconds that Hydra takes to compose one configuration, in a process that has composed one before."""
    code = (
        "import time; from hydra import compose, initialize_config_dir as at\n"
        "from ecgexp.config.resolvers import register_resolvers; register_resolvers()\n"
        f"with at({str(CONF)!r}, version_base=None):\n"
        "    compose('config', ['lr=0.1'])\n"
        "    begun = time.perf_counter()\n"
        "    for i in range(10): compose('config', [f'lr={i}'])\n"
        "print('SECONDS', (time.perf_counter() - begun) / 10)"
    )
    found = re.search(r"SECONDS ([\d.e-]+)", python(folder, "-c", code))
    assert found
    return float(found.group(1))


def report(folder: Path) -> float:
    """Seconds of `python -m ecgexp.report`."""
    return seconds(lambda: python(folder, "-m", "ecgexp.report"))


@dataclass(frozen=True)
class Trial:
    """A single trial: seconds of the command, until its first step, and of its one epoch; and GB."""

    whole: float
    until_first_step: float
    epoch: float
    gigabytes: float


def trial(folder: Path, *arguments: str) -> Trial:
    """Run a single trial, also where the store has an equal one."""
    begun = time.time()
    whole, gigabytes = measured(folder, *arguments, "resume=false")
    store = open_store_of(folder)
    (run,) = store.client.search_runs([store.experiment_id], max_results=1)
    first = store.client.get_metric_history(run.info.run_id, "epoch_seconds")[0]
    return Trial(whole, first.timestamp / 1e3 - first.value - begun, run.data.metrics["train_seconds"], gigabytes)


@dataclass(frozen=True)
class Sweep:
    """Seconds of a sweep, from the store: until its first trial, between trials, of all trials, and of all training."""

    before: float
    steps: list[float]
    whole: float
    trained: float


def sweep_of(folder: Path) -> Sweep:
    """The one sweep of a folder."""
    store = open_store_of(folder)
    (parent,) = store.search("tags.kind = 'sweep'")
    trials = store.search(f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
    starts = sorted(run.info.start_time for run in trials)
    ends = [run.info.end_time for run in trials]
    return Sweep(
        before=(starts[0] - parent.info.start_time) / 1e3,
        steps=[(b - a) / 1e3 for a, b in pairwise(starts[1:])],
        whole=(max(ends) - starts[0]) / 1e3,
        trained=sum(run.data.metrics["train_seconds"] for run in trials),
    )


def open_store_of(folder: Path) -> Any:
    """The local store of the commands that ran in a folder."""
    from omegaconf import OmegaConf

    tracking = OmegaConf.load(CONF / "tracking" / "local.yaml")
    tracking.root = str(folder)
    return open_store(tracking)


def listings(folder: Path, *numbers: int) -> list[float]:
    """Seconds that MLflow's server takes to list runs, as its page does, for numbers of runs; medians of three."""
    asked = {
        "experiment_ids": [open_store_of(folder).experiment_id],
        "order_by": ["attributes.start_time DESC"],
        "run_view_type": "ACTIVE_ONLY",
    }

    def ask(number: int) -> None:
        json = {**asked, "max_results": number}
        answer = requests.post(f"{url}/ajax-api/2.0/mlflow/runs/search", json=json, timeout=600)
        answer.raise_for_status()
        assert answer.json()["runs"]

    with _server(folder) as url:
        ask(1)
        return [median([seconds(lambda n=number: ask(n)) for _ in range(3)]) for number in numbers]


@contextmanager
def _server(folder: Path) -> Iterator[str]:
    """The server that `make ui` starts, with one worker, on a free port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    arguments = ["ui", "--backend-store-uri", f"sqlite:///{folder}/mlruns/mlflow.db", "--workers", "1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "mlflow", *arguments, "--host", "127.0.0.1", "--port", port],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        _wait(f"http://127.0.0.1:{port}", process)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait(url: str, process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None:
        try:
            if requests.get(f"{url}/health", timeout=5).ok:
                return
        except requests.RequestException:
            pass
        time.sleep(0.2)
    raise SystemExit(f"MLflow's server ended with status {process.returncode} before it answered.")
