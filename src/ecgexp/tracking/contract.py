"""The contract of a trained net: its inputs, labels and target.

It is saved beside the weights, which hold its digest, so that a change of only one of the two is detected.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from ecgexp.config.schema import SIZES
from ecgexp.datasets.base import CHANNELS, SIGNAL, Dataset, Input
from ecgexp.errors import UserError

BUFFER = "contract"
"""Buffer of a network with the digest of its contract; it is saved and exported together with the weights."""

_NORMALIZED_OVER = {"scalar": ("lead", "time"), "per_lead": ("time",)}


@dataclass(frozen=True)
class Contract:
    """The inputs, labels and target of a trained net.

    Attributes
    ----------
    inputs : tuple of Input
        Inputs of a record; the order of axes in memory does not belong to the contract.
    labels : tuple of str
        Labels in the order of the outputs.
    target : mapping
        Component of the config group ``target``: the class, and parameters such as the threshold.
    """

    inputs: tuple[Input, ...]
    labels: tuple[str, ...]
    target: Mapping[str, Any]

    @classmethod
    def of(cls, dataset: Dataset, target: Mapping[str, Any]) -> Contract:
        """The contract of a net that is trained on a dataset, with the component of its target."""
        return cls.from_json(
            {
                "inputs": [asdict(one) for one in dataset.inputs],
                "labels": list(dataset.label_names),
                "target": dict(target),
            }
        )

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Contract:
        """The contract from the result of `to_json`; other keys are ignored.

        Raises
        ------
        KeyError, TypeError, ValueError, AttributeError
            If `data` has another form.
        """
        if not data["inputs"]:
            raise ValueError("no inputs")
        return cls(
            tuple(_input(dict(one)) for one in data["inputs"]),
            tuple(map(str, data["labels"])),
            dict(data["target"]),
        )

    @classmethod
    def from_earlier(cls, data: Mapping[str, Any], target: Mapping[str, Any], normalize: str = "none") -> Contract:
        """The contract of a run of an earlier version, whose only input is a signal.

        Parameters
        ----------
        data : mapping
            Content of the run's data.json: ``labels``, ``leads``, ``sampling_rate``, ``samples`` and perhaps ``unit``.
        target : mapping
            Component of its target.
        normalize : str
            Its ``dataset.normalize``.

        Raises
        ------
        KeyError, TypeError, ValueError
            If one of these is missing.
        """
        leads = tuple(map(str, data["leads"]))
        signal = Input(
            SIGNAL,
            axes=("lead", "time"),
            shape=(len(leads), int(data["samples"])),
            unit=str(data.get("unit", "mV")),
            rate=float(data["sampling_rate"]),
            coordinates={"lead": leads},
            normalize_over=_NORMALIZED_OVER.get(normalize),
        )
        return cls((signal,), tuple(map(str, data["labels"])), dict(target))

    def to_json(self) -> dict[str, Any]:
        """The contract as plain values."""
        inputs = [asdict(one) for one in self.inputs]
        for one in inputs:
            del one["stored"]
            if one["statistics"] is None:  # so that earlier digests stay valid
                del one["statistics"]
        found: dict[str, Any] = json.loads(
            json.dumps({"inputs": inputs, "labels": self.labels, "target": dict(self.target)})
        )
        return found

    @property
    def digest(self) -> bytes:
        """SHA-256 of the contract."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).digest()

    def bind(self, network: nn.Module) -> None:
        """Store the digest in the weights of a network."""
        network.register_buffer(BUFFER, torch.frombuffer(bytearray(self.digest), dtype=torch.uint8))

    def is_bound(self, digest: Tensor | None) -> bool:
        """Whether a digest from stored weights is that of this contract."""
        return digest is not None and digest.dtype == torch.uint8 and bytes(digest.tolist()) == self.digest

    def signal(self, name: str) -> Input:
        """The signal that the net takes; `name` names the net in the error.

        Raises
        ------
        UserError
            If it takes another input, or several.
        """
        first = self.inputs[0]
        if len(self.inputs) > 1 or first.axes != ("lead", "time") or "lead" not in first.coordinates or not first.rate:
            what = ", ".join(f"{one.name} ({', '.join(one.axes)})" for one in self.inputs)
            raise UserError(
                f"The net of {name} takes {what}, but records are read as one signal (lead, time): "
                "python -m ecgexp.evaluate uses it on its own data set."
            )
        return first

    @property
    def image(self) -> Input | None:
        """The image that the net takes; None if it takes another input, or several."""
        first = self.inputs[0]
        is_image = len(self.inputs) == 1 and first.axes == ("channel", "row", "column")
        return first if is_image and first.size("channel") in CHANNELS else None

    def check_data(self, dataset: Dataset) -> None:
        """Refuse a dataset whose inputs or labels differ from those of the net.

        Raises
        ------
        UserError
            For the first difference.
        """
        if dataset.label_names != self.labels:
            raise UserError(
                f"The net of this run predicts the labels {', '.join(self.labels)}, but those of the data are "
                f"{', '.join(dataset.label_names)}."
            )
        found = Contract.of(dataset, self.target).inputs
        names = [", ".join(one.name for one in inputs) for inputs in (self.inputs, found)]
        if names[0] != names[1]:
            raise UserError(f"The net of this run takes the inputs {names[0]}, but those of the data are {names[1]}.")
        for wanted, given in zip(self.inputs, found, strict=True):
            for field in fields(Input):
                one, other = getattr(wanted, field.name), getattr(given, field.name)
                if one != other:
                    raise UserError(
                        f"The net of this run takes the input '{wanted.name}' with {field.name}={_shown(one)}, but "
                        f"the data have {_shown(other)}."
                    )

    def differences(self, here: Contract) -> list[str]:
        """How the records of a net that starts from the net of this contract differ from those of its training.

        Returns
        -------
        list of str
            A clause for each difference that training can make up for: another length, rate, or number of leads.

        Raises
        ------
        UserError
            If weights would take one thing for another: as many leads (or other named positions), more than one,
            with other names or in another order; or values in another unit that nothing normalises.
        """
        differences = []
        pairs = {one.name: other for one in here.inputs for other in self.inputs if other.name == one.name}
        if not pairs and len(self.inputs) == len(here.inputs) == 1:
            pairs = {here.inputs[0].name: self.inputs[0]}
        for one in here.inputs:
            if one.name in pairs:
                differences += _differences(one, pairs[one.name])
            else:
                differences.append(f"the input {one.name} is new")
        if self.labels != here.labels and len(self.labels) == len(here.labels):
            differences.append(
                f"the outputs are {', '.join(here.labels)}, there {', '.join(self.labels)}, of the same number, so "
                "that the last layer may be loaded (init.reset lets it start anew)"
            )
        return differences


