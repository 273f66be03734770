"""Processes that end with the one that asked for them, however that ends."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
import time
import uuid
from contextlib import suppress

import psutil

# Passed on from process to process, it tells what a command has started, whoever has started it for the command.
MARK = "ECGEXP_COMMAND"
TRAINING = " training"  # added to the mark of what is to leave in order
GRACE = 6.0  # seconds that it has for that

_watching: subprocess.Popen[bytes] | None = None  # kept, as it holds this end of the pipe


def leave_with_parent() -> None:
    """Have this process of the multiprocessing package leave as soon as its parent is gone.

    By itself one that waits for work, or for other processes, would wait for ever.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, name="LeaveWithParent", daemon=True).start()


def leave_nothing() -> None:
    """Have what is started from now on, by whatever launcher, end on this machine when this process has, however.

    A process beside this one sees to it: it reads from a pipe that ends with this one. A process that trains a trial
    is left time to leave in order; no other has anything to lose.
    """
    global _watching
    os.environ[MARK] = uuid.uuid4().hex
    _watching = subprocess.Popen(
        [sys.executable, "-m", "ecgexp.processes", os.environ[MARK]],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # neither Ctrl-C nor the end of the terminal is for it
    )


def training_environment(added: dict[str, str]) -> dict[str, str]:
    """The environment of a process that trains a trial, and leaves in order when what has started it is gone."""
    mark = {MARK: os.environ[MARK] + TRAINING} if MARK in os.environ else {}
    return {**os.environ, **mark, **added}


def main(mark: str) -> None:
    """Wait for the end of the standard input, and then for that of all processes with a mark."""
    sys.stdin.buffer.read()
    end = time.monotonic() + GRACE
    while found := _marked(mark):
        for process, own in found:
            # those that keep account of what the others share leave by themselves, and tidy up
            if time.monotonic() > end or (own == mark and "resource_tracker" not in " ".join(process.cmdline())):
                with suppress(psutil.NoSuchProcess):
                    process.kill()
        time.sleep(0.1)


def _marked(mark: str) -> list[tuple[psutil.Process, str]]:
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            own = process.environ().get(MARK, "")
            if own in (mark, mark + TRAINING) and process.pid != os.getpid():
                found.append((process, own))
    return found


if __name__ == "__main__":
    main(sys.argv[1])
