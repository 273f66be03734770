"""Read a WFDB record as an array of the wanted leads, rate, length and unit, or refuse it with one clear sentence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ecgexp.datasets.ecg.headers import DEFAULT_RATE, Header, Lead, Problem, read_header, record_path
from ecgexp.datasets.ecg.samples import Samples, frames_of, read_samples
from ecgexp.datasets.reading import RecordError

MILLIVOLTS = {"mv": 1.0, "uv": 1e-3, "\u03bcv": 1e-3, "v": 1e3}
"""Size of a unit in mV, by the unit's casefold, which turns the micro sign (U+00B5) into a Greek mu (U+03BC)."""
DEFAULT_GAIN = 200.0
"""Steps per unit of a lead that is not calibrated, by header(5)."""
FARTHEST = 1000
"""Largest ratio between a record's sampling rate and the wanted one, either way."""

LARGEST_GAIN = 1e12
"""Steps per mV. With a larger gain, even the full range of 32 bits is far smaller than any wave of an ECG."""

Uncalibrated = Literal["refuse", "assume"]


@dataclass(frozen=True)
class Reading:
    """Result of `read_record`.

    Attributes
    ----------
    signal : float32 array, (samples, leads), mV
    notes : tuple of str
        How the record was adapted, in order; empty if it was not.
    """

    signal: NDArray[np.float32]
    notes: tuple[str, ...]


def read_record(
    path: str | Path,
    *,
    lead_names: Sequence[str],
    sampling_rate: float,
    samples: int | None = None,
    exact: bool = False,
    uncalibrated: Uncalibrated = "refuse",
) -> Reading:
    """Read one WFDB record as `samples` samples of the named leads at `sampling_rate`, in mV.

    Leads are matched by name, in any letter case and order, in each segment of the record. If a frame holds several
    samples of a lead, all of them are read. A record of another rate is resampled (polyphase filter). Then a longer
    record is cropped to its beginning, and a shorter one is padded with zeros at its end. µV and V are converted. Each
    such step is noted. The signal files of these leads are read completely and compared with the initial values and
    checksums in the header.

    Parameters
    ----------
    path : path
        The record, with or without .hea, .dat or .mat.
    lead_names : sequence of str
        The wanted leads, in the order of the columns.
    sampling_rate : float
        The wanted rate in Hz.
    samples : int, optional
        The wanted length; by default the record's own.
    exact : bool
        Refuse a record with another rate, length or set of leads instead of adapting it.
    uncalibrated : {'refuse', 'assume'}
        Refuse a lead for which the header gives no gain, or assume 200 steps per unit and note it.

    Returns
    -------
    Reading
        Signal (samples, leads) and notes.

    Raises
    ------
    RecordError
        If a file is missing or damaged, or if a lead is missing, is constant, has missing samples or is not a voltage.
        With `exact`, also if anything except the order of the leads differs.
    """
    names = tuple(lead_names)
    notes: list[str] = []
    try:
        record = _open(record_path(Path(path)), notes)
        _check_names(record.names, names, exact, notes)
        leads = [_find(record, name) for name in names]
        _check_gains(leads, uncalibrated, notes)
        frames = _aligned(record, leads, notes)
        if exact:
            _check_exact(leads, frames, sampling_rate, samples)
        end, keep = _needed(record, leads, frames, sampling_rate, samples)
        blocks = _read(record, leads, frames, end, keep, notes)
        return _adapt(blocks, sampling_rate, samples, notes)
    except Problem as problem:
        raise RecordError(path, str(problem)) from problem.__cause__


def read_leads(path: str | Path) -> tuple[str, ...]:
    """Names of the leads of a WFDB record.

    Raises
    ------
    RecordError
        If its header is missing or damaged.
    """
    try:
        return _open(record_path(Path(path)), []).names
    except Problem as problem:
        raise RecordError(path, str(problem)) from problem.__cause__


def read_extent(path: str | Path) -> tuple[int, float]:
    """Number of frames of a WFDB record and their rate in Hz; annotations count in frames.

    Raises
    ------
    RecordError
        If its header is missing or damaged, or if neither its header nor its signal files give the length.
    """
    try:
        record = _open(record_path(Path(path)), [])
    except Problem as problem:
        raise RecordError(path, str(problem)) from problem.__cause__
    return record.frames, record.rate


