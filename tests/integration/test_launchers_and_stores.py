"""One sweep under every launcher with every store: the same table each time, even if it was killed meanwhile."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import pandas as pd
import psutil
import pytest
import warm
from _pytest.mark import ParameterSet
from commands import (
    LAUNCHERS,
    PARENT,
    SMALL,
    begun,
    ecgexp,
    finish,
    jobs,
    needs,
    once,
    only,
    start,
    until,
)
from mlflow import MlflowClient
from mlflow.entities import Run
from servers import Server

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_folder")]

NET = ("model=ribeiro", "model.width=4", "model.depth=2", "early_stopping.patience=null")
GRID = ("-m", *SMALL, *NET, "max_epochs=20", "lr=0.01,0.02,0.03")
STORES = ("local", "server on SQLite", "server on PostgreSQL")
# Each launcher and each store once; `make test-all` runs every pair.
LEFT_ALONE = {
    ("basic", "server on SQLite"),
    ("joblib", "server on PostgreSQL"),
    ("submitit_local", "local"),
    ("ray", "local"),
}
KILLED = {("joblib", "server on SQLite")}


def pairs(few: set[tuple[str, str]]) -> list[ParameterSet]:
    return [
        pytest.param(*pair, marks=() if pair in few else pytest.mark.full, id="-".join(pair))
        for pair in product(LAUNCHERS, STORES)
    ]


@dataclass(frozen=True)
class Place:
    """Where the runs of one test are kept.

    Attributes
    ----------
    words : tuple of str
        Arguments that choose it.
    """

    words: tuple[str, ...]
    uri: str
    experiment: str

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(self.uri)

    def runs(self) -> list[Run]:
        found = self.client.get_experiment_by_name(self.experiment)
        return list(self.client.search_runs([found.experiment_id], order_by=["attributes.start_time ASC"]))

    def table(self) -> pd.DataFrame:
        parent = only([run for run in self.runs() if PARENT not in run.data.tags])
        return comparable(pd.read_csv(self.client.download_artifacts(parent.info.run_id, "results.csv")))


def comparable(table: pd.DataFrame) -> pd.DataFrame:
    """Without what differs from run to run, and without the name of the store."""
    other = ("run_id", "source_run_id")
    names = map(str, table)
    return table[[name for name in names if not ("seconds" in name or name.startswith("tracking") or name in other)]]


def local(folder: Path) -> str:
    """URI of the store that a command in a folder makes by itself."""
    return f"sqlite:///{folder / 'mlruns' / 'mlflow.db'}"


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, Server]]:
    """The servers that tests have needed so far, by store."""
    running: dict[str, Server] = {}
    yield running
    for server in running.values():
        server.kill()


@pytest.fixture
def place(request, servers, tmp_path_factory, tmp_path, store) -> Place:
    if store == "local":
        return Place((), local(tmp_path / "study"), "ecgexp")
    if store not in servers:
        folder = tmp_path_factory.mktemp("server")
        sqlite = f"sqlite:///{folder / 'server.db'}"
        servers[store] = Server(sqlite if "SQLite" in store else request.getfixturevalue("database"), folder)
        servers[store].start()
    experiment = f"{tmp_path.name} of {warm.session.folder.name}"
    return Place((*servers[store].words, f"tracking.experiment='{experiment}'"), servers[store].url, experiment)


@pytest.fixture(scope="session")
def undisturbed(session_folder) -> pd.DataFrame:
    """Table of the sweep with Hydra's own launcher and a local store."""
    folder = once(session_folder, "undisturbed", lambda folder: ecgexp(folder, *GRID)).expect().folder
    return Place((), local(folder), "ecgexp").table()


@pytest.mark.parametrize(("launcher", "store"), pairs(LEFT_ALONE))
def test_the_table_is_the_same(tmp_path, launcher, store, place, undisturbed):
    needs(launcher)
    words = (*GRID, *place.words, f"hydra/launcher={launcher}", *LAUNCHERS[launcher])
    ecgexp(tmp_path / "study", *words).expect(0)
    pd.testing.assert_frame_equal(place.table(), undisturbed, check_exact=True)
    assert [run.info.status for run in place.runs()] == ["FINISHED"] * 4


@pytest.mark.parametrize(("launcher", "store"), pairs(KILLED))
def test_a_killed_sweep_is_resumed_to_the_same_table(tmp_path, launcher, store, place, undisturbed):
    needs(launcher)
    folder = tmp_path / "study"
    words = (*GRID, *place.words, f"hydra/launcher={launcher}", *LAUNCHERS[launcher])
    first = start(folder, *words)
    until(lambda: begun(folder), first)
    family = psutil.Process(first.pid).children(recursive=True)
    first.kill()
    _, left = psutil.wait_procs(family, timeout=10)
    assert all(is_rays_own(process) for process in left), "all that it had started ends with it"
    first.communicate()
    ecgexp(folder, *words).expect(0)
    pd.testing.assert_frame_equal(place.table(), undisturbed, check_exact=True)
    assert [run.info.status for run in place.runs()] == ["FINISHED"] * 4, "no trial was begun twice"


def test_a_preempted_job_is_resumed_and_resubmitted_once(tmp_path, undisturbed):
    needs("submitit_local")
    process = start(tmp_path, *GRID, "hydra/launcher=submitit_local", *LAUNCHERS["submitit_local"])
    until(lambda: jobs(process) and begun(tmp_path), process)
    jobs(process)[0].send_signal(signal.SIGUSR2)  # what SLURM sends before a job's time is over
    finish(process, tmp_path).expect(0)
    table = Place((), local(tmp_path), "ecgexp").table()
    pd.testing.assert_frame_equal(table, undisturbed, check_exact=True)
    (folder,) = tmp_path.glob("multirun/*/*/.submitit")
    log = "".join(path.read_text() for path in folder.glob("*/*_log.err"))
    assert log.count("Caught signal SIGUSR2") == 1
    assert not (tmp_path / ".submitit").exists()


def is_rays_own(process: psutil.Process) -> bool:
    """Whether it is one of Ray's agents, which wait longer for the rest of Ray before they leave, and train nothing."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.name().startswith("ray::") and process.name().endswith("Agent")
    return True
