"""One WFDB record as an array of the wanted leads, rate, length and unit, or one clear sentence why not."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecgexp.datasets.sources import absent
from ecgexp.errors import UserError

MILLIVOLTS = {"mv": 1.0, "uv": 1e-3, "µv": 1e-3, "μv": 1e-3, "v": 1e3}
"""What one unit of a header, in lower case, is in mV (both Unicode signs for micro)."""


class RecordError(UserError):
    """A record that cannot be used.

    Attributes
    ----------
    problem : str
        What is wrong with it, without its path.
    """

    def __init__(self, path: str | Path, problem: str) -> None:
        super().__init__(path, problem)
        self.problem = problem

    def __str__(self) -> str:
        return f"record {self.args[0]}: {self.problem}; mend, replace or leave out this record"


@dataclass(frozen=True)
class Reading:
    """What `read_record` read.

    Attributes
    ----------
    signal : float32 array, (samples, leads), mV
    notes : tuple of str
        What was done to the record to make it so, in order; empty where nothing was.
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
) -> Reading:
    """Read one WFDB record as `samples` samples of the named leads at `sampling_rate`, in mV.

    Leads are matched by name, whatever their case and order. A longer record is cropped to its
    beginning, another rate is resampled (polyphase filter), a shorter record is padded with zeros at
    its end, and µV and V are converted; what was done is noted.

    Parameters
    ----------
    path : path
        The record without extension.
    lead_names : sequence of str
        The wanted leads, in the order of the columns.
    sampling_rate : float
        The wanted rate in Hz.
    samples : int, optional
        The wanted length; as long as it is by default.
    exact : bool
        Refuse a record with another rate, length or set of leads instead of adapting it.

    Returns
    -------
    Reading
        Signal (samples, leads) and notes.

    Raises
    ------
    RecordError
        Where a file is missing or damaged, a lead is missing, constant, has missing samples or is not
        a voltage, or, if `exact`, anything but the order of the leads differs.
    """
    try:
        record = _read_wfdb(Path(path), None if exact or samples is None else samples / sampling_rate)
        return _adapt(record, tuple(lead_names), sampling_rate, samples, exact)
    except _Problem as problem:
        raise RecordError(path, str(problem)) from problem.__cause__


def read_leads(path: str | Path) -> tuple[str, ...]:
    """Names of the leads of a WFDB record.

    Raises
    ------
    RecordError
        Where its header is missing or damaged.
    """
    import wfdb

    try:
        _check_header(Path(path))
        with _quick_headers():
            return _named(wfdb.rdheader(str(path)).sig_name or ())
    except _Problem as problem:
        raise RecordError(path, str(problem)) from None
    except Exception as error:  # wfdb meets a damaged file with whatever its parsing happens to raise
        raise RecordError(path, _damage(error)) from error


class _Problem(Exception):
    """What is wrong with a record, before it is known how the user names the record."""


@dataclass(frozen=True)
class _Record:
    """What `_adapt` needs of a WFDB record, of which only the beginning may have been read."""

    signal: NDArray[np.float64]  # (samples, leads), in `units`
    leads: tuple[str, ...]
    units: tuple[str, ...]
    rate: float
    length: int


def _read_wfdb(path: Path, seconds: float | None) -> _Record:
    """Read the record, or only its first `seconds`."""
    import wfdb

    _check_header(path)
    try:
        with _quick_headers():
            end = length = None
            if seconds is not None:
                header = wfdb.rdheader(str(path))
                length = header.sig_len
                end = None if length is None else min(length, math.ceil(seconds * header.fs))
            read = wfdb.rdrecord(str(path), sampto=end)
    except OSError as error:
        file = path.with_name(Path(error.filename or "").name)
        what = _damage(error) if file.exists() else f"the signal file {absent(file, file.name)}"
        raise _Problem(what) from error
    except Exception as error:  # wfdb meets a damaged file with whatever its parsing happens to raise
        raise _Problem(_damage(error)) from error
    if read.p_signal is None or not read.p_signal.size:
        raise _Problem("it holds no signals")
    return _Record(
        signal=read.p_signal,
        leads=_named(read.sig_name),
        units=tuple(read.units),
        rate=float(read.fs),
        length=len(read.p_signal) if length is None else length,
    )


def _check_header(path: Path) -> None:
    header = path.with_name(f"{path.name}.hea")
    if not header.is_file():
        raise _Problem(f"the header file {absent(header, header.name)}")
    if header.stat().st_size == 0:
        raise _Problem(f"its files are truncated or damaged ({header.name} is empty)")


def _damage(error: Exception) -> str:
    return f"its files are truncated or damaged ({type(error).__name__}: {error})"


