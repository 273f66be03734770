"""What a dataset is to the rest of the package; also the base class of a user's own."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from ecgexp.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

SplitName = Literal["train", "val", "test"]
Normalization = Literal["none", "scalar", "per_lead"]

CONSTANT = 1e-12
"""Share of the mean square below which a variance is rounding: float32 resolves 1e-7 of a value."""


@dataclass(frozen=True)
class Split:
    """The records of one split, in a fixed order.

    Attributes
    ----------
    signals : float32 array, (stored records, samples, leads), mV
        A store that may hold more records than the split has; may be memory-mapped.
    rows : int64 array, (records,)
        Where in `signals` each record of the split stands.
    targets : uint8 array, (records, classes)
        1 where the label holds.
    ids : str array, (records,)
        Record identifiers, unique.
    patients : str array, (records,)
        Patient identifiers.
    """

    signals: NDArray[np.float32]
    rows: NDArray[np.int64]
    targets: NDArray[np.uint8]
    ids: NDArray[np.str_]
    patients: NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.rows)

    def fingerprint(self) -> str:
        """Hash of ids, targets and signals."""
        digest = hashlib.sha256("\n".join(self.ids).encode())
        digest.update(np.ascontiguousarray(self.targets).tobytes())
        for signals in self.chunks():
            digest.update(np.ascontiguousarray(signals).tobytes())
        return digest.hexdigest()[:16]

    def chunks(self, records: int = 1024) -> Iterator[NDArray[np.float32]]:
        """Signals of the split, `records` at a time: (<= records, samples, leads)."""
        for start in range(0, len(self), records):
            yield self.signals[self.rows[start : start + records]]


class Dataset(ABC):
    """Labelled ECG records with fixed train, validation and test splits.

    A subclass sets the attributes below and implements `load`. It reads the test split only when
    ``load("test")`` is called, which training never does.

    Attributes
    ----------
    label_names : tuple of str
        The classes, in the order of the target columns.
    lead_names : tuple of str
        The leads, in the order of the signal columns.
    sampling_rate : float
        In Hz.
    normalize : {'none', 'scalar', 'per_lead'}
        How `normalization` computes its statistics.
    unit : str
        Of the signals; mV where a net is to predict other records, too.
    multiclass : bool
        Each record has exactly one label.
    warning : str or None
        What has to be said beside every result on these data: each run, table and report says it.
    """

    label_names: tuple[str, ...]
    lead_names: tuple[str, ...]
    sampling_rate: float
    normalize: Normalization = "none"
    unit: str = "mV"
    multiclass: bool = False
    warning: str | None = None

    @abstractmethod
    def load(self, split: SplitName) -> Split:
        """Records of one split.

        Raises
        ------
        UserError
            Where the data cannot be used as configured.
        """

    def prepare(self) -> None:  # noqa: B027 - optional, not abstract
        """Do the slow work that trials share (reading, caching), once, before the first of them."""

    def metadata(self, split: SplitName) -> pd.DataFrame | None:
        """What else is known of the records of a split; None where nothing is.

        An evaluation reports on the groups that the columns ``age`` (years), ``sex``, ``site`` and ``device``
        make, of which any may be missing.

        Returns
        -------
        DataFrame or None
            One row per record, in the order of `load`.
        """
        return None

    def summary(self) -> dict[str, Any]:
        """What a run should record of its data: JSON-able counts and findings, without the test labels."""
        return {split: self._counts(self.load(split)) for split in ("train", "val")}

    def fingerprint(self) -> str:
        """Hash of what training sees: ids, targets and signals of the train and validation splits."""
        digest = hashlib.sha256()
        for name in ("train", "val"):
            split = self.load(name)
            digest.update(repr((name, self.label_names, self.lead_names, self.sampling_rate)).encode())
            digest.update("\n".join(split.ids).encode())
            digest.update(np.ascontiguousarray(split.targets).tobytes())
            for signals in split.chunks():
                digest.update(np.ascontiguousarray(signals).tobytes())
        return digest.hexdigest()[:16]

    def normalization(self) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
        """Mean and standard deviation of the training split in mV, each (leads,); None for 'none'.

        Raises
        ------
        UserError
            Where a lead is constant, so that nothing can be divided by its deviation.
        """
        if self.normalize == "none":
            return None
        split = self.load("train")
        count, total, squares = 0, np.zeros(len(self.lead_names)), np.zeros(len(self.lead_names))
        for signals in split.chunks():
            count += signals.shape[0] * signals.shape[1]
            total += signals.sum(axis=(0, 1), dtype=np.float64)
            squares += np.square(signals, dtype=np.float64).sum(axis=(0, 1))
        mean, square = total / count, squares / count
        if self.normalize == "scalar":
            mean, square = np.full_like(mean, mean.mean()), np.full_like(square, square.mean())
        variance = np.maximum(square - mean**2, 0)
        constant = variance <= CONSTANT * square
        if constant.any():
            lead = self.lead_names[int(constant.argmax())]
            which = f"lead {lead} is" if self.normalize == "per_lead" else "all leads are"
            raise UserError(
                f"In the training split {which} constant at {mean[constant.argmax()]:g} {self.unit}, and "
                f"dataset.normalize={self.normalize} divides by the deviation: leave such leads or records out, or set "
                "dataset.normalize to " + ("scalar or none." if self.normalize == "per_lead" else "none.")
            )
        return mean.astype(np.float32), np.sqrt(variance).astype(np.float32)

    def _counts(self, split: Split) -> dict[str, Any]:
        positives = split.targets.sum(axis=0, dtype=np.int64).tolist()
        return {
            "records": len(split),
            "patients": len(np.unique(split.patients)),
            "labels": dict(zip(self.label_names, positives, strict=True)),
        }
