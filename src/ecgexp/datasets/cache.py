"""Arrays that are made once, from files, and kept memory-mapped for all processes."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import shutil
import time
import uuid
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecgexp.datasets.files import Sources, file_stamp, lasting_stamp, read_checked, say_damaged, write_checked
from ecgexp.errors import UserError

logger = logging.getLogger(__name__)

STALE = 24 * 3600
"""Seconds after which a temporary file is taken for a killed process's leftover."""


def cached_array(
    cache_dir: Path, sources: Sources, settings: Any, make: Callable[[Path], dict[str, Any]]
) -> tuple[NDArray[np.float32], dict[str, Any]]:
    """An array and what is known of it, from the cache, or made and put there.

    It is two files in `cache_dir`, named by what they depend on. Each is written under a temporary name and moved,
    the one that makes the cache valid last, so no process sees half of it; of two that write at once the last to
    finish replaces equal files by equal files. Both have a checksum; that of the array is compared when inode, size
    or times of its file are not those that were last compared. What is damaged is said and made again.

    Parameters
    ----------
    cache_dir : Path
        Made where missing.
    sources : Sources
        The files that the array is made of.
    settings : JSON-able
        What else decides on the numbers.
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
        Where the cache cannot be written, or a source changes while it is read.
    """
    key = hashlib.sha256(json.dumps([settings, sources.content]).encode()).hexdigest()[:32]
    try:
        found = _open(cache_dir, key)
        if found is None:
            _write(cache_dir, key, sources, make)
            found = _open(cache_dir, key)
    except OSError as error:
        raise UserError(
            f"The signal cache {cache_dir} cannot be used ({error}): set dataset.cache_dir to a folder that can."
        ) from error
    if found is None:
        raise UserError(f"The signal cache {cache_dir} is changed by something else: remove it and start again.")
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


def _open(cache_dir: Path, key: str) -> tuple[NDArray[np.float32], dict[str, Any]] | None:
    """What is cached; None where there is nothing, or something damaged."""
    meta, path = cache_dir / f"{key}.json", cache_dir / f"{key}.npy"
    known = read_checked(meta)
    if known is None or not path.is_file():
        return None
    if file_stamp(path) != known["stamp"]:
        stamp = lasting_stamp(path)
        if _checksum(path) != known["checksum"]:
            say_damaged(path)
            return None
        with suppress(OSError):  # a cache that cannot be written to: compared again next time
            write_checked(meta, known | {"stamp": stamp})
    return np.load(path, mmap_mode="r"), known["known"]


def _write(cache_dir: Path, key: str, sources: Sources, make: Callable[[Path], dict[str, Any]]) -> None:
    cache_dir.mkdir(parents=True, exist_ok=True)
    _remove_stale(cache_dir)
    temporary, path = cache_dir / f".{key}.{uuid.uuid4().hex}.npy.tmp", cache_dir / f"{key}.npy"
    try:
        known = make(temporary)
        sources.check_unchanged()
        checksum = _checksum(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    write_checked(cache_dir / f"{key}.json", {"checksum": checksum, "stamp": lasting_stamp(path), "known": known})


def _checksum(path: Path) -> int:
    """CRC-32 of a file, at some 3 GB/s."""
    checksum, buffer = 0, memoryview(bytearray(1 << 20))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            checksum = zlib.crc32(buffer[:count], checksum)
    return checksum


def _remove_stale(cache_dir: Path) -> None:
    for path in cache_dir.glob(".*.tmp"):
        try:
            if time.time() - path.stat().st_mtime > STALE:
                path.unlink()
        except FileNotFoundError:  # another process was quicker
            pass
