"""A stranger's files make no command write outside the current folder."""

from __future__ import annotations

import http.server
import sqlite3
import threading
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf
from trained import Trained, call, is_one_sentence, trained_once

from ecgexp.commands.report import _keep
from ecgexp.errors import UserError
from ecgexp.tracking.artifacts import artifact_folder, read_config
from ecgexp.tracking.names import File
from ecgexp.tracking.run import Run
from ecgexp.tracking.runs import find_run
from ecgexp.tracking.store import open_store
from ecgexp.tracking.trust import own_folders


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Trained:
    return trained_once(tmp_path_factory.getbasetemp())


@pytest.fixture
def copied(trained, tmp_path) -> Trained:
    return trained.moved_to(tmp_path / "copy")


def words(trained: Trained, *more: str) -> tuple[str, ...]:
    places = (f"dataset.root={trained.folder}/data/synthetic", f"dataset.cache_dir={trained.folder}/data/cache")
    return f"run={trained.run_id}", "split=val", *places, *more


@pytest.fixture
def elsewhere() -> Iterator[tuple[str, list[str]]]:
    """A stranger's server, and what it was sent."""
    received: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self):
            received.append(f"{self.command} {self.path}")
            self.send_response(200)
            self.end_headers()

        do_GET = do_PUT = do_POST = answer

        def log_message(self, *_):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}", received
    server.shutdown()
    server.server_close()


def say_artifacts_are_at(copied: Trained, place: str) -> None:
    with sqlite3.connect(copied.mlruns / "mlflow.db") as database:
        database.execute("UPDATE runs SET artifact_uri = ?", [place])
        database.execute("UPDATE experiments SET artifact_location = ?", [place])


@pytest.mark.parametrize("place", ["http://{}/a", "mlflow-artifacts://{}/a", "ftp://{}/a", "s3://bucket/a"])
def test_no_file_is_written_to_the_place_that_a_copied_store_names(trained, copied, monkeypatch, elsewhere, place):
    address, received = elsewhere
    say_artifacts_are_at(copied, place.format(address))
    assert call(monkeypatch, "evaluate", copied.folder, *words(trained)) == 0
    assert (copied.artifacts / "evaluation" / "val" / "predictions_val.parquet").is_file()
    assert received == []


def test_a_copied_store_names_no_other_folder_of_this_machine(trained, copied, tmp_path, monkeypatch):
    other = tmp_path / "other"
    other.mkdir()
    say_artifacts_are_at(copied, other.as_uri())
    assert call(monkeypatch, "evaluate", copied.folder, *words(trained)) == 0
    assert (copied.artifacts / "evaluation" / "val").is_dir()
    assert not list(other.iterdir())


def test_a_run_without_files_gets_its_report_in_the_store_too(copied, tmp_path, elsewhere, capsys):
    address, received = elsewhere
    store, run = find_run(copied.run_id, copied.folder, None)
    made = store.client.create_run(run.info.experiment_id)
    say_artifacts_are_at(copied, f"http://{address}/a")
    report = tmp_path / "mine"
    report.mkdir()
    (report / "report.html").write_text("all of it")
    _keep(store, store.client.get_run(made.info.run_id), report)
    kept = copied.mlruns / "artifacts" / made.info.run_id / "artifacts" / "reports" / "mine" / "report.html"
    assert kept.read_text() == "all of it"
    assert received == []
    assert capsys.readouterr().err == ""


def test_a_link_in_a_run_leads_no_file_out_of_it(trained, copied, tmp_path, monkeypatch):
    other = tmp_path / "other"
    other.mkdir()
    (copied.artifacts / "evaluation").symlink_to(other)
    message = call(monkeypatch, "evaluate", copied.folder, *words(trained))
    assert is_one_sentence(message), message
    assert "leads out" in message
    assert not list(other.iterdir())


def test_a_link_in_place_of_a_file_is_not_written_through(trained, copied, tmp_path, monkeypatch):
    mine = tmp_path / "mine"
    mine.write_text("untouched")
    folder = copied.artifacts / "evaluation" / "val"
    folder.mkdir(parents=True)
    (folder / "metrics.json").symlink_to(mine)
    assert call(monkeypatch, "evaluate", copied.folder, *words(trained)) == 0
    assert mine.read_text() == "untouched"
    assert "metrics" in (folder / "metrics.json").read_text()


