"""An MLflow server and a PostgreSQL cluster of the tests' own."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests
from commands import wait_for
from mlflow import MlflowClient
from mlflow.entities import Run

POSTGRES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Server:
    """`mlflow server` on a database, which can be killed and started again in the same place."""

    def __init__(self, database: str, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.words = ("tracking=server", f"tracking.uri={self.url}")
        self._command = [
            *(sys.executable, "-m", "mlflow", "server", "--workers", "2"),
            *("--host", "127.0.0.1", "--port", str(self.port)),
            *("--backend-store-uri", database, "--artifacts-destination", str(folder / "artifacts")),
        ]
        self._process: subprocess.Popen | None = None

    def start(self) -> None:
        with (self.folder / "server.log").open("a") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=self.folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            )
        wait_for(lambda: self.answers() or self._process.poll() is not None)
        assert self._process.poll() is None, (self.folder / "server.log").read_text()

    def kill(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            wait_for(lambda: not self.answers())
            self._process = None

    def answers(self) -> bool:
        try:
            return requests.get(f"{self.url}/health", timeout=5).ok
        except requests.RequestException:
            return False

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(self.url)

    def runs(self, experiment: str = "ecgexp") -> list[Run]:
        found = self.client.get_experiment_by_name(experiment)
        return list(self.client.search_runs([found.experiment_id], order_by=["attributes.start_time ASC"]))

    def files(self, run: Run) -> set[str]:
        return {entry.path for entry in self.client.list_artifacts(run.info.run_id)}

    def history(self, run: Run, metric: str) -> dict[int, float]:
        points = self.client.get_metric_history(run.info.run_id, metric)
        assert len(points) == len({point.step for point in points}), f"{metric} is there twice"
        return {point.step: point.value for point in points}


@contextmanager
def postgresql() -> Iterator[str]:
    """A PostgreSQL cluster of its own; in a short path, which sockets need, that another user can reach."""
    if not POSTGRES:
        pytest.skip("PostgreSQL's server is not installed (apt-get install postgresql)")
    pytest.importorskip("psycopg2", reason="PostgreSQL's driver is not installed (the extra 'dev')")
    user = "postgres" if os.getuid() == 0 else None  # PostgreSQL refuses to run as root
    with tempfile.TemporaryDirectory(prefix="ecgexp-pg-") as name:
        if user:
            shutil.chown(name, user)

        def run(program: str, *words: str) -> None:
            command = [str(POSTGRES[-1] / program), *words]
            subprocess.run(command, cwd=name, user=user, check=True, stdout=subprocess.DEVNULL, timeout=120)

        data = f"{name}/data"
        run("initdb", "-D", data, "-U", "ecgexp", "--auth=trust", "--no-sync")
        options = f"-c listen_addresses='' -c unix_socket_directories='{name}' -c fsync=off"
        run("pg_ctl", "-D", data, "-l", f"{name}/log", "-o", options, "-w", "start")
        try:
            run("createdb", "-h", name, "-U", "ecgexp", "mlflow")
            yield f"postgresql+psycopg2://ecgexp@/mlflow?host={name}"
        finally:
            run("pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