@dataclass(frozen=True)
class _Piece:
    """A part of a record: one of its segments, or the whole record if it has none."""

    header: Header  # has no leads for a gap
    frames: int

    @cached_property
    def places(self) -> dict[str, list[int]]:
        """Indices in the header of the leads of a name, by the casefold of the name."""
        places: dict[str, list[int]] = {}
        for i, lead in enumerate(self.header.leads):
            places.setdefault(lead.name.casefold(), []).append(i)
        return places


@dataclass(frozen=True)
class _Record:
    """A record as its headers describe it."""

    folder: Path
    names: tuple[str, ...]
    rate: float  # frames per second
    pieces: tuple[_Piece, ...]

    @property
    def frames(self) -> int:
        return sum(piece.frames for piece in self.pieces)


@dataclass(frozen=True)
class _Wanted:
    """A wanted lead in the pieces of a record."""

    name: str
    places: tuple[int | None, ...]  # in the header of each piece
    leads: tuple[Lead, ...]  # as described there
    per_frame: int
    rate: float


@dataclass(frozen=True)
class _Block:
    """Leads of one rate, in mV; `values` may hold only their beginning."""

    columns: list[int]  # indices among the wanted leads
    names: list[str]
    values: NDArray[np.float64]  # (samples, leads)
    rate: float
    length: int  # samples of the complete record


_GAP = Header(None, None, (), (), 0)


def _open(path: Path, notes: list[str]) -> _Record:
    header = read_header(path)
    if header.segments:
        names, rate, pieces = _open_segments(path, header)
    else:
        names = tuple(lead.name for lead in header.leads)
        rate = header.rate
        pieces = [_Piece(header, frames_of(path.parent, header))] if names else []
    if not names or not any(piece.frames for piece in pieces):
        raise Problem("it has no signals")
    if rate is None:
        notes.append(f"assumed {DEFAULT_RATE:g} Hz, since its header gives no sampling rate")
    return _Record(path.parent, names, rate or DEFAULT_RATE, tuple(pieces))


def _open_segments(path: Path, header: Header) -> tuple[tuple[str, ...], float | None, list[_Piece]]:
    """Names of the leads, rate and pieces of a record of several segments."""
    names: tuple[str, ...] = ()
    rate, pieces = header.rate, []
    for name, frames in header.segments:
        if Path(name).name != name or name == "..":
            raise Problem(f"its header names the segment {name}, where a record beside it is expected")
        segment = _GAP if name == "~" else read_header(path.with_name(name))
        rate = rate or segment.rate
        if segment.segments:
            raise Problem(f"its segment {name} has segments itself")
        if segment.rate not in (None, rate):
            raise Problem(f"its segment {name} has {segment.rate:g} Hz, but its header says {rate:g} Hz")
        if frames and segment.length not in (None, frames):
            raise Problem(f"its segment {name} has {segment.length} samples, but its header says {frames}")
        if any(lead.skew for lead in segment.leads):
            raise Problem(f"its segment {name} has leads with a skew, which is only read in records without segments")
        names = names or tuple(lead.name for lead in segment.leads)
        if frames:  # a layout segment, which only lists the leads, has no frames
            pieces.append(_Piece(segment, frames))
    if names and len(names) != header.signals:
        raise Problem(f"its segments have {len(names)} signals, but its header says {header.signals}")
    total = sum(piece.frames for piece in pieces)
    if header.length not in (None, total):
        raise Problem(f"its segments have {total} samples together, but its header says {header.length}")
    return names, rate, pieces


def _check_names(there: tuple[str, ...], wanted: tuple[str, ...], exact: bool, notes: list[str]) -> None:
    folded, names = [name.casefold() for name in there], [name.casefold() for name in wanted]
    lacking = [name for name in wanted if name.casefold() not in folded]
    if lacking:
        raise Problem(f"it has no lead {', '.join(lacking)} (its leads are {', '.join(there)})")
    twice = [name for name in wanted if folded.count(name.casefold()) > 1]
    if twice:
        raise Problem(f"lead {twice[0]} occurs twice in its header")
    if len(there) > len(wanted):
        others = ", ".join(name for name in there if name.casefold() not in names)
        if exact:
            raise Problem(f"it has {len(there)} leads where {len(wanted)} are expected (also {others})")
        notes.append(f"omitted leads {others}")
    columns = [folded.index(name) for name in names]
    if columns != sorted(columns):
        notes.append(f"reordered leads to {', '.join(wanted)}")


