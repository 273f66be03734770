"""One run: what a trial, or a sweep, leaves behind."""

from __future__ import annotations

import hashlib
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from mlflow.entities import Metric, Param, RunTag
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME

from ecgexp.errors import UserError
from ecgexp.tracking.store import Store

PARAMS_PER_CALL = 100
METRICS_PER_CALL = 1000
LONGEST_PARAM = 6000
LONGEST_NAME = 250
SAMPLING_INTERVAL = 5.0  # seconds between system metrics


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
    ) -> None:
        self.store = store
        self.status: str | None = None
        tags = {**tags, MLFLOW_RUN_NAME: name[:LONGEST_NAME]}
        if parent is not None:
            tags[MLFLOW_PARENT_RUN_ID] = parent
        created = store.client.create_run(store.experiment_id, tags={key: str(value) for key, value in tags.items()})
        self.id: str = created.info.run_id
        self._monitor: SystemMetricsMonitor | None = None
        if system_metrics:
            self._monitor = SystemMetricsMonitor(self.id, sampling_interval=SAMPLING_INTERVAL, tracking_uri=store.uri)

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
            self.set_tags({"error": _first_line(error)})
            text = "".join(traceback.format_exception(kind, error, trace))
            self.store.client.log_text(self.id, text, "traceback.txt")
        self.store.client.set_terminated(self.id, status)

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Set tags; values are turned into text."""
        entries = [RunTag(key, str(value)) for key, value in tags.items()]
        self.store.client.log_batch(self.id, tags=entries)

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log parameters; what is longer than MLflow keeps becomes an artifact, and its hash the value."""
        entries = [Param(key, self._shortened(key, str(value))) for key, value in params.items()]
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


def _first_line(error: BaseException | None) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0] if isinstance(error, UserError) else f"{type(error).__name__}: {text.splitlines()[0]}"