def _differences(one: Input, other: Input) -> list[str]:
    """How an input differs from that of the source, see `Contract.differences`."""
    differences = []
    for axis, size in zip(one.axes, one.shape, strict=True):
        what = SIZES.get(axis, axis)
        before = other.size(axis) if axis in other.axes else None
        names, known = one.coordinates.get(axis, ()), other.coordinates.get(axis, ())
        if size != before:
            differences.append(f"{what} {size}, there {before or 'no such axis'}")
        elif names and known and size == 1 and _folded(names) != _folded(known):
            differences.append(f"{what} {names[0]}, there {known[0]}")  # alone it is taken for no other
        elif names and known and _folded(names) != _folded(known):
            same = sorted(_folded(names)) == sorted(_folded(known))
            order = "have them in another order" if same else "have others"
            raise UserError(
                f"Config key 'init.run' names weights that were trained with the {what} {', '.join(known)}, and the "
                f"data {order}, {', '.join(names)}: each weight would take one for another. Give the dataset "
                "those of the source in its order, or leave init.run out."
            )
    if one.unit != other.unit:
        if one.normalize_over is None:
            raise UserError(
                f"Config key 'init.run' names weights that were trained on '{other.name}' in {other.unit}, and the "
                f"data are in {one.unit} and not normalised: bring them into that unit, or normalise them."
            )
        differences.append(f"unit {one.unit}, there {other.unit}")
    if one.rate != other.rate:
        differences.append(f"rate {_hertz(one.rate)}, there {_hertz(other.rate)}")
    if one.normalize_over != other.normalize_over:
        differences.append(f"normalised {_over(one)}, there {_over(other)}")
    return differences


def _folded(names: Sequence[str]) -> list[str]:
    return [name.casefold() for name in names]


def _hertz(rate: float | None) -> str:
    return "unknown" if rate is None else f"{rate:g} Hz"


def _over(one: Input) -> str:
    if one.normalize_over is None:
        return "not at all"
    return f"over {', '.join(('records', *one.normalize_over))}"


def _input(data: dict[str, Any]) -> Input:
    """An input from plain values; its axes are in the order in which the net takes them."""
    data.pop("stored", None)
    over, statistics = data.pop("normalize_over"), data.pop("statistics", None)
    return Input(
        name=str(data.pop("name")),
        axes=tuple(map(str, data.pop("axes"))),
        shape=tuple(int(size) for size in data.pop("shape")),
        rate=None if (rate := data.pop("rate")) is None else float(rate),
        coordinates={str(axis): tuple(map(str, names)) for axis, names in data.pop("coordinates").items()},
        normalize_over=None if over is None else tuple(map(str, over)),
        statistics=None if statistics is None else (float(statistics[0]), float(statistics[1])),
        **data,
    )


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_shown(part)}" for key, part in value.items())
    return f"({', '.join(map(str, value))})" if isinstance(value, tuple) else str(value)
