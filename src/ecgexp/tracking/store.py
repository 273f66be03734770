"""Where runs are kept."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import LifecycleStage
from mlflow.entities import Run as MlflowRun
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from ecgexp.errors import UserError

os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
logging.getLogger("alembic").setLevel(logging.WARNING)
logging.getLogger("mlflow").setLevel(logging.WARNING)


@dataclass(frozen=True)
class Store:
    """An MLflow store and the experiment in it that runs belong to.

    Attributes
    ----------
    client : MlflowClient
        Its door.
    uri : str
        Tracking URI, absolute.
    experiment_id : str
        MLflow's id of the experiment.
    root : Path
        ``mlruns/`` of this machine: the local store, and checkpoints in progress.
    """

    client: MlflowClient
    uri: str
    experiment_id: str
    root: Path

    def lock(self, name: str) -> FileLock:
        """A lock of this name among all processes of the store; it falls open when its holder dies."""
        folder = self.root / "locks"
        folder.mkdir(exist_ok=True)
        return FileLock(folder / f"{name}.lock")

    def search(self, filter_string: str) -> list[MlflowRun]:
        """Runs of the experiment that MLflow's filter selects, the earliest first."""
        runs: list[MlflowRun] = []
        token = None
        while True:
            page = self.client.search_runs(
                [self.experiment_id], filter_string, order_by=["attributes.start_time ASC"], page_token=token
            )
            runs.extend(page)
            token = page.token
            if not token:
                return runs

    def ui_command(self) -> str:
        """Command that shows the runs in a browser."""
        if self.uri.startswith("http"):
            return f"open {self.uri} in a browser"
        return f"mlflow ui --backend-store-uri {self.uri}"


def open_store(tracking: Any) -> Store:
    """Open the store that a ``tracking`` config names, and make what is missing of it.

    Raises
    ------
    UserError
        Where the store cannot be reached.
    """
    root = Path(tracking.root).resolve() / "mlruns"
    uri = tracking.uri or f"sqlite:///{root / 'mlflow.db'}"
    artifacts = None if tracking.uri else (root / "artifacts").as_uri()
    try:
        root.mkdir(parents=True, exist_ok=True)
        # Two processes that open a new database at once break its migration, hence the lock.
        with FileLock(root / ".lock"):
            client = MlflowClient(uri)
            experiment = client.get_experiment_by_name(tracking.experiment)
            if experiment is None:
                experiment_id = _create_experiment(client, tracking.experiment, artifacts)
            else:
                experiment_id = experiment.experiment_id
    except (OSError, MlflowException, SQLAlchemyError) as error:
        key = "tracking.uri" if tracking.uri else "tracking.root"
        raise UserError(f"The MLflow store {uri} ({key}) cannot be used: {str(error).splitlines()[0]}") from error
    if experiment is not None and experiment.lifecycle_stage == LifecycleStage.DELETED:
        raise UserError(
            f"The MLflow experiment '{tracking.experiment}' was deleted: choose another tracking.experiment, or bring "
            f"it back with MLFLOW_TRACKING_URI={uri} mlflow experiments restore -x {experiment_id}"
        )
    return Store(client, uri, experiment_id, root)


def _create_experiment(client: MlflowClient, name: str, artifacts: str | None) -> str:
    try:
        # The UI then opens on training runs rather than on chats.
        kind = {"mlflow.experimentKind": "custom_model_development"}
        return client.create_experiment(name, artifact_location=artifacts, tags=kind)
    except MlflowException:  # another machine was faster
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            raise
        return experiment.experiment_id
