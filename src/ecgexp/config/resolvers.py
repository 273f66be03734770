"""The interpolations that conf/ uses."""

from __future__ import annotations

import math

from omegaconf import ListConfig, OmegaConf


def register_resolvers() -> None:
    """Make the interpolations that conf/ uses known to OmegaConf."""
    OmegaConf.register_new_resolver("ecgexp.len", len, replace=True)
    OmegaConf.register_new_resolver("ecgexp.product", lambda *factors: math.prod(factors), replace=True)
    OmegaConf.register_new_resolver("ecgexp.mode", _mode, replace=True)
    OmegaConf.register_new_resolver("ecgexp.directions", _directions, replace=True)
    OmegaConf.register_new_resolver("ecgexp.macro_f1", _macro_f1, replace=True)
    OmegaConf.register_new_resolver("ecgexp.ptbxl_classes", _ptbxl_classes, replace=True)


def _mode(monitor: str) -> str:
    from ecgexp.metrics.names import higher_is_better, is_metric_name
    from ecgexp.tracking.names import metric_of

    metric = metric_of(monitor)
    return "max" if is_metric_name(metric) and higher_is_better(metric) else "min"


def _directions(objective: str | ListConfig) -> list[str]:
    names = [objective] if isinstance(objective, str) else objective
    return [f"{_mode(name)}imize" for name in names]


def _macro_f1(multiclass: bool) -> str:
    from ecgexp.metrics.names import macro_f1_name

    return macro_f1_name(multiclass)


def _ptbxl_classes(task: str) -> int | None:
    from ecgexp.datasets.ecg.ptbxl import PTBXL_CLASSES

    return PTBXL_CLASSES.get(task)