def test_a_config_decides_on_no_folder_that_is_written_to(trained, copied, tmp_path, monkeypatch, caplog):
    (copied.artifacts / File.CHECKSUMS).unlink()
    path = copied.artifacts / "config.yaml"
    cfg = OmegaConf.load(path)
    cfg.dataset.cache_dir = str(tmp_path / "mine" / "cache")
    cfg.dataset.root = str(tmp_path / "mine" / "data")
    OmegaConf.save(cfg, path)
    assert call(monkeypatch, "evaluate", copied.folder, f"run={trained.run_id}", "split=val") == 0
    assert not (tmp_path / "mine").exists()
    assert list((copied.folder / "data" / "cache").glob("*.npy"))
    for key in ("cache_dir", "root"):
        assert f"dataset.{key}=FOLDER" in caplog.text


def test_folders_of_the_command_line_and_below_the_current_one_are_used(trained, copied, tmp_path, monkeypatch):
    monkeypatch.chdir(copied.folder)
    cfg = read_config(copied.artifacts / "config.yaml")
    cfg.dataset.root, cfg.dataset.cache_dir = "some/data", str(tmp_path / "cache")
    kept = own_folders(cfg, ["dataset.cache_dir"]).dataset
    assert (kept.root, kept.cache_dir) == ("some/data", str(tmp_path / "cache"))
    cfg.dataset.root = "some/../../data"
    assert own_folders(cfg).dataset.root == "data/synthetic"


@pytest.mark.parametrize("place", ["http://{}/a", "file:///tmp/other"])
def test_a_training_writes_no_file_to_the_place_that_a_copied_store_names(copied, elsewhere, place):
    address, received = elsewhere
    say_artifacts_are_at(copied, place.format(address))
    tracking = SimpleNamespace(root=str(copied.folder), uri=None, experiment="ecgexp", patience=0.0)
    with pytest.raises(UserError, match=r"outside that folder: choose another tracking\.experiment"):
        open_store(tracking)
    tracking.experiment = "another"
    store = open_store(tracking)
    with pytest.raises(UserError, match="outside that folder"):
        Run(store, "one that is continued", {}, continues=store.client.get_run(copied.run_id))
    with Run(store, "a new one", {}) as run, run.artifacts() as folder:
        (folder / "file").write_text("here")
    assert (copied.mlruns / "artifacts" / run.id / "artifacts" / "file").read_text() == "here"
    assert received == []


def test_the_folder_of_artifacts_may_be_a_link(trained, copied, tmp_path, monkeypatch):
    large = tmp_path / "large disk"
    (copied.mlruns / "artifacts").rename(large)
    (copied.mlruns / "artifacts").symlink_to(large)
    assert call(monkeypatch, "evaluate", copied.folder, *words(trained)) == 0
    assert (large / trained.run_id / "artifacts" / "evaluation" / "val").is_dir()


@pytest.mark.slow
def test_the_name_of_a_sweep_is_no_path(copied, tmp_path, monkeypatch):
    experiment = copied.client.get_run(copied.run_id).info.experiment_id
    sweep = copied.client.create_run(experiment, tags={"kind": "sweep", "sweep": "../../out"}).info.run_id
    copied.client.set_tag(copied.run_id, "mlflow.parentRunId", sweep)
    copied.client.set_tag(copied.run_id, "overrides", "[]")
    assert call(monkeypatch, "report", copied.folder, f"sweep={sweep}") == 0
    (made,) = (copied.folder / "reports").iterdir()
    assert made.name == "_.._out"
    assert (made / "report.html").is_file()
    assert {path.name for path in tmp_path.iterdir()} == {"copy"}


def test_a_server_that_the_user_names_decides_where_its_artifacts_are(copied, tmp_path):
    store, run = find_run(copied.run_id, copied.folder, None)
    server = replace(store, uri="http://127.0.0.1:1")
    run.info._artifact_uri = "s3://bucket/of/the/server"
    assert artifact_folder(server, run) is None
    run.info._artifact_uri = tmp_path.as_uri()
    assert artifact_folder(server, run) == tmp_path