def _find(record: _Record, name: str) -> _Wanted:
    places: list[int | None] = []
    leads: list[Lead] = []
    for piece in record.pieces:
        found = piece.places.get(name.casefold(), [])
        if len(found) > 1:
            raise Problem(f"lead {name} occurs twice in a segment")
        places.append(found[0] if found else None)
        leads += [piece.header.leads[i] for i in found]
    counts = sorted({lead.per_frame for lead in leads})
    if len(counts) > 1:
        raise Problem(f"lead {name} has {counts[0]} samples per frame in one segment and {counts[-1]} in another")
    per_frame = counts[0] if counts else 1
    return _Wanted(name, tuple(places), tuple(leads), per_frame, record.rate * per_frame)


def _check_gains(wanted: list[_Wanted], uncalibrated: Uncalibrated, notes: list[str]) -> None:
    for one in wanted:
        for lead in one.leads:
            if abs(lead.gain) / _millivolts(one.name, lead) > LARGEST_GAIN:
                raise Problem(
                    f"lead {one.name} has a gain of {lead.gain:g} per {lead.unit}, which makes any signal vanish: the "
                    "gain in its header must be wrong"
                )
    names = [one.name for one in wanted if any(lead.gain == 0 for lead in one.leads)]
    if names and uncalibrated == "refuse":
        raise Problem(
            f"its header gives no gain for lead {', '.join(names)}, which is therefore not calibrated (write the "
            f"gain there, or assume {DEFAULT_GAIN:g} steps per mV with uncalibrated=assume)"
        )
    if names:
        notes.append(f"uncalibrated lead {', '.join(names)}: {DEFAULT_GAIN:g} steps per unit are assumed")


def _aligned(record: _Record, wanted: list[_Wanted], notes: list[str]) -> int:
    """Number of frames that have samples of all leads after correction of the skew."""
    skew = max((lead.skew for one in wanted for lead in one.leads), default=0)
    if not skew:
        return record.frames
    if skew >= record.frames:
        raise Problem(f"its header gives a skew of {skew}, but it has only {record.frames} samples")
    notes.append(f"aligned leads by the skew in its header, which leaves out its last {skew / record.rate:g} s")
    return record.frames - skew


def _check_exact(wanted: list[_Wanted], frames: int, rate: float, samples: int | None) -> None:
    for one in wanted:
        if one.rate != rate:
            raise Problem(f"its sampling rate is {one.rate:g} Hz where {rate:g} Hz is expected")
        if samples is not None and frames * one.per_frame != samples:
            raise Problem(f"it has {frames * one.per_frame} samples where {samples} are expected")


def _needed(record: _Record, wanted: list[_Wanted], frames: int, rate: float, samples: int | None) -> tuple[int, int]:
    """Number of frames for `samples` samples, without and with those that resampling needs beyond them."""
    for one in wanted:
        if not 1 / FARTHEST <= rate / one.rate <= FARTHEST:
            raise Problem(f"its sampling rate of {one.rate:g} Hz is too far from {rate:g} Hz")
    if samples is None:
        return frames, frames
    # The filter of `resample_poly` reaches over ten samples of the lower rate on each side.
    beyond = max(0 if one.rate == rate else 11 / min(one.rate, rate) for one in wanted)
    end, keep = (math.ceil(seconds * record.rate) for seconds in (samples / rate, samples / rate + beyond))
    return min(frames, end), min(frames, keep)


def _read(record: _Record, wanted: list[_Wanted], frames: int, end: int, keep: int, notes: list[str]) -> list[_Block]:
    """Read leads in mV: `keep` frames of them, of which the first `end` must be complete."""
    if any(_millivolts(one.name, lead) != 1 for one in wanted for lead in one.leads):
        notes.append("converted to mV")
    groups: dict[int, list[int]] = {}
    for i, one in enumerate(wanted):
        groups.setdefault(one.per_frame, []).append(i)
    parts: dict[int, list[NDArray[np.float64]]] = {per_frame: [] for per_frame in groups}
    here = 0
    for number, piece in enumerate(record.pieces):
        kept = min(max(keep - here, 0), piece.frames)
        lacking = [one.name for one in wanted if one.places[number] is None]
        if lacking and here < end:
            raise Problem(f"lead {lacking[0]} has missing samples (in segment {number + 1})")
        places = [place for one in wanted if (place := one.places[number]) is not None]
        read = read_samples(record.folder, piece.header, places, piece.frames, kept)
        for per_frame, group in groups.items():
            found = {i: place for i in group if (place := wanted[i].places[number]) is not None}
            part = _convert([(wanted[i].name, piece.header.leads[place], read[place]) for i, place in found.items()])
            if len(found) < len(group):
                whole = np.full((kept * per_frame, len(group)), np.nan)
                whole[:, [group.index(i) for i in found]] = part
                part = whole
            parts[per_frame].append(part)
        here += piece.frames
    return [
        _Block(
            columns=group,
            names=[wanted[i].name for i in group],
            values=parts[per_frame][0] if len(record.pieces) == 1 else np.concatenate(parts[per_frame]),
            rate=record.rate * per_frame,
            length=frames * per_frame,
        )
        for per_frame, group in groups.items()
    ]


