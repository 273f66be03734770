"""What a run says of its target: a note of its metrics, and the target itself, built from its params."""

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
    """What tables and reports need to know of the metrics of a run; names are without the split.

    Attributes
    ----------
    main : str
        The metric that trials are compared by unless told otherwise.
    table : tuple of str
        Those that the table of a sweep has.
    lower_is_better : tuple of str
        Those of which a smaller value is the better one; of a metric per label without the label.
    """

    main: str
    table: tuple[str, ...]
    lower_is_better: tuple[str, ...]


def metric_note(target: Target | type[Target]) -> MetricNote:
    """What a target says of its metrics, those of the user's own among them."""
    extra = target.extra
    named = ("loss", *(metric.name for metric in (*target.metrics, *extra) if not metric.higher_is_better))
    table = (*target.table_metrics, *(metric.name for metric in extra if not metric.per_output))
    return MetricNote(target.main_metric, table, named)


def to_tag(note: MetricNote) -> str:
    """The text that a trial keeps as its tag `Tag.METRICS`."""
    return json.dumps(asdict(note))


def note_of(run: MlflowRun) -> MetricNote:
    """What a run says of its metrics; of a run of an earlier version, what its kind of target says."""
    text = run.data.tags.get(Tag.METRICS)
    if text is not None:
        found = json.loads(text)
        return MetricNote(found["main"], tuple(found["table"]), tuple(found["lower_is_better"]))
    kind = upgrade_params(run.data.params).get("target._target_")
    return metric_note(MultiClass if kind == "ecgexp.targets.MultiClass" else MultiLabel)


def target_of(run: MlflowRun, trust: Collection[str] = ()) -> Callable[[Sequence[str]], Target]:
    """What a trial predicts, built from the names of its labels in the order of its target columns.

    Parameters
    ----------
    run : MlflowRun
        The trial.
    trust : collection of str
        Packages whose classes its params may name, beside this project's own.

    Raises
    ------
    UserError
        Where a class is not trusted; of what is returned, where it cannot be built.
    """
    params = upgrade_params(run.data.params)
    component = _nested(params, "target") or {"_target_": "ecgexp.targets.MultiLabel"}
    check_trusted("target", component, trust)
    metrics = _nested(params, "metrics")
    if metrics:
        check_trusted("metrics", metrics, trust)
    return partial(make_target, component, metrics=metrics)


def _nested(params: dict[str, str], group: str) -> dict[str, Any]:
    """Params below a config group as they stood in the configuration."""
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
