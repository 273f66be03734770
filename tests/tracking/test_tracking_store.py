from __future__ import annotations

import json
import multiprocessing
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
import requests
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from sqlalchemy import event

from ecgexp.errors import UserError
from ecgexp.tracking.run import EpochLog, Run
from ecgexp.tracking.store import StoreAway, open_store


def tracking(root: Path, **options) -> SimpleNamespace:
    return SimpleNamespace(**{"root": str(root), "uri": None, "experiment": "ecgexp", "patience": 0.0, **options})


def open_and_run(root: str, name: str) -> str:
    store = open_store(tracking(Path(root)))
    store.client.create_run(store.experiment_id, run_name=name)
    return store.experiment_id


def test_a_new_store_is_made_where_it_is_documented(tmp_path):
    store = open_store(tracking(tmp_path / "not yet there"))
    root = tmp_path / "not yet there" / "mlruns"
    assert store.uri == f"sqlite:///{root / 'mlflow.db'}"
    assert (root / "mlflow.db").is_file()
    assert store.client.get_experiment(store.experiment_id).artifact_location == (root / "artifacts").as_uri()
    assert store.uri in store.ui_command()


def test_a_relative_root_is_made_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert open_store(tracking(Path("here"))).uri == f"sqlite:///{tmp_path / 'here' / 'mlruns' / 'mlflow.db'}"


def test_opening_again_finds_the_same_experiment_unless_it_was_deleted(tmp_path):
    first = open_store(tracking(tmp_path))
    assert open_store(tracking(tmp_path)).experiment_id == first.experiment_id
    assert open_store(tracking(tmp_path, experiment="another")).experiment_id != first.experiment_id
    first.client.delete_experiment(first.experiment_id)
    with pytest.raises(UserError, match=r"'ecgexp' was deleted.*tracking\.experiment"):
        open_store(tracking(tmp_path))


@pytest.mark.slow
def test_processes_may_open_a_new_store_at_the_same_time(tmp_path):
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        found = pool.starmap(open_and_run, [(str(tmp_path), f"run {number}") for number in range(3)])
    assert len(set(found)) == 1
    store = open_store(tracking(tmp_path))
    assert len(store.client.search_runs([store.experiment_id])) == 3


def size(root: Path) -> int:
    return sum(path.stat().st_size for path in root.glob("mlruns/mlflow.db*") if not path.name.endswith("journal"))


@pytest.mark.slow
def test_a_process_that_is_killed_while_it_makes_the_store_does_not_spoil_it(tmp_path):
    open_store(tracking(tmp_path / "whole"))
    for share in (0.5, 0.9):
        root = tmp_path / f"killed at {share}"
        process = multiprocessing.get_context("spawn").Process(target=open_and_run, args=(str(root), "run"))
        process.start()
        while process.is_alive() and size(root) < share * size(tmp_path / "whole"):
            time.sleep(0.001)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL, "it was killed in time"
        assert open_and_run(str(root), "run")
        assert {path.name for path in root.glob("mlruns/*.db*")} == {"mlflow.db"}


def test_a_server_that_does_not_answer_is_named_in_one_sentence(tmp_path):
    with pytest.raises(UserError) as refused:
        open_store(tracking(tmp_path, uri="http://127.0.0.1:9"))
    assert "http://127.0.0.1:9" in str(refused.value)
    assert "tracking.uri" in str(refused.value)
    assert "\n" not in str(refused.value)


