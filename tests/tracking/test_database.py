"""A local store in any place, in a folder of any name."""

from __future__ import annotations

import os
import shlex
import shutil
import sqlite3
import traceback
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from mlflow import MlflowClient
from mlflow.tracking._tracking_service import utils

from ecgexp.errors import UserError
from ecgexp.tracking.artifacts import artifact_folder
from ecgexp.tracking.store import Store, find_store, open_store

# Between them every character that a URI, a shell, Hydra or SQLite might take for something else.
NAMES = ("""it's "so" 50%20 a?b#c %""", "$HOME [a]{b}(c) x=y,z;& %2520+", "-a*~ \\ \n `b`|<c>", " äöü 心电图 a:b@c ")


def opened(root: Path, experiment: str = "ecgexp") -> Store:
    return open_store(SimpleNamespace(root=str(root), uri=None, experiment=experiment, patience=0.0))


def recorded(store: Store, name: str = "note.txt") -> str:
    """Id of a new run with a file of this name."""
    run_id = store.client.create_run(store.experiment_id).info.run_id
    store.client.log_text(run_id, name, name)
    return run_id


def files(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*.txt")}


def read(store: Store, run_id: str, name: str = "note.txt") -> str:
    """A file of a run as MLflow itself finds it."""
    return Path(MlflowClient(store.uri).download_artifacts(run_id, name)).read_text()


def dumped(database: Path) -> str:
    with closing(sqlite3.connect(database)) as connection:
        return "\n".join(connection.iterdump())


@pytest.mark.parametrize("name", NAMES)
def test_a_store_can_be_in_a_folder_of_any_name_and_creates_no_other(tmp_path, name):
    store = opened(tmp_path / name)
    run_id = recorded(store)
    assert opened(tmp_path / name).experiment_id == store.experiment_id
    assert files(tmp_path) == {f"{name}/mlruns/artifacts/{run_id}/artifacts/note.txt"}
    assert read(store, run_id) == "note.txt"
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["${x}", b"a\xff".decode(errors="surrogateescape")])
def test_a_name_that_a_tool_would_misread_is_refused(tmp_path, name):
    with pytest.raises(UserError, match="rename the folder"):
        opened(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_moved_store_is_used_in_its_new_place_with_one_warning(tmp_path, caplog):
    old, new = tmp_path / "a b", tmp_path / "ä#?%41"
    run_id = recorded(opened(old))
    old.rename(new)
    store = opened(new)
    assert f"from now on its artifacts are those in {new / 'mlruns'}." in caplog.text
    later = recorded(store)
    assert [read(store, one) for one in (run_id, later)] == ["note.txt"] * 2
    assert files(tmp_path) == {f"{new.name}/mlruns/artifacts/{one}/artifacts/note.txt" for one in (run_id, later)}
    assert old.as_uri() not in dumped(new / "mlruns" / "mlflow.db")
    caplog.clear()
    opened(new)
    assert caplog.text == ""


def test_printed_commands_name_the_store_where_it_is_not_in_this_folder(tmp_path, monkeypatch):
    store = opened(tmp_path / "it's here")
    assert shlex.split(store.arguments()) == [f"tracking.root={tmp_path}/it's here"]
    assert shlex.split(store.ui_command()) == ["mlflow", "ui", "--backend-store-uri", store.uri]
    monkeypatch.chdir(tmp_path / "it's here")
    assert store.arguments() == ""
    assert replace(store, uri="http://127.0.0.1:5000").arguments() == " tracking.uri=http://127.0.0.1:5000"
    assert "secret" not in replace(store, uri="postgresql://user:secret@host/runs").arguments()


def test_a_copy_never_writes_into_the_original(tmp_path):
    run_id = recorded(opened(tmp_path / "original"))
    shutil.copytree(tmp_path / "original", tmp_path / "copy")
    before = dumped(tmp_path / "original" / "mlruns" / "mlflow.db")
    utils._artifact_repos_cache.clear()  # as in another process
    store = opened(tmp_path / "copy")
    recorded(store, "new.txt")
    store.client.log_text(run_id, "more", "more.txt")
    model = store.client.create_logged_model(store.experiment_id, name="model")
    assert model.artifact_location.startswith((tmp_path / "copy").as_uri())
    assert files(tmp_path / "original") == {f"mlruns/artifacts/{run_id}/artifacts/note.txt"}
    assert dumped(tmp_path / "original" / "mlruns" / "mlflow.db") == before


def test_models_and_their_registered_versions_move_along(tmp_path, monkeypatch):
    store = opened(tmp_path / "old")
    # MLflow itself looks the model up there.
    monkeypatch.setattr("mlflow.tracking._tracking_service.utils._tracking_uri", store.uri)
    model = store.client.create_logged_model(store.experiment_id, name="model")
    store.client.create_registered_model("net")
    source = f"{model.artifact_location}/"
    store.client.create_model_version("net", source, model_id=model.model_id)
    (tmp_path / "old").rename(tmp_path / "new")
    client = find_store(tmp_path / "new", None).client
    moved = (tmp_path / "new" / "mlruns" / "artifacts" / "models" / model.model_id / "artifacts").as_uri()
    assert client.get_logged_model(model.model_id).artifact_location == moved
    assert client.get_model_version("net", "1").source.startswith(moved)
    assert client.get_model_version_download_uri("net", "1").startswith(moved)


def test_mlruns_may_be_renamed_and_moved_again(tmp_path):
    run_id = recorded(opened(tmp_path))
    for place in ("2026", "deeper/again"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        next(tmp_path.rglob("mlflow.db")).parent.rename(tmp_path / place)
        store = find_store(tmp_path / place, None)
        assert read(store, run_id) == "note.txt"


def test_what_was_left_in_the_earlier_place_is_counted(tmp_path, caplog):
    run_id = recorded(opened(tmp_path / "old"))
    shutil.copytree(tmp_path / "old", tmp_path / "new", ignore=shutil.ignore_patterns(run_id))
    find_store(tmp_path / "new", None)
    assert f"Copy the files of 1 runs from {tmp_path / 'old'}" in caplog.text


def test_two_folders_that_lead_to_one_store_agree_on_its_place(tmp_path, caplog):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    (tmp_path / "shared").mkdir()
    for name in ("one", "two"):
        (tmp_path / name / "mlruns").symlink_to(tmp_path / "shared")
    run_id = recorded(opened(tmp_path / "one"))
    assert read(opened(tmp_path / "two"), run_id) == "note.txt"
    assert opened(tmp_path / "one").root == opened(tmp_path / "two").root == tmp_path / "shared"
    (tmp_path / "three").symlink_to(tmp_path / "one")
    opened(tmp_path / "three")
    assert caplog.text == ""


def test_a_database_that_is_a_link_has_its_artifacts_where_it_leads(tmp_path, caplog):
    run_id = recorded(opened(tmp_path / "original"))
    (tmp_path / "link" / "mlruns").mkdir(parents=True)
    (tmp_path / "link" / "mlruns" / "mlflow.db").symlink_to(tmp_path / "original" / "mlruns" / "mlflow.db")
    store = opened(tmp_path / "link")
    assert store.root == tmp_path / "original" / "mlruns"
    assert read(store, run_id) == "note.txt"
    assert caplog.text == ""


def test_an_experiment_that_its_user_put_elsewhere_stays_there(tmp_path):
    store, elsewhere = opened(tmp_path / "old"), (tmp_path / "elsewhere" / "artifacts").as_uri()
    store.client.create_experiment("own", artifact_location=elsewhere)
    store.client.create_experiment("cloud", artifact_location="s3://bucket/mlruns/artifacts")
    (tmp_path / "old").rename(tmp_path / "new")
    client = opened(tmp_path / "new").client
    assert client.get_experiment_by_name("own").artifact_location == elsewhere
    assert client.get_experiment_by_name("cloud").artifact_location == "s3://bucket/mlruns/artifacts"


def test_a_store_that_was_named_by_its_address_is_left_alone(tmp_path):
    opened(tmp_path / "old")
    (tmp_path / "old").rename(tmp_path / "new")
    before = dumped(tmp_path / "new" / "mlruns" / "mlflow.db")
    uri = f"sqlite:///{tmp_path / 'new' / 'mlruns' / 'mlflow.db'}"
    open_store(SimpleNamespace(root=str(tmp_path / "other"), uri=uri, experiment="ecgexp", patience=0.0))
    find_store(tmp_path / "other", uri)
    assert dumped(tmp_path / "new" / "mlruns" / "mlflow.db") == before


def as_nobody(function) -> int:
    """Exit status of a child process without root's rights that calls `function`: 0 where it returns."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setgid(65534)
            os.setuid(65534)
            function()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_a_store_that_may_only_be_read_is_read_where_it_lies_and_refused_for_writing(tmp_path):
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.getuid():
            folder.chmod(folder.stat().st_mode | 0o055)
    run_id = recorded(opened(tmp_path / "old"))
    (tmp_path / "old").rename(tmp_path / "new")
    before = dumped(tmp_path / "new" / "mlruns" / "mlflow.db")

    def look() -> None:
        store = find_store(tmp_path / "new", None)
        folder = artifact_folder(store, store.client.get_run(run_id))
        assert folder == tmp_path / "new" / "mlruns" / "artifacts" / run_id / "artifacts"
        with pytest.raises(UserError, match="it is read-only for this user"):
            opened(tmp_path / "new")

    assert as_nobody(look) == 0
    assert dumped(tmp_path / "new" / "mlruns" / "mlflow.db") == before


def with_noise(database: Path) -> None:
    content = bytearray(database.read_bytes())
    content[4 * 4096 : 40 * 4096] = os.urandom(36 * 4096)
    database.write_bytes(content)


DAMAGES = {
    "emptied": lambda database: database.write_bytes(b""),
    "cut": lambda database: os.truncate(database, database.stat().st_size // 2),
    "another file": lambda database: database.write_text("no database, but long enough to be looked at" * 100),
    "noise": with_noise,
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A database that does not change."""
    root = tmp_path_factory.mktemp("whole")
    opened(root)
    return root / "mlruns" / "mlflow.db"


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_database_is_named_with_what_to_do_and_left_as_it_is(tmp_path, whole, damage):
    database = tmp_path / "mlruns" / "mlflow.db"
    database.parent.mkdir()
    shutil.copy(whole, database)
    DAMAGES[damage](database)
    damaged = database.read_bytes()
    for door in (opened, lambda root: find_store(root, None)):
        with pytest.raises(UserError, match=r"mlflow\.db is damaged: put a copy of it back"):
            door(tmp_path)
    assert database.read_bytes() == damaged


def test_a_database_that_is_damaged_while_it_is_used_is_named_too(tmp_path):
    store = opened(tmp_path)
    recorded(store)
    with_noise(tmp_path / "mlruns" / "mlflow.db")
    with pytest.raises(UserError, match="is damaged"):
        store.search("")


@pytest.mark.parametrize(
    "name", ["mlruns", *(f"mlruns/{name}" for name in ("artifacts", "checkpoints", "locks", "sweeps"))]
)
@pytest.mark.parametrize("obstacle", ["file", "dangling link"])
def test_an_obstacle_in_place_of_a_folder_is_named(tmp_path, name, obstacle):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    if obstacle == "file":
        path.write_text("in the way")
    else:
        path.symlink_to("nowhere")
    message = "it is a file" if obstacle == "file" else "it is a link to nowhere, which does not exist"
    with pytest.raises(UserError, match=f"{name} cannot be written: {message}.*tracking.root"):
        opened(tmp_path)
    assert list(tmp_path.rglob("mlflow.db")) == []


def test_a_database_that_is_a_link_to_nothing_is_not_made_there(tmp_path):
    (tmp_path / "mlruns").mkdir()
    (tmp_path / "mlruns" / "mlflow.db").symlink_to(tmp_path / "unmounted" / "mlflow.db")
    with pytest.raises(UserError, match=r"is a link to .*unmounted"):
        opened(tmp_path)
    assert not (tmp_path / "unmounted").exists()


@pytest.mark.parametrize("table", ["experiments", "metrics"])
def test_a_database_without_a_table_is_damaged_and_not_waited_for(tmp_path, table):
    store = opened(tmp_path)
    run_id = recorded(store)
    with closing(sqlite3.connect(tmp_path / "mlruns" / "mlflow.db")) as connection, connection:
        connection.execute(f"DROP TABLE {table}")
    with pytest.raises(UserError, match="is damaged: put a copy of it back"):
        find_store(tmp_path, None).client.get_metric_history(run_id, "loss")


@pytest.mark.parametrize("uri", ["../x", "@", "none:x"])
def test_an_address_that_no_store_can_have_is_refused_in_a_sentence(tmp_path, uri):
    with pytest.raises(UserError, match=r"\(tracking\.uri\) cannot be used"):
        find_store(tmp_path, uri)
