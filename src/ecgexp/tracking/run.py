"""One run: what a trial, or a sweep, leaves behind."""

from __future__ import annotations

import getpass
import hashlib
import logging
import os
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil
from mlflow.entities import Metric, Param, RunTag
from mlflow.entities import Run as MlflowRun
from mlflow.exceptions import MlflowException
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
from mlflow.utils.mlflow_tags import (
    MLFLOW_PARENT_RUN_ID,
    MLFLOW_RUN_NAME,
    MLFLOW_SOURCE_NAME,
    MLFLOW_SOURCE_TYPE,
    MLFLOW_USER,
)

from ecgexp.errors import UserError
from ecgexp.tracking import provenance
from ecgexp.tracking.store import Store

logger = logging.getLogger(__name__)

PARAMS_PER_CALL = 100
METRICS_PER_CALL = 1000
LONGEST_PARAM = 6000
LONGEST_NAME = 250
SAMPLING_INTERVAL = 5.0  # seconds between system metrics
PATIENCE = 900.0  # seconds that a finished training waits for the store
IMPATIENCE = 5.0  # seconds that one which failed or was stopped waits
RETRY_AFTER = 2.0  # seconds


class Run:
    """A run that ends as what happened to it: FINISHED, FAILED with its traceback, or KILLED.

    Used as a context manager.

    Parameters
    ----------
    store : Store
        Where it is kept.
    name : str
        Shown in the UI.
    tags : mapping
        Tags; values are turned into text.
    parent : str, optional
        Id of the run that it belongs to.
    system_metrics : bool
        Record CPU, memory and GPU while it runs.
    continues : MlflowRun, optional
        An earlier run to go on with instead of a new one.

    Attributes
    ----------
    id : str
        MLflow's id.
    status : str, optional
        To end with, whatever happened; None: as it happened.
    """

    def __init__(
        self,
        store: Store,
        name: str,
        tags: Mapping[str, Any],
        parent: str | None = None,
        system_metrics: bool = False,
        continues: MlflowRun | None = None,
    ) -> None:
        self.store = store
        self.status: str | None = None
        tags = {**tags, **_process_tags(), MLFLOW_RUN_NAME: name[:LONGEST_NAME]}
        if parent is not None:
            tags[MLFLOW_PARENT_RUN_ID] = parent
        if continues is None:
            texts = {key: str(value) for key, value in tags.items()}
            self.id: str = store.client.create_run(store.experiment_id, tags=texts).info.run_id
        else:
            self.id = continues.info.run_id
            self.set_tags(tags)
            store.client.update_run(self.id, status="RUNNING")
        self._params = dict(continues.data.params) if continues else {}
        self._monitor: SystemMetricsMonitor | None = None
        if system_metrics:
            self._monitor = SystemMetricsMonitor(
                self.id,
                sampling_interval=SAMPLING_INTERVAL,
                resume_logging=continues is not None,
                tracking_uri=store.uri,
            )

    @property
    def scratch(self) -> Path:
        """Folder for checkpoints in progress; the trial that finishes removes it."""
        return self.store.root / "checkpoints" / self.id

    def __enter__(self) -> Run:
        if self._monitor is not None:
            self._monitor.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._monitor is not None:
            self._monitor.finish()
        if self.status is not None:
            status = self.status
        elif kind is None:
            status = "FINISHED"
        elif issubclass(kind, (KeyboardInterrupt, SystemExit)):
            status = "KILLED"
        else:
            status = "FAILED"
            text = "".join(traceback.format_exception(kind, error, trace))
            record_failure(self.store, self.id, _first_line(error), text)
        self.store.client.set_terminated(self.id, status)

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Set tags; values are turned into text."""
        entries = [RunTag(key, str(value)) for key, value in tags.items()]
        self.store.client.log_batch(self.id, tags=entries)

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log parameters; what is longer than MLflow keeps becomes an artifact, and its hash the value.

        A run that continues keeps what it has: MLflow lets no parameter change, and paths may have.
        """
        missing = {key: str(value) for key, value in params.items() if key not in self._params}
        entries = [Param(key, self._shortened(key, value)) for key, value in missing.items()]
        for start in range(0, len(entries), PARAMS_PER_CALL):
            self.store.client.log_batch(self.id, params=entries[start : start + PARAMS_PER_CALL])

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Log metrics of one step in as few calls as MLflow allows."""
        now = int(time.time() * 1000)
        entries = [Metric(key, float(value), now, step) for key, value in metrics.items()]
        for start in range(0, len(entries), METRICS_PER_CALL):
            self.store.client.log_batch(self.id, metrics=entries[start : start + METRICS_PER_CALL])

    @contextmanager
    def artifacts(self) -> Iterator[Path]:
        """Folder whose files become artifacts of the run when the body ends."""
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
            self.store.client.log_artifacts(self.id, folder)

    def _shortened(self, key: str, value: str) -> str:
        if len(value) <= LONGEST_PARAM:
            return value
        self.store.client.log_text(self.id, value, f"params/{key}.txt")
        return f"sha256:{hashlib.sha256(value.encode()).hexdigest()} (whole in params/{key}.txt)"


class EpochLog:
    """Logs epochs to a run from a thread of its own, each epoch once.

    Training does not wait for the store: where that is away for a while, or the run goes on after an
    interruption, what is missing is logged later. Used as a context manager; leaving it waits.

    Parameters
    ----------
    run : Run
        Where epochs are logged.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._epochs: list[Mapping[str, float]] = []
        self._logged: int | None = None
        self._closing = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="EpochLog", daemon=True)

    def __enter__(self) -> EpochLog:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(PATIENCE if kind is None else IMPATIENCE)
        if self._thread.is_alive() and kind is None:
            raise UserError(f"The MLflow store {self._run.store.uri} did not answer for {PATIENCE} s: start it again.")

    def __call__(self, epochs: Sequence[Mapping[str, float]]) -> None:
        """Log what is new of the epochs so far."""
        with self._changed:
            self._epochs = list(epochs)
            self._changed.notify()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closing or self._pending())
                epochs, closing = self._epochs, self._closing
            try:
                self._flush(epochs)
            except (MlflowException, OSError) as error:
                logger.warning("The MLflow store does not answer; training goes on. %s", str(error).splitlines()[0])
                time.sleep(RETRY_AFTER)
                continue
            if closing:
                return

    def _pending(self) -> bool:
        return len(self._epochs) > (self._logged or 0)

    def _flush(self, epochs: Sequence[Mapping[str, float]]) -> None:
        if self._logged is None:
            # One batch call logs an epoch, so any of its metrics tells how many are there.
            history = self._run.store.client.get_metric_history(self._run.id, "epoch_seconds")
            self._logged = 1 + max((metric.step for metric in history), default=-1)
        for number in range(self._logged, len(epochs)):
            self._run.log_metrics(epochs[number], step=number)
            self._logged = number + 1


