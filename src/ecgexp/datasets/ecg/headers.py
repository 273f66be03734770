"""WFDB headers: the description of a record's leads and segments in its .hea file.

This module exists because wfdb's own reader drops all characters of a header that are not ASCII (so µV becomes V),
silently reads a gain of 0 as 200, and fails on a date that is only a year.
"""

from __future__ import annotations

import math
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ecgexp.datasets.paths import unreadable

DEFAULT_RATE = 250.0
"""Sampling rate in Hz if a header gives none, by header(5)."""
OTHER_FORMATS = {".edf": "an EDF", ".bdf": "a BDF", ".dcm": "a DICOM", ".scp": "an SCP-ECG", ".xml": "an XML"}
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_WHOLE = r"\d{1,18}"
_RATE = re.compile(rf"({_NUMBER})(?:/.*)?")
_RECORD = re.compile(rf"[^\s/]+(?:/({_WHOLE}))?\s+({_WHOLE})(?!\S)")
_SEGMENT = re.compile(rf"(\S+)\s+({_WHOLE})")
_LEAD = re.compile(
    rf"""
    (?P<file>\S+) \s+ (?P<format>{_WHOLE})
    (?:x(?P<per_frame>{_WHOLE}))? (?::(?P<skew>{_WHOLE}))? (?:\+(?P<offset>{_WHOLE}))?
    (?: \s+ (?P<gain>{_NUMBER}) (?:\((?P<baseline>-?{_WHOLE})\))? (?:/(?P<unit>\S+))?
        (?P<rest>(?:\s+-?{_WHOLE}(?!\S)){{0,5}}) )?
    (?: \s+ (?P<name>.*) )?
    """,
    re.VERBOSE,
)


def header_lines(content: bytes) -> list[str]:
    """Lines of a header, without comments and empty ones; each line may have its own encoding."""
    lines = (line.strip() for line in content.removeprefix(b"\xef\xbb\xbf").replace(b"\r", b"\n").split(b"\n"))
    return [_decoded(line) for line in lines if line and not line.startswith(b"#")]


def named_files(header: bytes) -> list[str]:
    """Files that a WFDB header names: signal files, or the headers of segments."""
    words = [word for line in header_lines(header) for word in line.split()[:1]]
    if not words:
        return []
    ending = ".hea" if "/" in words[0] else ""
    return [name + ending for name in dict.fromkeys(words[1:]) if name not in ("~", "-")]


class Problem(Exception):
    """What is wrong with a record; `RecordError` adds the record's path."""


class Lead(NamedTuple):
    """A header's description of one lead.

    Attributes
    ----------
    name : str
        'unnamed' if the header has no name.
    file : str
        The signal file, in the header's folder; '~' for none.
    format : str
        WFDB's number of the format.
    per_frame, skew, offset : int
        Samples in each frame; frames by which the lead is delayed in the file; bytes before the first frame.
    gain : float
        Steps per unit; 0 if the header gives none, which means that the lead is not calibrated.
    baseline : int
        The step for the value 0.
    unit : str
        As written; 'mV' if the header has none.
    start : int
        Initial value that the differences of format 8 are added to.
    initial, checksum : int
        First sample, and checksum of all samples; 0 if the header does not give it.
    """

    name: str
    file: str
    format: str
    per_frame: int
    skew: int
    offset: int
    gain: float
    baseline: int
    unit: str
    start: int
    initial: int
    checksum: int


@dataclass(frozen=True)
class Header:
    """The contents of a header.

    Attributes
    ----------
    rate : float, optional
        Frames per second; None if the header does not give it.
    length : int, optional
        Frames; None if the header does not give it.
    leads : tuple of Lead
        Empty for a record of several segments.
    segments : tuple of (str, int)
        Record name ('~' for a gap) and length of each segment; empty for a record without segments.
    signals : int
        Number of leads by its first line.
    """

    rate: float | None
    length: int | None
    leads: tuple[Lead, ...]
    segments: tuple[tuple[str, int], ...]
    signals: int


def record_name(text: str) -> str:
    """Remove the extension of one of a record's files, in any letter case: 'a/r.MAT' becomes 'a/r'."""
    return text[:-4] if text[1:][-4:].lower() in (".hea", ".dat", ".mat", ".atr") else text


