"""One run: the record of a trial or of a sweep."""

from __future__ import annotations

import getpass
import hashlib
import logging
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Any

from mlflow.entities import Metric, Param, RunTag
from mlflow.entities import Run as MlflowRun
from mlflow.utils.mlflow_tags import (
    MLFLOW_RUN_NAME,
    MLFLOW_SOURCE_NAME,
    MLFLOW_SOURCE_TYPE,
    MLFLOW_USER,
)

from ecgexp.errors import first_line, without_passwords
from ecgexp.foreign.mlflow import Monitor
from ecgexp.saved import sha256, write_sums
from ecgexp.tracking.heartbeat import Heartbeat, is_alive, process_tags
from ecgexp.tracking.names import EPOCH_SECONDS, File, Status, Tag, param_file, where
from ecgexp.tracking.store import HASTE, RunDeleted, Store, StoreAway, away, check_place

logger = logging.getLogger(__name__)

PARAMS_PER_CALL = 100
METRICS_PER_CALL = 1000
LONGEST_PARAM = 6000
LONGEST_NAME = 250
SAMPLING_INTERVAL = 5.0  # seconds between system metrics


class Run:
    """A run; when the context ends, its status becomes FINISHED, FAILED (with the traceback) or KILLED.

    If the run of a sweep's trial is deleted meanwhile, a new run records this error.

    Parameters
    ----------
    store : Store
        Store of the run.
    name : str
        Name in the UI.
    tags : mapping
        Tags; values are converted to text.
    parent : str, optional
        Id of the sweep's run to which this run belongs.
    continues : MlflowRun, optional
        An earlier run to resume, instead of a new run.

    Attributes
    ----------
    id : str
        MLflow's id of the run.
    status : str, optional
        Status at the end; None if the way in which the context ends decides.
    """

    def __init__(
        self,
        store: Store,
        name: str,
        tags: Mapping[str, Any],
        parent: str | None = None,
        continues: MlflowRun | None = None,
    ) -> None:
        self.store = store
        self.status: str | None = None
        tags = {**tags, **_own_tags(), MLFLOW_RUN_NAME: name[:LONGEST_NAME]}
        if parent is not None:
            tags[Tag.PARENT] = parent
        self._tags = {key: without_passwords(str(value)) for key, value in tags.items()}
        if continues is None:
            self.id = self._create(self._tags)
        else:
            check_place(store, continues.info.artifact_uri)
            self.id = continues.info.run_id
            self.set_tags(tags)
            store.client.update_run(self.id, status=Status.RUNNING)
        self._params = dict(continues.data.params) if continues else {}
        self._sums: dict[str, str] = {}
        self._heartbeat = Heartbeat(lambda now: self.set_tags({Tag.HEARTBEAT: now}))

    @property
    def scratch(self) -> Path:
        """Folder for checkpoints in progress."""
        return self.store.scratch(self.id)

    def __enter__(self) -> Run:
        self._heartbeat.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._heartbeat.__exit__(kind, error, trace)
        if _stopped(error):
            self.store.hurry()
        try:
            self._end(error)
        except RunDeleted as problem:
            if Tag.PARENT in self._tags:  # so that the sweep shows the failure of its trial
                self.id = self._create(self._tags)
                self._end(problem)
            if kind is None:
                raise
        except StoreAway as problem:
            if kind is None:
                raise
            logger.warning("Run %s could not be ended; the next start ends it. %s", self.id, problem)

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Set tags; values are converted to text, without passwords."""
        entries = [RunTag(key, without_passwords(str(value))) for key, value in tags.items()]
        self.store.client.log_batch(self.id, tags=entries)

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log parameters; a value that is too long for MLflow becomes an artifact, and its hash the value.

        A resumed run keeps the parameters that it has: MLflow refuses changes, and paths may have changed.
        """
        missing = {key: without_passwords(str(value)) for key, value in params.items() if key not in self._params}
        entries = [Param(key, self._shortened(key, value)) for key, value in missing.items()]
        for start in range(0, len(entries), PARAMS_PER_CALL):
            self.store.client.log_batch(self.id, params=entries[start : start + PARAMS_PER_CALL])

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Log metrics of one step."""
        self.log_entries(_entries(metrics, step))

    def log_entries(self, entries: Sequence[Metric]) -> None:
        """Log metrics, each with its time and step, in as few calls as MLflow allows."""
        for start in range(0, len(entries), METRICS_PER_CALL):
            self.store.client.log_batch(self.id, metrics=entries[start : start + METRICS_PER_CALL])

    @contextmanager
    def artifacts(self) -> Iterator[Path]:
        """Temporary folder; its files become artifacts of the run when the body ends."""
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
            self._sums |= {path.name: sha256(path) for path in Path(folder).iterdir() if path.is_file()}
            write_sums(Path(folder) / File.CHECKSUMS, self._sums)
            self.store.client.log_artifacts(self.id, folder)

    def _create(self, tags: dict[str, str]) -> str:
        started = int(time.time() * 1000)
        run_id: str = self.store.client.create_run(self.store.experiment_id, started, tags).info.run_id
        # A request is repeated if its answer is lost, although the server may have created a run.
        same = where({key: tags[key] for key in (Tag.PID, Tag.HOST)})
        for twin in self.store.search(f"{same} and attributes.start_time = {started}"):
            if twin.info.run_id != run_id:
                self.store.client.delete_run(twin.info.run_id)
        return run_id

    def _end(self, error: BaseException | None) -> None:
        if self.status is not None:
            status = self.status
        elif error is None:
            status = Status.FINISHED
        elif _stopped(error):
            status = Status.KILLED
        else:
            status = Status.FAILED
            text = "".join(traceback.format_exception(error))
            record_failure(self.store, self.id, first_line(error), text)
        self.store.client.set_terminated(self.id, status)

    def _shortened(self, key: str, value: str) -> str:
        if len(value) <= LONGEST_PARAM:
            return value
        self.store.client.log_text(self.id, value, param_file(key))
        return f"sha256:{hashlib.sha256(value.encode()).hexdigest()} (whole in {param_file(key)})"


class EpochLog:
    """Logs epochs to a run from a thread of its own, each epoch once.

    Training does not wait for the store. While the store is unreachable, epochs stay in a queue; epochs that are still
    there when the process is interrupted are logged when the run is resumed. The end of the context waits for the
    queue, but only for a few seconds if the process is interrupted.

    Parameters
    ----------
    run : Run
        Run of the epochs.
    system_metrics : bool
        Whether to log CPU, memory and GPU usage, too.
    """

    def __init__(self, run: Run, system_metrics: bool = False) -> None:
        self._run = run
        self._queued = 0
        self._queue: SimpleQueue[list[Metric] | None] = SimpleQueue()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._work, name="EpochLog", daemon=True)
        self._monitor = _SystemMetrics(run, self._queue.put) if system_metrics else None

    def __enter__(self) -> EpochLog:
        history = self._run.store.client.get_metric_history(self._run.id, EPOCH_SECONDS)
        # This is the last metric of an epoch to be logged, so all metrics of the epoch are there.
        self._queued = 1 + max((metric.step for metric in history), default=-1)
        self._thread.start()
        if self._monitor is not None:
            self._monitor.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, *_: object) -> None:
        if self._monitor is not None:
            self._monitor.finish()
        self._queue.put(None)
        if _stopped(error):
            self._run.store.hurry()
        patience = self._run.store.client.patience
        self._thread.join(HASTE if _stopped(error) else patience)
        if kind is None and self._error is not None:
            raise self._error
        if kind is None and self._thread.is_alive():
            raise away(self._run.store.uri, patience)

    def __call__(self, epochs: Sequence[Mapping[str, float]]) -> None:
        """Log the new ones of all epochs so far; raises the error that ended the logging of earlier epochs."""
        if self._error is not None:
            raise self._error
        for number in range(self._queued, len(epochs)):
            self._queue.put(_entries(epochs[number], number))
        self._queued = max(self._queued, len(epochs))

    def _work(self) -> None:
        for entries in iter(self._queue.get, None):
            while True:
                try:
                    self._run.log_entries(entries)
                    break
                except StoreAway:
                    continue
                except Exception as error:  # any error: the thread that trains raises it
                    self._error = error
                    return


class _SystemMetrics(Monitor):
    """Puts the system metrics that MLflow measures into the queue of an `EpochLog`."""

    def __init__(self, run: Run, log: Callable[[list[Metric]], None]) -> None:
        super().__init__(run.id, SAMPLING_INTERVAL, resume_logging=True, tracking_uri=run.store.uri)
        self._log = log

    def monitor(self) -> None:
        while (measured := self.measure()) is not None:
            self._log(_entries(*measured))


def _entries(metrics: Mapping[str, float], step: int) -> list[Metric]:
    """Metrics with the current time, so that MLflow stores a metric once even if the request is repeated."""
    now = int(time.time() * 1000)
    return [Metric(key, float(value), now, step) for key, value in metrics.items()]


def _stopped(error: BaseException | None) -> bool:
    """Whether to exit at once: the process was interrupted, or it has waited for the store already."""
    return isinstance(error, (KeyboardInterrupt, SystemExit, StoreAway))


def record_failure(store: Store, run_id: str, sentence: str, details: str) -> None:
    """Record why a run failed: one sentence as a tag, the details as an artifact."""
    store.client.set_tag(run_id, Tag.ERROR, without_passwords(sentence))
    store.client.log_text(run_id, without_passwords(details), File.TRACEBACK)


def end_orphans(store: Store) -> None:
    """Set the status KILLED for runs that a dead process left as RUNNING."""
    for run in store.search(where({}, Status.RUNNING)):
        if not is_alive(run.data.tags):
            store.client.set_terminated(run.info.run_id, Status.KILLED)


def _own_tags() -> dict[str, Any]:
    return {
        **process_tags(),
        MLFLOW_USER: getpass.getuser(),
        MLFLOW_SOURCE_NAME: "ecgexp",
        MLFLOW_SOURCE_TYPE: "LOCAL",
    }