def _named(leads: Sequence[str | None]) -> tuple[str, ...]:
    return tuple(name or "unnamed" for name in leads)


@contextmanager
def _quick_headers() -> Iterator[None]:
    """Make wfdb parse headers ten times as fast.

    For each record of 12 leads it looks cells of two pandas frames up 240 times, which is 9/10 of what
    reading 10 s at 100 Hz costs (4 ms); here it looks them up in dicts.
    """
    from wfdb.io import _header

    frames, dicts = _header_specs()
    try:
        vars(_header).update(dicts)
        yield
    finally:
        vars(_header).update(frames)


@cache
def _header_specs() -> tuple[dict[str, Any], dict[str, Any]]:
    """What wfdb knows of header fields, as it has it, and with ``.loc[row, column]`` from a dict."""
    from wfdb.io import _header

    frames = {name: vars(_header)[name] for name in ("RECORD_SPECS", "SIGNAL_SPECS") if name in vars(_header)}
    dicts = {
        name: SimpleNamespace(
            index=list(frame.index),
            loc={(row, column): frame.loc[row, column] for row in frame.index for column in frame.columns},
        )
        for name, frame in frames.items()
    }
    return frames, dicts


def _adapt(record: _Record, leads: tuple[str, ...], rate: float, samples: int | None, exact: bool) -> Reading:
    if exact and record.rate != rate:
        raise _Problem(f"its sampling rate is {record.rate:g} Hz where {rate:g} Hz is expected")
    if exact and samples is not None and record.length != samples:
        raise _Problem(f"it has {record.length} samples where {samples} are expected")
    notes: list[str] = []
    signal = _select_leads(record, leads, exact, notes)
    missing = np.flatnonzero(np.isnan(signal).any(axis=0))
    if missing.size:
        raise _Problem(f"lead {leads[missing[0]]} has missing samples (NaN)")
    constant = np.flatnonzero(np.ptp(signal, axis=0) == 0)
    if constant.size:
        value = signal[0, constant[0]]
        raise _Problem(f"lead {leads[constant[0]]} is constant at {value:g} mV")
    if samples is not None and record.length > len(signal):
        notes.append(f"cropped from {record.length / record.rate:g} s to its first {samples / rate:g} s")
    if record.rate != rate:
        notes.append(f"resampled from {record.rate:g} Hz to {rate:g} Hz")
        signal = _resample(signal, record.rate, rate)
    if samples is not None and len(signal) < samples:
        notes.append(f"padded with {(samples - len(signal)) / rate:g} s of zeros at its end")
        signal = np.pad(signal, ((0, samples - len(signal)), (0, 0)))
    return Reading(np.ascontiguousarray(signal[:samples], dtype=np.float32), tuple(notes))


def _select_leads(record: _Record, leads: tuple[str, ...], exact: bool, notes: list[str]) -> NDArray[np.float64]:
    """Columns of `leads` in mV."""
    there = [name.casefold() for name in record.leads]
    wanted = [name.casefold() for name in leads]
    lacking = [name for name in leads if name.casefold() not in there]
    if lacking:
        raise _Problem(f"it has no lead {', '.join(lacking)} (its leads are {', '.join(record.leads)})")
    twice = [name for name in leads if there.count(name.casefold()) > 1]
    if twice:
        raise _Problem(f"lead {twice[0]} occurs twice in its header")
    if len(there) > len(wanted):
        others = ", ".join(name for name in record.leads if name.casefold() not in wanted)
        if exact:
            raise _Problem(f"it has {len(there)} leads where {len(wanted)} are expected (also {others})")
        notes.append(f"omitted leads {others}")
    columns = [there.index(name) for name in wanted]
    if columns != sorted(columns):
        notes.append(f"reordered leads to {', '.join(leads)}")
    scale = np.array([_millivolts(leads[i], record.units[column]) for i, column in enumerate(columns)])
    if (scale != 1).any():
        notes.append("converted to mV")
    return record.signal[:, columns] * scale


def _millivolts(lead: str, unit: str) -> float:
    if unit.casefold() not in MILLIVOLTS:
        raise _Problem(f"lead {lead} is in {unit!r}, not in mV, uV or V")
    return MILLIVOLTS[unit.casefold()]


def _resample(signal: NDArray[np.float64], old: float, new: float) -> NDArray[np.float64]:
    from scipy.signal import resample_poly

    ratio = (Fraction(new) / Fraction(old)).limit_denominator(10_000)
    # Beyond its ends the signal is continued along a line: taken as zero, an offset would ring there.
    return np.asarray(resample_poly(signal, ratio.numerator, ratio.denominator, axis=0, padtype="line"))
