"""The interface of a dataset: inputs, splits, and the base classes, which a user's own dataset extends too."""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from ecgexp.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

    from ecgexp.targets import Target

SplitName = Literal["train", "val", "test"]
Normalization = Literal["none", "scalar", "per_lead"]
ImageNormalization = Literal["unit", "none", "scalar", "per_channel"]
Statistics = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Mean and standard deviation of an input. Each has the input's shape, with length 1 for the axes averaged over."""

SIGNAL = "signal"
"""Name of the signal input of a `SignalDataset`."""
IMAGE = "image"
"""Name of the image input of an `ImageDataset`."""
CHANNELS = {1: ("grey",), 3: ("red", "green", "blue")}
"""Names of the channels of an image, by their number."""

NO_PATIENTS = (
    "The data do not say which patient a record is from, so that a split by patient was not possible: records of one "
    "patient may be in training and in validation, and intervals are too narrow where a patient has several."
)
CONSTANT = 1e-12
"""A variance below this share of the mean square is a rounding error: float32 resolves 1e-7 of a value."""


@dataclass(frozen=True)
class Input:
    """One of the arrays of a record, as a net takes it.

    Attributes
    ----------
    name : str
        A net with several inputs takes this input as the argument of this name.
    axes : tuple of str
        For example ``('lead', 'time')``, ``('channel', 'row', 'column')`` or ``('feature',)``.
    shape : tuple of int
        Length of each axis.
    unit : str, optional
        Unit of the values.
    rate : float, optional
        Samples per second along the axis 'time'.
    coordinates : mapping of str to tuple of str
        Names of the positions along an axis, for example ``{'lead': ('I', 'II')}``.
    stored : tuple of str
        The axes in the order of the arrays of a `Split`; by default the order of `axes`. The net gets a transposed
        view, without a copy.
    normalize_over : tuple of str, optional
        Axes over which mean and standard deviation are computed, in addition to the records. The net gets
        (value - mean) / deviation. None: the net gets the values unchanged.
    statistics : pair of float, optional
        Mean and deviation that are fixed rather than computed, for all positions of all axes.

    Raises
    ------
    ValueError
        If these attributes do not fit each other.
    """

    name: str
    axes: tuple[str, ...]
    shape: tuple[int, ...]
    unit: str | None = None
    rate: float | None = None
    coordinates: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    stored: tuple[str, ...] = ()
    normalize_over: tuple[str, ...] | None = None
    statistics: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "stored", tuple(self.stored) or tuple(self.axes))
        if not self.name.isidentifier():
            raise ValueError(f"Input '{self.name}' must have a name that is a valid Python identifier.")
        if len(self.shape) != len(self.axes) or sorted(self.stored) != sorted(set(self.axes)):
            raise ValueError(
                f"Input '{self.name}' must name each of its axes {self.axes} once in stored and give its length in "
                "shape."
            )
        for axis, names in self.coordinates.items():
            if axis not in self.axes or len(names) != self.size(axis):
                raise ValueError(f"Input '{self.name}' has no axis '{axis}' of length {len(names)}.")
        if not set(self.normalize_over or ()) <= set(self.axes):
            raise ValueError(f"Input '{self.name}' lacks some of the axes {self.normalize_over} of normalize_over.")
        if self.statistics is not None and (self.normalize_over is not None or not self.statistics[1] > 0):
            raise ValueError(
                f"Input '{self.name}' must have a deviation above 0 in statistics, or axes in normalize_over, not both."
            )

    def size(self, axis: str) -> int:
        """Length of an axis."""
        return self.shape[self.axes.index(axis)]

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """Shape of one record in the arrays of a `Split`."""
        return tuple(map(self.size, self.stored))

    @property
    def order(self) -> tuple[int, ...]:
        """The permutation of a stored batch's axes, records first, that gives the order of the net."""
        return (0, *(1 + self.stored.index(axis) for axis in self.axes))


@dataclass(frozen=True)
class Split:
    """The records of one split, in a fixed order.

    Attributes
    ----------
    inputs : mapping of str to array, (stored records, ...)
        Arrays of any type, by the names of the dataset's inputs. They may hold more records than the split, and may
        be memory-mapped.
    rows : int64 array, (records,)
        Row of each record of the split in the arrays of `inputs`.
    targets : array, (records, ...)
        For labels uint8, (records, labels): 1 if the record has the label. Any other type is possible, too.
    ids : str array, (records,)
        Record identifiers, unique.
    patients : str array, (records,)
        Patient identifiers; the `ids` where `Dataset.patients_known` is false.
    """

    inputs: Mapping[str, NDArray[Any]]
    rows: NDArray[np.int64]
    targets: NDArray[Any]
    ids: NDArray[np.str_]
    patients: NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.rows)

    def fingerprint(self) -> str:
        """Hash of ids, targets and inputs."""
        digest = hashlib.sha256("\n".join(self.ids).encode())
        for part in self._parts():
            digest.update(part)
        return digest.hexdigest()[:16]

    def chunks(self, name: str, records: int = 1024) -> Iterator[NDArray[Any]]:
        """An input of the split, `records` at a time: (<= records, ...)."""
        for start in range(0, len(self), records):
            yield self.inputs[name][self.rows[start : start + records]]

    def _parts(self) -> Iterator[bytes]:
        """The bytes of targets and inputs that are hashed."""
        # The usual types are not named, so that older fingerprints stay valid.
        yield b"" if self.targets.dtype == np.uint8 else str(self.targets.dtype).encode()
        yield np.ascontiguousarray(self.targets).tobytes()
        for name, array in self.inputs.items():
            yield b"" if array.dtype == np.float32 else str(array.dtype).encode()
            for chunk in self.chunks(name):
                yield np.ascontiguousarray(chunk).tobytes()


