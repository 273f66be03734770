"""Builds the parts that a configuration names, and resolves its settings for this machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig
from torch import nn

from ecgexp.config.components import build_target, instantiate_group
from ecgexp.config.schema import DATA_KEYS, SIZES, accepts, locate, plain
from ecgexp.datasets.base import Dataset, Input, Split
from ecgexp.errors import UserError
from ecgexp.fast import speed_up

Example = NDArray[Any] | dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Parts:
    """The parts of a configuration, built; no data are read yet."""

    dataset: Dataset
    net: nn.Module
    loss: nn.Module
    optimizer: Callable[..., torch.optim.Optimizer]
    schedule: Callable[..., Any] | None


def build(cfg: DictConfig) -> Parts:
    """Build the parts of a configuration; the seed determines the weights.

    Raises
    ------
    UserError
        If a class refuses its arguments.
    """
    from pytorch_lightning import seed_everything  # takes 2 s to import

    check_device(cfg)
    seed_everything(cfg.seed, verbose=False)
    parts = Parts(
        build_dataset(cfg),
        build_net(cfg),
        instantiate_group("loss", cfg.loss),
        instantiate_group("optimizer", cfg.optimizer),
        None if cfg.scheduler.schedule is None else instantiate_group("scheduler", cfg.scheduler.schedule),
    )
    try:
        parts.optimizer([nn.Parameter(torch.zeros(1))])
    except (TypeError, ValueError) as error:
        raise UserError(f"Config group 'optimizer' cannot be used: {error}.") from error
    return parts


def check_device(cfg: DictConfig) -> None:
    """Refuse a GPU that does not exist, and a precision that only a GPU supports.

    Raises
    ------
    UserError
        If torch finds no GPU, or for float16 on a CPU, where Lightning would silently use bfloat16.
    """
    if cfg.trainer.get("accelerator") in ("gpu", "cuda") and not torch.cuda.is_available():
        raise UserError("Config key 'trainer.accelerator' asks for a GPU, but torch sees none: use trainer=cpu.")
    if cfg.precision == "16-mixed" and device_kind(cfg) == "cpu":
        raise UserError("Config key 'precision' is '16-mixed', which only a GPU computes: use bf16-mixed on a CPU.")


def build_dataset(cfg: DictConfig) -> Dataset:
    """The dataset of a configuration, with its target; reads nothing yet."""
    component = plain(cfg.dataset)
    target = locate("dataset", component)
    accepted = {key: value for key, value in component.items() if key not in DATA_KEYS or accepts(target, key)}
    dataset: Dataset = instantiate_group("dataset", accepted)
    dataset.target = build_target(cfg, None if "label_names" in component else dataset.label_names)
    return dataset


def build_net(cfg: DictConfig) -> nn.Module:
    """The net of a configuration, with new weights; with the faster layers unless `fast` is false."""
    net: nn.Module = instantiate_group("model", cfg.model)
    return speed_up(net) if cfg.get("fast", True) else net


def example(dataset: Dataset, split: Split, records: int = 2) -> Example:
    """Inputs for the tracing of a net, in the order of their axes: (records, leads, samples); several by name."""
    rows = np.resize(split.rows, records)
    arrays = {
        one.name: np.ascontiguousarray(split.inputs[one.name][rows].transpose(one.order)) for one in dataset.inputs
    }
    return arrays if len(arrays) > 1 else next(iter(arrays.values()))


def sizes(inputs: Sequence[Input]) -> dict[str, int | dict[str, int]]:
    """Lengths of the axes of inputs by config key, such as ``leads`` and ``samples``.

    If the inputs have different lengths of an axis, the value is a dictionary by the names of the inputs.
    """
    found: dict[str, dict[str, int]] = {}
    for one in inputs:
        for axis, length in zip(one.axes, one.shape, strict=True):
            if axis in SIZES:
                found.setdefault(SIZES[axis], {})[one.name] = length
    return {key: lengths if len({*lengths.values()}) > 1 else max(lengths.values()) for key, lengths in found.items()}


def wrong_size(cfg: DictConfig, dataset: Dataset) -> tuple[str, Any, Any] | None:
    """First size in a dataset's config that differs from the size of its inputs.

    Returns
    -------
    tuple or None
        The key, its value in the config and its value in the data; None if all are equal.
    """
    component = plain(cfg.dataset)
    own = locate("dataset", component) if "_target_" in component else type(dataset)
    found: dict[str, Any] = sizes(dataset.inputs)
    found |= {key: "none" for key in SIZES.values() if key in component and key not in found and not accepts(own, key)}
    configured = {key: component.get(key) for key in found}
    return next(((key, configured[key], found[key]) for key in found if configured[key] != found[key]), None)


def check_inputs(dataset: Dataset, split: Split) -> None:
    """Refuse a split whose inputs differ from those that its dataset declares.

    Raises
    ------
    UserError
        If an input is missing, or has another shape.
    """
    wanted = {one.name: one.stored_shape for one in dataset.inputs}
    kind = type(dataset).__name__
    if set(wanted) != set(split.inputs):
        raise UserError(
            f"{kind} has the inputs {', '.join(wanted)}, but its splits have {', '.join(split.inputs)}: "
            "use the same names."
        )
    for name, shape in wanted.items():
        found = split.inputs[name].shape[1:]
        if found != shape:
            raise UserError(f"{kind} says that input '{name}' has the shape {shape}, but its splits have {found}.")


def build_callbacks(cfg: DictConfig) -> list[Any]:
    """The user's own Lightning callbacks.

    Raises
    ------
    UserError
        If a class refuses its arguments, or is no callback.
    """
    from pytorch_lightning import Callback

    built = {name: instantiate_group(f"callbacks.{name}", part) for name, part in cfg.get("callbacks", {}).items()}
    for name, callback in built.items():
        if not isinstance(callback, Callback):
            raise UserError(
                f"Config key 'callbacks.{name}' builds {type(callback).__name__}, which is no Lightning callback: name "
                "a subclass of pytorch_lightning.Callback."
            )
    return list(built.values())


def build_statistics(cfg: DictConfig) -> dict[str, Callable[..., Any]]:
    """The user's own statistics by name.

    Raises
    ------
    UserError
        If a class refuses its arguments, or an object cannot be called.
    """
    built = {name: instantiate_group(f"statistics.{name}", part) for name, part in cfg.get("statistics", {}).items()}
    for name, statistic in built.items():
        if not callable(statistic):
            raise UserError(
                f"Config key 'statistics.{name}' builds {type(statistic).__name__}, which cannot be called: "
                "give it a method __call__(results, objective), or set _partial_: true for a function."
            )
    return built


def device_kind(cfg: DictConfig) -> str:
    """Kind of device for the training: 'cpu' or 'cuda'."""
    on_gpu = cfg.trainer.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    return "cuda" if on_gpu else "cpu"


def resolve_precision(cfg: DictConfig) -> Literal[32, "16-mixed", "bf16-mixed"]:
    """The precision; for ``precision=auto`` bfloat16 if the processor supports it in hardware, else 32."""
    if cfg.precision != "auto":
        return cfg.precision
    if device_kind(cfg) == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = bool(torch.cpu.get_capabilities().get("avx512_bf16"))
    return "bf16-mixed" if native else 32
