from __future__ import annotations

import subprocess
from importlib import metadata

import pytest

from ecgexp.tracking.provenance import config_hash, flatten, git_state, packages, warn


def git(folder, *arguments):
    identity = ["-c", "user.name=someone", "-c", "user.email=someone@example.org"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path):
    git(tmp_path, "init", "-q")
    (tmp_path / "code.py").write_text("a = 1\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "first")
    yield tmp_path
    git_state.cache_clear()


def test_a_clean_checkout_is_its_commit(checkout):
    assert git_state(checkout) == {"git_commit": git(checkout, "rev-parse", "HEAD"), "git_dirty": "false"}


def test_a_changed_file_makes_a_checkout_dirty(checkout):
    (checkout / "code.py").write_text("a = 2\n")
    assert git_state(checkout)["git_dirty"] == "true"


def test_a_folder_in_a_checkout_has_its_commit(checkout):
    (checkout / "below").mkdir()
    assert git_state(checkout / "below")["git_commit"] == git(checkout, "rev-parse", "HEAD")


def test_outside_of_a_checkout_there_is_nothing_to_say(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_state(tmp_path) == {}


def test_the_hash_of_a_configuration_depends_on_its_values_alone():
    assert config_hash({"a": 1, "b": {"c": [1, 2]}}) == config_hash({"b": {"c": [1, 2]}, "a": 1})
    others = [{"a": 1, "b": {"c": [2, 1]}}, {"a": 2, "b": {"c": [1, 2]}}, {"a": 1, "b": {"d": [1, 2]}}, {"a": "1"}]
    assert len({config_hash(config) for config in others}) == 4


def test_flatten_names_every_leaf():
    config = {"lr": 0.1, "model": {"width": 4, "head": {"bias": True}, "sizes": [1, 2], "more": {}}, "none": None}
    assert dict(flatten(config)) == {
        "lr": 0.1,
        "model.width": 4,
        "model.head.bias": True,
        "model.sizes": [1, 2],
        "model.more": {},
        "none": None,
    }


def test_a_warning_is_a_tag_and_the_description_that_the_ui_shows():
    assert warn("Take care.") == {"warning": "Take care.", "mlflow.note.content": "Take care."}


def test_packages_are_named_with_their_versions():
    lines = packages().splitlines()
    assert f"numpy=={metadata.version('numpy')}" in lines
    assert lines[0].startswith("# Python")
    assert lines[1:] == sorted(lines[1:], key=str.lower)
