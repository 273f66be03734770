from __future__ import annotations

import multiprocessing
from pathlib import Path
from types import SimpleNamespace

import pytest

from ecgexp.errors import UserError
from ecgexp.tracking.store import open_store


def tracking(root: Path, **options) -> SimpleNamespace:
    return SimpleNamespace(**{"root": str(root), "uri": None, "experiment": "ecgexp", **options})


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


def test_a_server_that_does_not_answer_is_named_in_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(UserError) as refused:
        open_store(tracking(tmp_path, uri="http://127.0.0.1:9"))
    assert "http://127.0.0.1:9" in str(refused.value)
    assert "tracking.uri" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_file_in_the_way_of_the_store_is_named(tmp_path):
    (tmp_path / "mlruns").write_text("a file")
    with pytest.raises(UserError, match=r"mlruns.*tracking\.root"):
        open_store(tracking(tmp_path))


def test_a_file_that_is_no_database_is_named(tmp_path):
    (tmp_path / "mlruns").mkdir()
    (tmp_path / "mlruns" / "mlflow.db").write_text("no database, but long enough to be looked at" * 100)
    with pytest.raises(UserError, match=r"mlflow\.db"):
        open_store(tracking(tmp_path))
