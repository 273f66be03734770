"""Makes processes end when the process that started them ends, even if it is killed."""

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

# Environment variable that child processes inherit: it marks every process that a command has started.
MARK = "ECGEXP_COMMAND"
TRAINING = " training"  # added to the mark of a process that may shut down in order
GRACE = 6.0  # seconds that such a process has to shut down

_watching: subprocess.Popen[bytes] | None = None  # a reference, since the object holds this end of the pipe


def leave_with_parent() -> None:
    """Make this process of the multiprocessing package exit as soon as its parent has ended.

    Otherwise a process that waits for work, or for other processes, would wait forever.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, name="LeaveWithParent", daemon=True).start()


def leave_nothing() -> None:
    """Make all processes that are started from now on, on this machine, end when this process ends.

    A second process does this: it reads from a pipe that closes when this process ends. Only a process that trains a
    trial gets time to shut down in order.
    """
    global _watching
    os.environ[MARK] = uuid.uuid4().hex
    _watching = subprocess.Popen(
        [sys.executable, "-m", "ecgexp.processes", os.environ[MARK]],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # so that neither Ctrl-C nor a closed terminal reaches it
    )


def training_environment(added: dict[str, str]) -> dict[str, str]:
    """Environment of a process that trains a trial, and shuts down in order when its parent has ended."""
    mark = {MARK: os.environ[MARK] + TRAINING} if MARK in os.environ else {}
    return {**os.environ, **mark, **added}


def main(mark: str) -> None:
    """Wait until standard input ends; then end all processes with a mark."""
    sys.stdin.buffer.read()
    end = time.monotonic() + GRACE
    while found := _marked(mark):
        for process, own in found:
            # resource trackers tidy up and exit by themselves
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
