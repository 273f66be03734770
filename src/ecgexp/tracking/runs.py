"""Which runs stand for the trials of a sweep.

A run belongs to a slot of its sweep: a cell of a grid, a trial of a search. Each time that a command wants the trial
of a slot it claims one run for it, new or earlier, with a number one above the highest claim so far. The run with the
highest claim stands for the slot. Nothing is ever hidden for good: whatever is asked for next is claimed again.
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from mlflow.entities import Run as MlflowRun
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from ecgexp.errors import UserError, said
from ecgexp.tracking.store import Store, find_store

SLOT, CLAIM = "slot", "claim"
# Tag of a trial that a sweep reuses: the run that was trained, which has the files.
REUSED_FROM = "reused_from"
# Tag: sum of the metrics of the best weights, which a database keeps without one.
SUM = "metrics_sum"
# Status in tables of a finished run whose metrics are not those that were recorded.
DAMAGED = "DAMAGED"
_SUMMED = "best/"
# Tag by which stores of earlier versions hid a run.
SUPERSEDED = "superseded"
# What tells two runs of a slot apart, and how it is called.
_REASONS = {
    "dataset_fingerprint": "data",
    "code": "code",
    "device": "device",
    "threads": "threads",
    "precision": "precision",
    "cell": "settings",
}
_NAMED = 3  # runs that are named; of more the number is told


def children(store: Store, parent: str) -> list[MlflowRun]:
    """All runs of the trials of a sweep that are not deleted, the earliest first."""
    return store.search(f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{parent}'")


def find_run(run_id: str, root: str | Path, uri: str | None) -> tuple[Store, MlflowRun]:
    """A run that has trained weights, and the store that it is in.

    A trial that a sweep took over from another one has its files there: that one is returned.

    Raises
    ------
    UserError
        Where the store cannot be used, or the run is not there, is a sweep, or did not come that far.
    """
    store = find_store(root, uri)
    try:
        run = store.client.get_run(run_id)
        run = store.client.get_run(run.data.tags.get(REUSED_FROM, run_id))
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            raise UserError(
                f"There is no run {run_id} in {store.uri}: take an id from results.csv or the UI."
            ) from error
        raise UserError(f"The MLflow store {store.uri} cannot be used: {said(error)}") from error
    tags = run.data.tags
    if tags.get("kind") == "sweep":
        best = tags.get("best_run_id")
        advice = f"its best is run={best}" if best else "its results.csv lists them"
        raise UserError(f"Run {run_id} is a sweep: choose one of its trials ({advice}).")
    if run.info.status != "FINISHED":
        raise UserError(f"Run {run_id} is {run.info.status.lower()}, not finished: it has no weights to use.")
    if tags.get("best_epoch") == "None":
        raise UserError(f"Run {run_id} kept no weights, since its loss was never finite: choose another.")
    return Store(store.client, store.uri, run.info.experiment_id, store.root), run


def claim_of(run: MlflowRun) -> int:
    """Number of a run's claim; 0 of one that an earlier version began."""
    return int(run.data.tags.get(CLAIM, 0))


def standing(runs: Iterable[MlflowRun]) -> list[MlflowRun]:
    """Of the runs of a sweep those that stand for its slots, in the order of its jobs."""
    chosen = [slot[-1] for slot in _by_slot(runs)]
    return sorted(chosen, key=lambda run: int(run.data.tags.get("job", "0")))


def left_out(runs: Iterable[MlflowRun]) -> list[str]:
    """What has to be said of the runs of a sweep that do not stand for their slots: one sentence at most."""
    said = []
    for *earlier, chosen in _by_slot(runs):
        for run in earlier:
            differing = [name for tag, name in _REASONS.items() if _differs(run, chosen, tag)]
            reason = f"other {', '.join(differing)}" if differing else "the same trial, trained once more"
            if run.info.status != "FINISHED":
                reason = run.info.status.lower()
            said.append(f"run {run.info.run_id[:8]} of trial {chosen.data.tags.get('job', '?')} ({reason})")
    if not said:
        return []
    more = f" and {len(said) - _NAMED} more" if len(said) > _NAMED else ""
    return [f"Left out, since another run stands for the same trial: {', '.join(said[:_NAMED])}{more}."]


def _differs(run: MlflowRun, other: MlflowRun, tag: str) -> bool:
    # A run that failed early did not come to noting all of them.
    return tag in run.data.tags and tag in other.data.tags and run.data.tags[tag] != other.data.tags[tag]


def _by_slot(runs: Iterable[MlflowRun]) -> list[Sequence[MlflowRun]]:
    """Runs of each slot, the one that stands for it last."""
    slots: defaultdict[str, list[MlflowRun]] = defaultdict(list)
    for run in runs:
        if SLOT in run.data.tags:
            slots[run.data.tags[SLOT]].append(run)
        elif SUPERSEDED not in run.data.tags:
            slots[run.info.run_id].append(run)
    return [sorted(slot, key=precedence) for slot in slots.values()]


def precedence(run: MlflowRun) -> tuple[int, bool, int]:
    """Sorts runs of a slot: the one that stands for it comes last.

    Two machines that work on one search at once may give the same number.
    """
    return claim_of(run), run.info.status == "FINISHED", run.info.start_time


def metrics_sum(metrics: Mapping[str, float]) -> str:
    """Hash of the metrics of the best weights, of those that are finite: stores keep others in their own way."""
    known = {name: float(value) for name, value in metrics.items() if name.startswith(_SUMMED)}
    lines = [f"{name} {value!r}" for name, value in sorted(known.items()) if math.isfinite(value)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def status_of(run: MlflowRun) -> str:
    """MLflow's status of a run, or DAMAGED where its metrics are not those that were recorded."""
    noted = run.data.tags.get(SUM)
    intact = run.info.status != "FINISHED" or noted is None or noted == metrics_sum(run.data.metrics)
    return str(run.info.status) if intact else DAMAGED
