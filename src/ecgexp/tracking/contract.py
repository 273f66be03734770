"""The contract of a trained net: its inputs, labels and target.

It is saved beside the weights, which hold its digest, so that a change of only one of the two is detected.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from ecgexp.datasets.base import SIGNAL, Dataset, Input
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


def _input(data: dict[str, Any]) -> Input:
    """An input from plain values; its axes are in the order in which the net takes them."""
    data.pop("stored", None)
    over = data.pop("normalize_over")
    return Input(
        name=str(data.pop("name")),
        axes=tuple(map(str, data.pop("axes"))),
        shape=tuple(int(size) for size in data.pop("shape")),
        rate=None if (rate := data.pop("rate")) is None else float(rate),
        coordinates={str(axis): tuple(map(str, names)) for axis, names in data.pop("coordinates").items()},
        normalize_over=None if over is None else tuple(map(str, over)),
        **data,
    )


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_shown(part)}" for key, part in value.items())
    return f"({', '.join(map(str, value))})" if isinstance(value, tuple) else str(value)
