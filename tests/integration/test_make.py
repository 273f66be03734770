from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy.engine import URL

ROOT = Path(__file__).resolve().parents[2]
TARGETS = ("setup", "demo", "test", "test-fast", "test-all", "lint", "format", "data", "sweep", "ui", "clean")


def make(*arguments: str) -> str:
    return subprocess.run(["make", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("arguments", [(), ("help",)])
def test_help_lists_and_describes_every_target(arguments):
    lines = dict(line.strip().removeprefix("make ").split(maxsplit=1) for line in make(*arguments).splitlines())
    assert set(TARGETS) <= lines.keys()
    assert all(len(words) > 10 for words in lines.values())


def test_demo_is_the_sentence_verbatim():
    assert "python -m ecgexp -m optimizer=sgd,adam lr=0.001,0.01" in make("-n", "demo").splitlines()


def test_data_downloads_the_data_set_that_is_named_at_its_own_rate():
    def commands(*words):
        (line,) = (line for line in make("-n", "data", *words).splitlines() if "datasets.download" in line)
        return line.split()[3:]

    assert commands() == ["--dataset", "ptbxl"]
    assert commands("RATE=500") == ["--dataset", "ptbxl", "--sampling-rate", "500"]
    assert commands("DATASET=mitbih") == ["--dataset", "mitbih"]
    assert commands("DATASET=bloodmnist", "SIZE=64") == ["--dataset", "bloodmnist", "--size", "64"]


@pytest.mark.slow
def test_ui_listens_on_loopback_and_opens_the_store_that_a_run_in_the_checkout_writes(tmp_path):
    folder = tmp_path / """it's 50%20 a?b#c & $HOME "q" [x],=y {z} ä"""
    (folder / ".venv" / "bin").mkdir(parents=True)
    shutil.copy(ROOT / "Makefile", folder)
    for name in ("pyproject.toml", "constraints.txt", ".venv/installed"):  # in this order: nothing is to be installed
        (folder / name).touch()
    mlflow, python = folder / ".venv" / "bin" / "mlflow", folder / ".venv" / "bin" / "python"
    mlflow.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    for program in (mlflow, python):
        program.chmod(0o755)
    done = subprocess.run(["make", "--silent", "ui"], cwd=folder, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["ui", "--backend-store-uri", local_uri(folder), "--host", "127.0.0.1"]
    assert sorted(path.name for path in folder.parent.iterdir()) == [folder.name]
    assert (folder / "mlruns" / "mlflow.db").is_file()


def local_uri(folder: Path) -> str:
    """What SQLAlchemy itself writes for a database in this folder, by its own driver."""
    return URL.create("sqlite+pysqlite", database=str(folder / "mlruns" / "mlflow.db")).render_as_string()