class OneExperiment(BaseHTTPRequestHandler):
    def do_GET(self):
        experiment = {"experiment_id": "7", "name": "ecgexp", "lifecycle_stage": "active"}
        body = json.dumps({"experiment": experiment}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def answering(address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> Iterator[HTTPServer]:
    """A server on this machine, while the body runs."""
    server = HTTPServer(address, handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_a_trial_that_begins_while_the_server_is_unreachable_waits_and_reports_it(tmp_path, caplog):
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        address = one.getsockname()
    where = tracking(tmp_path, uri=f"http://127.0.0.1:{address[1]}", patience=60.0)
    with ThreadPoolExecutor() as pool:
        opened = pool.submit(open_store, where, known=True)
        end = time.monotonic() + 60
        while "does not answer: trying again for up to 60 s (tracking.patience)" not in caplog.text:
            assert not opened.done() and time.monotonic() < end
            time.sleep(0.01)
        with answering(address, OneExperiment):
            assert opened.result(60).experiment_id == "7"
    assert "answers again" in caplog.text


class DiesInItsFirstAnswer(OneExperiment):
    def do_GET(self):
        if hasattr(self.server, "died"):
            return super().do_GET()
        self.server.died = True
        self.send_response(200)
        self.send_header("Content-Length", "100")
        self.end_headers()
        self.wfile.write(b"{")


def test_a_server_that_dies_while_it_answers_is_asked_again(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("ecgexp.tracking.store.RETRY_AFTER", 0.0)
    with answering(("127.0.0.1", 0), DiesInItsFirstAnswer) as server:
        where = tracking(tmp_path, uri=f"http://127.0.0.1:{server.server_port}", patience=60.0)
        assert open_store(where, known=True).experiment_id == "7"
    assert "answers again" in caplog.text


def test_patience_ends_in_one_sentence(tmp_path):
    with pytest.raises(StoreAway, match=r"did not answer for 0 s \(tracking\.patience\): [^\n]+$"):
        open_store(tracking(tmp_path, uri="http://127.0.0.1:9"), known=True)


def lose_answers(monkeypatch, method: str, times: int = 1) -> None:
    """Have the server do what it is asked, and die before it says so."""
    original, lost = getattr(MlflowClient, method), []

    def do(self, *args, **kwargs):
        answer = original(self, *args, **kwargs)
        if len(lost) < times:
            lost.append(answer)
            try:
                raise requests.ConnectionError
            except requests.ConnectionError as error:
                raise MlflowException("the connection broke") from error
        return answer

    monkeypatch.setattr(MlflowClient, method, do)


def test_a_full_disk_is_named_in_one_sentence_and_not_waited_for(tmp_path):
    store = open_store(tracking(tmp_path, patience=600.0))
    engine = store.client._tracking_client.store.engine
    event.listen(engine, "connect", lambda raw, _: raw.execute("PRAGMA max_page_count = 1"))  # as many as it has
    engine.dispose()
    run = store.client.create_run(store.experiment_id)
    with pytest.raises(UserError, match=r"The disk of the MLflow store sqlite:.* is full: once there is room"):
        store.client.set_tag(run.info.run_id, "long", "x" * 5000)


def test_what_was_done_without_an_answer_is_not_there_twice(tmp_path, monkeypatch):
    store = open_store(tracking(tmp_path, patience=60.0))
    lose_answers(monkeypatch, "create_run")
    with Run(store, "a trial", {"kind": "trial"}) as run:
        assert [found.info.run_id for found in store.search("")] == [run.id]
        lose_answers(monkeypatch, "log_batch")
        epochs = [{"val/loss": 0.5, "epoch_seconds": 1.0}, {"val/loss": 0.25, "epoch_seconds": 2.0}]
        with EpochLog(run) as log:
            log(epochs)
    points = store.client.get_metric_history(run.id, "val/loss")
    assert [(point.step, point.value) for point in points] == [(0, 0.5), (1, 0.25)]
    assert store.client.get_run(run.id).info.status == "FINISHED"


def test_what_can_never_be_logged_fails_the_run(tmp_path):
    store = open_store(tracking(tmp_path, patience=60.0))
    with pytest.raises(MlflowException), Run(store, "a trial", {"kind": "trial"}) as run, EpochLog(run) as log:
        log([{"a name with a ? in it": 0.5}])
    assert store.client.get_run(run.id).info.status == "FAILED"


def test_a_file_in_the_way_of_the_store_is_named(tmp_path):
    (tmp_path / "mlruns").write_text("a file")
    with pytest.raises(UserError, match=r"mlruns.*tracking\.root"):
        open_store(tracking(tmp_path))


def test_a_file_that_is_no_database_is_named(tmp_path):
    (tmp_path / "mlruns").mkdir()
    (tmp_path / "mlruns" / "mlflow.db").write_text("no database, but long enough to be looked at" * 100)
    with pytest.raises(UserError, match=r"mlflow\.db"):
        open_store(tracking(tmp_path))
