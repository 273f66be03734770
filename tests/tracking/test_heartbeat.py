"""A run whose process died on another machine is ended; a run with a living process is not."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import psutil
import pytest

from ecgexp.tracking import heartbeat
from ecgexp.tracking.heartbeat import HEARTBEAT_TIMEOUT, Heartbeat, is_alive, process_tags
from ecgexp.tracking.run import Run, end_orphans
from ecgexp.tracking.store import open_store


@pytest.fixture
def store(tmp_path):
    return open_store(SimpleNamespace(root=tmp_path, uri=None, experiment="ecgexp", patience=1.0))


@pytest.fixture
def hasty(monkeypatch):
    monkeypatch.setattr(heartbeat, "INTERVAL", 0.01)


def status(store, run) -> str:
    return store.client.get_run(run.id).info.status


def test_runs_of_another_machine_end_once_their_heartbeat_stopped(store):
    now = time.time()
    dead, alive, fast_clock, older_version = (Run(store, "trial", {}) for _ in range(4))
    # A process with this number exists here, but it is another one.
    for run, beat in (
        (dead, now - HEARTBEAT_TIMEOUT - 1),
        (alive, now - HEARTBEAT_TIMEOUT + 60),
        (fast_clock, now + 300),
    ):
        run.set_tags({"host": "elsewhere", "heartbeat": beat})
    older_version.set_tags({"host": "elsewhere"})
    store.client.delete_tag(older_version.id, "heartbeat")
    end_orphans(store)
    assert [status(store, run) for run in (dead, alive, fast_clock, older_version)] == [
        "KILLED",
        "RUNNING",
        "RUNNING",
        "KILLED",
    ]


def test_a_sweep_of_another_machine_ends_like_its_trials(store):
    parent = Run(store, "sweep", {"kind": "sweep"})
    trial = Run(store, "trial", {}, parent=parent.id)
    for run in (parent, trial):
        run.set_tags({"host": "elsewhere", "heartbeat": time.time() - 2 * HEARTBEAT_TIMEOUT})
    end_orphans(store)
    assert [status(store, run) for run in (parent, trial)] == ["KILLED"] * 2


def test_of_a_process_of_this_machine_its_number_and_start_tell_and_not_its_heartbeat():
    tags = {key: str(value) for key, value in process_tags().items()}
    assert is_alive(tags | {"heartbeat": "0.0"})
    assert not is_alive(tags | {"process_started": "1.0"}), "the number was given to another process"
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert not is_alive(tags | {"pid": str(ended.pid)})
    assert not is_alive({}), "nothing of ours"


def test_a_change_of_the_clock_makes_no_process_seem_dead(monkeypatch):
    tags = {key: str(value) for key, value in process_tags().items()}
    booted = psutil.boot_time()
    # Linux counts it back from the clock, and the time of a process's start forth from it.
    monkeypatch.setattr(psutil._psplatform, "boot_time", lambda: booted + 3600)
    assert is_alive(tags)
    assert not is_alive(tags | {"boot": "before the machine was started again"})


@pytest.mark.timeout(60)
def test_a_run_has_heartbeats_until_it_ends(store, hasty):
    with Run(store, "trial", {}) as run:
        (thread,) = [thread for thread in threading.enumerate() if thread.name == "Heartbeat"]
        first = float(store.client.get_run(run.id).data.tags["heartbeat"])
        while float(store.client.get_run(run.id).data.tags["heartbeat"]) < first + 0.1:
            pass
        assert status(store, run) == "RUNNING"
    thread.join(30)
    assert not thread.is_alive()
    assert status(store, run) == "FINISHED"


@pytest.mark.timeout(60)
def test_a_store_that_is_away_does_not_stop_the_heart(hasty):
    beats, two_answered = [], threading.Event()

    def write(now: float) -> None:
        beats.append(now)
        if len(beats) < 3:
            raise ConnectionError("away")
        if len(beats) > 3:
            two_answered.set()

    with Heartbeat(write):
        assert two_answered.wait(30)
    assert beats == sorted(beats)
    assert abs(beats[-1] - time.time()) < 30
