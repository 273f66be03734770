"""The MLflow store of the runs, and a client that waits while the store is unreachable."""

from __future__ import annotations

import logging
import math
import os
import re
import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from inspect import ismethod
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import url2pathname

import requests
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import LifecycleStage, ViewType
from mlflow.entities import Run as MlflowRun
from mlflow.exceptions import MlflowException
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import SQLAlchemyError

from ecgexp.errors import UserError, summarised, without_passwords
from ecgexp.paths import check_address, check_writable, database_file
from ecgexp.tracking.database import check_database, damaged, settle

logger = logging.getLogger(__name__)

os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # it would print a password in the URL
# MLflow would silently retry a request, at growing intervals, for minutes; `PatientClient` retries instead.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
logging.getLogger("alembic").setLevel(logging.WARNING)
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # a traceback of each error that it also raises
logging.getLogger("mlflow").setLevel(logging.WARNING)

PATIENCE = 900.0  # seconds to wait for a store, unless configured
HASTE = 5.0  # seconds that an interrupted process still waits for the store, in all
RETRY_AFTER = 2.0  # seconds
FOLDERS = ("artifacts", "checkpoints", "locks", "sweeps")  # in mlruns
FIRST_ANSWER = "30"  # seconds to wait for the first answer of a server
# For calls that `PatientClient` cannot retry: about ten minutes, the most that MLflow allows.
MLFLOW_RETRIES = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "10"}


class StoreAway(UserError):
    """The store did not answer in the time that we wait for it."""


class RunDeleted(UserError):
    """A run was deleted, for example in the UI, while this process recorded something in it."""


