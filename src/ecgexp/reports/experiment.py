"""A trial as a file of Hydra's ``experiment`` group."""

from __future__ import annotations

from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, QuotedString
from mlflow.entities import Run as MlflowRun
from omegaconf import OmegaConf

from ecgexp.tracking.runs import overrides_of


def experiment_file(run: MlflowRun, title: str, sweeper: str | None = None) -> str:
    """The overrides of a trial as YAML: ``python -m ecgexp experiment=NAME`` composes the trial's configuration.

    With ``-m`` only the keys on the command line vary, even where the trial's own experiment is a grid or a search.

    Parameters
    ----------
    run : MlflowRun
        A finished trial.
    title : str
        Text of the first comment.
    sweeper : str, optional
        The sweeper that chose the trial: 'optuna' or 'staged'; None for a grid.
    """
    defaults: list[Any] = []
    settings = OmegaConf.create()
    removed = []
    for override in OverridesParser.create().parse_overrides(overrides_of(run)):
        key, value = override.key_or_group, _plain(override.value())
        if override.is_delete():
            removed.append(override.input_line)
        elif key == "experiment":
            defaults.insert(0, value)
        elif _is_group(run, override):
            place = f"/{key}" if override.package is None else f"/{key}@{override.package}"
            defaults.append({place if override.is_add() else f"override {place}": value})
        else:
            OmegaConf.update(settings, key, value, force_add=True)
    if any(isinstance(name, str) for name in defaults):
        settings.hydra = {"sweeper": {"params": None}}
        if sweeper == "staged":
            settings.hydra.sweeper.update(stages=[], start=None)
            defaults.append({"override /hydra/sweeper": sweeper})
        elif sweeper == "optuna":
            defaults += [
                {"override /hydra/sweeper": "optuna"},
                {"override /hydra/sweeper/sampler": "grid"},
                {"override /hydra/sweeper/pruner": "none"},
            ]
    content = {**({"defaults": defaults} if defaults else {})}
    comments = [f"# {' '.join(title.split())}"]
    comments += [f"# Add this to the command line, as a file cannot contain it: {line}" for line in removed]
    body = OmegaConf.to_yaml(OmegaConf.create(content)) if content else ""
    body += OmegaConf.to_yaml(settings) if settings else ""
    return "\n".join(["# @package _global_", *comments, body])


def _is_group(run: MlflowRun, override: Override) -> bool:
    """Whether an override chooses an option of a group, and does not set a value: a group has parameters below it."""
    key = override.key_or_group
    if "/" in key or override.package is not None:
        return True
    return "." not in key and any(name.startswith(f"{key}.") for name in run.data.params)


def _plain(value: Any) -> Any:
    if isinstance(value, QuotedString):
        return value.text
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {_plain(key): _plain(item) for key, item in value.items()}
    return value
