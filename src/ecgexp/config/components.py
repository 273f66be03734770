"""Builds the component that a config group names. Imports neither torch nor a dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf

from ecgexp.errors import UserError, summarised
from ecgexp.metrics.base import as_metric
from ecgexp.targets import Target


def instantiate_group(group: str, component: Any, **arguments: Any) -> Any:
    """Build the component that a config group names, with further arguments.

    Raises
    ------
    UserError
        If its class refuses the arguments.
    """
    try:
        return instantiate(component, **arguments)
    except InstantiationException as error:
        cause = error.__cause__ or error
        if isinstance(cause, UserError):
            raise cause from error
        message = summarised(cause).rstrip(".")
        kind = type(cause).__name__
        raise UserError(f"Config group '{group}' cannot be built: {kind}: {message}.") from error


def build_target(cfg: DictConfig, label_names: Sequence[str] | None = None) -> Target:
    """The target of a configuration, with the user's own metrics.

    Parameters
    ----------
    cfg : DictConfig
        A configuration of a trial.
    label_names : sequence of str, optional
        Used where ``dataset.label_names`` is missing, as in runs of earlier versions.

    Raises
    ------
    UserError
        If a class refuses its arguments, or is no target or metric.
    """
    named = cfg.dataset.get("label_names")
    names = label_names if named is None else named
    if not isinstance(names, list | tuple | ListConfig):  # `check` reports it
        names = ()
    return make_target(cfg.target, names, cfg.get("metrics") or {})


def make_target(component: Any, label_names: Sequence[Any], metrics: Mapping[Any, Any] | None = None) -> Target:
    """Build a target from its component, its label names, and components of the user's own metrics by name.

    Raises
    ------
    UserError
        As `build_target`.
    """
    target = instantiate_group("target", _plain(component), label_names=tuple(map(str, label_names)))
    if not isinstance(target, Target):
        raise UserError(
            f"Config group 'target' builds a {type(target).__name__}, which is no target: name a subclass of "
            "ecgexp.targets.Target."
        )
    own = {"loss", *(metric.name for metric in target.metrics)}
    extra = []
    for name, one in (metrics or {}).items():
        if name in own:
            raise UserError(f"Config key 'metrics.{name}' is the name of a metric of the target: choose another one.")
        extra.append(as_metric(str(name), instantiate_group(f"metrics.{name}", _plain(one))))
    target.extra = tuple(extra)
    return target


def _plain(component: Any) -> Any:
    return OmegaConf.to_container(component, resolve=True) if OmegaConf.is_config(component) else component
