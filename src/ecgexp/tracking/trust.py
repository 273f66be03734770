"""What a run's configuration may build, and where it may write: it may come from a stranger."""

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
from ecgexp.datasets import Synthetic
from ecgexp.datasets.base import Dataset
from ecgexp.errors import UserError
from ecgexp.targets import Target
from ecgexp.tracking.code import targets

logger = logging.getLogger(__name__)

# What a config group may build without being trusted: classes of one kind, defined in one package.
_OWN: dict[str, tuple[str, type]] = {
    "model": ("ecgexp.models", nn.Module),
    "loss": ("ecgexp.losses", nn.Module),
    "dataset": ("ecgexp.datasets", Dataset),
    "target": ("ecgexp.targets", Target),
    "metrics": ("ecgexp.metrics", object),
}


def check_trusted(group: str, component: Any, trust: Collection[str] = ()) -> None:
    """Refuse a component of a config that would build, at any depth, what is neither ours nor trusted.

    Nothing outside of this package and of `trust` is imported.

    Parameters
    ----------
    group : {'model', 'loss', 'dataset', 'target', 'metrics'}
        Of the config.
    component : mapping
        With its ``_target_``, or several by name.
    trust : collection of str
        Packages that may define what is built, too.

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
                f"The run's config builds its {group} with '{target}', which is no class of ecgexp for that: "
                "add trust=PACKAGE if you know the package that defines it and trust it."
            )


def named_packages(cfg: DictConfig) -> set[str]:
    """Packages that a configuration builds from: what to trust where the user has just composed it."""
    component = OmegaConf.to_container(cfg, resolve=False)
    return {target.partition(".")[0] for target in targets(component) if isinstance(target, str)}


def own_folders(cfg: DictConfig, given: Collection[str] = ()) -> DictConfig:
    """A run's configuration whose dataset writes to no folder outside of the current one, unless the user names it.

    What a run says of folders was true on the machine that trained, and may be a stranger's word. Where it names one
    elsewhere that the dataset writes to, the default is taken, and told.

    Parameters
    ----------
    cfg : DictConfig
        Of a run, whose dataset is trusted.
    given : collection of str
        Keys that the user has set, such as 'dataset.cache_dir'.
    """
    cfg = copy.deepcopy(cfg)
    written = {"cache_dir": OmegaConf.load(CONF / "config.yaml").cache_dir}
    target = locate("dataset", plain(cfg.dataset))
    if isinstance(target, type) and issubclass(target, Synthetic):  # which makes its records where there are none
        written["root"] = OmegaConf.load(CONF / "dataset" / "synthetic.yaml").root
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
    except Exception as error:  # whatever importing a user's module may raise
        raise UserError(f"The run's config names '{target}', which cannot be imported: {error}.") from error
    # What a module has merely imported, such as os, is not its own.
    if not isinstance(found, type | FunctionType):
        return False
    if _within(found.__module__, own):
        return isinstance(found, type) and issubclass(found, kind)
    return any(_within(found.__module__, package) for package in trust)


def _within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")
