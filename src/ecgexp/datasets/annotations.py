"""WFDB annotation files (``.atr``): where in a record something is, and what.

A file in the MIT format is a row of 16-bit words: a code in the upper six bits and a number in the lower ten. Nothing
in it tells a changed byte from another annotation, so the little there is gets checked: codes, the mark at
its end, and what lies behind that. `wfdb.rdann` does none of this, and some files keep it from ever returning.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ecgexp.datasets.headers import Problem
from ecgexp.datasets.paths import unreadable

SKIP, NUM, SUB, CHN, AUX = 59, 60, 61, 62, 63  # codes that belong to the annotation before or behind them
NOTE, HIGHEST = 22, 49  # the code of a comment, and the highest one of an annotation
SYMBOLS = dict(enumerate(' NLRaVFJASEj/Q~ | sT*D"=pB^t+u?![]en@xf()r'))
"""The usual signs of the codes; ' ' for codes without one."""


@dataclass(frozen=True)
class Annotations:
    """What an annotation file holds.

    Attributes
    ----------
    samples : int64 array, (annotations,)
        Where they are.
    symbols : str array, (annotations,)
        What they are, see `SYMBOLS`.
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
        samples, codes, notes = _parse(content)
    except _Damage as damage:
        raise Problem(f"the annotation file {path.name} is truncated or damaged ({damage})") from None
    symbols = np.array([SYMBOLS.get(code, " ") for code in codes], dtype="U1")
    return Annotations(np.array(samples, dtype=np.int64), symbols, _rate(notes))


class _Damage(Exception):
    """What is wrong in an annotation file."""


def _parse(content: bytes) -> tuple[list[int], list[int], list[str]]:
    """Samples and codes of the annotations, and the texts of comments at the very beginning."""
    if len(content) % 2:
        raise _Damage("it has an odd number of bytes")
    words = np.frombuffer(content, "<u2").tolist()
    samples: list[int] = []
    codes: list[int] = []
    notes: list[str] = []
    here, at = 0, 0
    while at < len(words) and words[at]:
        code, number = words[at] >> 10, words[at] & 1023
        at += 1
        if code == SKIP:
            high, low = [*words[at : at + 2], 0, 0][:2]
            here += (high << 16 | low) - (1 << 32 if high >> 15 else 0)
            at += 2
        elif code == AUX:
            if number > 255:
                raise _Damage(f"annotation {len(samples)} has a text of {number} characters, where 255 is the most")
            end = at + (number + 1) // 2
            if codes and codes[-1] == NOTE and samples[-1] == 0:
                notes.append(content[2 * at : 2 * at + number].decode("latin-1"))
            at = end
        elif code in (NUM, SUB, CHN):
            if not samples:
                raise _Damage("it begins with a field of an annotation that is not there")
        elif code == 0:  # no annotation: wfdb ends the comments at the beginning with it
            here += number
        elif code <= HIGHEST:
            here += number
            if here < (samples[-1] if samples else 0):
                raise _Damage(f"annotation {len(samples) + 1} is at sample {here}, which lies before what precedes it")
            samples.append(here)
            codes.append(code)
        else:
            raise _Damage(f"annotation {len(samples) + 1} has the code {code}, which there is none of")
    if at >= len(words):
        raise _Damage(f"it ends after {len(samples)} annotations without the mark of an end")
    if any(words[at:]):
        raise _Damage(f"it goes on behind its end, which is marked after {len(samples)} annotations")
    return samples, codes, notes


def _rate(notes: list[str]) -> float | None:
    """The sampling rate that comments at the beginning of the file may give."""
    for note in notes:
        match = re.match(r"## time resolution: (\d+\.?\d*)", note)
        if match and float(match[1]) > 0:
            return float(match[1])
    return None
