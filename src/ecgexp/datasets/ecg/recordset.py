"""Data sets of WFDB records."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ecgexp.datasets.base import SignalDataset
from ecgexp.datasets.ecg.records import Uncalibrated
from ecgexp.datasets.ecg.signals import Layout, cached_signals
from ecgexp.datasets.reading import Readings
from ecgexp.datasets.recordset import RecordSet


class RecordDataset(RecordSet, SignalDataset):
    """A folder of WFDB records with labels.

    A subclass implements `_read_records` and `_read_labels`, and sets `label_names`, `lead_names`, `sampling_rate`,
    `samples`, `normalize`, `exact`, `uncalibrated` and `keep_unlabelled`.
    """

    exact = True
    uncalibrated: Uncalibrated = "refuse"

    def _read_arrays(self, files: list[str]) -> Readings:
        layout: Layout = {
            "lead_names": self.lead_names,
            "sampling_rate": self.sampling_rate,
            "samples": self.samples,
            "exact": self.exact,
            "uncalibrated": self.uncalibrated,
        }
        return cached_signals(self.root, files, layout, self.cache_dir, self.workers)

    def _facts(self) -> Iterator[Any]:
        yield from (self.lead_names, float(self.sampling_rate))
