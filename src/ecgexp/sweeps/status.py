"""The status of a sweep's trials, in files, which works with every launcher."""

from __future__ import annotations

import json
import logging
import os
import random
import re
import shutil
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from pydantic import FiniteFloat, TypeAdapter, ValidationError

from ecgexp.errors import without_passwords
from ecgexp.text import shortened

logger = logging.getLogger(__name__)

# At most so many trials are used to estimate the time left; all trials of a large sweep would take too long.
_ESTIMATED_FROM = 200
DONE = ("done", "diverged", "pruned", "reused")


@dataclass(frozen=True)
class TrialStatus:
    """The status of one trial.

    Attributes
    ----------
    state : str
        'running', 'done', 'diverged', 'pruned', 'reused', 'failed' or 'interrupted'.
    overrides : list of str
        Overrides of its job.
    started : float
        Unix time of its start.
    value : float, optional
        Value of the objective.
    seconds : float, optional
        Duration.
    error : str
        Reason of a failure.
    """

    state: str
    overrides: list[str]
    started: FiniteFloat
    value: float | None = None
    seconds: FiniteFloat | None = None
    error: str = ""

    def ended(self, state: str, **changes: Any) -> TrialStatus:
        """The status of the same trial at its end; a reused trial keeps the duration in `changes`."""
        duration = changes.get("seconds") if state == "reused" else time.time() - self.started
        return replace(self, state=state, **{**changes, "seconds": duration})


class Board:
    """The statuses of a sweep's trials, a file for each in one folder.

    Parameters
    ----------
    root : Path
        ``mlruns/``.
    parent : str
        Id of the sweep's run.
    """

    def __init__(self, root: Path, parent: str) -> None:
        self.folder = root / "sweeps" / parent
        self._known: dict[str, tuple[tuple[int, int], TrialStatus | None]] = {}

    def clear(self) -> None:
        """Remove the statuses of an earlier start of the sweep."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for path in self.folder.glob("*.json"):
            path.unlink(missing_ok=True)

    def write(self, job: int, status: TrialStatus) -> None:
        """Write the status of a job's trial."""
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self.folder / f".{job}.{os.getpid()}"
        temporary.write_text(without_passwords(json.dumps(asdict(status))))
        temporary.replace(self.folder / f"{job}.json")

    def read(self) -> dict[int, TrialStatus]:
        """Status of each job that has begun; a damaged file is skipped with a warning."""
        statuses = {}
        for path in sorted(self.folder.glob("[0-9]*.json")):
            with suppress(FileNotFoundError):  # another command starts and clears the board
                if (status := self._status(path)) is not None:
                    statuses[int(path.stem)] = status
        return statuses

    def _status(self, path: Path) -> TrialStatus | None:
        stat = path.stat()
        version = stat.st_mtime_ns, stat.st_ino
        if path.stem not in self._known or self._known[path.stem][0] != version:  # the board is read every second
            self._known[path.stem] = version, _parsed(path)
        return self._known[path.stem][1]


def _parsed(path: Path) -> TrialStatus | None:
    try:
        return TypeAdapter(TrialStatus).validate_json(path.read_bytes())
    except ValidationError:
        logger.warning("%s is damaged: the status of its trial is unknown.", path)
        return None


class StatusLine:
    """One line about the whole sweep on the standard error, updated while the body of the `with` statement runs.

    A terminal shows the line in place; a file gets a new line whenever a trial ends.

    Parameters
    ----------
    board : Board
        The statuses of the trials.
    cells : sequence of sequence of str, optional
        Overrides of each job, if they are known in advance, as in a grid.
    maximize : bool
        Whether larger values of the objective are better.
    total : int, optional
        Number of trials, without `cells`.
    common : sequence of str
        Overrides that all trials share, without `cells`.
    """

    INTERVAL = 1.0  # seconds

    def __init__(
        self,
        board: Board,
        cells: Sequence[Sequence[str]] | None,
        maximize: bool,
        total: int | None = None,
        common: Sequence[str] = (),
    ) -> None:
        self._board, self._cells, self._maximize = board, cells, maximize
        self._total = len(cells) if cells else total
        self._common = set.intersection(*map(set, cells)) if cells else set(common)
        self._started = time.time()
        self._stop = threading.Event()
        self._last_written = ""
        self._thread = threading.Thread(target=self._watch, name="StatusLine", daemon=True)

    def __enter__(self) -> StatusLine:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._print(last=True)

    def text(self, now: float) -> str:
        """The line."""
        trials = self._board.read()
        states = Counter(status.state for status in trials.values())
        done = sum(states[state] for state in DONE)
        parts = [f"{done}/{self._total} trials" if self._total else f"{done} trials"]
        shown = ("running", "reused", "pruned", "diverged", "failed")
        parts += [f"{states[state]} {state}" for state in shown if states[state]]
        finished = [status for status in trials.values() if status.value is not None]
        # Trials on different data may have different validation records: then no trial is the best.
        data = {tuple(o for o in status.overrides if o.startswith("dataset")) for status in finished}
        if len(data) == 1:
            best = (max if self._maximize else min)(finished, key=lambda status: status.value or 0.0)
            settings = [shortened(o) for o in best.overrides if o not in self._common]
            parts.append(" ".join([f"best {best.value:.4f}", *([f"({' '.join(settings)})"] if settings else [])]))
        parts.append(f"elapsed {_clock(now - self._started)}")
        left = self._time_left(trials, now)
        if left is not None:
            parts.append(f"left about {_clock(left)}")
        return "  |  ".join(parts)

    def _time_left(self, trials: dict[int, TrialStatus], now: float) -> float | None:
        trained = [status for status in trials.values() if status.state in ("done", "pruned") and status.seconds]
        if not self._total or not trained:
            return None
        running = [status for status in trials.values() if status.state == "running"]
        if self._cells:
            statuses = [trials.get(job) for job in range(len(self._cells))]
            waiting = [cell for cell, status in zip(self._cells, statuses, strict=True) if status is None]
        else:
            waiting = [[]] * (self._total - len(trials))
        trained = sorted(trained, key=lambda status: status.started)[-_ESTIMATED_FROM:]
        sample = random.Random(0).sample(waiting, min(len(waiting), _ESTIMATED_FROM))
        left = sum(_expected(cell, trained) for cell in sample) * len(waiting) / max(1, len(sample))
        left += sum(max(0.0, _expected(status.overrides, trained) - (now - status.started)) for status in running)
        return left / max(1, len(running))

    def _watch(self) -> None:
        while not self._stop.wait(self.INTERVAL):
            self._print()

    def _print(self, last: bool = False) -> None:
        text = self.text(time.time())
        if sys.stderr.isatty():
            width = shutil.get_terminal_size().columns
            sys.stderr.write(f"\r\x1b[K{text[: width - 1]}" + ("\n" if last else ""))
        elif (without_times := re.sub(r"\d+ running|elapsed.*", "", text)) != self._last_written:
            self._last_written = without_times
            sys.stderr.write(text + "\n")
        sys.stderr.flush()


def _expected(cell: Sequence[str], trained: Sequence[TrialStatus]) -> float:
    """Mean duration, in seconds, of the trials that share most overrides with a cell."""
    shared = [len(set(cell).intersection(status.overrides)) for status in trained]
    most = max(shared)
    seconds = [status.seconds or 0.0 for status, count in zip(trained, shared, strict=True) if count == most]
    return sum(seconds) / len(seconds)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"
