"""Signals of many records: read once in parallel, and cached as one memory-mapped array for all processes."""

from __future__ import annotations

import hashlib
import logging
import math
import signal
from collections.abc import Generator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ecgexp.datasets.cache import cached_array, create_array
from ecgexp.datasets.ecg.headers import named_files
from ecgexp.datasets.ecg.records import RecordError, Uncalibrated, read_record
from ecgexp.datasets.files import Sources
from ecgexp.errors import UserError
from ecgexp.processes import leave_with_parent

logger = logging.getLogger(__name__)

FORMAT = 2
"""Part of each cache key: raise it when `read_record` returns other numbers for the same files."""


CHUNK = 64
"""Records that a process reads at a time. It takes a fraction of a second, so Ctrl-C acts quickly."""


WORTH_A_PROCESS = 2000
"""With fewer records, starting one more process takes longer than it saves."""


class Layout(TypedDict):
    """The arguments of `read_record` that all records share."""

    lead_names: tuple[str, ...]
    sampling_rate: float
    samples: int
    exact: bool
    uncalibrated: Uncalibrated


@dataclass(frozen=True)
class Signals:
    """Signals of a list of records.

    Attributes
    ----------
    array : float32 array, (records, samples, leads), mV
        Memory-mapped, read-only; zeros for a record that cannot be used.
    hashes : tuple of str
        Hash of each record's signal: equal if and only if the signals are identical.
    problems : dict of int to str
        What is wrong with each record that cannot be used, by its index.
    notes : dict of int to tuple of str
        How each adapted record was changed, by its index.
    """

    array: NDArray[np.float32]
    hashes: tuple[str, ...]
    problems: dict[int, str]
    notes: dict[int, tuple[str, ...]]


def cached_signals(
    root: Path, files: Sequence[str], layout: Layout, cache_dir: Path, workers: int | None = None
) -> Signals:
    """Signals of records, from the cache (see `cached_array`); they are read first if the cache lacks them.

    Parameters
    ----------
    root : Path
        The records' folder.
    files : sequence of str
        The records, relative to `root`, without extension.
    layout : Layout
        Leads, rate and length.
    cache_dir : Path
        Folder of the cache; created if missing.
    workers : int, optional
        Most processes that read; by default one per core. Fewer are started for few records.

    Returns
    -------
    Signals

    Raises
    ------
    UserError
        If the cache cannot be written or a reading process dies.
    """

    def read(path: Path) -> dict[str, Any]:
        create_array(path, (len(files), layout["samples"], len(layout["lead_names"])))
        logger.info("Reading %d records of %s into the cache %s.", len(files), root, cache_dir)
        outcomes = _read_all(path, root, files, layout, workers)
        return {
            "layout": layout,
            "records": list(files),
            "hashes": [outcome.hash for outcome in outcomes],
            "problems": {i: outcome.problem for i, outcome in enumerate(outcomes) if outcome.problem},
            "notes": {i: outcome.notes for i, outcome in enumerate(outcomes) if outcome.notes},
        }

    array, known = cached_array(
        cache_dir, Sources(root, files, cache_dir, (".hea",), {".hea": named_files}), [FORMAT, layout], read
    )
    return Signals(
        array,
        tuple(known["hashes"]),
        {int(i): problem for i, problem in known["problems"].items()},
        {int(i): tuple(notes) for i, notes in known["notes"].items()},
    )


@dataclass(frozen=True)
class _Outcome:
    hash: str = ""
    problem: str = ""
    notes: tuple[str, ...] = ()


_Outcomes = Generator[tuple[int, list[_Outcome]], None, None]


def _read_all(array: Path, root: Path, files: Sequence[str], layout: Layout, workers: int | None) -> list[_Outcome]:
    """Read all records into the .npy file `array`."""
    import joblib

    chunks = {start: list(files[start : start + CHUNK]) for start in range(0, len(files), CHUNK)}
    arguments = {start: (array, start, root, chunk, layout) for start, chunk in chunks.items()}
    outcomes: dict[int, list[_Outcome]] = {}
    processes = min(workers or joblib.cpu_count(), math.ceil(len(files) / WORTH_A_PROCESS))
    done = _in_processes(arguments, processes) if processes > 1 else _in_turn(arguments)
    bar = tqdm(total=len(files), desc="reading records", unit="record", disable=None)
    with closing(done), bar as progress:
        for start, chunk_outcomes in done:
            outcomes[start] = chunk_outcomes
            progress.update(len(chunk_outcomes))
    return [outcome for start in chunks for outcome in outcomes[start]]


def _in_turn(arguments: dict[int, Any]) -> _Outcomes:
    for start, args in arguments.items():
        yield start, _read_chunk(*args)


def _in_processes(arguments: dict[int, Any], processes: int) -> _Outcomes:
    # Spawn, because a fork of a process with running threads (torch's) may hang.
    executor = ProcessPoolExecutor(processes, get_context("spawn"), initializer=_follow_parent)
    try:
        futures = {executor.submit(_read_chunk, *args): start for start, args in arguments.items()}
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BrokenProcessPool as error:
        raise UserError(
            "A process that reads records ended unexpectedly (out of memory, killed, or started from a "
            "script without `if __name__ == '__main__':`): free memory, guard the script, or set "
            "dataset.workers=1."
        ) from error
    finally:
        executor.shutdown(cancel_futures=True)


def _follow_parent() -> None:
    """Ignore Ctrl-C, which reaches all processes of a terminal, and end when the parent ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    leave_with_parent()


def _read_chunk(array: Path, start: int, root: Path, files: list[str], layout: Layout) -> list[_Outcome]:
    signals = np.load(array, mmap_mode="r+")
    outcomes = []
    for i, file in enumerate(files, start):
        try:
            reading = read_record(root / file, **layout)
        except RecordError as error:
            outcomes.append(_Outcome(problem=error.problem))
        else:
            signals[i] = reading.signal
            digest = hashlib.blake2b(reading.signal.tobytes(), digest_size=16).hexdigest()
            outcomes.append(_Outcome(digest, notes=reading.notes))
    signals.flush()
    return outcomes
