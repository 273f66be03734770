"""What the tests of this folder share: the command line run as a user would, and what it left in MLflow."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
import warm
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import Run
from omegaconf import DictConfig, OmegaConf
from sqlalchemy.engine import URL

SENTENCE = ("-m", "optimizer=sgd,adam", "lr=0.001,0.01")
# Small enough for seconds; results on a CPU are equal only at equal threads.
SMALL = (
    *("dataset.records=200", "max_epochs=2", "trainer=cpu", "trainer.threads=1"),
    *("tracking.system_metrics=false", "tracking.log_model=none"),
)
LINEAR = (*SMALL, "model=linear")
OWN = Path(__file__).parents[1] / "integration" / "own"
LAUNCHERS = {
    "basic": (),
    "joblib": ("hydra.launcher.n_jobs=2",),
    "submitit_local": ("hydra.launcher.cpus_per_task=1", "hydra.launcher.timeout_min=10"),
    "ray": ("+hydra.launcher.ray.init.num_cpus=2",),
}
PLUGINS = {"submitit_local": "hydra_submitit_launcher", "ray": "hydra_ray_launcher"}
PARENT = "mlflow.parentRunId"
LABELS = ("NORM", "STTC", "CD", "MI", "HYP")
AVERAGES = ("micro", "macro", "weighted")
METRICS = (
    "loss",
    "subset_accuracy",
    "binary_accuracy",
    "keras_accuracy",
    "auroc_macro",
    "ap_macro",
    *(f"f1/{label}" for label in LABELS),
    *(
        f"mlcm_{score}_{average}"
        for score in ("precision", "recall", "f1")
        for average in ("micro", "macro", "weighted")
    ),
    *(f"mlcm_f1/{label}" for label in LABELS),
)


@dataclass(frozen=True)
class Done:
    """A command that ended, and the folder that it ran in."""

    folder: Path
    status: int
    stdout: str
    stderr: str

    def expect(self, status: int = 0) -> Done:
        assert self.status == status, f"exit status {self.status}\n{self.stdout}\n{self.stderr}"
        return self


def own_folder(folder: Path) -> Path:
    """A folder in which a user keeps a package and a configuration directory of their own."""
    shutil.copytree(OWN, folder, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def start(folder: Path, *arguments: str, python: str | Path = sys.executable, **options) -> subprocess.Popen[str]:
    """A command in a new process, for what is done to processes."""
    folder.mkdir(parents=True, exist_ok=True)
    return subprocess.Popen(
        [str(python), "-m", "ecgexp", *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def finish(process: subprocess.Popen[str], folder: Path, timeout: float = 600) -> Done:
    try:
        stdout, stderr = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return Done(folder, process.returncode, stdout, stderr)


def ecgexp(folder: Path, *arguments: str, timeout: float = 600) -> Done:
    """A command in a forked process."""
    done = warm.run("ecgexp", folder, *arguments, timeout=timeout)
    return Done(folder, done.returncode, done.stdout, done.stderr)


def fresh(folder: Path, *arguments: str, python: str | Path = sys.executable, timeout: float = 600) -> Done:
    """A command in a new process."""
    return finish(start(folder, *arguments, python=python), folder, timeout)


def once(session_folder: Path, name: str, make: Callable[[Path], Done]) -> Done:
    """What `make` did in a folder of this name, which the first of the test processes to ask lets it do."""
    folder, record = session_folder / name, session_folder / f"{name}.json"
    with FileLock(session_folder / f"{name}.lock"):
        if record.exists():
            _, status, stdout, stderr = pd.read_json(record, typ="series", convert_dates=False)
            return Done(folder, int(status), stdout, stderr)
        done = make(folder)
        pd.Series([str(folder), done.status, done.stdout, done.stderr]).to_json(record)
        return Done(folder, done.status, done.stdout, done.stderr)


def wait_for(condition: Callable[[], bool], seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


def until(condition: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 300) -> None:
    """Wait for a condition while a process lives."""

    def fulfilled() -> bool:
        if condition():
            return True
        assert process.poll() is None, process.communicate()
        return False

    wait_for(fulfilled, seconds)


def training_among(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Those that train a trial for another process; one that ends meanwhile (git, say, which has answered) is none."""
    found = []
    for process in processes:
        with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            found += [process] if "ecgexp.sweeps.trial_process" in process.cmdline() else []
    return found


def parents_of(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    found = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            found.append(process.parent())
    return [parent for parent in found if parent is not None]


def begun(folder: Path) -> bool:
    """Whether a trial has an epoch behind it that it can go on from."""
    return any((folder / "mlruns" / "checkpoints").glob("*/last.ckpt"))


def jobs(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The processes that supervise a trial's."""
    return parents_of(training_among(psutil.Process(process.pid).children(recursive=True)))


def store_client(folder: Path) -> MlflowClient:
    database = str(folder / "mlruns" / "mlflow.db")
    return MlflowClient(URL.create("sqlite+pysqlite", database=database).render_as_string())


def all_runs(folder: Path) -> list[Run]:
    client = store_client(folder)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return list(client.search_runs(experiments, order_by=["attributes.start_time ASC"]))


def parents(folder: Path) -> list[Run]:
    return [run for run in all_runs(folder) if PARENT not in run.data.tags]


def trials(folder: Path) -> list[Run]:
    return [run for run in all_runs(folder) if PARENT in run.data.tags]


def needs(launcher: str) -> None:
    plugin = PLUGINS.get(launcher)
    if plugin and importlib.util.find_spec(f"hydra_plugins.{plugin}") is None:
        pytest.skip(f"{plugin} is not installed (an extra)")


def only(runs: list[Run]) -> Run:
    (run,) = runs
    return run


def artifact(folder: Path, run: Run, name: str) -> Path:
    return Path(store_client(folder).download_artifacts(run.info.run_id, name))


def artifact_names(folder: Path, run: Run) -> set[str]:
    return {item.path for item in store_client(folder).list_artifacts(run.info.run_id)}


def config(folder: Path, run: Run) -> DictConfig:
    loaded = OmegaConf.load(artifact(folder, run, "config.yaml"))
    assert isinstance(loaded, DictConfig)
    return loaded


def predictions(folder: Path, run: Run) -> tuple[pd.Series, np.ndarray, np.ndarray, list[str]]:
    """Record ids, targets and probabilities, both (records, classes), and the labels, of the validation split."""
    table = pd.read_parquet(artifact(folder, run, "predictions_val.parquet"))
    labels = [name.removeprefix("true/") for name in map(str, table) if name.startswith("true/")]
    targets = table[[f"true/{label}" for label in labels]].to_numpy()
    return table["id"], targets, table[[f"probability/{label}" for label in labels]].to_numpy(), labels


def best_metrics(run: Run, split: str = "val") -> dict[str, float]:
    prefix = f"best/{split}/"
    return {name.removeprefix(prefix): value for name, value in run.data.metrics.items() if name.startswith(prefix)}


def history(folder: Path, run: Run, metric: str) -> list[float]:
    points = store_client(folder).get_metric_history(run.info.run_id, metric)
    assert [point.step for point in points] == list(range(len(points)))
    return [point.value for point in points]


def published_mlcm(targets: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Multi-label confusion matrix by the public package, which needs two names that numpy has dropped."""
    from mlcm import mlcm

    with patch.multiple(np, create=True, int=int, float=float):
        return mlcm.cm(targets, predicted.astype(int), False)[0].astype(int)


def weights(folder: Path, run: Run) -> dict[str, torch.Tensor]:
    return torch.load(artifact(folder, run, "weights.pt"), map_location="cpu", weights_only=True)
