"""Arrays that are made once from files, and shared by all processes as memory-mapped files."""

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
from numpy.typing import DTypeLike, NDArray

from ecgexp.datasets.files import Sources, file_stamp, lasting_stamp, read_checked, warn_damaged, write_checked
from ecgexp.errors import UserError

logger = logging.getLogger(__name__)

STALE = 24 * 3600
"""A temporary file older than this (seconds) is the leftover of a killed process."""


def cached_array(
    cache_dir: Path, sources: Sources, settings: Any, make: Callable[[Path], dict[str, Any]]
) -> tuple[NDArray[Any], dict[str, Any]]:
    """Return an array and its facts from the cache; make them first if the cache lacks them.

    A cached array is two files in `cache_dir`: the array, and a JSON file that makes it valid. Their name is a hash
    of everything they depend on. Each file is written under a temporary name and then moved, the JSON file last, so no
    process sees an incomplete array. If two processes write at once, the second replaces equal files by equal files.
    Both files have a checksum. The array's checksum is compared again when inode, size or times of its file have
    changed. A damaged file gives a warning and is made again.

    Parameters
    ----------
    cache_dir : Path
        Folder of the cache; created if missing.
    sources : Sources
        The files that the array is made from.
    settings : JSON-able
        Everything else that the numbers depend on.
    make : callable
        Writes the array to a path as a .npy file (see `create_array`) and returns its facts, JSON-able.

    Returns
    -------
    array : array
        Memory-mapped, read-only.
    facts : dict
        What `make` returned, after a round trip through JSON.

    Raises
    ------
    UserError
        If the cache cannot be written, or a source changes while it is read.
    """
    key = hashlib.sha256(json.dumps([settings, sources.content]).encode()).hexdigest()[:32]
    try:
        found = _open(cache_dir, key)
        if found is None:
            _write(cache_dir, key, sources, make)
            found = _open(cache_dir, key)
    except OSError as error:
        raise UserError(
            f"The cache {cache_dir} cannot be used ({error}): set dataset.cache_dir to another folder."
        ) from error
    if found is None:
        raise UserError(f"The cache {cache_dir} was changed by another program: remove it and start again.")
    return found


def create_array(path: Path, shape: tuple[int, ...], dtype: DTypeLike = np.float32) -> np.memmap[Any, np.dtype[Any]]:
    """Create a .npy file of zeros, memory-mapped for writing; OSError if the disk has too little free space."""
    # A memory-mapped file that outgrows the disk kills the process without a message.
    size = np.dtype(dtype).itemsize * math.prod(shape)
    if size > shutil.disk_usage(path.parent).free:
        raise OSError(f"{size / 1e9:.1f} GB are needed and less is free")
    array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    array.flush()
    return array


def _open(cache_dir: Path, key: str) -> tuple[NDArray[Any], dict[str, Any]] | None:
    """The cached array and its facts; None if they are missing or damaged."""
    meta, path = cache_dir / f"{key}.json", cache_dir / f"{key}.npy"
    entry = read_checked(meta)
    if entry is None or not path.is_file():
        return None
    if file_stamp(path) != entry["stamp"]:
        stamp = lasting_stamp(path)
        if _checksum(path) != entry["checksum"]:
            warn_damaged(path)
            return None
        with suppress(OSError):  # in a read-only cache, the next process compares the checksum again
            write_checked(meta, entry | {"stamp": stamp})
    return np.load(path, mmap_mode="r"), entry["known"]


def _write(cache_dir: Path, key: str, sources: Sources, make: Callable[[Path], dict[str, Any]]) -> None:
    cache_dir.mkdir(parents=True, exist_ok=True)
    _remove_stale(cache_dir)
    temporary, path = cache_dir / f".{key}.{uuid.uuid4().hex}.npy.tmp", cache_dir / f"{key}.npy"
    try:
        facts = make(temporary)
        sources.check_unchanged()
        checksum = _checksum(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    write_checked(cache_dir / f"{key}.json", {"checksum": checksum, "stamp": lasting_stamp(path), "known": facts})


def _checksum(path: Path) -> int:
    """CRC-32 of a file, computed at about 3 GB/s."""
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
        except FileNotFoundError:  # another process removed it first
            pass
