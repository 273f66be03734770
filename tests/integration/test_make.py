from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TARGETS = ("setup", "demo", "test", "test-fast", "lint", "format", "data", "sweep", "ui", "clean")


def make(*arguments: str) -> str:
    return subprocess.run(["make", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("arguments", [(), ("help",)])
def test_help_lists_every_target_with_a_word_on_it(arguments):
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


def test_ui_listens_on_loopback_and_opens_the_store_that_a_run_in_the_checkout_writes():
    (command,) = (line for line in make("-n", "ui").splitlines() if "mlflow ui" in line)
    assert f"sqlite:///{ROOT / 'mlruns' / 'mlflow.db'}" in command
    assert "--host 127.0.0.1" in command
