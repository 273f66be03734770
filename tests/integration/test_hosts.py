"""Runs of a machine that died, seen from another machine, which is simulated by another hostname."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from commands import LINEAR, all_runs, ecgexp, only, start, store_client, trials, until

from ecgexp.tracking.heartbeat import HEARTBEAT_TIMEOUT

pytestmark = pytest.mark.slow

SWEEP = ("-m", *LINEAR, "early_stopping.patience=null", "scheduler=none", "lr=0.01")
SHORT = (*SWEEP, "max_epochs=60")
ENDLESS = (*SWEEP, "max_epochs=1000000")
OTHER = (*LINEAR, "max_epochs=1")


@pytest.fixture
def elsewhere(tmp_path) -> Path:
    """A Python on another machine, as far as the name of the machine tells."""
    python = tmp_path / "python"
    rename = """'hostname elsewhere && exec "$0" "$@"'"""
    python.write_text(f'#!/bin/sh\nexec unshare --uts --map-root-user sh -c {rename} {sys.executable} "$@"\n')
    python.chmod(0o755)
    asked = subprocess.run([python, "-c", "import socket; print(socket.gethostname())"], capture_output=True, text=True)
    if asked.stdout.strip() != "elsewhere":
        pytest.skip(f"this system lets no process have a hostname of its own: {asked.stderr.strip()}")
    return python


def begun(folder: Path, python: Path, *words: str) -> subprocess.Popen[str]:
    """A sweep on another machine whose first trial has finished an epoch, and still trains."""
    process = start(folder, *words, python=python)
    until(lambda: any((folder / "mlruns" / "checkpoints").glob("*/last.ckpt")), process)
    return process


def kill(process: subprocess.Popen[str]) -> None:
    command = psutil.Process(process.pid)
    command.suspend()  # nobody notices the death of another
    for victim in (*command.children(), command):
        victim.kill()
    process.communicate()


def test_what_a_dead_machine_left_running_is_ended_and_gone_on_with(tmp_path, elsewhere):
    kill(begun(tmp_path, elsewhere, *SHORT))
    left = [run.info.run_id for run in all_runs(tmp_path)]
    client = store_client(tmp_path)

    def statuses() -> list[str]:
        return [client.get_run(run_id).info.status for run_id in left]

    assert {client.get_run(run_id).data.tags["host"] for run_id in left} == {"elsewhere"}
    ecgexp(tmp_path, *OTHER).expect()
    assert statuses() == ["RUNNING"] * 2, "it may be alive, as far as this machine knows"
    for run_id in left:  # time passes
        client.set_tag(run_id, "heartbeat", time.time() - HEARTBEAT_TIMEOUT - 1)
    ecgexp(tmp_path, *OTHER).expect()
    assert statuses() == ["KILLED"] * 2
    ecgexp(tmp_path, *SHORT).expect()
    assert statuses() == ["FINISHED"] * 2
    assert only(trials(tmp_path)).data.tags["attempts"] == "2"


def test_a_sweep_that_runs_on_another_machine_is_not_started_a_second_time(tmp_path, elsewhere):
    uri = f"tracking.uri=sqlite:///{tmp_path / 'shared.db'}"  # nothing else is shared
    process = begun(tmp_path / "there", elsewhere, *ENDLESS, uri)
    refused = ecgexp(tmp_path / "here", *ENDLESS, uri).expect(1)
    assert "running already on elsewhere" in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1
    kill(process)
