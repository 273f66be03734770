"""Detects whether a process is alive, on this machine or another one."""

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

INTERVAL = 60.0  # seconds between two heartbeats
# Seconds without a heartbeat after which a process of another machine counts as dead: nine missed ones, or fewer if
# the two clocks differ. A process whose store was away for longer counts as dead until its next heartbeat.
HEARTBEAT_TIMEOUT = 600.0


def process_tags() -> dict[str, Any]:
    """Tags from which `is_alive` can later detect whether this process is alive."""
    return {
        Tag.HOST: provenance.host(),
        Tag.PID: os.getpid(),
        Tag.BOOT: _boot(),
        Tag.PROCESS_STARTED: _started(os.getpid()),
        Tag.HEARTBEAT: time.time(),
    }


def is_alive(tags: Mapping[str, str]) -> bool:
    """Whether the process that `process_tags` described is alive.

    On this machine, its number and start decide; on another machine, its last heartbeat.
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
    """Start of a process, in seconds after the start of the machine; a change of the clock does not affect it."""
    boot = psutil.boot_time()
    return psutil.Process(pid).create_time() - boot


def _boot() -> str:
    """Identifier of this start of the machine; empty if the system has none."""
    identity = Path("/proc/sys/kernel/random/boot_id")
    return identity.read_text().strip() if identity.exists() else ""


class Heartbeat:
    """Writes a heartbeat at regular intervals, from its own thread, while the body runs.

    Parameters
    ----------
    write : callable
        Stores the new value of the tag ``heartbeat``. If it raises an error, the next heartbeat tries again.
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
        self._stop.set()  # without waiting: the store may be unreachable

    def _beat(self) -> None:
        while not self._stop.wait(INTERVAL):
            try:
                self._write(time.time())
            except Exception as error:  # an error of the store must not stop the training
                logger.debug("No heartbeat: %s", error)
