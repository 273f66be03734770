"""Finding, listing and reading runs.

A run belongs to a slot of its sweep: to a cell of a grid, or to a trial of a search. Whenever a command needs the
trial of a slot, it claims one run, new or earlier, with a number one above the highest claim so far. The run with the
highest claim stands for the slot. No run is hidden forever: a later command can claim it again.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path

from mlflow.entities import Run as MlflowRun
from mlflow.exceptions import MlflowException

from ecgexp.config.upgrade import upgrade_params
from ecgexp.errors import UserError, summarised
from ecgexp.tracking.names import File, Kind, Status, Tag, is_best, is_system, where
from ecgexp.tracking.store import Store, find_store

# Tags in which two runs of a slot may differ, and how messages call them.
_REASONS = {
    Tag.DATASET: "data",
    Tag.CODE: "code",
    Tag.INIT_WEIGHTS: "weights to start from",
    Tag.DEVICE: "device",
    Tag.THREADS: "threads",
    Tag.PRECISION: "precision",
    Tag.CELL: "settings",
}
INFINITE = 1e300
"""MLflow stores an infinite metric as a larger number than this."""
_NAMED = 3  # number of runs that a message names; it counts the others


def children(store: Store, parent: str) -> list[MlflowRun]:
    """All runs of the trials of a sweep, the earliest first, without deleted ones."""
    return store.search(where({Tag.PARENT: parent}))


def sweep_runs(store: Store, parent: str) -> list[MlflowRun]:
    """Runs that stand for the trials of a sweep, in the order of its jobs.

    Parameters
    ----------
    store : Store
        Store of the runs.
    parent : str
        Id of the sweep's run.
    """
    return standing(children(store, parent))


def sweeps_named(store: Store, name: str) -> list[MlflowRun]:
    """Runs of the sweeps of a name, the latest last."""
    return store.search(where({Tag.KIND: Kind.SWEEP, Tag.SWEEP: name}))


def find_sweeps(store: Store, names: Sequence[str]) -> list[MlflowRun]:
    """Runs of sweeps by their names or ids; without names, the run of the sweep that was active last.

    Raises
    ------
    UserError
        If there is none.
    """
    sweeps: list[MlflowRun] = []
    token = None
    try:
        experiments = [experiment.experiment_id for experiment in store.client.search_experiments()]
        while token is None or token:
            page = store.client.search_runs(experiments, where({Tag.KIND: Kind.SWEEP}), page_token=token)
            sweeps.extend(page)
            token = page.token or ""
    except MlflowException as error:
        raise UserError(f"The MLflow store {store.uri} cannot be used: {summarised(error)}") from error
    sweeps.sort(key=lambda run: (run.info.end_time or float("inf"), run.info.start_time))
    if not sweeps:
        raise UserError(f"There is no sweep in {store.uri}: python -m ecgexp -m KEY=VALUE,VALUE makes one.")
    found = [] if names else sweeps[-1:]
    for name in names:
        same = [run for run in sweeps if name in (run.data.tags.get(Tag.SWEEP), run.info.run_id)]
        if not same:
            known = ", ".join(dict.fromkeys(run.data.tags.get(Tag.SWEEP, "") for run in reversed(sweeps)))
            raise UserError(f"There is no sweep {name} in {store.uri}, only {known}.")
        found.append(same[-1])
    for run in found:
        if Tag.SWEEP not in run.data.tags:
            raise UserError(
                f"The sweep {run.info.run_id} has lost its tag '{Tag.SWEEP}': set it to a name in the MLflow UI."
            )
    return list({run.info.run_id: run for run in found}.values())


def name_before(name: str, when: datetime) -> str:
    """Name that a sweep gets when a new sweep begins under its name."""
    return f"{name} before {when:%Y-%m-%d %H:%M:%S}"


def was_named(run: MlflowRun, name: str) -> bool:
    """Whether a sweep had a name until a new sweep began under that name."""
    before = re.escape(name) + r" before \d{4}-\d\d-\d\d \d\d:\d\d:\d\d"
    return re.fullmatch(before, run.data.tags.get(Tag.SWEEP, "")) is not None


def is_pruned(run: MlflowRun) -> bool:
    """Whether a search stopped the trial early."""
    return run.data.tags.get(Tag.PRUNED) == "true"


def is_diverged(run: MlflowRun) -> bool:
    """Whether the trial's loss stopped being finite."""
    return run.data.tags.get(Tag.DIVERGED) == "true"


def best_epoch(run: MlflowRun) -> int | None:
    """Epoch, from 0, of a trial's best weights; None if it has none."""
    found = run.data.tags.get(Tag.BEST_EPOCH, "None")
    return None if found == "None" else int(found)


def attempts(run: MlflowRun) -> int:
    """How often a trial was begun."""
    return int(run.data.tags.get(Tag.ATTEMPTS, 1))


def job_of(run: MlflowRun, unknown: int = 0) -> int:
    """Number of a trial's job in its sweep."""
    return int(run.data.tags.get(Tag.JOB, unknown))


def is_reused(run: MlflowRun) -> bool:
    """Whether a trial was trained for another sweep, whose run has its files."""
    return Tag.REUSED_FROM in run.data.tags


def source_of(run: MlflowRun) -> str:
    """Id of the run that trained a trial and has its files: the run itself, or the one that it reuses."""
    return str(run.data.tags.get(Tag.REUSED_FROM, run.info.run_id))


def setting(run: MlflowRun, key: str) -> str | None:
    """Value of a config key, or option of a config group, in a trial; None if the trial did not record it."""
    params = run.data.params
    return params.get(key) or upgrade_params(params).get(key, params.get(key, run.data.tags.get(key)))