class PatientClient(MlflowClient):
    """MLflow's client; its calls wait while the store is unreachable.

    They do not wait for a store that never answered, since its address is probably wrong.

    Parameters
    ----------
    uri : str
        URI of the store.
    patience : float
        Seconds that a call waits.
    known : bool
        Whether the store answered another process before.

    Attributes
    ----------
    deadline : float
        Monotonic time at which every call stops waiting.
    """

    def __init__(self, uri: str, patience: float = PATIENCE, known: bool = False) -> None:
        self.patience, self.deadline = patience, math.inf
        self._known = known
        super().__init__(uri)

    def __getattribute__(self, name: str) -> Any:
        attribute = super().__getattribute__(name)
        return attribute if name.startswith("_") or not ismethod(attribute) else partial(self._call, attribute)

    def _call(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        started, warned = time.monotonic(), False
        timeout = {} if self._known else {"MLFLOW_HTTP_REQUEST_TIMEOUT": FIRST_ANSWER}
        while True:
            try:
                with mlflow_settings(**timeout):
                    answer = method(*args, **kwargs)
            except MlflowException as error:
                _refuse_broken(error, self.tracking_uri)
                if not is_away(error):
                    raise
                if not self._known:
                    if not self.tracking_uri.startswith("http"):
                        raise  # a database: its own message says what is wrong
                    raise StoreAway(
                        f"The MLflow store {self.tracking_uri} does not answer: start it, or correct tracking.uri."
                    ) from error
                if time.monotonic() >= min(started + self.patience, self.deadline):
                    raise away(self.tracking_uri, min(self.patience, time.monotonic() - started)) from error
                if not warned:
                    logger.warning(
                        "The MLflow store %s does not answer: trying again for up to %.0f s (tracking.patience). %s",
                        without_passwords(self.tracking_uri),
                        self.patience,
                        summarised(error),
                    )
                warned = True
                time.sleep(RETRY_AFTER)
            else:
                self._known = True
                if warned:
                    logger.warning("The MLflow store %s answers again.", without_passwords(self.tracking_uri))
                return answer

    def download_artifacts(self, *args: Any, **kwargs: Any) -> str:
        """Download with MLflow's own retries, since its error does not show that the store is unreachable."""
        with mlflow_settings(**MLFLOW_RETRIES):
            return super().download_artifacts(*args, **kwargs)


# Parts of SQLite's messages about a damaged file; MLflow reports most of them as an unreachable store.
_DAMAGE = ("is malformed", "malformed database", "is not a database", "no such table", "no such column")


def _refuse_broken(error: MlflowException, uri: str) -> None:
    """Raise an error of one sentence if waiting does not help; the texts that it looks for are SQLite's."""
    text = str(error)
    if "disk is full" in text:
        raise UserError(
            f"The disk of the MLflow store {uri} is full: once there is room, "
            "the same command resumes after the last finished epoch."
        ) from error
    if deleted := re.search(r"run (\w+) must be in the 'active' state. Current state is deleted", text):
        raise RunDeleted(
            f"Run {deleted[1]} was deleted in the MLflow store, so nothing more is recorded in it: "
            "the same command trains the trial again."
        ) from error
    if "readonly database" in text:
        raise UserError(f"The MLflow store {uri} is read-only for this user: nothing can be recorded in it.") from error
    if any(message in text for message in _DAMAGE):
        raise damaged(uri) from error


def away(uri: str, seconds: float) -> StoreAway:
    """The error about a store that did not answer in time."""
    return StoreAway(
        f"The MLflow store {uri} did not answer for {seconds:.0f} s (tracking.patience): "
        "once it does, the same command resumes after the last finished epoch."
    )


def is_away(error: MlflowException) -> bool:
    """Whether a call failed because the store could not be reached, or stopped while it answered."""
    # MLflow keeps the cause of a failed request only as the context of its own exception.
    gone = (
        requests.ConnectionError,
        requests.Timeout,
        requests.exceptions.RetryError,
        requests.exceptions.ChunkedEncodingError,
    )
    return error.error_code == "TEMPORARILY_UNAVAILABLE" or isinstance(error.__context__, gone)


@contextmanager
def mlflow_settings(**variables: str) -> Iterator[None]:
    """Set MLflow's environment variables while the body runs."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@dataclass(frozen=True)
class Store:
    """An MLflow store, and the experiment in it to which the runs belong.

    Attributes
    ----------
    client : PatientClient
        Client of the store.
    uri : str
        Tracking URI, absolute.
    experiment_id : str
        MLflow's id of the experiment.
    root : Path
        ``mlruns/`` of this machine: the local store, and checkpoints in progress.
    """

    client: PatientClient
    uri: str
    experiment_id: str
    root: Path

    def scratch(self, run_id: str) -> Path:
        """Folder for a run's checkpoints in progress; the trial that finishes removes it."""
        return self.root / "checkpoints" / run_id

    def lock(self, name: str) -> FileLock:
        """A lock of this name among all processes of the store; it is released when its holder dies."""
        folder = self.root / "locks"
        folder.mkdir(exist_ok=True)
        return FileLock(folder / f"{name}.lock")

    def hurry(self) -> None:
        """From now on wait only a few seconds for the store, in all, since this process is about to exit."""
        self.client.deadline = min(self.client.deadline, time.monotonic() + HASTE)
        os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = str(int(HASTE))

    def search(self, filter_string: str, view: int = ViewType.ACTIVE_ONLY) -> list[MlflowRun]:
        """Runs of the experiment that MLflow's filter selects, the earliest first; `view` can include deleted ones."""
        runs: list[MlflowRun] = []
        token = None
        while True:
            page = self.client.search_runs(
                [self.experiment_id], filter_string, view, order_by=["attributes.start_time ASC"], page_token=token
            )
            runs.extend(page)
            token = page.token
            if not token:
                return runs

    def ui_command(self) -> str:
        """Command that shows the runs in a browser."""
        if self.uri.startswith("http"):
            return f"open {without_passwords(self.uri)} in a browser"
        return shlex.join(["mlflow", "ui", "--backend-store-uri", without_passwords(self.uri)])

    def arguments(self) -> str:
        """Arguments by which another command finds this store, each after a space; empty if it needs none."""
        if self.uri != database_uri(self.root / "mlflow.db"):
            # a password must not appear in the log of a terminal; the users of the store have it
            has_password = without_passwords(self.uri) != self.uri
            return (
                " tracking.uri=URI"
                if has_password or "@" in self.uri
                else f" {shlex.quote(f'tracking.uri={self.uri}')}"
            )
        if self.root == database_file(".").parent:
            return ""
        holder = self.root.parent if self.root.name == "mlruns" else self.root
        return f" {shlex.quote(f'tracking.root={holder}')}"


def open_store(tracking: Any, known: bool = False) -> Store:
    """Open the store that a ``tracking`` config names; create what is missing.

    Parameters
    ----------
    tracking : mapping
        ``root``, ``uri``, ``experiment`` and ``patience``.
    known : bool
        Whether the command opened the store before; then it waits if the store does not answer now.

    Raises
    ------
    UserError
        If the store cannot be reached.
    """
    check_address(tracking.uri)
    database = database_file(tracking.root)
    root = database.parent
    uri = tracking.uri or database_uri(database)
    artifacts = None if tracking.uri else (root / "artifacts").as_uri()
    for folder in (Path(tracking.root).expanduser() / "mlruns", *(root / name for name in FOLDERS)):
        check_writable(folder, "tracking.root")
    try:
        root.mkdir(parents=True, exist_ok=True)
        # A lock, because two processes that open a new database at once break its migration.
        with nullcontext() if uri.startswith("http") else FileLock(root / ".lock"):
            if not tracking.uri:
                if not database.exists():
                    _create_database(database)
                elif not known:
                    check_database(database)
                    settle(database)
            client = PatientClient(uri, tracking.patience, known)
            experiment = client.get_experiment_by_name(tracking.experiment)
            if experiment is None:
                experiment_id = _create_experiment(client, tracking.experiment, artifacts)
            else:
                experiment_id = experiment.experiment_id
    except (OSError, ImportError, MlflowException, SQLAlchemyError) as error:
        key = "tracking.uri" if tracking.uri else "tracking.root"
        advice = ": install the driver of the database." if isinstance(error, ImportError) else ""
        raise UserError(f"The MLflow store {uri} ({key}) cannot be used: {summarised(error)}{advice}") from error
    if experiment is not None and experiment.lifecycle_stage == LifecycleStage.DELETED:
        raise UserError(
            f"The MLflow experiment '{tracking.experiment}' was deleted: choose another tracking.experiment, or bring "
            f"it back with MLFLOW_TRACKING_URI={shlex.quote(uri)} mlflow experiments restore -x {experiment_id}"
        )
    store = Store(client, uri, experiment_id, root)
    if experiment is not None:
        check_place(store, experiment.artifact_location)
    return store


def find_store(root: str | Path, uri: str | None) -> Store:
    """An existing store; unlike `open_store` this creates none.

    Raises
    ------
    UserError
        If there is none.
    """
    if uri is not None:
        try:
            return Store(PatientClient(uri), uri, "", database_file(root).parent)
        except (MlflowException, SQLAlchemyError, OSError) as error:
            raise UserError(
                f"The MLflow store {uri} (tracking.uri) cannot be used: {summarised(error).rstrip('.')}."
            ) from error
    database = database_file(root)
    if not database.is_file():
        inside = Path(root).expanduser().resolve() / database.name
        if not inside.is_file():  # tracking.root may also name mlruns itself
            raise UserError(f"There is no {database}: set tracking.root to the folder that contains mlruns.")
        database = inside
    check_database(database)
    settle(database)
    uri = database_uri(database)
    return Store(PatientClient(uri), uri, "", database.parent)


def is_own(store: Store) -> bool:
    """Whether the database of a store is in its folder on this machine, where it may be a copy."""
    if store.uri.startswith("http"):
        return False
    url = make_url(store.uri)
    if url.get_backend_name() != "sqlite" or not url.database:
        return False
    return Path(url.database).resolve().parent == store.root.resolve()


def place_inside(store: Store, location: str) -> Path | None:
    """Folder that a URI names, or None if it is outside the folder of the store, whose ``artifacts`` may be a link."""
    parts = urlparse(location)
    path = Path(url2pathname(parts.path))
    folders = (store.root.resolve(), (store.root / "artifacts").resolve())
    inside = parts.scheme in ("", "file") and any(path.resolve().is_relative_to(folder) for folder in folders)
    return path if inside else None


def check_place(store: Store, location: str) -> None:
    """Refuse a folder for files outside the folder of the store, since the database may come from a stranger.

    Raises
    ------
    UserError
        If the database is in the folder of its store, and the URI names a place outside.
    """
    if is_own(store) and place_inside(store, location) is None:
        raise UserError(
            f"The database of {store.root} keeps the files of this experiment in {location}, outside that folder: "
            "choose another tracking.experiment, whose files are then kept inside."
        )


def database_uri(database: Path) -> str:
    """Tracking URI of a local store; its path may have any characters."""
    uri = f"sqlite:///{database}"
    if make_url(uri).database == str(database):
        return uri
    # For a plain 'sqlite:' MLflow would also create a folder whose name contains the escapes.
    return URL.create("sqlite+pysqlite", database=str(database)).render_as_string()


def _create_database(path: Path) -> None:
    """Create a database under a temporary name, then move it: MLflow cannot use an incomplete one."""
    from ecgexp.foreign.mlflow import create_tables

    temporary = path.with_name(f"{path.name}.part")
    for earlier in path.parent.glob(f"{temporary.name}*"):
        earlier.unlink()
    create_tables(database_uri(temporary), path.parent.as_uri())
    temporary.replace(path)


def _create_experiment(client: MlflowClient, name: str, artifacts: str | None) -> str:
    try:
        # With this tag the UI shows training runs first instead of chats.
        kind = {"mlflow.experimentKind": "custom_model_development"}
        return client.create_experiment(name, artifact_location=artifacts, tags=kind)
    except MlflowException:  # another machine has just created it
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            raise
        return experiment.experiment_id
