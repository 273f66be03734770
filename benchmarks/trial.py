"""What a trial costs beside its training: start-up, tracking, Lightning, and how that grows.

Trials run through the real command line, on a net that takes no time to train.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.bench import Figure, alternate, figure, finish, median, parse, parser, positive, seconds
from benchmarks.train import take_turns, write_records
from ecgexp.tracking.store import open_store

ROOT = Path(__file__).parents[1]
RECORDS = 512  # of an epoch whose parts are compared
PTBXL = 17_418  # records that the papers train on
TINY = ["model=linear", "max_epochs=1", "dataset.records=200", "trainer=cpu", "trainer.threads=1"]


def main() -> None:
    """Measure, print, write."""
    found = parser(__doc__, runs=3)
    found.add_argument(
        "--trials", nargs="+", type=positive, default=[10, 90, 1000], help="sizes of sweeps of tiny trials"
    )
    found.add_argument("--records", nargs="+", type=positive, default=[1000, 5000, 21_799], help="sizes of datasets")
    arguments = parse(found)
    parts: list[Callable[[Path], list[Figure]]] = [
        lambda folder: start(folder, arguments.runs),
        lambda folder: shares(folder, arguments.runs, arguments.threads),
        jobs,
        lambda folder: datasets(folder, arguments.records),
        memory,
        lambda folder: [figure("trial", "Hydra's composition of one configuration", composition(folder), unit="s")],
        *(partial(sweep, size=size) for size in arguments.trials),
    ]
    with tempfile.TemporaryDirectory() as folder:
        for part in parts:
            finish(part(Path(folder)))


def start(folder: Path, runs: int) -> list[Figure]:
    """From the command to its end, for the help, a configuration and one tiny trial."""
    command(folder, *TINY)  # makes the records
    help_, config, bare, trial, step = alternate(
        runs,
        lambda: command(folder, "--help"),
        lambda: command(folder, "--cfg", "job"),
        lambda: imports(folder),
        lambda: command(folder, *TINY, "resume=false"),
        lambda: until_first_step(folder, *TINY),
    )
    name = "import of torch, Lightning and MLflow"
    return [
        figure("trial", "--help", median(help_), unit="s", target="1.5 s"),
        figure("trial", "--cfg job", median(config), unit="s"),
        figure("trial", "one tiny trial, all of it", median(trial), median(bare), name, "s"),
        figure("trial", "one tiny trial, until its first step", median(step), median(bare), name, "s"),
    ]


def sweep(folder: Path, size: int) -> list[Figure]:
    """Seconds per trial of a sweep, and what listing and reporting them takes."""
    place = folder / f"sweep{size}"
    place.mkdir()
    rates = ",".join(str(round(1e-5 * (i + 1), 6)) for i in range(size))
    command(place, *TINY, "lr=0.5")  # records and imports
    whole = command(place, "-m", *TINY, f"lr={rates}", f"sweep.name=n{size}")
    begun, steps = first_and_steps(place)
    half = len(steps) // 2
    drift = median(steps[half:]) / median(steps[:half])
    listed, reported = seconds(lambda: listing(place)), report(place)
    shutil.rmtree(place)
    return [
        figure("trial", f"sweep of {size} tiny trials, per trial", median(steps), unit="s", target="0.5 s + Hydra"),
        figure("trial", f"sweep of {size}: second half over first half", drift, unit="times", target="1"),
        figure("trial", f"sweep of {size}: until the first trial began", begun, unit="s"),
        figure("trial", f"sweep of {size}: all of it", whole, unit="s"),
        figure("trial", f"sweep of {size}: list of runs", listed, unit="s"),
        figure("trial", f"sweep of {size}: report", reported, unit="s"),
    ]


def jobs(folder: Path) -> list[Figure]:
    """Trials side by side: two processes of one thread beside one process of two."""
    words = ["model=ribeiro", "max_epochs=2", "dataset.records=400", "trainer=cpu", "lr=0.001,0.002,0.003,0.004"]
    ways = {
        "two": ["trainer.threads=1", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
        "one": ["trainer.threads=2"],
    }
    figures = []
    for precision in ("32", "bf16-mixed"):
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for run, name in enumerate((*ways, *ways)):
            place = folder / f"jobs-{precision}-{run}"  # never the same: MLflow keeps a deleted database open
            place.mkdir()
            command(place, *TINY, "dataset.records=400")
            command(place, "-m", *words, f"precision={precision}", *ways[name])
            trained, whole = seconds_of_sweep(place)
            times[name].append((trained / (2 if name == "two" else 1), whole))
            shutil.rmtree(place)
        for part, (what, target) in enumerate((("training", "1.1"), ("all of it", ""))):
            two, one = (median([pair[part] for pair in times[name]]) for name in ways)
            name, peer = f"4 Ribeiro trials in {precision}, 2 at once, {what}", "1 at once, 2 threads"
            figures.append(figure("trial", name, two, one, peer, "s", target=target))
    return figures


def datasets(folder: Path, sizes: list[int]) -> list[Figure]:
    """What a command takes beside its one epoch, and its memory, by the size of a dataset that is cached."""
    figures = []
    for size in sizes:
        words, name = [*TINY, f"dataset.records={size}"], f"{size:,} cached records"
        command(folder, *words)
        took = command(folder, *words, "resume=false")
        beside = took - last_run(folder).data.metrics["train_seconds"]
        figures += [
            figure("trial", f"{name}: a command beside its one epoch", beside, unit="s"),
            figure("trial", f"{name}: until the first step", until_first_step(folder, *words), unit="s"),
            figure("trial", f"{name}: memory of a tiny trial", largest(folder, *words), unit="GB"),
        ]
    return figures


def memory(folder: Path) -> list[Figure]:
    """Of a whole trial through the command line, 1,000 records."""
    return [
        figure(
            "trial",
            f"memory of a trial of {net}, batch 64",
            largest(folder, f"model={net}", "batch_size=64", "max_epochs=1", "dataset.records=1000", "trainer=cpu"),
            unit="GB",
            target=target,
        )
        for net, target in (("ribeiro", "1.5 GB"), ("rajpurkar", "2.2 GB"))
    ]


def shares(folder: Path, runs: int, threads: int) -> list[Figure]:
    """What Lightning and metrics, and then checkpoints and MLflow, add to an epoch of a bare loop over the same net."""
    figures = []
    write_records(folder, RECORDS)
    for net, size, target in (
        ("ribeiro", 16, "6 %"),
        ("ribeiro", 256, "3 %"),
        ("rajpurkar", 16, "6 %"),
        ("rajpurkar", 256, "3 %"),
        ("linear", 16, ""),
    ):
        settings = {"folder": str(folder), "net": net, "batch_size": size, "precision": "fp32"}
        # PTB-XL has an eighth as many records to validate on as to train on
        settings |= {"threads": threads, "compile": False, "validation": RECORDS // 8}
        who: dict[str, tuple[str, dict[str, str]]] = {
            name: (sys.executable, {}) for name in ("ours", "tracked", "bare")
        }
        # a process may be slower than another of the same program from its start to its end: the faster of two counts
        rounds = [take_turns(settings, who, runs) for _ in range(2)]
        ours, tracked, bare = (min(median([t["whole"] for t in times[name]]) for times in rounds) for name in who)
        if net == "linear":
            name = "Lightning, metrics and tracking, per step of a tiny net"
            figures.append(figure("trial", name, 1e3 * (tracked - bare) / (RECORDS / size), unit="ms", target="2 ms"))
            continue
        step, end = (100 * extra / bare for extra in (ours - bare, tracked - ours))
        for name, share, aim in (
            (f"Lightning and metrics, {RECORDS} records", step, ""),
            (f"Lightning, metrics, checkpoints and tracking, {RECORDS} records", step + end, target),
            # what ends an epoch does not grow with it
            (f"the same, {PTBXL:,} records, computed", step + end * RECORDS / PTBXL, target),
        ):
            figures.append(
                figure("trial", f"share of an epoch, {net} batch {size}: {name}", share, unit="%", target=aim)
            )
    return figures


def command(folder: Path, *words: str) -> float:
    """Seconds of `python -m ecgexp` in a folder."""
    return seconds(lambda: _run(folder, "-m", "ecgexp", *words))


def until_first_step(folder: Path, *words: str) -> float:
    """Seconds from the command to the first epoch of a trial."""
    begun = time.time()
    command(folder, *words, "resume=false")
    run, store = last_run(folder), open_store_of(folder)
    first = store.client.get_metric_history(run.info.run_id, "epoch_seconds")[0]
    return first.timestamp / 1e3 - first.value - begun


def largest(folder: Path, *words: str) -> float:
    """GB that the largest of a command's processes had."""
    code = (
        "import resource, subprocess, sys\n"
        "from benchmarks.racer import gigabytes\n"
        f"words = [sys.executable, '-m', 'ecgexp', *{words!r}, 'resume=false']\n"
        f"subprocess.run(words, cwd={str(folder)!r}, check=True)\n"
        "print(gigabytes(resource.RUSAGE_CHILDREN))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


def last_run(folder: Path) -> Any:
    """The run that was begun last in a folder."""
    store = open_store_of(folder)
    (last,) = store.client.search_runs([store.experiment_id], max_results=1)
    return last


def imports(folder: Path) -> float:
    """Seconds that Python takes for the packages alone."""
    return seconds(lambda: _run(folder, "-c", "import torch, pytorch_lightning, mlflow, mlflow.pytorch"))


def report(folder: Path) -> float:
    """Seconds of `python -m ecgexp.report`."""
    return seconds(lambda: _run(folder, "-m", "ecgexp.report"))


def listing(folder: Path) -> None:
    """What the UI asks for when it shows the runs."""
    store = open_store_of(folder)
    store.client.search_runs([store.experiment_id], max_results=1000)


def open_store_of(folder: Path) -> Any:
    """The local store that commands in a folder made."""
    from omegaconf import OmegaConf

    tracking = OmegaConf.load(ROOT / "conf" / "tracking" / "local.yaml")
    before = Path.cwd()
    os.chdir(folder)
    try:
        return open_store(tracking)
    finally:
        os.chdir(before)


def first_and_steps(folder: Path) -> tuple[float, list[float]]:
    """Seconds from the start of the sweep to its first trial, and from each trial's start to the next's."""
    store = open_store_of(folder)
    runs = store.client.search_runs([store.experiment_id], "tags.kind = 'trial'", max_results=5000)
    parents = store.client.search_runs([store.experiment_id], "tags.kind = 'sweep'")
    children = sorted(r.info.start_time for r in runs if "mlflow.parentRunId" in r.data.tags)
    steps = [(b - a) / 1e3 for a, b in pairwise(children[1:])]
    return (children[0] - parents[0].info.start_time) / 1e3, steps


def seconds_of_sweep(folder: Path) -> tuple[float, float]:
    """Of the epochs of all trials together, and from the first trial's start to the last one's end."""
    store = open_store_of(folder)
    runs = store.client.search_runs([store.experiment_id], "tags.kind = 'trial'", max_results=5000)
    children = [r for r in runs if "mlflow.parentRunId" in r.data.tags]
    trained = sum(r.data.metrics["train_seconds"] for r in children)
    return trained, (max(r.info.end_time for r in children) - min(r.info.start_time for r in children)) / 1e3


def composition(folder: Path) -> float:
    """Seconds that Hydra takes to compose one configuration, in a process that did so before."""
    code = (
        "import time; from hydra import compose, initialize_config_dir as at\n"
        "from ecgexp.cli import register_resolvers; register_resolvers()\n"
        f"with at({str(ROOT / 'conf')!r}, version_base=None):\n"
        "    compose('config', ['lr=0.1'])\n"
        "    begun = time.perf_counter()\n"
        "    for i in range(10): compose('config', [f'lr={i}'])\n"
        "print('SECONDS', (time.perf_counter() - begun) / 10)"
    )
    found = re.search(r"SECONDS ([\d.e-]+)", _run(folder, "-c", code))
    assert found
    return float(found.group(1))


def _run(folder: Path, *words: str) -> str:
    done = subprocess.run([sys.executable, *words], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"python {' '.join(words)[:200]} failed:\n{done.stderr[-2000:]}")
    return done.stdout


if __name__ == "__main__":
    main()