def record_failure(store: Store, run_id: str, sentence: str, details: str) -> None:
    """Note on a run why it failed: one sentence as a tag, the whole as an artifact."""
    store.client.set_tag(run_id, "error", sentence)
    store.client.log_text(run_id, details, "traceback.txt")


def process_is_alive(tags: Mapping[str, str]) -> bool:
    """Whether the process that a run's tags name still exists; taken as alive where it is on another host."""
    if tags.get("host") != provenance.host() or "pid" not in tags:
        return "pid" in tags
    try:
        return abs(psutil.Process(int(tags["pid"])).create_time() - float(tags["process_started"])) < 1
    except psutil.NoSuchProcess:
        return False


def end_orphans(store: Store) -> None:
    """Mark runs as KILLED that a process of this host left behind as RUNNING when it died."""
    for run in store.search("attributes.status = 'RUNNING'"):
        if not process_is_alive(run.data.tags):
            store.client.set_terminated(run.info.run_id, "KILLED")


def _process_tags() -> dict[str, Any]:
    started = psutil.Process().create_time()
    return {
        "host": provenance.host(),
        "pid": os.getpid(),
        "process_started": started,
        MLFLOW_USER: getpass.getuser(),
        MLFLOW_SOURCE_NAME: "ecgexp",
        MLFLOW_SOURCE_TYPE: "LOCAL",
    }


def _first_line(error: BaseException | None) -> str:
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"
