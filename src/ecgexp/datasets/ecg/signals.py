"""Signals of many WFDB records, read once and cached."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from ecgexp.datasets.ecg.headers import named_files
from ecgexp.datasets.ecg.records import Uncalibrated, read_record
from ecgexp.datasets.files import Sources
from ecgexp.datasets.reading import Kind, Readings, read_cached

FORMAT = 2
"""Part of each cache key: raise it when `read_record` returns other numbers for the same files."""


WORTH_A_PROCESS = 2000
"""With fewer records, starting one more process takes longer than it saves."""


class Layout(TypedDict):
    """The arguments of `read_record` that all records share."""

    lead_names: tuple[str, ...]
    sampling_rate: float
    samples: int
    exact: bool
    uncalibrated: Uncalibrated


def cached_signals(
    root: Path, files: Sequence[str], layout: Layout, cache_dir: Path, workers: int | None = None
) -> Readings:
    """Signals of records, float32 (records, samples, leads) in mV; see `read_cached`.

    Parameters
    ----------
    root : Path
        The records' folder.
    files : sequence of str
        The records, relative to `root`, without extension.
    layout : Layout
        Leads, rate and length.
    cache_dir : Path
        Folder of the cache; created if missing.
    workers : int, optional
        Most processes that read; by default one per core. Fewer are started for few records.

    Raises
    ------
    UserError
        If the cache cannot be written or a reading process dies.
    """
    shape = (layout["samples"], len(layout["lead_names"]))
    kind = Kind(partial(_read, layout), shape, np.float32, [FORMAT, layout], WORTH_A_PROCESS)
    sources = Sources(root, files, cache_dir, (".hea",), {".hea": named_files})
    return read_cached(root, files, kind, sources, cache_dir, workers)


def _read(layout: Layout, path: Path) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    reading = read_record(path, **layout)
    return reading.signal, reading.notes
