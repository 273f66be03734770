"""The ledger of test-set accesses: tags on the run and on each sweep that the run is a trial of.

Whoever chooses between trials after a test-set access uses the test set for training. So an access is allowed, but it
is recorded before its result is known, and each later report counts it.
"""

from __future__ import annotations

import getpass
import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mlflow.entities import Run as MlflowRun
from mlflow.entities import RunTag, ViewType

from ecgexp.tracking import provenance
from ecgexp.tracking.names import Tag, access_tag, has_tag, is_access, where
from ecgexp.tracking.store import Store


def note_access(store: Store, run: MlflowRun, details: Mapping[str, Any]) -> tuple[int, str]:
    """Record a test-set access with a run, in the run and in each sweep that reuses the trial.

    Parameters
    ----------
    store : Store
        Store of the run.
    run : MlflowRun
        The run that has the weights.
    details : mapping
        Further values to record as JSON: ``records`` (number), ``data`` (hash of the records) and ``place`` (of the
        files and metrics) distinguish accesses to different test records.

    Returns
    -------
    number : int
        Number of this access in the sweep, from 1; of several sweeps, the highest number.
    what : {'sweep', 'run'}
        Whether the accesses of a sweep are counted, or those of a run that belongs to no sweep.
    """
    now = datetime.now(UTC)
    entry = {
        "when": now.isoformat(timespec="seconds"),
        "by": f"{_user()}@{provenance.host()}",
        **provenance.git_state(Path.cwd()),
        "run": run.info.run_id,
        **details,
    }
    copies = store.search(where({Tag.REUSED_FROM: run.info.run_id}))
    trials = {run.info.run_id, *(copy.info.run_id for copy in copies)}
    sweeps = {parent for trial in (run, *copies) if (parent := trial.data.tags.get(Tag.PARENT))}
    counts = {}
    for one in (*trials, *sweeps):
        # Each access has its own tag, so that two at the same time are both counted.
        store.client.set_tag(one, access_tag(now), json.dumps(entry))
        counts[one] = len(accesses(store, one))
        store.client.log_batch(one, tags=[RunTag(Tag.TEST_ACCESSES, str(counts[one]))])
    if sweeps:
        return max(counts[sweep] for sweep in sweeps), "sweep"
    return counts[run.info.run_id], "run"


def accesses(store: Store, run_id: str) -> list[dict[str, Any]]:
    """Test-set accesses with a run, or with any trial of a sweep, the earliest first.

    Accesses with equal runs count, too, such as the run that a trial reuses, even if it has been deleted since.

    Parameters
    ----------
    store : Store
        Store of the run.
    run_id : str
        Id of the run of a trial or of a sweep.

    Returns
    -------
    list of dict
        ``when`` (ISO 8601, UTC), ``by`` (user@host), ``run`` (the trial's id), ``git_commit`` and ``git_dirty``
        where known, and the details that `note_access` recorded.
    """
    run = store.client.get_run(run_id)
    own = replace(store, experiment_id=run.info.experiment_id)
    accessed = own.search(has_tag(Tag.TEST_ACCESSES), ViewType.ALL)
    runs = [run]
    if accessed:
        runs += own.search(where({Tag.PARENT: run_id}), ViewType.ALL)
        tags = [one.data.tags for one in runs]
        equal = {one.get(Tag.IDENTITY) for one in tags} | {one.get(Tag.REUSED_FROM) for one in tags}
        runs += [one for one in accessed if equal & {one.info.run_id, one.data.tags.get(Tag.IDENTITY, "none")}]
    found = {key: text for one in runs for key, text in one.data.tags.items() if is_access(key)}
    return [json.loads(found[key]) for key in sorted(found)]


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return "unknown"
