"""Samples of WFDB signal files, in every format that wfdb reads, compared with what their header says of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ecgexp.datasets.headers import Header, Lead, Problem
from ecgexp.datasets.paths import unreadable

Steps = NDArray[np.signedinteger[Any]]
BLOCK = 6 << 18
"""Samples that are read at a time: whole groups of every format, and little memory for a recording of days."""


@dataclass(frozen=True)
class Samples:
    """The beginning of a lead, as it stands in its file.

    Attributes
    ----------
    values : int array, (samples,)
        Steps of the converter.
    missing : float
        The value that stands for a missing sample; NaN where the format has none.
    """

    values: Steps
    missing: float


def frames_of(folder: Path, header: Header) -> int:
    """Frames of a record, as its header says, or, where it does not, as its signal files have.

    Raises
    ------
    Problem
        Where its files do not tell either.
    """
    if header.length is not None:
        return header.length
    found = {name: _File(folder, name, leads).frames() for name, leads in _by_file(header).items()}
    if len(set(found.values())) > 1 or not all(found.values()):
        told = ", ".join(f"{name} {frames}" for name, frames in found.items())
        raise Problem(f"its header gives no length, and its signal files do not tell it either (samples: {told})")
    return next(iter(found.values()))


def read_samples(folder: Path, header: Header, wanted: Sequence[int], frames: int, keep: int) -> dict[int, Samples]:
    """The first `keep` frames of leads of a record, of which the whole is read and compared with its header.

    Parameters
    ----------
    folder : Path
        Where the signal files are.
    header : Header
        Of a record without segments.
    wanted : sequence of int
        Places of leads in the header; files with none of them are not opened.
    frames : int
        Length of the record, see `frames_of`.
    keep : int
        Frames whose samples are returned; of a lead with a skew those that belong to these frames.

    Returns
    -------
    dict of int to Samples
        By their places in the header.

    Raises
    ------
    Problem
        Where a file is missing, too short, in another format than its header says, or has other samples.
    """
    found: dict[int, Samples] = {}
    for name, leads in _by_file(header).items():
        if not leads.keys().isdisjoint(wanted):
            read = _File(folder, name, leads).read(frames, keep, whole=header.length is not None)
            found |= dict(zip(leads, read, strict=True))
    return found


def _by_file(header: Header) -> dict[str, dict[int, Lead]]:
    """Leads of each signal file, by their places in the header."""
    files: dict[str, dict[int, Lead]] = {}
    for i, lead in enumerate(header.leads):
        files.setdefault(lead.file, {})[i] = lead
    return files


class _Packed(NamedTuple):
    """A format that packs a group of samples into bytes; `partial` are the bytes of an incomplete group."""

    samples: int
    bytes: int
    partial: tuple[int, ...]
    unpack: Callable[[list[Steps]], list[Steps]]
    bits: int


_PLAIN = {"8": "i1", "16": "<i2", "32": "<i4", "61": ">i2", "80": "u1", "160": "<u2"}
_PACKED = {
    "24": _Packed(1, 3, (0,), lambda b: [b[0] | b[1] << 8 | b[2] << 16], 24),
    "212": _Packed(2, 3, (0, 2), lambda b: [b[0] | (b[1] & 15) << 8, b[2] | (b[1] >> 4) << 8], 12),
    "310": _Packed(
        3,
        4,
        (0, 2, 4),
        lambda b: [b[0] >> 1 | (b[1] & 7) << 7, b[2] >> 1 | (b[3] & 7) << 7, b[1] >> 3 | (b[3] >> 3) << 5],
        10,
    ),
    "311": _Packed(
        3,
        4,
        (0, 2, 3),
        lambda b: [b[0] | (b[1] & 3) << 8, b[1] >> 2 | (b[2] & 15) << 6, b[2] >> 4 | (b[3] & 63) << 4],
        10,
    ),
}
_OFFSET = {"80": 1 << 7, "160": 1 << 15}
_COMPRESSED = {"508": 8, "516": 16, "524": 24}
_MISSING = {
    **{"80": -(1 << 7), "508": -(1 << 7), "310": -(1 << 9), "311": -(1 << 9), "212": -(1 << 11)},
    **{"16": -(1 << 15), "61": -(1 << 15), "160": -(1 << 15), "516": -(1 << 15)},
    **{"24": -(1 << 23), "524": -(1 << 23), "32": -(1 << 31)},
}
_BITS = {"PCM_S8": 8, "PCM_16": 16, "PCM_24": 24}
_READ = (*_PLAIN, *_PACKED, *_COMPRESSED)
# Kinds of arrays in MAT files of version 4, and the format of the same bytes.
_MAT = {
    **{0: ("doubles", ""), 10: ("floats", ""), 20: ("int32", "32"), 30: ("int16", "16")},
    **{40: ("uint16", "160"), 50: ("uint8", "80"), 1000: ("doubles", ""), 1010: ("floats", "")},
    **{1020: ("int32", ""), 1030: ("int16", "61"), 1040: ("uint16", ""), 1050: ("uint8", "80")},
}


class _File:
    """A signal file and the leads that share it, frame by frame."""

    def __init__(self, folder: Path, name: str, leads: dict[int, Lead]) -> None:
        self.path, self.leads = folder / name, list(leads.values())
        self.format, self.offset = self.leads[0].format, self.leads[0].offset
        self.width = sum(lead.per_frame for lead in self.leads)
        if name == "~":
            raise Problem(f"its header names no signal file for lead {self.leads[0].name}")
        if "/" in name:
            raise Problem(f"its header names the signal file {name}, where a file beside it is expected")
        if any((lead.format, lead.offset) != (self.format, self.offset) for lead in self.leads):
            raise Problem(f"its header gives the leads of {name} different formats or offsets, where they share them")
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
            sums += np.array([column.sum(dtype=np.int64) for column in block.T])  # 30 times as fast as by axis
            here += len(block)
        values = kept[0] if len(kept) == 1 else np.concatenate(kept)
        samples, start = [], 0
        for lead in self.leads:
            end = start + lead.per_frame
            if whole:
                self._compare(lead, int(values[0, start]), int(sums[start:end].sum()))
            part = values[lead.skew : lead.skew + keep, start:end].reshape(-1)
            samples.append(Samples(part, _MISSING.get(self.format, np.nan)))
            start = end
        return samples

    def _compare(self, lead: Lead, first: int, total: int) -> None:
        """Compare with the header, in which 0 stands for what its writer did not know."""
        wrong = ""
        if lead.initial and first != lead.initial and not lead.skew and self.format != "8":
            wrong = f"begins with {first} where its header says {lead.initial}"
        elif lead.checksum and (total - lead.checksum) % (1 << 16):
            wrong = (
                f"has the checksum {(total + (1 << 15)) % (1 << 16) - (1 << 15)} where its header says {lead.checksum}"
            )
        if wrong:
            raise Problem(f"its files are truncated or damaged (lead {lead.name} in {self.path.name} {wrong})")

    def frames(self) -> int:
        """Frames that the file has room for."""
        with self._opened() as file:
            if self.format in _COMPRESSED:
                with self._flac(file) as flac:
                    return max(flac.frames - self.offset, 0) // self.leads[0].per_frame
            return self._room(file) // self.width

    def _blocks(self, frames: int) -> Iterator[Steps]:
        """Frames of the file, (frames, samples in a frame)."""
        with self._opened() as file:
            if self.format in _COMPRESSED:
                yield from self._compressed(file, frames)
                return
            if self.path.suffix.lower() == ".mat":
                self._check_mat(file, frames)
            self._check_size(self._room(file), frames)
            file.seek(self.offset)
            carry = np.array([lead.start for lead in self.leads], dtype=np.int64)
            step = max(BLOCK // 6 // self.width, 1) * 6
            for start in range(0, frames, step):
                count = min(step, frames - start)
                block = _decode(self.format, file.read(_bytes(self.format, count * self.width)), count * self.width)
                block = block.reshape(count, self.width)
                yield self._summed(block, carry) if self.format == "8" else block

    def _summed(self, differences: Steps, carry: NDArray[np.int64]) -> Steps:
        """Samples of format 8, which has differences; `carry` goes from block to block."""
        values, start = np.empty(differences.shape, dtype=np.int64), 0
        for i, lead in enumerate(self.leads):
            columns = slice(start, start + lead.per_frame)
            sums = carry[i] + differences[:, columns].reshape(-1).cumsum(dtype=np.int64)
            values[:, columns] = sums.reshape(-1, lead.per_frame)
            start, carry[i] = columns.stop, sums[-1]
        return values

    def _opened(self) -> BinaryIO:
        try:
            return self.path.open("rb")
        except (OSError, ValueError) as error:  # ValueError: no name that a file can have
            raise Problem(f"the signal file {unreadable(self.path, error)}") from error

    def _room(self, file: BinaryIO) -> int:
        """Samples that the file has room for."""
        size = max(os.fstat(file.fileno()).st_size - self.offset, 0)
        if self.format in _PLAIN:
            return size // np.dtype(_PLAIN[self.format]).itemsize
        packed = _PACKED[self.format]
        groups, left = divmod(size, packed.bytes)
        return groups * packed.samples + sum(0 < needed <= left for needed in packed.partial)

    def _check_size(self, room: int, frames: int) -> None:
        """Refuse a file that is too short, and one that is too long where no checksum tells that all is well."""
        group = _PACKED[self.format].samples if self.format in _PACKED else 1
        surplus = room - frames * self.width
        checked = any(lead.checksum for lead in self.leads)
        if surplus < 0 or (surplus >= max(group, self.width) and not checked):
            raise Problem(
                f"its files are truncated or damaged ({self.path.name} has {room // self.width} samples where its "
                f"header says {frames})"
            )

    def _check_mat(self, file: BinaryIO, frames: int) -> None:
        """Refuse a MAT file that holds something else than its header says: it would be read as noise."""
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
                        f"{self.path.name} is a MAT file of {rows} x {columns} {what} from byte {here} on, where its "
                        f"header says {self.width} x {frames} in format {self.format} from byte {self.offset} on"
                    )

    def _compressed(self, file: BinaryIO, frames: int) -> Iterator[Steps]:
        per_frame, channels = self.leads[0].per_frame, len(self.leads)
        step = max(BLOCK // self.width, 1)
        with self._flac(file) as flac:
            self._check_size(max(flac.frames - self.offset, 0) * channels, frames)
            flac.seek(self.offset)
            for start in range(0, frames, step):
                count = min(step, frames - start)
                block = flac.read(count * per_frame, dtype="int32", always_2d=True, fill_value=0)
                block = block >> 32 - _BITS[flac.subtype]
                yield block.reshape(count, per_frame, channels).transpose(0, 2, 1).reshape(count, self.width)

    @contextmanager
    def _flac(self, file: BinaryIO) -> Iterator[Any]:
        import soundfile

        name = self.path.name
        try:
            with soundfile.SoundFile(file) as flac:
                found = (flac.channels, len({lead.per_frame for lead in self.leads}))
                if found != (len(self.leads), 1) or _BITS.get(flac.subtype, 99) > _COMPRESSED[self.format]:
                    raise Problem(
                        f"its files are truncated or damaged ({name} has {flac.channels} channels of {flac.subtype} "
                        f"where its header says {len(self.leads)} of format {self.format})"
                    )
                yield flac
        except soundfile.SoundFileError as error:
            raise Problem(f"its files are truncated or damaged ({name} cannot be read as FLAC: {error})") from error


def _bytes(format: str, samples: int) -> int:
    """Bytes of so many samples."""
    if format in _PLAIN:
        return samples * np.dtype(_PLAIN[format]).itemsize
    packed = _PACKED[format]
    return samples // packed.samples * packed.bytes + packed.partial[samples % packed.samples]


def _decode(format: str, data: bytes, samples: int) -> Steps:
    if format in _PLAIN:
        values = np.frombuffer(data, _PLAIN[format])
        return values.astype(np.int32) - _OFFSET[format] if format in _OFFSET else values
    packed = _PACKED[format]
    groups = -(-samples // packed.samples)
    raw = np.frombuffer(data.ljust(groups * packed.bytes, b"\0"), np.uint8).reshape(groups, packed.bytes)
    values = np.empty((groups, packed.samples), dtype=np.int16 if packed.bits <= 16 else np.int32)
    for i, unpacked in enumerate(packed.unpack([column.astype(values.dtype) for column in raw.T])):
        values[:, i] = unpacked
    unused = 8 * values.itemsize - packed.bits
    values <<= unused
    values >>= unused  # brings the sign down
    return values.reshape(-1)[:samples]
