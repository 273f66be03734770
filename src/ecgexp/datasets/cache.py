"""Signals of many records, read once in parallel and kept as one memory-mapped array that processes share."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import shutil
import signal
import time
import uuid
from bisect import bisect_left
from collections.abc import Callable, Generator, Iterator, Sequence
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

from ecgexp.datasets.records import RecordError, read_record
from ecgexp.errors import UserError

logger = logging.getLogger(__name__)

FORMAT = 1
"""Part of each key: raise it when `read_record` returns other numbers for the same files."""
CHUNK = 64
"""Records that a process reads at a time: a fraction of a second, so that Ctrl-C is quick."""
WORTH_A_PROCESS = 2000
"""Records below which starting one more process takes longer than it saves."""
STALE = 24 * 3600
"""Seconds after which a temporary file is taken for a killed process's leftover."""


class Layout(TypedDict):
    """The arguments of `read_record` that all records share."""

    lead_names: tuple[str, ...]
    sampling_rate: float
    samples: int
    exact: bool


@dataclass(frozen=True)
class Signals:
    """Signals of a list of records.

    Attributes
    ----------
    array : float32 array, (records, samples, leads), mV
        Memory-mapped, read-only; zeros where a record could not be used.
    hashes : tuple of str
        Hash of each record's signal: equal if and only if the signals are identical.
    problems : dict of int to str
        What is wrong with each record that could not be used, by its index.
    notes : dict of int to tuple of str
        What was done to each record that had to be adapted, by its index.
    """

    array: NDArray[np.float32]
    hashes: tuple[str, ...]
    problems: dict[int, str]
    notes: dict[int, tuple[str, ...]]


def cached_signals(
    root: Path, files: Sequence[str], layout: Layout, cache_dir: Path, workers: int | None = None
) -> Signals:
    """Signals of records, from the cache (see `cached_array`), or read into it.

    Parameters
    ----------
    root : Path
        The records' folder.
    files : sequence of str
        The records, relative to `root`, without extension.
    layout : Layout
        Leads, rate and length.
    cache_dir : Path
        Made where missing.
    workers : int, optional
        Processes that read; all cores by default, and no more than are worth starting.

    Returns
    -------
    Signals

    Raises
    ------
    UserError
        Where the cache cannot be written or a reading process dies.
    """

    def read(path: Path) -> dict[str, Any]:
        create_array(path, (len(files), layout["samples"], len(layout["lead_names"])))
        logger.info("reading %d records of %s into %s", len(files), root, cache_dir)
        outcomes = _read_all(path, root, files, layout, workers)
        return {
            "layout": layout,
            "records": list(files),
            "hashes": [outcome.hash for outcome in outcomes],
            "problems": {i: outcome.problem for i, outcome in enumerate(outcomes) if outcome.problem},
            "notes": {i: outcome.notes for i, outcome in enumerate(outcomes) if outcome.notes},
        }

    array, known = cached_array(cache_dir, cache_key(root, files, [FORMAT, layout]), read)
    return Signals(
        array,
        tuple(known["hashes"]),
        {int(i): problem for i, problem in known["problems"].items()},
        {int(i): tuple(notes) for i, notes in known["notes"].items()},
    )


def cached_array(
    cache_dir: Path, key: str, make: Callable[[Path], dict[str, Any]]
) -> tuple[NDArray[np.float32], dict[str, Any]]:
    """An array and what is known of it, from the cache, or made and put there.

    It is two files in `cache_dir`, named by `key`. Each is written under a temporary name and moved, the one
    that makes the cache valid last, so no process sees half of it; of two that write at once the last to
    finish replaces equal files by equal files.

    Parameters
    ----------
    cache_dir : Path
        Made where missing.
    key : str
        Of everything that the array depends on, see `cache_key`.
    make : callable
        Writes the array to a path as a .npy file (see `create_array`) and returns what is known of it, JSON-able.

    Returns
    -------
    array : float32 array
        Memory-mapped, read-only.
    known : dict
        What `make` returned, as JSON gives it back.

    Raises
    ------
    UserError
        Where the cache cannot be written.
    """
    try:
        found = _open(cache_dir, key)
        if found is None:
            _write(cache_dir, key, make)
            found = _open(cache_dir, key)
    except OSError as error:
        raise UserError(
            f"the signal cache {cache_dir} cannot be used ({error}); set dataset.cache_dir to a folder that can"
        ) from error
    if found is None:
        raise UserError(f"the signal cache {cache_dir} is changed by something else; remove it and retry")
    return found


