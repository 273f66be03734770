"""One small trained run per test session, which the tests of the doors share and never change."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import warm
from filelock import FileLock
from mlflow import MlflowClient

REAL_DATA = Path(__file__).resolve().parents[2] / "../shared/data"
SETTINGS = (
    "model=linear",
    "max_epochs=3",
    "lr=0.05",
    "dataset.records=240",
    "dataset.normalize=scalar",
    "trainer=cpu",
    "trainer.threads=1",
    "tracking.system_metrics=false",
)


@dataclass(frozen=True)
class Trained:
    folder: Path
    run_id: str

    @property
    def mlruns(self) -> Path:
        return self.folder / "mlruns"

    @property
    def artifacts(self) -> Path:
        return self.mlruns / "artifacts" / self.run_id / "artifacts"

    @property
    def model(self) -> Path:
        (found,) = self.mlruns.rglob("MLmodel")
        return found.parent

    @property
    def records(self) -> Path:
        (found,) = (self.folder / "data" / "synthetic").glob("v*/records100/00000")
        return found

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(f"sqlite:///{self.mlruns / 'mlflow.db'}")

    def validation(self) -> pd.DataFrame:
        return pd.read_parquet(self.artifacts / "predictions_val.parquet")

    def moved_to(self, folder: Path) -> Trained:
        """A copy as on another machine: what the database says of places is not true there."""
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copytree(self.mlruns, folder / "mlruns")
        with sqlite3.connect(folder / "mlruns" / "mlflow.db") as database:
            change = "SET {0} = replace({0}, ?, '/nowhere')"
            database.execute(f"UPDATE runs {change.format('artifact_uri')}", [str(self.folder)])
            database.execute(f"UPDATE experiments {change.format('artifact_location')}", [str(self.folder)])
        return Trained(folder, self.run_id)


def trained_once(session_folder: Path) -> Trained:
    """The run that the first of the test processes to ask trains."""
    shared = session_folder.parent if "PYTEST_XDIST_WORKER" in os.environ else session_folder
    folder, record = shared / "trained", shared / "trained.json"
    with FileLock(shared / "trained.lock"):
        if not record.exists():
            folder.mkdir()
            done = warm.run("ecgexp", folder, *SETTINGS)
            assert done.returncode == 0, done.stderr
            (run,) = MlflowClient(f"sqlite:///{folder / 'mlruns' / 'mlflow.db'}").search_runs(["1", "0"])
            record.write_text(json.dumps(run.info.run_id))
        return Trained(folder, json.loads(record.read_text()))


def shell(door: str, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A door as a user opens it."""
    return warm.run(f"ecgexp.{door}", folder, *words, timeout=300)


def call(monkeypatch, door: str, folder: Path, *words: str) -> int | str | None:
    """A door in this process; returns what it exits with."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", [door, *map(str, words)])
    try:
        importlib.import_module(f"ecgexp.{door}").main()
    except SystemExit as stop:
        return stop.code
    return 0


def is_one_sentence(said: object) -> bool:
    return isinstance(said, str) and "\n" not in said and 20 < len(said) < 420 and "Traceback" not in said