class Dataset(ABC):
    """Labelled records with fixed train, validation and test splits.

    A subclass sets the attributes below and implements `load`. It reads the test split only when
    ``load("test")`` is called; training never calls it. For ECGs and other signals see `SignalDataset`.

    Attributes
    ----------
    label_names : tuple of str
        Names of the labels, in the order of the target columns.
    inputs : tuple of Input
        The inputs of a record. A net takes a single input as its only argument, and several inputs by name.
    target : Target
        What is predicted. `ecgexp.config.build.build_dataset` sets it from the configuration. A dataset that is built
        directly does not have it.
    warning : str or None
        A caution for every result on these data: each run, table and report shows it.
    patients_known : bool
        Whether the data tell which patient a record is from; if not, each record counts as a patient, and the report
        says so.
    """

    label_names: tuple[str, ...]
    inputs: tuple[Input, ...]
    target: Target
    warning: str | None = None
    patients_known: bool = True

    @abstractmethod
    def load(self, split: SplitName) -> Split:
        """Records of one split.

        Raises
        ------
        UserError
            If the data cannot be used as configured.
        """

    def prepare(self) -> None:  # noqa: B027 - optional, not abstract
        """Do the slow work that trials share (reading, caching) once, before the first trial."""

    def metadata(self, split: SplitName) -> pd.DataFrame | None:
        """Further facts about the records of a split; None if there are none.

        An evaluation reports on groups by the columns ``age`` (years), ``sex``, ``site`` and ``device``. Each of
        them is optional.

        Returns
        -------
        DataFrame or None
            One row per record, in the order of `load`.
        """
        return None

    def summary(self) -> dict[str, Any]:
        """What a run records about its data: JSON-able counts and findings, without the test labels."""
        return {split: self._counts(self.load(split)) for split in ("train", "val")} | self._noted()

    def remarks(self) -> list[str]:
        """Sentences on the data that the report shows with the results; the warning is none of them."""
        return [] if self.patients_known else [NO_PATIENTS]

    def _noted(self) -> dict[str, Any]:
        """What `summary` says of the whole data set, where there is something to say."""
        remarks = self.remarks()
        noted = {} if self.patients_known else {"patients_known": False}
        return {**noted, "remarks": remarks} if remarks else noted

    def fingerprint(self) -> str:
        """Hash of the data that training uses: ids, targets and inputs of the train and validation splits."""
        digest = hashlib.sha256()
        for name in ("train", "val"):
            split = self.load(name)
            digest.update(repr((name, self.label_names, *self._facts())).encode())
            digest.update("\n".join(split.ids).encode())
            for part in split._parts():
                digest.update(part)
        return digest.hexdigest()[:16]

    def normalization(self) -> dict[str, Statistics]:
        """Mean and standard deviation of each normalised input over the training split.

        Raises
        ------
        UserError
            If values are constant: their deviation is 0 and cannot divide.
        """
        fixed = {one.name: _fixed(one, one.statistics) for one in self.inputs if one.statistics is not None}
        wanted = [one for one in self.inputs if one.normalize_over is not None]
        if not wanted:
            return fixed
        split = self.load("train")
        return fixed | {one.name: self._statistics(one, split) for one in wanted}

    def _statistics(self, one: Input, split: Split) -> Statistics:
        over = (0, *(place for place, axis in enumerate(one.stored, 1) if axis in (one.normalize_over or ())))
        count, total, squares = 0, np.zeros(()), np.zeros(())
        for values in split.chunks(one.name):
            count += math.prod(values.shape[place] for place in over)
            total = total + values.sum(axis=over, dtype=np.float64, keepdims=True)
            squares = squares + np.square(values, dtype=np.float64).sum(axis=over, keepdims=True)
        mean, square = (values.transpose(one.order)[0] / count for values in (total, squares))
        variance = np.maximum(square - mean**2, 0)
        constant = variance <= CONSTANT * square
        if constant.any():
            place = tuple(map(int, np.argwhere(constant)[0]))
            value = f"{mean[place]:g} {one.unit or ''}".strip()
            raise UserError(
                f"In the training split {self._where(one, place)} is constant at {value}, and "
                f"{self._advice_on_constant(one)}."
            )
        return mean.astype(np.float32), np.sqrt(variance).astype(np.float32)

    def _where(self, one: Input, place: tuple[int, ...]) -> str:
        """Name of a part of an input, for a message."""
        kept = [(axis, i) for axis, i in zip(one.axes, place, strict=True) if axis not in (one.normalize_over or ())]
        parts = [f"{axis} {one.coordinates[axis][i] if axis in one.coordinates else i}" for axis, i in kept]
        return ", ".join(parts) + f" of input '{one.name}'" * (len(self.inputs) > 1) if parts else f"input '{one.name}'"

    def _advice_on_constant(self, one: Input) -> str:
        return (
            "its normalisation divides by the deviation: leave it or such records out, or compute the statistics over "
            "other axes (Input.normalize_over)"
        )

    def _facts(self) -> Iterator[Any]:
        """The properties of the inputs that are hashed together with their values."""
        for one in self.inputs:
            if one.name == SIGNAL:  # no more than these two, so that older fingerprints stay valid
                yield from (one.coordinates.get("lead"), one.rate)
            else:
                yield (one.name, one.axes, one.shape, sorted(one.coordinates.items()), one.rate)

    def _counts(self, split: Split) -> dict[str, Any]:
        counts = {"records": len(split), "patients": len(np.unique(split.patients))}
        if split.targets.dtype.kind not in "bui":  # values, which no count describes
            return counts
        positives = split.targets.sum(axis=0, dtype=np.int64).tolist()
        return {**counts, "labels": dict(zip(self.label_names, positives, strict=True))}


