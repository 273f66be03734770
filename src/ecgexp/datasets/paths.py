"""Messages about files that are missing or cannot be read."""

from __future__ import annotations

import errno
from pathlib import Path

from ecgexp.errors import summarised


def absent(path: Path, name: str = "") -> str:
    """Say that a path is missing, and why, if a broken link or a file in other letter case explains it.

    Parameters
    ----------
    path : Path
        The missing path.
    name : str
        Name of the path in the message; by default the path itself.
    """
    for part in (path, *path.parents):
        if part.is_symlink() and not part.exists():
            where = "" if part == path else f" missing, because {part} is"
            return f"{name or path} is{where} a broken link to {part.readlink()}"
    suffix = path.suffix
    for other in (path.stem + suffix.upper(), path.stem + suffix.lower(), path.name.upper(), path.name.lower()):
        if path.with_name(other).is_file():
            return f"{name or path} is missing ({other} is there: rename it)"
    return f"{name or path} is missing"


def unreadable(path: Path, error: OSError | ValueError) -> str:
    """Say that a file is missing (see `absent`), or why else it cannot be read."""
    if isinstance(error, OSError) and error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
        return absent(path, path.name)
    return f"{path.name!r} cannot be read ({summarised(error)})"
