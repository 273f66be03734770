"""WFDB annotation files (``.atr``): where in a record something is, and what.

A file in the MIT format is a row of 16-bit words: a code in the upper six bits and a number in the lower ten. Nothing
in it tells a changed byte from another annotation, so the little there is gets checked: codes, their order, the
mark at its end, and what lies behind that. `wfdb.rdann`, which decodes what has passed, does none of this.
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

SKIP, AUX = 59, 63  # codes of a longer distance to the annotation behind, and of a text of the one before
FIELDS = (60, 61, 62, AUX)
NOTE, HIGHEST = 22, 49  # the code of a comment, and the highest one of an annotation


@dataclass(frozen=True)
class Annotations:
    """What an annotation file holds, without the comments at the first sample, which are about the file.

    Attributes
    ----------
    samples : int64 array, (annotations,)
        Where they are.
    symbols : str array, (annotations,)
        What they are, by wfdb's signs of the codes; ' ' for a code without one.
    rate : float, optional
        Of `samples`, in Hz; None where the file leaves it to the record's header.
    """

    samples: NDArray[np.int64]
    symbols: NDArray[np.str_]
    rate: float | None


def read_annotations(path: Path) -> Annotations:
    """Read an annotation file.

    Raises
    ------
    Problem
        Where it is missing, cut off or damaged.
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

    with TemporaryDirectory() as folder:  # without the header, whose rate rdann would take for that of the file
        words.tofile(f"{folder}/r.atr")
        found = wfdb.rdann(f"{folder}/r", "atr")
    symbols = [symbol if isinstance(symbol, str) else " " for symbol in found.symbol]
    return Annotations(found.sample, np.array(symbols, dtype="U1"), _rate(notes))


class _Damage(Exception):
    """What is wrong in an annotation file."""


def _check(content: bytes) -> tuple[NDArray[np.uint16], list[str]]:
    """Words that `wfdb.rdann` can read, and the texts of comments at the very beginning.

    These comments get the code of no annotation: rdann takes them for definitions, and waits for ever for the
    end of one that is damaged.
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
                raise _Damage(f"annotation {count} has a text of {number} characters, where 255 is the most")
            if about_file:
                notes.append(content[2 * at : 2 * at + number].decode("latin-1"))
            at += (number + 1) // 2
        elif code == 0:  # no annotation: wfdb ends the comments at the beginning with it
            here += number
        elif code <= HIGHEST:
            here += number
            count += 1
            if here < last:
                raise _Damage(f"annotation {count} is at sample {here}, which lies before what precedes it")
            last, about_file = here, code == NOTE and here == 0
            if about_file:
                checked[at - 1] = number
        elif code not in FIELDS:
            raise _Damage(f"annotation {count + 1} has the code {code}, which there is none of")
    if at >= len(words):
        raise _Damage(f"it ends after {count} annotations without the mark of an end")
    if any(words[at:]):
        raise _Damage(f"it goes on behind its end, which is marked after {count} annotations")
    return np.concatenate([checked[:at], np.zeros(2, "<u2")]), notes


def _rate(notes: list[str]) -> float | None:
    """The sampling rate that comments at the beginning of the file may give."""
    for note in notes:
        match = re.match(r"## time resolution: (\d+\.?\d*)", note)
        if match and float(match[1]) > 0:
            return float(match[1])
    return None