def _fixed(one: Input, statistics: tuple[float, float]) -> Statistics:
    """Fixed statistics of an input, in the form of computed ones."""
    mean, deviation = (np.full([1] * len(one.shape), value, np.float32) for value in statistics)
    return mean, deviation


class SignalDataset(Dataset):
    """Records whose first input is a signal: (samples, leads) in a `Split`, (leads, samples) for a net.

    A subclass sets the attributes below; `inputs` follows from them. A subclass with further inputs extends `inputs`.

    Attributes
    ----------
    lead_names : tuple of str
        The leads, in the order of the signal columns.
    sampling_rate : float
        In Hz.
    samples : int
        Length of a signal.
    unit : str
        Unit of the signals; must be mV if the net shall also predict other records.
    normalize : {'none', 'scalar', 'per_lead'}
        'scalar': the net gets (value - mean) / deviation, with one mean and deviation for all leads; 'per_lead': with
        those of each lead; 'none': the net gets the values unchanged.
    """

    lead_names: tuple[str, ...]
    sampling_rate: float
    samples: int
    unit: str = "mV"
    normalize: Normalization = "none"

    @property
    def inputs(self) -> tuple[Input, ...]:  # type: ignore[override]
        """The signal as the only input."""
        over: dict[str, tuple[str, ...] | None] = {"none": None, "scalar": ("lead", "time"), "per_lead": ("time",)}
        signal = Input(
            SIGNAL,
            axes=("lead", "time"),
            shape=(len(self.lead_names), self.samples),
            unit=self.unit,
            rate=self.sampling_rate,
            coordinates={"lead": tuple(self.lead_names)},
            stored=("time", "lead"),
            normalize_over=over[self.normalize],
        )
        return (signal,)

    def _advice_on_constant(self, one: Input) -> str:
        if one.name != SIGNAL:
            return super()._advice_on_constant(one)
        others = "scalar or none" if self.normalize == "per_lead" else "none"
        return (
            f"dataset.normalize={self.normalize} divides by the deviation: leave such leads or records out, or set "
            f"dataset.normalize to {others}"
        )


class ImageDataset(Dataset):
    """Records whose first input is an image: uint8 (rows, columns, channels) in a `Split`, channels first for a net.

    A subclass sets the attributes below; `inputs` follows from them. A subclass with further inputs extends `inputs`.

    Attributes
    ----------
    channels : {1, 3}
        Grey, or red, green and blue.
    height, width : int
        In pixels.
    normalize : {'unit', 'none', 'scalar', 'per_channel'}
        'unit': the net gets value / 255; 'scalar': (value - mean) / deviation, with one mean and deviation for all
        channels; 'per_channel': with those of each channel; 'none': the values from 0 to 255.
    """

    channels: int
    height: int
    width: int
    normalize: ImageNormalization = "unit"

    @property
    def inputs(self) -> tuple[Input, ...]:  # type: ignore[override]
        """The image as the only input."""
        over = {"scalar": ("channel", "row", "column"), "per_channel": ("row", "column")}
        image = Input(
            IMAGE,
            axes=("channel", "row", "column"),
            shape=(self.channels, self.height, self.width),
            coordinates={"channel": CHANNELS[self.channels]},
            stored=("row", "column", "channel"),
            normalize_over=over.get(self.normalize),
            statistics=(0.0, 255.0) if self.normalize == "unit" else None,
        )
        return (image,)

    def _advice_on_constant(self, one: Input) -> str:
        if one.name != IMAGE:
            return super()._advice_on_constant(one)
        return (
            f"dataset.normalize={self.normalize} divides by the deviation: leave such images out, or set "
            "dataset.normalize to unit or none"
        )
