"""Reads files of runs, and checks that they have not changed."""

from __future__ import annotations

import hashlib
import warnings
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ecgexp.errors import UserError
from ecgexp.tracking.names import File

_FOLDER = 0x10  # attribute of an archive entry that is a folder


def load_tensors(path: Path) -> Any:
    """Load a file of ``torch.save`` to the CPU, without running code from the file.

    The checksums in the file are compared. Torch does not compare them, so a flipped bit would change a weight.

    Raises
    ------
    UserError
        If the file is damaged, or contains more than tensors and plain values.
    """
    import torch

    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
            if damaged is None and any(entry.external_attr & _FOLDER for entry in archive.infolist()):
                damaged = "the list of contents"
        if damaged is not None:
            raise zipfile.BadZipFile(f"the checksum of {damaged} differs")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the error below is clearer
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged archive may raise any error
        raise UserError(
            f"{path} holds something other than weights, or is damaged ({type(error).__name__}): nothing of it was run."
        ) from error


def write_sums(path: Path, sums: dict[str, str]) -> None:
    """Write SHA-256 hashes by file name, as ``sha256sum -c`` reads them."""
    path.write_text("".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items())))


def sha256(path: Path) -> str:
    """SHA-256 hash of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_sum(path: Path) -> None:
    """Compare a file of a run with its recorded checksum, if there is one.

    Raises
    ------
    UserError
        If it differs.
    """
    sums = path.with_name(File.CHECKSUMS)
    if not path.is_file() or not sums.is_file():
        return
    lines: Iterable[list[str]] = (line.split("  ", 1) for line in sums.read_text(errors="replace").splitlines())
    if any(line[1:] == [path.name] and line[0] != sha256(path) for line in lines):
        raise UserError(
            f"{path} is damaged: its SHA-256 is not the one in {sums.name} beside it. "
            f"Restore it, or remove {sums.name} if you have changed it yourself."
        )