def record_path(path: Path) -> Path:
    """Path of a record without extension: 'a/r.hea' becomes 'a/r' unless 'a/r.hea.hea' exists."""
    name = record_name(path.name)
    return path if name == path.name or path.with_name(f"{path.name}.hea").is_file() else path.with_name(name)


def read_header(path: Path) -> Header:
    """Read the header of the record `path`, which has no extension.

    Raises
    ------
    Problem
        If the file is missing or is not a header.
    """
    if not path.name:
        raise Problem("it is a folder: name the records in it, such as *.hea")
    name = f"{path.name}.hea"
    lines = _lines(path.with_name(name))
    if not lines:
        raise Problem(f"its files are truncated or damaged ({name} is empty)")
    first, *others = lines
    words = first.split()
    match = _RECORD.match(first)
    if match is None:
        raise Problem(f"its files are truncated or damaged ({name} begins with {first[:60]!r}, not with a record line)")
    segments, count = match.groups()
    rate, length = _rate(words[2:3], name), _length(words[3:4], name)
    wanted, kind = (int(segments), "segments") if segments else (int(count), "signals")
    if len(others) != wanted:
        raise Problem(f"its files are truncated or damaged ({name} names {wanted} {kind} and describes {len(others)})")
    if segments:
        return Header(rate, length, (), tuple(_segment(line, name) for line in others), int(count))
    return Header(rate, length, tuple(_lead(line, name) for line in others), (), int(count))


def _lines(path: Path) -> list[str]:
    """Lines of a header, without comments and empty ones."""
    try:
        content = path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: not a possible file name
        raise Problem(_other_format(path) or f"the header file {unreadable(path, error)}") from error
    return header_lines(content)


def _decoded(line: bytes) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError:
        return line.decode("latin-1")  # accepts any byte, and has the µ of µV at the same code as Windows


def _other_format(header: Path) -> str:
    """Say that a folder or a file in another format is there in place of a header; '' if there is none."""
    record = header.with_suffix("")
    with suppress(OSError):
        if record.is_dir():
            return f"it is a folder: name the records in it, such as {record.name}/*.hea"
    others = [record, *(record.with_name(record.name + suffix) for suffix in OTHER_FORMATS)]
    for other in (path for path in others if path.suffix.lower() in OTHER_FORMATS):
        with suppress(OSError):  # the name may be too long
            if other.is_file():
                kind = OTHER_FORMATS[other.suffix.lower()]
                return (
                    f"{other.name} is {kind} file, and only WFDB records are read (a .hea file with its .dat or .mat)"
                )
    return ""


def _rate(words: list[str], name: str) -> float | None:
    if not words:
        return None
    match = _RATE.fullmatch(words[0])
    rate = float(match[1]) if match else math.nan
    if not 0 < rate < math.inf:
        raise Problem(f"{name} gives a sampling rate of {words[0]!r}, where a number above 0 is expected")
    return rate


def _length(words: list[str], name: str) -> int | None:
    if not words or any(sign in words[0] for sign in ":/-"):  # a time or a date, and no length
        return None
    if re.fullmatch(_WHOLE, words[0]) is None:
        raise Problem(f"{name} gives a length of {words[0]!r}, where a whole number of samples is expected")
    return int(words[0]) or None


def _segment(line: str, name: str) -> tuple[str, int]:
    match = _SEGMENT.fullmatch(line)
    if match is None:
        raise Problem(f"its files are truncated or damaged ({name} has the line {line[:60]!r}, which is not a segment)")
    return match[1], int(match[2])


def _lead(line: str, name: str) -> Lead:
    match = _LEAD.fullmatch(line)
    if match is None:
        raise Problem(f"its files are truncated or damaged ({name} has the line {line[:60]!r}, which is not a signal)")
    found = match.groupdict(default="")
    _, zero, initial, checksum, _ = [*map(int, found["rest"].split()), 0, 0, 0, 0, 0][:5]
    return Lead(
        name=found["name"] or "unnamed",
        file=found["file"],
        format=found["format"],
        per_frame=int(found["per_frame"] or 1) or 1,
        skew=int(found["skew"] or 0),
        offset=int(found["offset"] or 0),
        gain=float(found["gain"] or 0),
        baseline=int(found["baseline"] or zero),
        unit=found["unit"] or "mV",
        start=initial if len(found["rest"].split()) > 2 else zero,
        initial=initial,
        checksum=checksum,
    )