def _convert(leads: list[tuple[str, Lead, Samples]]) -> NDArray[np.float64]:
    """Samples of leads in mV, (samples, leads); NaN for a missing sample."""
    if not leads:
        return np.empty((1, 0))
    values = np.stack([samples.values for _, _, samples in leads], axis=1, dtype=np.float64)
    missing = values == [samples.missing for _, _, samples in leads]
    values -= [lead.baseline for _, lead, _ in leads]
    values /= [lead.gain or DEFAULT_GAIN for _, lead, _ in leads]
    values *= [_millivolts(name, lead) for name, lead, _ in leads]
    if missing.any():
        values[missing] = np.nan
    return values


def _millivolts(name: str, lead: Lead) -> float:
    if lead.unit.casefold() not in MILLIVOLTS:
        raise Problem(f"lead {name} is in {lead.unit!r}, not in mV, uV or V")
    return MILLIVOLTS[lead.unit.casefold()]


def _adapt(blocks: list[_Block], rate: float, samples: int | None, notes: list[str]) -> Reading:
    """Bring the leads to one rate and length, as columns."""
    found = []
    for block in blocks:
        end = len(block.values) if samples is None else min(len(block.values), math.ceil(samples / rate * block.rate))
        values = _checked(block.values, end, block.names)
        found.append((values if block.rate == rate else _resample(values, block.rate, rate))[:samples])
    length = min(len(values) for values in found)
    if samples is not None and any(block.length > math.ceil(samples / rate * block.rate) for block in blocks):
        notes.append(f"cropped from {blocks[0].length / blocks[0].rate:g} s to its first {samples / rate:g} s")
    others = sorted({block.rate for block in blocks} - {rate})
    if others:
        notes.append(f"resampled from {' and '.join(f'{other:g}' for other in others)} Hz to {rate:g} Hz")
    if samples is not None and length < samples:
        notes.append(f"padded with {(samples - length) / rate:g} s of zeros at its end")
    signal = np.zeros((length if samples is None else samples, sum(len(block.columns) for block in blocks)), np.float32)
    with np.errstate(over="ignore"):
        for block, values in zip(blocks, found, strict=True):
            columns = block.columns if len(blocks) > 1 else slice(None)
            signal[:length, columns] = values[:length]
    if not np.isfinite(signal).all():
        raise Problem("its values are too large: the gain in its header must be wrong")
    return Reading(signal, tuple(notes))


def _checked(signal: NDArray[np.float64], end: int, names: list[str]) -> NDArray[np.float64]:
    """Check that the first `end` samples are complete; return the signal up to the first missing sample."""
    missing = np.isnan(signal)
    if missing.any():
        lacking = np.flatnonzero(missing[:end].any(axis=0))
        if lacking.size:
            raise Problem(f"lead {names[lacking[0]]} has missing samples (NaN)")
        signal = signal[: missing.any(axis=1).argmax()]
    constant = np.flatnonzero((signal[:end] == signal[0]).all(axis=0))
    if constant.size:
        raise Problem(f"lead {names[constant[0]]} is constant at {signal[0, constant[0]]:g} mV")
    return signal


def _resample(signal: NDArray[np.float64], old: float, new: float) -> NDArray[np.float64]:
    from scipy.signal import resample_poly

    ratio = (Fraction(new) / Fraction(old)).limit_denominator(10_000)
    # Beyond its ends the signal is continued along a line: with zeros, an offset would ring there.
    return np.asarray(resample_poly(signal, ratio.numerator, ratio.denominator, axis=0, padtype="line"))
