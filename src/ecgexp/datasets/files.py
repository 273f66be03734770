"""The source files of an array, and a hash of their contents that is computed once per change."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import stat
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from ecgexp.errors import UserError

logger = logging.getLogger(__name__)

NamesFiles = Callable[[bytes], list[str]]

CHUNK = 256
"""Records that a thread hashes at a time."""
THREADS = 4
"""Threads that hash. They mostly wait for the disk, so there may be more of them than cores."""
TICK = 0.02
"""A file can change twice within this time (seconds) without a new time stamp."""


class Sources:
    """The files of records, and a hash of their contents. For a link, the contents are those of its target.

    Parameters
    ----------
    root : Path
        The records' folder; its own path does not enter the hash.
    records : sequence of str
        The records, relative to `root`, without extension.
    cache_dir : Path
        Folder of a small file that stores the hash, together with inode, size, modification time and change time of
        each file. Created if missing.
    suffixes : sequence of str
        A record's name plus each of these gives the names of its files.
    names_files : mapping of str to callable, optional
        For files that name further files of the record in their folder: by suffix, a function from the contents
        of such a file to these names.

    Attributes
    ----------
    content : str
        Hash of names and contents: equal if and only if all files are equal.
    contents : mapping of str to str
        Hash of the contents of each file, by its name relative to `root`.
    """

    def __init__(
        self,
        root: Path,
        records: Sequence[str],
        cache_dir: Path,
        suffixes: Sequence[str],
        names_files: Mapping[str, NamesFiles] | None = None,
    ) -> None:
        self.root = root
        self._hashed = (root, records, suffixes, names_files or {})
        place = json.dumps([os.path.realpath(root), list(suffixes), list(records)])
        memory = cache_dir / f"{_digest(place.encode())}.files.json"
        known = None
        with suppress(OSError):  # `cached_array` reports a folder that cannot be used
            known = read_checked(memory)
        # earlier versions did not keep the contents
        if known is None or "contents" not in known or known["stamps"] != _stamps(root, known["files"]):
            known = _hash(*self._hashed)
            with suppress(OSError):
                write_checked(memory, known)
        self.content: str = known["content"]
        self._files: list[str] = known["files"]
        self._stamps: str = known["stamps"]
        self._contents: list[str] = known["contents"]

    @property
    def contents(self) -> dict[str, str]:  # noqa: D102 - see above
        return dict(zip(self._files, self._contents, strict=True))

    def check_unchanged(self) -> None:
        """Check that the contents of the files are still those that were hashed.

        Raises
        ------
        UserError
            If a file has changed.
        """
        if _stamps(self.root, self._files) == self._stamps:
            return
        # Some network file systems change the inode of an unchanged file.
        if _hash(*self._hashed)["content"] != self.content:
            raise UserError(
                f"Files in {self.root} changed while they were read: start again when no program writes there any more."
            )


def file_stamp(path: str | Path) -> list[int]:
    """Inode, size, modification time and change time in ns; they change with the contents. Raises OSError."""
    return _stamp_of(os.stat(path))  # noqa: PTH116 - creating a Path would double the time


def lasting_stamp(path: Path) -> list[int]:
    """Like `file_stamp`, but wait first until a later change is sure to give the file a new time."""
    return _stamp_of(_settled(path))


def write_checked(path: Path, data: dict[str, Any]) -> None:
    """Write JSON for `read_checked`, completely or not at all; OSError if it cannot be written."""
    text = json.dumps(data)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        temporary.write_text(f"{text}\n{_digest(text.encode())}\n")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_checked(path: Path) -> Any:
    """Read what `write_checked` wrote; None if the file is missing or damaged. The latter gives a warning."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    text, _, digest = content.removesuffix(b"\n").rpartition(b"\n")
    if _digest(text).encode() != digest:
        warn_damaged(path)
        return None
    return json.loads(text)


def warn_damaged(path: Path) -> None:
    """Warn that the contents of a cache file have changed since it was written."""
    logger.warning("%s is damaged and not used: it is made again.", path)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]


def _settled(path: Path) -> os.stat_result:
    found = path.stat()
    if abs(time.time() - found.st_ctime) >= TICK:
        return found
    time.sleep(TICK)
    return path.stat()


def _stamp_of(found: os.stat_result) -> list[int]:
    return [found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def _stamps(root: Path, files: Sequence[str]) -> str:
    """Hash of the stamps of files."""
    paths = (file if file.startswith("/") else f"{root}/{file}" for file in files)
    return _digest("\n".join(map(_stamp, paths)).encode())


def _stamp(path: str) -> str:
    try:
        return str(file_stamp(path))
    except (OSError, ValueError):  # missing, or not a possible file name
        return ""


def _hash(
    root: Path, records: Sequence[str], suffixes: Sequence[str], names_files: Mapping[str, NamesFiles]
) -> dict[str, Any]:
    """Return the files of the records, the hash of their stamps, and the hash of their contents."""
    chunks = [records[start : start + CHUNK] for start in range(0, len(records), CHUNK)]
    with ThreadPoolExecutor(THREADS) as pool:
        hashed = list(pool.map(lambda chunk: _hash_records(root, chunk, suffixes, names_files), chunks))
    found = {file: pair for part in hashed for file, pair in part.items()}
    contents = {file: content for file, (_, content) in found.items()}
    return {
        "files": list(found),
        "stamps": _digest("\n".join(stamp for stamp, _ in found.values()).encode()),
        "content": _digest(json.dumps([list(records), contents]).encode()),
        "contents": list(contents.values()),
    }


def _hash_records(
    root: Path, records: Sequence[str], suffixes: Sequence[str], names_files: Mapping[str, NamesFiles]
) -> dict[str, tuple[str, str]]:
    """Return the stamp and the hash of the contents of each file of the records."""
    found: dict[str, tuple[str, str]] = {}
    waiting = [f"{record}{suffix}" for record in reversed(records) for suffix in reversed(suffixes)]
    while waiting:
        file = waiting.pop()
        if file in found:
            continue
        stamp, content, named = _read(root / file, names_files)
        found[file] = stamp, content
        folder = file[: file.rfind("/") + 1]
        waiting += [folder + name for name in reversed(named)]
    return found


def _read(path: Path, names_files: Mapping[str, NamesFiles]) -> tuple[str, str, list[str]]:
    """Return the stamp of a file before it was read, the hash of its contents, and the files that it names."""
    stamp = ""
    try:
        found = _settled(path)
        stamp = str(_stamp_of(found))
        if not stat.S_ISREG(found.st_mode):
            return stamp, "no file", []  # a folder or a device
        with path.open("rb") as file:
            if path.suffix not in names_files:
                return stamp, hashlib.file_digest(file, "sha256").hexdigest()[:32], []
            header = file.read()
        return stamp, _digest(header), names_files[path.suffix](header)
    except (OSError, ValueError) as error:  # reading the record reports the cause
        return stamp, type(error).__name__, []
