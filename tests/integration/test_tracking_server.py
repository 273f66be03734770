"""Runs on a real MLflow server with PostgreSQL, even if the server is killed meanwhile."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
import torch
import warm
from commands import PARENT, SMALL, ecgexp, finish, history, only, start, trials, until
from mlflow.entities import Run
from servers import Server, free_port

from ecgexp.tracking.run import SAMPLING_INTERVAL

pytestmark = pytest.mark.slow

NET = (*SMALL, "model=ribeiro", "model.width=4", "model.depth=2", "early_stopping.patience=null")
EPOCHS = 40


@pytest.fixture(scope="module")
def server(database, tmp_path_factory) -> Iterator[Server]:
    server = Server(database, tmp_path_factory.mktemp("server"))
    try:
        server.start()
        yield server
    finally:
        server.kill()


@pytest.fixture
def running(server) -> Server:
    """The server, which an earlier test may have left dead."""
    if not server.answers():
        server.start()
    return server


def trained(folder: Path) -> dict[str, list[dict[str, float]]]:
    """Metrics of the epochs that each trial has trained, as its checkpoint has them."""
    found = {}
    for path in (folder / "mlruns" / "checkpoints").glob("*/last.ckpt"):
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except FileNotFoundError:  # the trial has just finished
            continue
        found[path.parent.name] = state["callbacks"]["History"]["epochs"]
    return found


def most(folder: Path) -> int:
    return max(map(len, trained(folder).values()), default=0)


@dataclass(frozen=True)
class Interrupted:
    """Trials side by side on a server that was killed while they trained, and started again while they did."""

    server: Server
    folder: Path
    rates: list[float]
    begun: float
    meanwhile: dict[str, list[dict[str, float]]]
    gone: float
    back: float

    @property
    def parent(self) -> Run:
        return only([run for run in self._runs() if PARENT not in run.data.tags])

    @property
    def children(self) -> list[Run]:
        return [run for run in self._runs() if PARENT in run.data.tags]

    def _runs(self) -> list[Run]:
        return [run for run in self.server.runs() if run.info.start_time > 1000 * self.begun]


def side_by_side(server: Server, folder: Path, rates: list[float]) -> Interrupted:
    swept = f"lr={','.join(f'{rate:.3f}' for rate in rates)}"
    words = (*server.words, *NET, f"max_epochs={EPOCHS}", swept, "tracking.system_metrics=true")
    words += ("tracking.log_model=best", "hydra/launcher=joblib", f"hydra.launcher.n_jobs={len(rates)}")
    begun, process = time.time(), start(folder, "-m", *words)
    until(lambda: most(folder) >= 3, process, 300)
    server.kill()
    gone, before = time.time(), most(folder)
    # long enough for the machine to have been looked at in between
    until(lambda: most(folder) >= before + 8 and time.time() > gone + 3 * SAMPLING_INTERVAL, process)
    assert not server.answers()
    meanwhile, back = trained(folder), time.time()
    server.start()
    finish(process, folder).expect(0)
    return Interrupted(server, folder, rates, begun, meanwhile, gone, back)


@pytest.mark.parametrize("number", [2, pytest.param(8, marks=pytest.mark.full)])
def test_a_sweep_outlives_its_server_and_nothing_is_lost(running, tmp_path, number):
    sweep = side_by_side(running, tmp_path / "several", [0.001 * (2 + count) for count in range(number)])
    all_trials_are_children_of_one_parent_with_all_their_files(sweep, tmp_path)
    every_metric_of_every_epoch_is_there_with_its_value(sweep)
    the_machine_was_watched_all_the_time(sweep)
    a_trial_is_the_same_as_in_the_local_store(sweep, tmp_path / "local")
    report_predict_and_evaluate_take_the_words_of_training(sweep)


def all_trials_are_children_of_one_parent_with_all_their_files(sweep: Interrupted, tmp_path: Path) -> None:
    server = sweep.server
    parent = sweep.parent
    assert parent.info.status == "FINISHED"
    assert {run.data.tags[PARENT] for run in sweep.children} == {parent.info.run_id}
    assert [run.info.status for run in sweep.children] == ["FINISHED"] * len(sweep.rates)
    assert sorted(float(run.data.params["lr"]) for run in sweep.children) == pytest.approx(sweep.rates)
    for run in sweep.children:
        assert {"config.yaml", "weights.pt", "data.json", "learning_curves.png"} <= server.files(run)
        assert run.info.artifact_uri.startswith("mlflow-artifacts:")
        weights = server.client.download_artifacts(run.info.run_id, "weights.pt", str(tmp_path))
        assert torch.load(weights, weights_only=True)
    table = pd.read_csv(server.client.download_artifacts(parent.info.run_id, "results.csv", str(tmp_path)))
    assert list(table["status"]) == ["FINISHED"] * len(sweep.rates)
    best = server.client.get_run(parent.data.tags["best_run_id"])
    assert best.outputs.model_outputs, "the best trial's model is on the server"
    assert not (sweep.folder / "mlruns" / "artifacts").exists()


def every_metric_of_every_epoch_is_there_with_its_value(sweep: Interrupted) -> None:
    assert max(map(len, sweep.meanwhile.values())) >= 11
    for run in sweep.children:
        epochs = sweep.meanwhile.get(run.info.run_id, [])
        for metric in (name for name in run.data.metrics if name.startswith(("train/", "val/"))):
            points = sweep.server.history(run, metric)
            assert sorted(points) == list(range(EPOCHS)), metric
            assert [points[step] for step in range(len(epochs))] == [epoch[metric] for epoch in epochs]


def the_machine_was_watched_all_the_time(sweep: Interrupted) -> None:
    for run in (run for run in sweep.children if run.info.run_id in sweep.meanwhile):
        points = sweep.server.client.get_metric_history(run.info.run_id, "system/cpu_utilization_percentage")
        assert [point.step for point in points] == list(range(len(points)))
        assert any(sweep.gone < point.timestamp / 1000 < sweep.back for point in points), "when the server was away"


def a_trial_is_the_same_as_in_the_local_store(sweep: Interrupted, folder: Path) -> None:
    run = next(run for run in sweep.children if float(run.data.params["lr"]) == pytest.approx(0.003))
    ecgexp(folder, "-m", *NET, f"max_epochs={EPOCHS}", "lr=0.003").expect(0)
    local = only(trials(folder))
    epochs = {name for name in local.data.metrics if name.startswith(("train/", "val/", "best/"))}
    assert epochs <= run.data.metrics.keys()
    for metric in epochs:
        assert list(sweep.server.history(run, metric).values()) == history(folder, local, metric)


def report_predict_and_evaluate_take_the_words_of_training(sweep: Interrupted) -> None:
    server, folder, child = sweep.server, sweep.folder, sweep.children[0]
    run_id = child.info.run_id

    def door(name: str, *words: str) -> str:
        done = warm.run(f"ecgexp.{name}", folder, *server.words, *words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    door("report", "out=report")
    assert len(pd.read_csv(folder / "report" / "results.csv")) == len(sweep.rates)
    assert any(entry.is_dir for entry in server.client.list_artifacts(child.data.tags[PARENT], "reports"))

    record = next((folder / "data" / "synthetic").glob("v*/records100/00000/*.hea"))
    answer = json.loads(door("predict", f"run={run_id}", f"record={record}", "format=json"))
    assert len(answer["records"][0]["probabilities"]) == 5

    door("evaluate", f"run={run_id}", "split=test")
    run = server.client.get_run(run_id)
    assert 0 <= run.data.metrics["test/mlcm_f1_macro"] <= 1
    kept = {entry.path for entry in server.client.list_artifacts(run_id, "evaluation/test")}
    assert "evaluation/test/metrics.json" in kept
    assert "evaluation/test/errors.html" not in kept  # it has pictures of the records
    assert (folder / "mlruns" / "errors" / run_id / "test" / "errors.html").is_file()


def test_a_trial_that_ends_while_the_server_is_unreachable_waits_and_reports_it(running, tmp_path):
    words = (*running.words, *NET, "max_epochs=12", "lr=0.01", "tracking.experiment=ends", "hydra.sweep.dir=out")
    process = start(tmp_path, "-m", *words)
    until(lambda: most(tmp_path) >= 2, process)
    running.kill()
    until(lambda: most(tmp_path) == 12, process)
    log = tmp_path / "out" / "0" / "trial.log"
    until(lambda: "does not answer: trying again for up to 900 s" in log.read_text(), process)
    running.start()
    finish(process, tmp_path).expect(0)
    runs = running.runs("ends")
    assert [run.info.status for run in runs] == ["FINISHED"] * 2
    trial = only([run for run in runs if PARENT in run.data.tags])
    assert sorted(running.history(trial, "val/loss")) == list(range(12))


def test_a_server_that_stays_unreachable_ends_the_trial_which_is_resumed_later(running, tmp_path):
    words = (*running.words, *NET, "max_epochs=12", "tracking.experiment=stays", "tracking.patience=3")
    process = start(tmp_path, *words)
    until(lambda: most(tmp_path) >= 2, process)
    running.kill()
    done = finish(process, tmp_path).expect(1)
    assert "did not answer for 3 s (tracking.patience)" in done.stderr
    assert "Traceback" not in done.stderr
    assert most(tmp_path) == 12, "training did not wait"
    running.start()
    ecgexp(tmp_path, *words).expect(0)
    run = only(running.runs("stays"))
    assert run.info.status == "FINISHED"
    assert sorted(running.history(run, "val/loss")) == list(range(12))


def test_a_trial_interrupted_while_the_server_is_unreachable_exits_at_once_and_logs_when_it_is_resumed(
    running, tmp_path
):
    words = ("-m", *running.words, *NET, "max_epochs=40", "lr=0.01", "tracking.experiment=stops")
    process = start(tmp_path, *words)
    until(lambda: most(tmp_path) >= 2, process)
    running.kill()
    before = most(tmp_path)
    until(lambda: most(tmp_path) >= before + 3, process)
    process.terminate()
    asked = time.monotonic()
    finish(process, tmp_path, timeout=60).expect(128 + signal.SIGTERM)
    assert time.monotonic() - asked < 30
    ((run_id, meanwhile),) = trained(tmp_path).items()
    assert before < len(meanwhile) < 40
    running.start()
    known = running.history(running.client.get_run(run_id), "val/loss")
    assert len(known) < len(meanwhile), "some epochs are on this machine alone"

    ecgexp(tmp_path, *words).expect(0)
    runs = running.runs("stops")
    assert [run.info.status for run in runs] == ["FINISHED"] * 2
    trial = running.client.get_run(run_id)
    for metric in ("train/loss", "val/loss", "val/mlcm_f1_macro", "lr"):
        points = running.history(trial, metric)
        assert sorted(points) == list(range(40))
        assert [points[step] for step in range(len(meanwhile))] == [epoch[metric] for epoch in meanwhile]


@pytest.mark.parametrize("words", [(), ("-m", "lr=0.1,0.2")], ids=["trial", "sweep"])
def test_a_server_that_cannot_be_reached_is_refused_before_anything_is_made(tmp_path, words):
    uri = f"http://127.0.0.1:{free_port()}"
    done = ecgexp(tmp_path, *words, "tracking=server", f"tracking.uri={uri}", timeout=60).expect(1)
    assert done.stderr.strip().splitlines() == [
        f"The MLflow store {uri} does not answer: start it, or correct tracking.uri."
    ]
    assert not (tmp_path / "data").exists()