def overrides_of(run: MlflowRun) -> list[str]:
    """Overrides of a trial."""
    return list(json.loads(run.data.tags.get(Tag.OVERRIDES, "[]")))


def overridden(run: MlflowRun) -> dict[str, str]:
    """Values of a trial's overrides by key."""
    pairs = (override.lstrip("+~").partition("=") for override in overrides_of(run))
    return {key: value for key, _, value in pairs}


def measured(run: MlflowRun) -> dict[str, float]:
    """A run's metrics, without system metrics."""
    return {key: value for key, value in run.data.metrics.items() if not is_system(key)}


def find_run(run_id: str, root: str | Path, uri: str | None) -> tuple[Store, MlflowRun]:
    """A run that has trained weights, and its store.

    For a reused trial, this is the run that trained it and has its files.

    Raises
    ------
    UserError
        If the store cannot be used, or the run does not exist, is a sweep, or has no weights.
    """
    store = find_store(root, uri)
    try:
        run = store.client.get_run(run_id)
        run = store.client.get_run(source_of(run))
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            raise UserError(
                f"There is no run {run_id} in {store.uri}: take an id from {File.RESULTS} or the UI."
            ) from error
        raise UserError(f"The MLflow store {store.uri} cannot be used: {summarised(error)}") from error
    if run.data.tags.get(Tag.KIND) == Kind.SWEEP:
        best = run.data.tags.get(Tag.BEST_RUN)
        advice = f"its best is run={best}" if best else f"its {File.RESULTS} lists them"
        raise UserError(f"Run {run_id} is a sweep: choose one of its trials ({advice}).")
    if run.info.status != Status.FINISHED:
        raise UserError(f"Run {run_id} is {run.info.status.lower()}, not finished: it has no weights to use.")
    if run.data.tags.get(Tag.BEST_EPOCH) == "None":
        raise UserError(f"Run {run_id} has no weights, since its loss was never finite: choose another run.")
    return Store(store.client, store.uri, run.info.experiment_id, store.root), run


def claim_of(run: MlflowRun) -> int:
    """Number of a run's claim; 0 if an earlier version began the run."""
    return int(run.data.tags.get(Tag.CLAIM, 0))


def standing(runs: Iterable[MlflowRun]) -> list[MlflowRun]:
    """Those runs of a sweep that stand for its slots, in the order of its jobs.

    Trials with an earlier form of the configuration do not count if there is one with a later form.
    """
    chosen = [slot[-1] for slot in _by_slot(runs)]
    return sorted(chosen, key=job_of)


def left_out(runs: Iterable[MlflowRun]) -> list[str]:
    """Remarks on the runs of a sweep that do not stand for their slots."""
    runs = list(runs)
    excluded = []
    old = len(runs) - len(_of_last_form(runs))
    before = [f"Left out: {old} trial{'s' * (old > 1)} of an earlier form of the configuration."] if old else []
    for *earlier, chosen in _by_slot(runs):
        for run in earlier:
            differing = [name for tag, name in _REASONS.items() if _differs(run, chosen, tag)]
            reason = f"other {', '.join(differing)}" if differing else "the same trial, trained once more"
            if run.info.status != Status.FINISHED:
                reason = run.info.status.lower()
            excluded.append(f"run {run.info.run_id[:8]} of trial {chosen.data.tags.get(Tag.JOB, '?')} ({reason})")
    if not excluded:
        return before
    more = f" and {len(excluded) - _NAMED} more" if len(excluded) > _NAMED else ""
    return [*before, f"Left out, since another run stands for the same trial: {', '.join(excluded[:_NAMED])}{more}."]


def _differs(run: MlflowRun, other: MlflowRun, tag: str) -> bool:
    # A run that failed early has not recorded all tags.
    return tag in run.data.tags and tag in other.data.tags and run.data.tags[tag] != other.data.tags[tag]


def _by_slot(runs: Iterable[MlflowRun]) -> list[Sequence[MlflowRun]]:
    """Runs of each slot; the last one stands for the slot."""
    slots: defaultdict[str, list[MlflowRun]] = defaultdict(list)
    for run in _of_last_form(list(runs)):
        if Tag.SLOT in run.data.tags:
            slots[run.data.tags[Tag.SLOT]].append(run)
        elif Tag.SUPERSEDED not in run.data.tags:
            slots[run.info.run_id].append(run)
    return [sorted(slot, key=precedence) for slot in slots.values()]


def form_of(run: MlflowRun) -> int:
    """Version of the form of the configuration of a trial."""
    return int(run.data.tags.get(Tag.FORM, 1))


def _of_last_form(runs: Sequence[MlflowRun]) -> list[MlflowRun]:
    last = max(map(form_of, runs), default=1)
    return [run for run in runs if form_of(run) == last]


def precedence(run: MlflowRun) -> tuple[int, bool, int]:
    """Sort key for the runs of a slot: the run that stands for it comes last.

    Two machines that work on one search at the same time may claim with the same number.
    """
    return claim_of(run), run.info.status == Status.FINISHED, run.info.start_time


def metrics_sum(metrics: Mapping[str, float]) -> str:
    """Hash of the finite metrics of the best weights; stores change values that are not finite."""
    best = {name: float(value) for name, value in metrics.items() if is_best(name)}
    lines = [f"{name} {value!r}" for name, value in sorted(best.items()) if math.isfinite(value)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def status_of(run: MlflowRun) -> str:
    """MLflow's status of a run, or DAMAGED if its metrics differ from those that were recorded."""
    recorded = run.data.tags.get(Tag.METRICS_SUM)
    intact = run.info.status != Status.FINISHED or recorded is None or recorded == metrics_sum(run.data.metrics)
    return str(run.info.status) if intact else Status.DAMAGED
