"""A password in a URL is in no message, no run and no file."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from hydra._internal.utils import get_args_parser
from mlflow import MlflowClient
from omegaconf import OmegaConf

from ecgexp import CONF
from ecgexp.cli import _remove_passwords
from ecgexp.commands.plan import plan
from ecgexp.config.resolvers import register_resolvers
from ecgexp.config.schema import check
from ecgexp.errors import UserError, first_line, summarised, without_passwords
from ecgexp.search.study import open_storage
from ecgexp.sweeps.status import Board, TrialStatus
from ecgexp.tracking.provenance import config_hash
from ecgexp.tracking.run import Run
from ecgexp.tracking.store import open_store

SECRET = "s3cr/t"
URLS = [
    f"postgresql+psycopg2://someone:{SECRET}@127.0.0.1:1/mlflow",
    f"http://someone:{SECRET}@127.0.0.1:1",
    f"http://:{SECRET}@host",
    f"mysql://host/db?user=someone&password={SECRET}&x=1",
    f"https://someone:{SECRET}@{SECRET}@host/path",
    f"http://host:1/?token={SECRET}",
    f"https://host/a?x=1&access_token={SECRET}&y=2",
    f"https://host/a?X-Amz-Signature={SECRET}",
    f"http://host/?api_key={SECRET}",
    f"http://host/?key={SECRET}",
    "https://s3cr@host/path",
]


@pytest.mark.parametrize("url", URLS)
def test_a_password_is_in_no_text(url):
    error = UserError(f"The store {url} cannot be used.")
    for text in (without_passwords(url), str(error), summarised(ValueError(url)), first_line(ValueError(url))):
        assert "***" in text
        assert SECRET not in text
        assert "s3cr" not in text
    assert without_passwords(f'["tracking.uri={url}", "a=1"]').endswith(', "a=1"]')


@pytest.mark.parametrize(
    "text",
    [
        "sqlite:////a/b.db",
        "http://host:5000 and me@host",
        "file:///a:b/c",
        "models:/NAME@best",
        "http://host/me@here",
        "http://host/?monkey=1&x_key=2&authority=me",
        '["tracking.uri=http://host:5000", "name=me@here"]',
        "postgresql://someone@/mlflow?host=/tmp/x",
    ],
)
def test_a_text_without_a_password_stays_as_it_is(text):
    assert without_passwords(text) == text


@pytest.mark.parametrize("url", URLS[:2])
def test_a_store_that_cannot_be_used_is_named_without_its_password(tmp_path, url):
    if url.startswith("postgresql"):
        pytest.importorskip("psycopg2", reason="PostgreSQL's driver is not installed (the extra 'dev')")
    tracking = SimpleNamespace(root=str(tmp_path), uri=url, experiment="ecgexp", patience=0.0)
    with pytest.raises(UserError, match=r"someone:\*\*\*@127\.0\.0\.1") as caught:
        open_store(tracking)
    assert SECRET not in str(caught.value)


def test_an_address_without_a_scheme_is_refused_and_not_repeated(tmp_path):
    tracking = SimpleNamespace(root=str(tmp_path), uri="s3cr@host", experiment="ecgexp", patience=0.0)
    register_resolvers()
    words = get_args_parser().parse_args(["tracking=server", "tracking.uri=s3cr@host"])
    (cfg,) = plan(CONF, words).configurations
    for refused in (lambda: check(cfg), lambda: open_store(tracking)):
        with pytest.raises(
            UserError, match=r"^Config key 'tracking\.uri' has no scheme: begin it with the kind of store"
        ) as caught:
            refused()
        assert "s3cr" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_an_override_that_cannot_be_parsed_is_reported_without_its_token():
    register_resolvers()
    words = get_args_parser().parse_args(["tracking=server", f"tracking.uri=http://host/?token={SECRET}"])
    with pytest.raises(UserError, match=r"token=\*\*\*") as caught:
        plan(CONF, words)
    assert SECRET not in str(caught.value)


def test_a_driver_that_is_not_installed_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    uri = f"postgresql+psycopg://someone:{SECRET}@127.0.0.1:1/mlflow"
    tracking = SimpleNamespace(root=str(tmp_path), uri=uri, experiment="ecgexp", patience=0.0)
    with pytest.raises(
        UserError, match=r"cannot be used: .*psycopg.*: install the driver of the database\.$"
    ) as caught:
        open_store(tracking)
    assert SECRET not in str(caught.value)


def test_a_storage_that_cannot_be_used_is_named_without_its_password():
    with pytest.raises(UserError, match=r"someone:\*\*\*@"):
        open_storage(f"nosuch://someone:{SECRET}@host/db")


def test_no_file_and_no_run_has_a_password(tmp_path):
    tracking = SimpleNamespace(root=str(tmp_path), uri=None, experiment="ecgexp", patience=0.0)
    store, url = open_store(tracking), URLS[0]
    with pytest.raises(ValueError), Run(store, f"tracking.uri={url}", {"overrides": f'["a={url}"]'}) as run:
        run.log_params({"tracking.uri": url, "long": f"{url} " * 1000})
        run.set_tags({"error": url})
        raise ValueError(url)
    board = Board(store.root, run.id)
    board.write(0, TrialStatus("failed", [f"tracking.uri={url}"], 0.0, error=url))
    store.client.log_batch(run.id)
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes(), path
    found = store.client.get_run(run.id)
    assert found.data.params["tracking.uri"] == "postgresql+psycopg2://someone:***@127.0.0.1:1/mlflow"
    assert "***" in board.read()[0].error
    assert config_hash({"uri": url}) == config_hash({"uri": url.replace(SECRET, "another")})


def test_what_hydra_wrote_is_cleaned(tmp_path):
    url = URLS[0]
    (tmp_path / "0" / ".hydra").mkdir(parents=True)
    written = [
        tmp_path / "multirun.yaml",
        *(tmp_path / "0" / ".hydra" / f"{name}.yaml" for name in ("config", "hydra")),
    ]
    for path in written:
        OmegaConf.save({"tracking": {"uri": url}, "lr": 0.1, "overrides": [f"a={url}"]}, path)
    hydra = {"runtime": {"output_dir": str(tmp_path / "0"), "cwd": str(tmp_path)}, "output_subdir": ".hydra"}
    _remove_passwords(OmegaConf.create({**hydra, "sweep": {"dir": "."}}))
    for path in written:
        assert SECRET not in path.read_text()
        assert OmegaConf.load(path).lr == 0.1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "multirun.yaml"]


@pytest.mark.slow
def test_a_search_that_is_recorded_by_a_url_with_a_password_leaves_none_behind(tmp_path):
    """A database whose URL has a password that SQLite does not read."""
    words = ["-m", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=2", "lr=interval(0.01,0.1)", "model=linear"]
    words += ["max_epochs=1", "trainer=cpu", "dataset.records=200", "tracking.system_metrics=false"]
    words += [f"tracking.uri='sqlite:///{tmp_path}/runs.db?password={SECRET}'"]
    words += [f"hydra.sweeper.storage='sqlite:///{tmp_path}/study.db?password={SECRET}'"]
    done = subprocess.run(
        [sys.executable, "-m", "ecgexp", *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert SECRET not in done.stdout + done.stderr
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"multirun.yaml", "hydra.yaml", "config.yaml", "overrides.yaml"} <= {path.name for path in files}
    assert [path for path in files if SECRET.encode() in path.read_bytes()] == []
    database = next(Path(tmp_path).glob("runs.db*"))
    client = MlflowClient(f"sqlite:///{database}")
    assert len(client.search_runs([client.get_experiment_by_name("ecgexp").experiment_id])) == 3
