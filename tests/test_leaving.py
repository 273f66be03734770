"""All processes that a command starts end with it, even if it is killed at any moment."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NoReturn

import psutil

from ecgexp.processes import leave_nothing, training_environment

DEADLINE = 10.0  # seconds


def kill(start: Callable[..., None], *args: object) -> tuple[list[psutil.Process], list[psutil.Process]]:
    """Kill a process once it has started others; those that were left 10 s later, and all."""
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    leader = multiprocessing.get_context("spawn").Process(target=start, args=(theirs, *args))
    leader.start()
    ours.recv()
    started = psutil.Process(leader.pid).children(recursive=True)
    leader.kill()
    leader.join()
    _, left = psutil.wait_procs(started, DEADLINE)
    for process in left:
        process.kill()
    return left, started


def read_records(told: Connection, folder: Path) -> None:
    """Read two records in two processes, of which one is done, and waits for more."""
    from ecgexp.datasets.cache import create_array
    from ecgexp.datasets.reading import Kind, _in_processes

    create_array(folder / "signals.npy", (2, 10, 1))
    kind = Kind(unreadable, (10, 1), "float32", None, 1)
    done = _in_processes({start: (folder / "signals.npy", start, folder, ["none"], kind) for start in (0, 1)}, 2)
    next(done)
    told.send(None)
    time.sleep(600)


def unreadable(path: Path) -> NoReturn:
    from ecgexp.datasets.reading import RecordError

    raise RecordError(path, "it is missing")


def train(told: Connection) -> None:
    """Train with a second process, which never joins this one."""
    from ecgexp.training.ranks import other_ranks

    with other_ranks(2, never_ready, told):
        pass


def never_ready(told: Connection, ready: Callable[[], None]) -> None:
    told.send(None)
    time.sleep(600)


def test_processes_that_read_records_end_with_the_one_that_asked(tmp_path):
    left, started = kill(read_records, tmp_path)
    assert len(started) >= 2
    assert not left


def test_a_rank_ends_with_the_one_that_started_it():
    left, started = kill(train)
    assert started
    assert not left


WAITS = "import sys, time; print(flush=True); time.sleep(600)"
# It notices itself, and takes a moment to leave.
LEAVES = "import sys, time; print(flush=True); sys.stdin.read(); time.sleep(0.5); open(sys.argv[1], 'w')"
NEVER_LEAVES = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(600)"


def launch(told: Connection, left: Path) -> None:
    """Start processes as launchers do: apart from this one, and one by another."""
    leave_nothing()
    further = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {WAITS!r}])"
    commands = [
        (WAITS, None),
        (further, None),
        (LEAVES, training_environment({})),
        (NEVER_LEAVES, training_environment({})),
    ]
    kept = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(left)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        for code, environment in commands
    ]
    for process in kept:
        process.stdout.readline()
    told.send(None)
    time.sleep(600)


def test_what_launchers_started_ends_with_the_command_and_a_training_in_order(tmp_path):
    with subprocess.Popen([sys.executable, "-c", WAITS], stdout=subprocess.PIPE) as bystander:
        left, started = kill(launch, tmp_path / "left")
        spared = bystander.poll() is None
        bystander.kill()
    assert len(started) == 6, "one of them watches"
    assert not left
    assert (tmp_path / "left").exists()
    assert spared
