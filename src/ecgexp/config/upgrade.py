"""Configurations of earlier versions: the new names of their keys, and how runs with them are read."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from typing import Any

from ecgexp.errors import UserError

FORM = 2
"""Version of the form of a configuration. Trials of different forms are never the same trial."""

_NOW = {
    "dataset.task": "it is called 'dataset.labels' now",
    "dataset.classes": "'dataset.label_names' names the labels now, and nets take 'outputs'",
    "dataset.multiclass": "say target=multiclass for records with exactly one label each, target=multilabel for others",
    "threshold": "it is called 'target.threshold' now",
    "model.multiclass": "the config group 'target' says it now",
}
_MULTILABEL, _MULTICLASS = "ecgexp.targets.MultiLabel", "ecgexp.targets.MultiClass"
_BEATS = ("ecgexp.datasets.MITBIH", "ecgexp.datasets.MITBIHTable")


def refuse_old_keys(config: Any) -> None:
    """Refuse an unresolved configuration that has a key of an earlier version.

    Raises
    ------
    UserError
        For the first such key; the message names the new key.
    """
    for key, value in _flat(config):
        refuse_old_key(key)
        for old in _NOW:
            if isinstance(value, str) and re.search(rf"\$\{{[^}}]*(?<![\w.]){re.escape(old)}(?![\w.])", value):
                raise UserError(f"Config key '{key}' is '{value}', but there is no '{old}' any more: {_NOW[old]}.")


def refuse_old_key(key: str) -> None:
    """Refuse a key of an earlier version on the command line; see `refuse_old_keys`."""
    if key in _NOW:
        raise UserError(f"There is no config key '{key}' any more: {_NOW[key]}.")


def upgrade(config: Mapping[str, Any]) -> dict[str, Any]:
    """Convert the resolved configuration of a run to today's form; one in today's form is unchanged.

    A user's own dataset then has no ``dataset.label_names``, which earlier versions did not have.
    """
    if "target" in config:
        return dict(config)
    new = copy.deepcopy(dict(config))
    dataset, model = new.setdefault("dataset", {}), new.get("model") or {}
    multiclass = _true(dataset.pop("multiclass", False))
    threshold = float(new.pop("threshold"))
    new["target"] = {"_target_": _MULTICLASS} if multiclass else {"_target_": _MULTILABEL, "threshold": threshold}
    if "task" in dataset:
        dataset["labels"] = dataset.pop("task")
    dataset.pop("classes", None)
    names = _label_names(dataset)
    if names:
        dataset["label_names"] = names
    if str(model.get("_target_", "")).startswith("ecgexp.models."):
        model.pop("multiclass", None)
        if "classes" in model:
            model["outputs"] = model.pop("classes")
    for group in ("metrics", "callbacks", "statistics"):
        new.setdefault(group, {})
    return new


def upgrade_params(params: Mapping[str, str]) -> dict[str, str]:
    """Convert the params of a run, which are texts, to today's form; those in today's form are unchanged."""
    if "target._target_" in params or "threshold" not in params:
        return dict(params)
    new = dict(params)
    multiclass = _true(new.pop("dataset.multiclass", "False"))
    threshold = new.pop("threshold")
    new["target._target_"] = _MULTICLASS if multiclass else _MULTILABEL
    if not multiclass:
        new["target.threshold"] = threshold
    for old, key in (("dataset.task", "dataset.labels"), ("model.classes", "model.outputs")):
        if old in new:
            new[key] = new.pop(old)
    return new


def upgrade_description(data: Mapping[str, Any]) -> dict[str, Any]:
    """Convert the target in the metadata of a model to today's form.

    Raises
    ------
    KeyError, TypeError, ValueError
        If the metadata have no target.
    """
    if "target" in data:
        return dict(data)
    threshold = float(data["threshold"])
    multilabel = {"_target_": _MULTILABEL, "threshold": threshold}
    return {**data, "target": {"_target_": _MULTICLASS} if data.get("multiclass") is True else multilabel}


def _label_names(dataset: Mapping[str, Any]) -> list[str]:
    labels, target = dataset.get("labels"), dataset.get("_target_")
    if target in _BEATS:
        return ["N", "S", "V", "F", "Q"]
    if isinstance(labels, str) and target in ("ecgexp.datasets.PTBXL", "ecgexp.datasets.Synthetic"):
        from ecgexp.datasets.ecg.statements import LABEL_SETS

        return list(LABEL_SETS.get(labels, ()))
    return [str(label).strip() for label in labels] if isinstance(labels, list) else []


def _true(value: Any) -> bool:
    return value is True or str(value).lower() == "true"


def _flat(config: Any, above: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(config, Mapping):
        yield above, config
        return
    for key, value in config.items():
        yield from _flat(value, f"{above}.{key}" if above else str(key))
