"""Whether the process that something was begun by still lives, on whatever machine it is."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from ecgexp.tracking import provenance
from ecgexp.tracking.names import Tag

logger = logging.getLogger(__name__)

INTERVAL = 60.0  # seconds between two beats
# Seconds without a beat after which a process of another machine is taken as dead: nine missed ones, or fewer
# where the two clocks differ. One whose store was away for longer is taken as dead until its next beat.
HEARTBEAT_TIMEOUT = 600.0


def process_tags() -> dict[str, Any]:
    """Tags by which `is_alive` can later tell whether this process lives."""
    return {
        Tag.HOST: provenance.host(),
        Tag.PID: os.getpid(),
        Tag.BOOT: _boot(),
        Tag.PROCESS_STARTED: _started(os.getpid()),
        Tag.HEARTBEAT: time.time(),
    }


def is_alive(tags: Mapping[str, str]) -> bool:
    """Whether the process lives that `process_tags` described.

    Of a process of this machine its number and start tell, of one of another machine its last heartbeat.
    """
    if Tag.PID not in tags:
        return False
    if tags[Tag.HOST] != provenance.host():
        return time.time() - float(tags.get(Tag.HEARTBEAT, 0)) < HEARTBEAT_TIMEOUT
    try:
        same_start = abs(_started(int(tags[Tag.PID])) - float(tags[Tag.PROCESS_STARTED])) < 1
    except psutil.NoSuchProcess:
        return False
    return same_start and tags.get(Tag.BOOT) == _boot()


def _started(pid: int) -> float:
    """Start of a process in seconds since the machine's: a clock that is set changes the times of both."""
    boot = psutil.boot_time()
    return psutil.Process(pid).create_time() - boot


def _boot() -> str:
    """What tells this start of the machine from others; empty where the system has nothing of the kind."""
    identity = Path("/proc/sys/kernel/random/boot_id")
    return identity.read_text().strip() if identity.exists() else ""


class Heartbeat:
    """Notes again and again that this process lives, from a thread of its own, while the body runs.

    Parameters
    ----------
    write : callable
        Keeps the new value of the tag ``heartbeat``. Where it raises, the next beat tries again.
    """

    def __init__(self, write: Callable[[float], object]) -> None:
        self._write = write
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="Heartbeat", daemon=True)

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()  # without waiting: the store may be away

    def _beat(self) -> None:
        while not self._stop.wait(INTERVAL):
            try:
                self._write(time.time())
            except Exception as error:  # whatever kind of store it is: what is trained matters more
                logger.debug("No heartbeat: %s", error)