def create_array(path: Path, shape: tuple[int, ...]) -> np.memmap[Any, np.dtype[np.float32]]:
    """A .npy file of zeros, memory-mapped for writing; OSError where the disk has no room for it."""
    # A memory-mapped file that outgrows the disk kills the process without a word.
    size = 4 * math.prod(shape)
    if size > shutil.disk_usage(path.parent).free:
        raise OSError(f"{size / 1e9:.1f} GB are needed and fewer are free")
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
    array.flush()
    return array


def cache_key(root: Path, files: Sequence[str], settings: Any) -> str:
    """Hash of records' names, of the names, sizes and modification times of their files, and of settings.

    Parameters
    ----------
    root : Path
        The records' folder, which itself makes no difference.
    files : sequence of str
        The records, relative to `root`, without extension.
    settings : JSON-able
        What else decides on the numbers.
    """
    digest = hashlib.sha256(json.dumps(settings).encode())
    folders: dict[str, tuple[list[str], dict[str, os.stat_result]]] = {}
    for file in files:
        folder, _, stem = file.rpartition("/")
        if folder not in folders:
            stats = _scan(root / folder)
            folders[folder] = sorted(stats), stats
        names, stats = folders[folder]
        parts = [file]
        for name in _files_of(stem, names):
            parts += [name, str(stats[name].st_size), str(stats[name].st_mtime_ns)]
        digest.update("\0".join([*parts, "\n"]).encode())
    return digest.hexdigest()[:32]


def _scan(folder: Path) -> dict[str, os.stat_result]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name: entry.stat() for entry in entries if entry.is_file()}
    except FileNotFoundError:
        return {}


def _files_of(stem: str, names: list[str]) -> Iterator[str]:
    """Files that belong to a record by WFDB's custom: stem.ext, and stem_NNNN.ext for its segments."""
    for i in range(bisect_left(names, stem), len(names)):
        name = names[i]
        if not name.startswith(stem):
            return
        if name[len(stem) : len(stem) + 1] in (".", "_"):
            yield name


def _open(cache_dir: Path, key: str) -> tuple[NDArray[np.float32], dict[str, Any]] | None:
    """What is cached; None where there is nothing, or something damaged."""
    try:
        known = json.loads((cache_dir / f"{key}.json").read_text())
        array = np.load(cache_dir / f"{key}.npy", mmap_mode="r")
        return (array, known) if known.pop("rows") == len(array) else None
    except (FileNotFoundError, ValueError, KeyError):
        return None


def _write(cache_dir: Path, key: str, make: Callable[[Path], dict[str, Any]]) -> None:
    cache_dir.mkdir(parents=True, exist_ok=True)
    _remove_stale(cache_dir)
    name = f".{key}.{uuid.uuid4().hex}"
    array, meta = cache_dir / f"{name}.npy.tmp", cache_dir / f"{name}.json.tmp"
    try:
        known = make(array)
        rows = len(np.load(array, mmap_mode="r"))
        meta.write_text(json.dumps({"rows": rows, **known}))
        array.replace(cache_dir / f"{key}.npy")
        meta.replace(cache_dir / f"{key}.json")
    finally:
        array.unlink(missing_ok=True)
        meta.unlink(missing_ok=True)


def _remove_stale(cache_dir: Path) -> None:
    for path in cache_dir.glob(".*.tmp"):
        try:
            if time.time() - path.stat().st_mtime > STALE:
                path.unlink()
        except FileNotFoundError:  # another process was quicker
            pass


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
    # Spawned, because a fork of a process with running threads (torch's) may hang.
    executor = ProcessPoolExecutor(processes, get_context("spawn"), initializer=_ignore_interrupts)
    try:
        futures = {executor.submit(_read_chunk, *args): start for start, args in arguments.items()}
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BrokenProcessPool as error:
        raise UserError(
            "a process that reads records ended unexpectedly (out of memory, killed, or started from a "
            "script without `if __name__ == '__main__':`); free memory, guard the script, or set "
            "dataset.workers=1"
        ) from error
    finally:
        executor.shutdown(cancel_futures=True)


def _ignore_interrupts() -> None:
    """Leave Ctrl-C, which reaches all processes of a terminal, to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


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
