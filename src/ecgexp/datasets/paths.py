"""What there is to say of a file that is not there or cannot be read."""

from __future__ import annotations

import errno
from pathlib import Path

from ecgexp.errors import said


def absent(path: Path, name: str = "") -> str:
    """That a path, by default called as it is, is missing, and why as far as links and its folder tell."""
    for part in (path, *path.parents):
        if part.is_symlink() and not part.exists():
            where = "" if part == path else f" missing, because {part} is"
            return f"{name or path} is{where} a link to {part.readlink()}, which leads nowhere"
    suffix = path.suffix
    for other in (path.stem + suffix.upper(), path.stem + suffix.lower(), path.name.upper(), path.name.lower()):
        if path.with_name(other).is_file():
            return f"{name or path} is missing ({other} is there: rename it)"
    return f"{name or path} is missing"


def unreadable(path: Path, error: OSError | ValueError) -> str:
    """That a file is missing, see `absent`, or what else keeps it from being read."""
    if isinstance(error, OSError) and error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
        return absent(path, path.name)
    return f"{path.name!r} cannot be read ({said(error)})"
