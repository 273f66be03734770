"""The interpolations that conf/ uses.

If one cannot be computed, its value is empty; `ecgexp.config.schema.check` then reports the cause.
"""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from ecgexp.errors import UserError

_SIZES_OF_INPUTS = (("leads", "samples"), ("channels", "height", "width"), ("features",))
"""Keys of a dataset for the sizes of a signal, of an image and of a table."""


def register_resolvers() -> None:
    """Register the interpolations that conf/ uses."""
    OmegaConf.register_new_resolver("ecgexp.len", len, replace=True)
    OmegaConf.register_new_resolver("ecgexp.product", lambda *factors: math.prod(factors), replace=True)
    OmegaConf.register_new_resolver("ecgexp.mode", _mode, replace=True)
    OmegaConf.register_new_resolver("ecgexp.directions", _directions, replace=True)
    OmegaConf.register_new_resolver("ecgexp.main_metric", _main_metric, replace=True)
    OmegaConf.register_new_resolver("ecgexp.outputs", _outputs, replace=True)
    OmegaConf.register_new_resolver("ecgexp.values", _values, replace=True)
    OmegaConf.register_new_resolver("ecgexp.label_names", _label_names, replace=True)
    OmegaConf.register_new_resolver("ecgexp.ptbxl_labels", _ptbxl_labels, replace=True)
    OmegaConf.register_new_resolver("ecgexp.medmnist_labels", _medmnist_labels, replace=True)
    OmegaConf.register_new_resolver("ecgexp.medmnist_channels", _medmnist_channels, replace=True)
    OmegaConf.register_new_resolver("ecgexp.image_labels", _image_labels, replace=True)


def _mode(monitor: str, *, _root_: DictConfig) -> str:
    from ecgexp.config.components import build_target
    from ecgexp.tracking.names import metric_of

    with suppress(UserError):
        return "max" if build_target(_root_).higher_is_better(metric_of(monitor)) else "min"
    return "min"


def _directions(objective: str | ListConfig, *, _root_: DictConfig) -> list[str]:
    names = [objective] if isinstance(objective, str) else objective
    return [f"{_mode(name, _root_=_root_)}imize" for name in names]


def _main_metric(target: DictConfig) -> str:
    from ecgexp.config.components import make_target

    with suppress(UserError):
        return make_target(target, ()).main_metric
    return "loss"


def _outputs(target: DictConfig, label_names: Any) -> int | None:
    from ecgexp.config.components import make_target

    with suppress(UserError):
        return make_target(target, label_names if isinstance(label_names, ListConfig) else ()).outputs
    return None


def _values(dataset: DictConfig) -> int | None:
    """Values of a record, by the sizes that the config of its dataset says; of several inputs those of all."""
    parts = [[dataset.get(key) for key in keys] for keys in _SIZES_OF_INPUTS]
    known = [sizes for sizes in parts if all(isinstance(size, int) for size in sizes)]
    return sum(map(math.prod, known)) or None


def _label_names(labels: Any) -> ListConfig:
    return ListConfig([str(label).strip() for label in labels] if isinstance(labels, ListConfig) else [])


def _ptbxl_labels(labels: Any) -> ListConfig:
    from ecgexp.datasets.ecg.statements import statement_labels

    with suppress(UserError):
        return ListConfig(list(statement_labels(list(labels) if isinstance(labels, ListConfig) else labels)))
    return ListConfig([])


def _medmnist_labels(name: Any) -> ListConfig:
    from ecgexp.datasets.image.medmnist_sets import SETS

    return ListConfig(list(SETS[name].labels) if name in SETS else [])


def _medmnist_channels(name: Any) -> int | None:
    from ecgexp.datasets.image.medmnist_sets import SETS

    return SETS[name].channels if name in SETS else None


def _image_labels(labels: Any, root: Any, labels_csv: Any) -> ListConfig:
    from ecgexp.datasets.image.folder import folder_labels

    if isinstance(labels, ListConfig):
        return _label_names(labels)
    with suppress(UserError):
        return ListConfig(folder_labels(str(root), labels_csv))
    return ListConfig([])
