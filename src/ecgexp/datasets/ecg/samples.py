"""Samples of WFDB signal files in every format that wfdb reads, compared with their header.

Nearly all records have format 16 or 212. These two are decoded here, for speed; wfdb decodes the others.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ecgexp.datasets.ecg.headers import Header, Lead, Problem
from ecgexp.datasets.paths import unreadable

Steps = NDArray[np.signedinteger[Any]]
BLOCK = 6 << 18
"""Samples of formats 16 and 212 that are read at a time, so that a recording of days needs little memory."""


@dataclass(frozen=True)
class Samples:
    """The beginning of a lead, as in its file.

    Attributes
    ----------
    values : int array, (samples,)
        Steps of the converter.
    missing : float
        The value that marks a missing sample; NaN if the format has none.
    """

    values: Steps
    missing: float


def frames_of(folder: Path, header: Header) -> int:
    """Number of frames of a record by its header, or else by the size of its signal files.

    Raises
    ------
    Problem
        If neither gives the number.
    """
    if header.length is not None:
        return header.length
    found = {name: _File(folder, name, leads).frames() for name, leads in _by_file(header).items()}
    if len(set(found.values())) > 1 or not all(found.values()):
        told = ", ".join(f"{name} {frames}" for name, frames in found.items())
        raise Problem(f"neither its header nor its signal files give its length (samples: {told})")
    return next(iter(found.values()))


def read_samples(folder: Path, header: Header, wanted: Sequence[int], frames: int, keep: int) -> dict[int, Samples]:
    """Read leads completely, compare them with their header, and return their first `keep` frames.

    Parameters
    ----------
    folder : Path
        Folder of the signal files.
    header : Header
        Header of a record without segments.
    wanted : sequence of int
        Indices of leads in the header; files with none of them are not opened.
    frames : int
        Length of the record, see `frames_of`.
    keep : int
        Number of frames to return; a lead with a skew returns the samples of the same time.

    Returns
    -------
    dict of int to Samples
        By index in the header.

    Raises
    ------
    Problem
        If a file is missing, too short, in another format than its header says, or does not match its checksum.
    """
    found: dict[int, Samples] = {}
    for name, leads in _by_file(header).items():
        if not leads.keys().isdisjoint(wanted):
            read = _File(folder, name, leads).read(frames, keep, whole=header.length is not None)
            found |= dict(zip(leads, read, strict=True))
    return found


def _by_file(header: Header) -> dict[str, dict[int, Lead]]:
    """Leads of each signal file, by their indices in the header."""
    files: dict[str, dict[int, Lead]] = {}
    for i, lead in enumerate(header.leads):
        files.setdefault(lead.file, {})[i] = lead
    return files


# Bytes of a sample; a fraction where several samples share bytes.
_BYTES: dict[str, int | Fraction] = {
    **{"8": 1, "16": 2, "24": 3, "32": 4, "61": 2, "80": 1, "160": 2},
    **{"212": Fraction(3, 2), "310": Fraction(4, 3), "311": Fraction(4, 3)},
}
_COMPRESSED = ("508", "516", "524")
_READ = (*_BYTES, *_COMPRESSED)
_MISSING = {
    **{"80": -(1 << 7), "508": -(1 << 7), "310": -(1 << 9), "311": -(1 << 9), "212": -(1 << 11)},
    **{"16": -(1 << 15), "61": -(1 << 15), "160": -(1 << 15), "516": -(1 << 15)},
    **{"24": -(1 << 23), "524": -(1 << 23), "32": -(1 << 31)},
}
# Kinds of arrays in MAT files of version 4, and the WFDB format with the same bytes.
_MAT = {
    **{0: ("doubles", ""), 10: ("floats", ""), 20: ("int32", "32"), 30: ("int16", "16")},
    **{40: ("uint16", "160"), 50: ("uint8", "80"), 1000: ("doubles", ""), 1010: ("floats", "")},
    **{1020: ("int32", ""), 1030: ("int16", "61"), 1040: ("uint16", ""), 1050: ("uint8", "80")},
}


class _File:
    """A signal file and the leads that it holds, frame by frame."""

    def __init__(self, folder: Path, name: str, leads: dict[int, Lead]) -> None:
        self.path, self.leads = folder / name, list(leads.values())
        self.format, self.offset = self.leads[0].format, self.leads[0].offset
        self.width = sum(lead.per_frame for lead in self.leads)
        self.missing = _MISSING.get(self.format, math.nan)
        if name == "~":
            raise Problem(f"its header names no signal file for lead {self.leads[0].name}")
        if "/" in name:
            raise Problem(f"its header names the signal file {name}, where a file beside it is expected")
        if any((lead.format, lead.offset) != (self.format, self.offset) for lead in self.leads):
            raise Problem(f"its header gives the leads of {name} different formats or offsets, but they must be equal")
        if self.format not in _READ:
            raise Problem(f"{name} is in format {self.format}, and only the formats {', '.join(_READ)} are read")

    def read(self, frames: int, keep: int, whole: bool) -> list[Samples]:
        keep_to = keep + max(lead.skew for lead in self.leads)
        kept: list[Steps] = []
        sums: Any = 0
        here = 0
        for block in self._blocks(frames):
            if here < keep_to or not kept:
                kept.append(block[: max(keep_to - here, 1)])
            sums += np.array([column.sum(dtype=np.int64) for column in block.T])  # 30 times as fast as sum(axis=0)
            here += len(block)
        values = kept[0] if len(kept) == 1 else np.concatenate(kept)
        samples, start = [], 0
        for lead in self.leads:
            end = start + lead.per_frame
            if whole:
                self._compare(lead, int(values[0, start]), int(sums[start:end].sum()))
            part = values[lead.skew : lead.skew + keep, start:end].reshape(-1)
            samples.append(Samples(part, self.missing))
            start = end
        return samples

    def _compare(self, lead: Lead, first: int, total: int) -> None:
        """Compare a lead with the header, where 0 means that its writer did not know the value."""
        wrong = ""
        if lead.initial and first != lead.initial and not lead.skew and self.format != "8":
            wrong = f"begins with {first}, but its header says {lead.initial}"
        elif lead.checksum and (total - lead.checksum) % (1 << 16):
            wrong = (
                f"has the checksum {(total + (1 << 15)) % (1 << 16) - (1 << 15)}, but its header says {lead.checksum}"
            )
        if wrong:
            raise Problem(f"its files are truncated or damaged (lead {lead.name} in {self.path.name} {wrong})")

    def frames(self) -> int:
        """Number of frames by the size of the file."""
        with self._opened() as file:
            return self._room(file) // self.width

    def _blocks(self, frames: int) -> Iterator[Steps]:
        """Frames of the file, (frames, samples in a frame)."""
        with self._opened() as file:
            if self.path.suffix.lower() == ".mat":
                self._check_mat(file, frames)
            self._check_size(self._room(file), frames)
            if self.format not in ("16", "212"):
                yield self._decoded_by_wfdb(frames)
                return
            file.seek(self.offset)
            step = max(BLOCK // 2 // self.width, 1) * 2  # even, so that each block ends at a whole byte
            for start in range(0, frames, step):
                count = min(step, frames - start)
                data = file.read(math.ceil(count * self.width * _BYTES[self.format]))
                yield _decoded(self.format, data, count * self.width).reshape(count, self.width)

    def _decoded_by_wfdb(self, frames: int) -> Steps:
        """Frames of the file, decoded by wfdb with a minimal header.

        wfdb may fail on the record's own header, for example on a date that is only a year.
        """
        import wfdb

        with TemporaryDirectory() as folder:
            link = Path(folder, "signals")
            link.symlink_to(self.path.absolute())
            lines = [
                f"signals {self.format}x{lead.per_frame}+{self.offset} 1(0) 0 0 {lead.start}" for lead in self.leads
            ]
            Path(folder, "r.hea").write_text("\n".join([f"r {len(lines)} 1 {frames}", *lines]) + "\n")
            try:
                # With a gain of 1 these floats are the steps; wfdb cannot return format 61 as whole numbers.
                found = wfdb.rdrecord(f"{folder}/r", smooth_frames=False).e_p_signal
            except Exception as error:  # its type depends on the format and the damage
                reason = re.sub("<[^>]*>", self.path.name, str(error)).replace(str(link), self.path.name).rstrip(".")
                raise Problem(
                    f"its files are truncated or damaged ({self.path.name} cannot be read as {len(lines)} leads in "
                    f"format {self.format}: {reason})"
                ) from error
        steps = [np.nan_to_num(values, nan=self.missing).astype(np.int64).reshape(frames, -1) for values in found]
        return np.concatenate(steps, axis=1)

    def _opened(self) -> BinaryIO:
        try:
            return self.path.open("rb")
        except (OSError, ValueError) as error:  # ValueError: not a possible file name
            raise Problem(f"the signal file {unreadable(self.path, error)}") from error

    def _room(self, file: BinaryIO) -> int:
        """Number of samples by the size of the file, or by its FLAC header."""
        if self.format in _COMPRESSED:
            head = os.pread(file.fileno(), 26, 0)
            if not head.startswith(b"fLaC"):
                raise Problem(f"{self.path.name} is not a FLAC file, but its header says format {self.format}")
            each = int.from_bytes(head[18:]) & ((1 << 36) - 1)
            return max(each - self.offset, 0) * len(self.leads)
        size = max(os.fstat(file.fileno()).st_size - self.offset, 0)
        if self.format == "310":
            size -= size % 2  # the file consists of two-byte words
        return int(size // _BYTES[self.format])

    def _check_size(self, room: int, frames: int) -> None:
        """Refuse a file that is too short, and one that is too long and has no checksum."""
        group = _BYTES.get(self.format, 1).denominator
        surplus = room - frames * self.width
        checked = any(lead.checksum for lead in self.leads)
        if surplus < 0 or (surplus >= max(group, self.width) and not checked):
            raise Problem(
                f"its files are truncated or damaged ({self.path.name} has {room // self.width} samples, but its "
                f"header says {frames})"
            )

    def _check_mat(self, file: BinaryIO, frames: int) -> None:
        """Refuse a MAT file whose contents differ from its header: it would be read as noise."""
        head = file.read(20).ljust(20, b"\0")
        if head.startswith(b"MATLAB "):
            raise Problem(
                f"{self.path.name} is a MAT file of version {head[7:10].decode(errors='replace')}, where only those of "
                "version 4 with whole numbers are read (in MATLAB: save -v4)"
            )
        for order in "<>":
            kind, rows, columns, imaginary, name = np.frombuffer(head, f"{order}i4").tolist()
            if kind in _MAT and (kind >= 1000) == (order == ">") and imaginary in (0, 1) and 0 < name < 64:
                here = 20 + name
                what, format = _MAT[kind]
                if (format, rows, columns, self.offset) != (self.format, self.width, frames, here):
                    raise Problem(
                        f"{self.path.name} is a MAT file of {rows} x {columns} {what} from byte {here} on, but its "
                        f"header says {self.width} x {frames} in format {self.format} from byte {self.offset} on"
                    )


def _decoded(format: str, data: bytes, samples: int) -> Steps:
    """Samples of format 16 or 212."""
    if format == "16":
        return np.frombuffer(data, "<i2")
    raw = np.frombuffer(data.ljust(-(-samples // 2) * 3, b"\0"), np.uint8).reshape(-1, 3)
    low, shared, high = (column.astype(np.int16) for column in raw.T)
    values = np.stack([low | shared << 8, high | shared >> 4 << 8], axis=1)
    values <<= 4
    values >>= 4  # extends the sign
    return values.reshape(-1)[:samples]
