"""Limits what the configuration of a run may build and where it may write, since it may come from a stranger."""

from __future__ import annotations

import copy
import logging
from collections.abc import Collection
from importlib import import_module
from pathlib import Path
from types import FunctionType
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import nn

from ecgexp import CONF
from ecgexp.config.schema import locate, plain
from ecgexp.datasets import Synthetic, SyntheticCells
from ecgexp.datasets.base import Dataset
from ecgexp.errors import UserError
from ecgexp.targets import Target
from ecgexp.tracking.code import targets

logger = logging.getLogger(__name__)

# Classes that a config group may build without `trust`: those of one kind, defined in one package.
_OWN: dict[str, tuple[str, type]] = {
    "model": ("ecgexp.models", nn.Module),
    "loss": ("ecgexp.losses", nn.Module),
    "dataset": ("ecgexp.datasets", Dataset),
    "target": ("ecgexp.targets", Target),
    "metrics": ("ecgexp.metrics", object),
}


def check_trusted(group: str, component: Any, trust: Collection[str] = ()) -> None:
    """Refuse a component of a config that names, at any depth, a class that is neither our own nor trusted.

    Nothing is imported except from this package and from the packages in `trust`.

    Parameters
    ----------
    group : {'model', 'loss', 'dataset', 'target', 'metrics'}
        Config group of the component.
    component : mapping
        A component with its ``_target_``, or several components by name.
    trust : collection of str
        Packages whose classes are trusted.

    Raises
    ------
    UserError
        For the first ``_target_`` that is not allowed.
    """
    if OmegaConf.is_config(component):
        component = OmegaConf.to_container(component, resolve=False)
    named = list(targets(component))
    if not named:
        raise UserError(f"The run's config key '{group}' names no class.")
    for target in named:
        if not isinstance(target, str) or not _allowed(group, target, trust):
            raise UserError(
                f"The run's config builds its {group} with '{target}', which is no such class of ecgexp: "
                "add trust=PACKAGE if you know the package that defines it and trust it."
            )


def named_packages(cfg: DictConfig) -> set[str]:
    """Packages that a configuration names; they are trusted if the user has just composed it."""
    component = OmegaConf.to_container(cfg, resolve=False)
    return {target.partition(".")[0] for target in targets(component) if isinstance(target, str)}


def own_folders(cfg: DictConfig, given: Collection[str] = ()) -> DictConfig:
    """A run's configuration, changed so that its dataset writes only below the current folder.

    The folders in it belong to the machine that trained, and may come from a stranger. A folder outside the current
    one is replaced by the default, with a warning, unless the user has set its key.

    Parameters
    ----------
    cfg : DictConfig
        Configuration of a run, whose dataset is trusted.
    given : collection of str
        Keys that the user has set, such as 'dataset.cache_dir'.
    """
    cfg = copy.deepcopy(cfg)
    written = {"cache_dir": OmegaConf.load(CONF / "config.yaml").cache_dir}
    target = locate("dataset", plain(cfg.dataset))
    for made, choice in ((Synthetic, "synthetic"), (SyntheticCells, "synthetic_cells")):
        if isinstance(target, type) and issubclass(target, made):  # which generates missing records
            written["root"] = OmegaConf.load(CONF / "dataset" / f"{choice}.yaml").root
    for key, default in written.items():
        named = str(cfg.dataset.get(key) or default)
        if f"dataset.{key}" in given:
            continue
        if not Path(named).expanduser().resolve().is_relative_to(Path.cwd().resolve()):
            OmegaConf.update(cfg, f"dataset.{key}", default)
            logger.warning(
                "The run names %s as dataset.%s, outside of this folder: %s is used (dataset.%s=FOLDER for another).",
                *(named, key, default, key),
            )
    return cfg


def _allowed(group: str, target: str, trust: Collection[str]) -> bool:
    own, kind = _OWN[group]
    module, _, name = target.rpartition(".")
    if not any(_within(module, package) for package in (own, *trust)):
        return False
    try:
        found = getattr(import_module(module), name)
    except Exception as error:  # the import of a user's module may raise any error
        raise UserError(f"The run's config names '{target}', which cannot be imported: {error}.") from error
    # Names that a module has only imported, such as os, are not its own.
    if not isinstance(found, type | FunctionType):
        return False
    if _within(found.__module__, own):
        return isinstance(found, type) and issubclass(found, kind)
    return any(_within(found.__module__, package) for package in trust)


def _within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")
