"""What was trained before: MLflow's runs are the ledger."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from filelock import Timeout
from mlflow.entities import Run as MlflowRun
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from ecgexp.errors import UserError
from ecgexp.reports.sweep import SUPERSEDED, is_pruned
from ecgexp.sweeps.identity import cell
from ecgexp.sweeps.job import Job
from ecgexp.tracking.run import Run
from ecgexp.tracking.store import Store

# Tags that describe the job, not the training that is reused.
_OF_THE_JOB = ("overrides", "job", "attempts")


class RetriesExhausted(UserError):
    """The trial failed before, as often as it may."""


@contextmanager
def exclusive(store: Store, name: str, wait: bool) -> Iterator[None]:
    """Keep other processes from the trial of this identity until the body ends, or the process dies.

    Parameters
    ----------
    store : Store
        Where the trial is recorded.
    name : str
        Its identity.
    wait : bool
        Wait for a process that has it; else go on without.
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


def find_earlier(store: Store, tags: Mapping[str, Any], job: Job, max_retries: int) -> MlflowRun | None:
    """Find a run to take over: finished, or to be continued.

    Parameters
    ----------
    store : Store
        Where to look.
    tags : mapping
        The trial's ``cell`` and ``identity``.
    job : Job
        That trains it.
    max_retries : int
        A trial that failed more often is not tried again.

    Returns
    -------
    MlflowRun or None
        With status FINISHED: its result counts. Else: to be gone on with.

    Raises
    ------
    RetriesExhausted
        Where it failed too often.
    """
    if job.parent is None:
        same = store.search(f"tags.identity = '{tags['identity']}' and attributes.status = 'KILLED'")
        alone = [run for run in same if MLFLOW_PARENT_RUN_ID not in run.data.tags]
        return alone[-1] if alone else None
    for run in store.search(f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{job.parent}' and tags.cell = '{tags['cell']}'"):
        if SUPERSEDED in run.data.tags or not is_own(run, job):
            continue
        if run.data.tags.get("identity", tags["identity"]) != tags["identity"]:
            store.client.set_tag(
                run.info.run_id, SUPERSEDED, "the data, the device, the threads or the precision changed"
            )
            continue
        failures = int(run.data.tags.get("attempts", 1))
        if run.info.status == "FAILED" and failures > max_retries:
            error = run.data.tags.get("error", "no reason was noted")
            raise RetriesExhausted(f"{error} (failed {failures} times; sweep.max_retries={max_retries})")
        return run
    finished = store.search(f"tags.identity = '{tags['identity']}' and attributes.status = 'FINISHED'")
    whole = [run for run in finished if not is_pruned(run)]
    return whole[-1] if whole else None


def begin_lost(store: Store, config: Mapping[str, Any], job: Job) -> str:
    """Begin, or go on with, the run of a trial whose process died before it could do so; returns its id."""
    cell_hash = cell(dict(config))
    same = store.search(f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{job.parent}' and tags.cell = '{cell_hash}'")
    own = [run for run in same if SUPERSEDED not in run.data.tags and is_own(run, job)]
    earlier = own[-1] if own else None
    attempts = 1 if earlier is None else int(earlier.data.tags.get("attempts", 1)) + 1
    tags = {"kind": "trial", **job.choices, "overrides": json.dumps(job.overrides), "job": job.number}
    return Run(store, job.name, {**tags, "cell": cell_hash, "attempts": attempts}, job.parent, earlier).id


def is_own(run: MlflowRun, job: Job) -> bool:
    """Whether a run is what this job, started before, left.

    A cell is in a grid once, wherever it stands there; a search may propose the same settings again.
    """
    same = run.data.tags.get(MLFLOW_PARENT_RUN_ID) == job.parent
    return same and (job.study is None or run.data.tags.get("job") == str(job.number))


def reuse(store: Store, source: MlflowRun, job: Job, tags: Mapping[str, Any]) -> MlflowRun:
    """Record in a sweep that another one trained this trial already; the files stay with that run."""
    known = {
        key: value
        for key, value in source.data.tags.items()
        if key not in _OF_THE_JOB and not key.startswith("mlflow.")
    }
    origin = source.data.tags.get("reused_from", source.info.run_id)
    same_commit = tags.get("git_commit") == known.get("git_commit")
    marks = {"job": tags["job"], "overrides": tags["overrides"], "reused_from": origin}
    if not same_commit:
        marks["reused_from_commit"] = known.get("git_commit", "unknown")
    with Run(store, job.name, {**known, **marks}, job.parent) as run:
        run.log_params(source.data.params)
        run.log_metrics({key: value for key, value in source.data.metrics.items() if not key.startswith("system/")})
    return store.client.get_run(run.id)
