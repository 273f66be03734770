"""WFDB annotation files (``.atr``): positions and kinds of events in a record.

A file in the MIT format is a sequence of 16-bit words: a code in the upper six bits and a number in the lower ten. It
has no checksum, so a changed byte may look like another annotation. This module therefore checks what can be checked:
the codes, the order of the samples, the end mark, and that nothing follows it. `wfdb.rdann`, which then decodes the
file, checks none of these.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from ecgexp.datasets.ecg.headers import Problem
from ecgexp.datasets.paths import unreadable

SKIP, AUX = 59, 63  # SKIP: a long distance to the next annotation; AUX: a text that belongs to the previous one
FIELDS = (60, 61, 62, AUX)
NOTE, HIGHEST = 22, 49  # the code of a comment, and the highest code of an annotation


@dataclass(frozen=True)
class Annotations:
    """The annotations of a file, without the comments at the first sample, which describe the file.

    Attributes
    ----------
    samples : int64 array, (annotations,)
        Positions.
    symbols : str array, (annotations,)
        wfdb's symbols of the codes; ' ' for a code without a symbol.
    rate : float, optional
        Sampling rate that `samples` refers to, in Hz; None if only the record's header gives it.
    """

    samples: NDArray[np.int64]
    symbols: NDArray[np.str_]
    rate: float | None


def read_annotations(path: Path) -> Annotations:
    """Read an annotation file.

    Raises
    ------
    Problem
        If it is missing, truncated or damaged.
    """
    try:
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        raise Problem(f"the annotation file {unreadable(path, error)}") from error
    try:
        words, notes = _check(content)
    except _Damage as damage:
        raise Problem(f"the annotation file {path.name} is truncated or damaged ({damage})") from None
    import wfdb

    with TemporaryDirectory() as folder:  # beside the header, rdann would take the file's rate from it
        words.tofile(f"{folder}/r.atr")
        found = wfdb.rdann(f"{folder}/r", "atr")
    symbols = [symbol if isinstance(symbol, str) else " " for symbol in found.symbol]
    return Annotations(found.sample, np.array(symbols, dtype="U1"), _rate(notes))


class _Damage(Exception):
    """What is wrong in an annotation file."""


def _check(content: bytes) -> tuple[NDArray[np.uint16], list[str]]:
    """Check the words of a file; return words for `wfdb.rdann`, and the comments at the first sample.

    In the returned words these comments have the code 0, "no annotation": rdann would read them as definitions, and
    would never return from a damaged one.
    """
    if len(content) % 2:
        raise _Damage("it has an odd number of bytes")
    checked = np.frombuffer(content, "<u2").copy()
    words = checked.tolist()
    notes: list[str] = []
    here, last, count, at = 0, 0, 0, 0
    about_file, skipped = False, False
    while at < len(words) and words[at]:
        code, number = words[at] >> 10, words[at] & 1023
        at += 1
        if code in FIELDS and not count:
            raise _Damage("it begins with a field of an annotation that is not there")
        if code in FIELDS and skipped:
            raise _Damage(f"annotation {count + 1} begins with a field, where a code is expected")
        skipped = code == SKIP
        if code == SKIP:
            high, low = [*words[at : at + 2], 0, 0][:2]
            here += (high << 16 | low) - (1 << 32 if high >> 15 else 0)
            at += 2
        elif code == AUX:
            if number > 255:
                raise _Damage(f"annotation {count} has a text of {number} characters, where at most 255 are allowed")
            if about_file:
                notes.append(content[2 * at : 2 * at + number].decode("latin-1"))
            at += (number + 1) // 2
        elif code == 0:  # no annotation: wfdb writes it after the comments at the beginning
            here += number
        elif code <= HIGHEST:
            here += number
            count += 1
            if here < last:
                raise _Damage(f"annotation {count} is at sample {here}, before the previous annotation")
            last, about_file = here, code == NOTE and here == 0
            if about_file:
                checked[at - 1] = number
        elif code not in FIELDS:
            raise _Damage(f"annotation {count + 1} has the unknown code {code}")
    if at >= len(words):
        raise _Damage(f"it ends after {count} annotations without an end mark")
    if any(words[at:]):
        raise _Damage(f"it has more data after its end mark, which follows {count} annotations")
    return np.concatenate([checked[:at], np.zeros(2, "<u2")]), notes


def _rate(notes: list[str]) -> float | None:
    """The sampling rate that the comments at the first sample give; None if they give none."""
    for note in notes:
        match = re.match(r"## time resolution: (\d+\.?\d*)", note)
        if match and float(match[1]) > 0:
            return float(match[1])
    return None
