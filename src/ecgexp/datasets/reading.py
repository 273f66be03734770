"""Records that are read once, in parallel, and cached as one memory-mapped array for all processes."""

from __future__ import annotations

import hashlib
import logging
import math
import signal
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray
from tqdm import tqdm

from ecgexp.datasets.cache import cached_array, create_array
from ecgexp.datasets.files import Sources
from ecgexp.errors import UserError, shown
from ecgexp.processes import leave_with_parent

logger = logging.getLogger(__name__)

CHUNK = 64
"""Records that a process reads at a time. It takes a fraction of a second, so Ctrl-C acts quickly."""


class RecordError(UserError):
    """A record that cannot be used.

    Attributes
    ----------
    problem : str
        What is wrong with it, without its path.
    """

    def __init__(self, path: str | Path, problem: str) -> None:
        super().__init__(path, problem)
        self.problem = problem

    def __str__(self) -> str:
        return shown(f"Record {self.args[0]} cannot be used: {self.problem}. Repair it, replace it or leave it out.")


@dataclass(frozen=True)
class Kind:
    """How a kind of record is read.

    Attributes
    ----------
    read : callable
        Path of a record to its array and notes on how it was adapted; raises `RecordError`. It is sent to other
        processes, so it is a function of a module, or a `functools.partial` of one.
    shape : tuple of int
        Of the array of a record.
    dtype : data type
        Of the array.
    settings : JSON-able
        Everything that the arrays depend on beside the files.
    worth_a_process : int
        With fewer records, starting one more process takes longer than it saves.
    """

    read: Callable[[Path], tuple[NDArray[Any], tuple[str, ...]]]
    shape: tuple[int, ...]
    dtype: DTypeLike
    settings: Any
    worth_a_process: int


@dataclass(frozen=True)
class Readings:
    """Arrays of a list of records.

    Attributes
    ----------
    array : array, (records, ...)
        Memory-mapped, read-only; zeros for a record that cannot be used.
    hashes : tuple of str
        Hash of each record's array: equal if and only if the arrays are identical.
    problems : dict of int to str
        What is wrong with each record that cannot be used, by its index.
    notes : dict of int to tuple of str
        How each adapted record was changed, by its index.
    """

    array: NDArray[Any]
    hashes: tuple[str, ...]
    problems: dict[int, str]
    notes: dict[int, tuple[str, ...]]


def read_cached(
    root: Path, files: Sequence[str], kind: Kind, sources: Sources, cache_dir: Path, workers: int | None = None
) -> Readings:
    """Arrays of records, from the cache (see `cached_array`); they are read first if the cache lacks them.

    Parameters
    ----------
    root : Path
        The records' folder.
    files : sequence of str
        The records, relative to `root`.
    kind : Kind
        How they are read.
    sources : Sources
        All files that are read.
    cache_dir : Path
        Folder of the cache; created if missing.
    workers : int, optional
        Most processes that read; by default one per core. Fewer are started for few records.

    Raises
    ------
    UserError
        If the cache cannot be written or a reading process dies.
    """

    def read(path: Path) -> dict[str, Any]:
        create_array(path, (len(files), *kind.shape), kind.dtype)
        logger.info("Reading %d records of %s into the cache %s.", len(files), root, cache_dir)
        outcomes = _read_all(path, root, files, kind, workers)
        return {
            "records": list(files),
            "hashes": [outcome.hash for outcome in outcomes],
            "problems": {i: outcome.problem for i, outcome in enumerate(outcomes) if outcome.problem},
            "notes": {i: outcome.notes for i, outcome in enumerate(outcomes) if outcome.notes},
        }

    array, known = cached_array(cache_dir, sources, kind.settings, read)
    return Readings(
        array,
        tuple(known["hashes"]),
        {int(i): problem for i, problem in known["problems"].items()},
        {int(i): tuple(notes) for i, notes in known["notes"].items()},
    )


def hash_of(array: NDArray[Any]) -> str:
    """Hash of a record's array, of 32 hexadecimal digits."""
    return hashlib.blake2b(np.ascontiguousarray(array).tobytes(), digest_size=16).hexdigest()


@dataclass(frozen=True)
class _Outcome:
    hash: str = ""
    problem: str = ""
    notes: tuple[str, ...] = ()


_Outcomes = Generator[tuple[int, list[_Outcome]], None, None]


def _read_all(array: Path, root: Path, files: Sequence[str], kind: Kind, workers: int | None) -> list[_Outcome]:
    """Read all records into the .npy file `array`."""
    import joblib

    chunks = {start: list(files[start : start + CHUNK]) for start in range(0, len(files), CHUNK)}
    arguments = {start: (array, start, root, chunk, kind) for start, chunk in chunks.items()}
    outcomes: dict[int, list[_Outcome]] = {}
    processes = min(workers or joblib.cpu_count(), math.ceil(len(files) / kind.worth_a_process))
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


def _read_chunk(path: Path, start: int, root: Path, files: list[str], kind: Kind) -> list[_Outcome]:
    arrays = np.load(path, mmap_mode="r+")
    outcomes = []
    for i, file in enumerate(files, start):
        try:
            array, notes = kind.read(root / file)
        except RecordError as error:
            outcomes.append(_Outcome(problem=error.problem))
        else:
            arrays[i] = array
            outcomes.append(_Outcome(hash_of(array), notes=notes))
    arrays.flush()
    return outcomes
