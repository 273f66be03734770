"""What a configuration names, built part by part, and what it means on this machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from numpy.typing import NDArray
from omegaconf import DictConfig
from torch import nn

from ecgexp.config.schema import DATA_KEYS, accepts, locate, plain
from ecgexp.datasets.base import Dataset, Split
from ecgexp.errors import UserError, said


@dataclass(frozen=True)
class Parts:
    """What a configuration names, built: nothing is read yet."""

    dataset: Dataset
    net: nn.Module
    loss: nn.Module
    optimizer: Callable[..., torch.optim.Optimizer]
    schedule: Callable[..., Any] | None


def build(cfg: DictConfig) -> Parts:
    """Build what a configuration names, with the weights that its seed gives.

    Raises
    ------
    UserError
        Where a class refuses its arguments.
    """
    from pytorch_lightning import seed_everything  # which takes 2 s to import

    check_device(cfg)
    seed_everything(cfg.seed, verbose=False)
    parts = Parts(
        build_dataset(cfg),
        instantiate_group("model", cfg.model),
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
    """Refuse a GPU that is not there, and what only a GPU computes.

    Raises
    ------
    UserError
        Where torch sees none, or a CPU is to train in float16, for which Lightning would take bfloat16 without a word.
    """
    if cfg.trainer.get("accelerator") in ("gpu", "cuda") and not torch.cuda.is_available():
        raise UserError("trainer.accelerator asks for a GPU, but torch sees none: use trainer=cpu.")
    if cfg.precision == "16-mixed" and device_kind(cfg) == "cpu":
        raise UserError("Config key 'precision' is '16-mixed', which only a GPU computes: use bf16-mixed on a CPU.")


def build_dataset(cfg: DictConfig) -> Dataset:
    """The dataset of a configuration; reads nothing yet."""
    component = plain(cfg.dataset)
    target = locate("dataset", component)
    kept = {key: value for key, value in component.items() if key not in DATA_KEYS or accepts(target, key)}
    return instantiate_group("dataset", kept)


def example(split: Split) -> NDArray[np.float32]:
    """Signals to trace a net with: (2, leads, samples), mV."""
    rows = np.resize(split.rows, 2)
    return np.ascontiguousarray(split.signals[rows].transpose(0, 2, 1))


def instantiate_group(group: str, component: Any) -> Any:
    """Build what a config group names.

    Raises
    ------
    UserError
        Where its class refuses the arguments.
    """
    try:
        return instantiate(component)
    except InstantiationException as error:
        cause = error.__cause__ or error
        if isinstance(cause, UserError):
            raise cause from error
        message = said(cause).rstrip(".")
        kind = type(cause).__name__
        raise UserError(f"Config group '{group}' cannot be built: {kind}: {message}.") from error


def describe(cfg: DictConfig, dataset: Dataset) -> dict[str, Any]:
    """What one has to know to use a trained net on other records."""
    return {
        "labels": list(dataset.label_names),
        "multiclass": dataset.multiclass,
        "leads": list(dataset.lead_names),
        "sampling_rate": dataset.sampling_rate,
        "samples": cfg.dataset.samples,
        "unit": dataset.unit,
        "threshold": cfg.threshold,
    }


def device_kind(cfg: DictConfig) -> str:
    """Kind of device that is trained on: 'cpu' or 'cuda'."""
    on_gpu = cfg.trainer.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    return "cuda" if on_gpu else "cpu"


def resolve_precision(cfg: DictConfig) -> Literal[32, "16-mixed", "bf16-mixed"]:
    """What ``precision=auto`` means here: bfloat16 where the chip computes with it."""
    if cfg.precision != "auto":
        return cfg.precision
    if device_kind(cfg) == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = bool(torch.cpu.get_capabilities().get("avx512_bf16"))
    return "bf16-mixed" if native else 32
