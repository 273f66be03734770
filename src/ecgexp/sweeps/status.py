"""The status of a sweep's trials, kept in files, so that it works with every launcher."""

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

# Number of trials for the estimate of the time left: for all trials of a large sweep it would take too long.
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
        Of its job.
    started : float
        Unix time of its start.
    value : float, optional
        Of the objective.
    seconds : float, optional
        Duration.
    error : str
        Why it failed.
    """

    state: str
    overrides: list[str]
    started: FiniteFloat
    value: float | None = None
    seconds: FiniteFloat | None = None
    error: str = ""

    def ended(self, state: str, **known: Any) -> TrialStatus:
        """The same trial at its end."""
        took = time.time() - self.started
        return replace(self, state=state, **{**known, "seconds": took if state != "reused" else known.get("seconds")})


class Board:
    """The statuses of a sweep's trials in a folder, a file for each.

    Parameters
    ----------
    root : Path
        ``mlruns/``.
    parent : str
        Run of the sweep.
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
        """Status of each job that has begun; a damaged file is left out with a warning."""
        found = {}
        for path in sorted(self.folder.glob("[0-9]*.json")):
            with suppress(FileNotFoundError):  # another command begins, and has cleared the board
                if (status := self._status(path)) is not None:
                    found[int(path.stem)] = status
        return found

    def _status(self, path: Path) -> TrialStatus | None:
        stat = path.stat()
        version = stat.st_mtime_ns, stat.st_ino
        if path.stem not in self._known or self._known[path.stem][0] != version:  # it is read every second
            self._known[path.stem] = version, _parsed(path)
        return self._known[path.stem][1]


def _parsed(path: Path) -> TrialStatus | None:
    try:
        return TypeAdapter(TrialStatus).validate_json(path.read_bytes())
    except ValidationError:
        logger.warning("%s is damaged: the status of its trial is unknown.", path)
        return None


class StatusLine:
    """One line for the whole sweep on the standard error, kept up to date while the body runs.

    In a terminal the line is rewritten; in a file a new one is added whenever a trial ends.

    Parameters
    ----------
    board : Board
        Where trials report.
    cells : sequence of sequence of str, optional
        Overrides of each job, if the sweeper runs them all.
    maximize : bool
        Whether larger values of the objective are better.
    total : int, optional
        Number of trials, if their overrides are not known in advance.
    common : sequence of str
        Overrides that all trials have, in that case.
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
        self._say(last=True)

    def text(self, now: float) -> str:
        """The line."""
        trials = self._board.read()
        states = Counter(status.state for status in trials.values())
        done = sum(states[state] for state in DONE)
        parts = [f"{done}/{self._total} trials" if self._total else f"{done} trials"]
        shown = ("running", "reused", "pruned", "diverged", "failed")
        parts += [f"{states[state]} {state}" for state in shown if states[state]]
        finished = [status for status in trials.values() if status.value is not None]
        # Trials of other data may have other validation records: then none is the best.
        data = {tuple(o for o in status.overrides if o.startswith("dataset")) for status in finished}
        if len(data) == 1:
            best = (max if self._maximize else min)(finished, key=lambda status: status.value or 0.0)
            words = [shortened(o) for o in best.overrides if o not in self._common]
            parts.append(" ".join([f"best {best.value:.4f}", *([f"({' '.join(words)})"] if words else [])]))
        parts.append(f"elapsed {_clock(now - self._started)}")
        left = self._time_left(trials, now)
        if left is not None:
            parts.append(f"left about {_clock(left)}")
        return "  |  ".join(parts)

    def _time_left(self, trials: dict[int, TrialStatus], now: float) -> float | None:
        took = [status for status in trials.values() if status.state in ("done", "pruned") and status.seconds]
        if not self._total or not took:
            return None
        running = [status for status in trials.values() if status.state == "running"]
        if self._cells:
            begun = [trials.get(job) for job in range(len(self._cells))]
            waiting = [cell for cell, status in zip(self._cells, begun, strict=True) if status is None]
        else:
            waiting = [[]] * (self._total - len(trials))
        took = sorted(took, key=lambda status: status.started)[-_ESTIMATED_FROM:]
        some = random.Random(0).sample(waiting, min(len(waiting), _ESTIMATED_FROM))
        left = sum(_expected(cell, took) for cell in some) * len(waiting) / max(1, len(some))
        left += sum(max(0.0, _expected(status.overrides, took) - (now - status.started)) for status in running)
        return left / max(1, len(running))

    def _watch(self) -> None:
        while not self._stop.wait(self.INTERVAL):
            self._say()

    def _say(self, last: bool = False) -> None:
        text = self.text(time.time())
        if sys.stderr.isatty():
            width = shutil.get_terminal_size().columns
            sys.stderr.write(f"\r\x1b[K{text[: width - 1]}" + ("\n" if last else ""))
        elif (ended := re.sub(r"\d+ running|elapsed.*", "", text)) != self._last_written:
            self._last_written = ended
            sys.stderr.write(text + "\n")
        sys.stderr.flush()


def _expected(cell: Sequence[str], took: Sequence[TrialStatus]) -> float:
    """Seconds of the trials that share most overrides with a cell, averaged."""
    shared = [len(set(cell).intersection(status.overrides)) for status in took]
    most = max(shared)
    alike = [status.seconds or 0.0 for status, n in zip(took, shared, strict=True) if n == most]
    return sum(alike) / len(alike)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"
