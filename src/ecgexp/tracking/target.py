"""The target of a run, built from its params, and a note of its metrics for tables and reports."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import yaml  # type: ignore[import-untyped]
from mlflow.entities import Run as MlflowRun

from ecgexp.config.components import make_target
from ecgexp.config.upgrade import upgrade_params
from ecgexp.targets import MultiClass, MultiLabel, Target
from ecgexp.tracking.names import Tag
from ecgexp.tracking.trust import check_trusted


@dataclass(frozen=True)
class MetricNote:
    """The facts about the metrics of a run that tables and reports need; names are without the split.

    Attributes
    ----------
    main : str
        Metric that compares trials, unless configured.
    table : tuple of str
        Metrics in the table of a sweep.
    lower_is_better : tuple of str
        Metrics whose lower value is better; a metric per label is named without the label.
    """

    main: str
    table: tuple[str, ...]
    lower_is_better: tuple[str, ...]


def metric_note(target: Target | type[Target]) -> MetricNote:
    """The note of the metrics of a target, including the user's own."""
    extra = target.extra
    lower = ("loss", *(metric.name for metric in (*target.metrics, *extra) if not metric.higher_is_better))
    table = (*target.table_metrics, *(metric.name for metric in extra if not metric.per_output))
    return MetricNote(target.main_metric, table, lower)


def to_tag(note: MetricNote) -> str:
    """The value of the tag `Tag.METRICS`."""
    return json.dumps(asdict(note))


def note_of(run: MlflowRun) -> MetricNote:
    """The note of a run's metrics; for a run of an earlier version, the note of its kind of target."""
    text = run.data.tags.get(Tag.METRICS)
    if text is not None:
        found = json.loads(text)
        return MetricNote(found["main"], tuple(found["table"]), tuple(found["lower_is_better"]))
    kind = upgrade_params(run.data.params).get("target._target_")
    return metric_note(MultiClass if kind == "ecgexp.targets.MultiClass" else MultiLabel)


def target_of(run: MlflowRun, trust: Collection[str] = ()) -> Callable[[Sequence[str]], Target]:
    """A function that builds the target of a trial from the names of its labels, in the order of the columns.

    Parameters
    ----------
    run : MlflowRun
        The trial.
    trust : collection of str
        Packages whose classes its params may name, in addition to this package.

    Raises
    ------
    UserError
        If a class is not trusted. The returned function raises it if the target cannot be built.
    """
    params = upgrade_params(run.data.params)
    component = _nested(params, "target") or {"_target_": "ecgexp.targets.MultiLabel"}
    check_trusted("target", component, trust)
    metrics = _nested(params, "metrics")
    if metrics:
        check_trusted("metrics", metrics, trust)
    return partial(make_target, component, metrics=metrics)


def _nested(params: dict[str, str], group: str) -> dict[str, Any]:
    """The part of the configuration below a config group, from params."""
    found: dict[str, Any] = {}
    for key, text in params.items():
        first, *parts = key.split(".")
        if first != group or not parts:
            continue
        place = found
        for part in parts[:-1]:
            place = place.setdefault(part, {})
        value = yaml.safe_load(text)
        place[parts[-1]] = None if text == "None" else value
    return found
