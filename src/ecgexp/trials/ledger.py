"""The ledger of trials: the runs in MLflow show what was trained before."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from filelock import Timeout
from mlflow.entities import LifecycleStage
from mlflow.entities import Run as MlflowRun
from mlflow.exceptions import MlflowException

from ecgexp.config.upgrade import FORM
from ecgexp.errors import UserError
from ecgexp.tracking.names import Kind, Status, Tag, is_of_best_labels, where
from ecgexp.tracking.run import Run
from ecgexp.tracking.runs import (
    attempts,
    claim_of,
    is_pruned,
    is_reused,
    job_of,
    measured,
    precedence,
    source_of,
    status_of,
)
from ecgexp.tracking.store import Store
from ecgexp.trials.identity import cell, slot
from ecgexp.trials.job import Job

# Tags of a training and its results. The record of a reused trial copies them; its other tags are its own.
_TRAINING_TAGS = (
    Tag.GIT_COMMIT, Tag.GIT_DIRTY, Tag.PACKAGE, Tag.TORCH, Tag.DEVICE, Tag.THREADS, Tag.DIVERGED, Tag.BEST_EPOCH,
    Tag.PRUNED, Tag.VALIDATION, Tag.METRICS_SUM,
)  # fmt: skip


class RetriesExhausted(UserError):
    """The trial failed before, as often as sweep.max_retries allows."""


@dataclass(frozen=True)
class Claim:
    """The run that is to stand for a trial.

    Attributes
    ----------
    earlier : MlflowRun, optional
        A run to reuse if it is FINISHED, else to resume; None if the trial has to be trained from the start.
    is_own : bool
        Whether `earlier` is this sweep's own run for this trial.
    tags : dict of str to str
        Tags to set on the run that stands for the trial.
    """

    earlier: MlflowRun | None
    is_own: bool
    tags: dict[str, str]

    @property
    def attempts(self) -> int:
        """How often the trial was begun, including this time."""
        return 1 if self.earlier is None else attempts(self.earlier) + 1


@contextmanager
def exclusive(store: Store, name: str, wait: bool) -> Iterator[None]:
    """Lock the trial of an identity against other processes until the body ends, or this process dies.

    Parameters
    ----------
    store : Store
        Store of the trial.
    name : str
        Identity of the trial.
    wait : bool
        Whether to wait for a process that has the lock; else continue without the lock.
    """
    lock = store.lock(name)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if wait:
            print("Another process trains this trial; waiting for it.", file=sys.stderr)
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


def slot_of(config: Mapping[str, Any], job: Job) -> str:
    """Identifies a trial within its sweep: see `slot`; in a search, whose settings may repeat, the trial's number."""
    return f"trial {job.number}" if job.study is not None else slot(dict(config), job.overrides, job.swept)


def claim(store: Store, tags: Mapping[str, Any], job: Job, max_retries: int, resume: bool = True) -> Claim:
    """Find the run that is to stand for a trial: an earlier one with its identity, or none yet.

    Parameters
    ----------
    store : Store
        Store of the runs.
    tags : mapping
        The trial's `Tag.CELL`, `Tag.IDENTITY` and `Tag.SLOT`.
    job : Job
        The job that runs the trial.
    max_retries : int
        A trial that failed more often is not retried.
    resume : bool
        Whether earlier runs may be reused or resumed.

    Raises
    ------
    RetriesExhausted
        If the trial failed too often.
    """
    if job.parent is None:
        return Claim(_interrupted_alone(store, tags[Tag.IDENTITY]) if resume else None, True, {})
    own = _own_runs(store, tags, job)
    marks = _next_claim(tags, own)
    if not resume:
        return Claim(None, False, marks)
    same = [run for run in own if run.data.tags.get(Tag.IDENTITY, tags[Tag.IDENTITY]) == tags[Tag.IDENTITY]]
    earlier = _last_usable(store, same) or next((run for run in same[::-1] if run.info.status != Status.FINISHED), None)
    if earlier is not None:
        _check_retries(earlier, max_retries)
        stands = earlier is own[-1] and Tag.SLOT in earlier.data.tags
        return Claim(earlier, True, {} if stands else marks)
    elsewhere = store.search(where({Tag.IDENTITY: tags[Tag.IDENTITY]}, Status.FINISHED))
    return Claim(_last_usable(store, [run for run in elsewhere if not is_pruned(run)]), False, marks)


def claim_unidentified(store: Store, tags: Mapping[str, Any], job: Job) -> Claim:
    """Find the run that is to record the failure of a trial whose identity is not known; see `claim`."""
    if job.parent is None:
        return Claim(None, True, {})
    own = _own_runs(store, tags, job)
    stands = own[-1] if own and own[-1].info.status != Status.FINISHED else None
    return Claim(stands, True, _next_claim(tags, own))


def use_finished(store: Store, claimed: Claim, job: Job, tags: Mapping[str, Any]) -> MlflowRun:
    """Let a finished run stand for a trial; returns it, or a new record of it if another sweep trained it."""
    assert claimed.earlier is not None
    if not claimed.is_own:
        return _reuse(store, claimed.earlier, job, {**tags, **claimed.tags})
    for tag, value in claimed.tags.items():
        store.client.set_tag(claimed.earlier.info.run_id, tag, value)
    return claimed.earlier


def begin_for_dead(store: Store, config: Mapping[str, Any], job: Job) -> str:
    """Begin or resume the run of a trial for its process, which died before it did so; returns the run's id."""
    tags = tags_of(config, job)
    claimed = claim_unidentified(store, tags, job)
    tags |= {**claimed.tags, Tag.ATTEMPTS: claimed.attempts}
    return Run(store, job.name, tags, job.parent, claimed.earlier).id


def tags_of(config: Mapping[str, Any], job: Job) -> dict[str, Any]:
    """Tags of every trial, including one whose configuration or data cannot be used."""
    return {
        Tag.KIND: Kind.TRIAL,
        **job.choices,
        Tag.OVERRIDES: json.dumps(job.overrides),
        Tag.JOB: job.number,
        Tag.FORM: FORM,
        Tag.CELL: cell(dict(config)),
        Tag.SLOT: slot_of(config, job),
    }


def _interrupted_alone(store: Store, identity: str) -> MlflowRun | None:
    same = store.search(where({Tag.IDENTITY: identity}, Status.KILLED))
    alone = [run for run in same if Tag.PARENT not in run.data.tags]
    return alone[-1] if alone else None


def _own_runs(store: Store, tags: Mapping[str, Any], job: Job) -> list[MlflowRun]:
    """Runs of a sweep for one of its slots, the one that stands for it last."""
    parent = {Tag.PARENT: str(job.parent)}
    found = store.search(where({**parent, Tag.SLOT: tags[Tag.SLOT]}))
    # Runs of an earlier version have no slot. They get it here, because from now on a later run may stand for it.
    for run in store.search(where({**parent, Tag.CELL: tags[Tag.CELL]})):
        if Tag.SLOT not in run.data.tags and (job.study is None or job_of(run, -1) == job.number):
            store.client.set_tag(run.info.run_id, Tag.SLOT, tags[Tag.SLOT])
            found.append(run)
    return sorted(found, key=precedence)


def _check_retries(run: MlflowRun, max_retries: int) -> None:
    failures = attempts(run)
    if run.info.status == Status.FAILED and failures > max_retries:
        error = run.data.tags.get(Tag.ERROR, "no reason was recorded")
        raise RetriesExhausted(f"{error.rstrip('.')} (failed {failures} times; sweep.max_retries={max_retries}).")


def _next_claim(tags: Mapping[str, Any], own: Sequence[MlflowRun]) -> dict[str, str]:
    return {Tag.SLOT: str(tags[Tag.SLOT]), Tag.CLAIM: str(1 + max(map(claim_of, own), default=0))}


def _last_usable(store: Store, runs: Sequence[MlflowRun]) -> MlflowRun | None:
    """The last finished run whose files still exist: the source of a reused trial may have been deleted since."""
    finished = [run for run in runs if status_of(run) == Status.FINISHED]
    trained = [run for run in finished if not is_reused(run)]
    return trained[-1] if trained else next((run for run in finished[::-1] if _has_its_source(store, run)), None)


def _has_its_source(store: Store, run: MlflowRun) -> bool:
    try:
        source = store.client.get_run(source_of(run))
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return False
    return bool(source.info.lifecycle_stage == LifecycleStage.ACTIVE)


def _reuse(store: Store, source: MlflowRun, job: Job, tags: Mapping[str, Any]) -> MlflowRun:
    """Record in a sweep a trial that another sweep trained; the files stay with the other run."""
    copied = {key: value for key, value in source.data.tags.items() if key in _TRAINING_TAGS or is_of_best_labels(key)}
    marks = {Tag.REUSED_FROM: source_of(source)}
    if tags.get(Tag.GIT_COMMIT) != copied.get(Tag.GIT_COMMIT):
        marks[Tag.REUSED_FROM_COMMIT] = copied.get(Tag.GIT_COMMIT, "unknown")
    own = {key: value for key, value in tags.items() if key not in _TRAINING_TAGS}
    with Run(store, job.name, {**own, **copied, **marks}, job.parent) as run:
        run.log_params(source.data.params)
        run.log_metrics(measured(source))
    return store.client.get_run(run.id)
