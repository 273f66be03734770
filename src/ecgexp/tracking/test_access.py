"""The ledger of test-set accesses: tags on the run and on each sweep that the run is a trial of.

A choice between trials after a test-set access has trained on the test set. So an access is allowed, but it is noted
before its result is known, and each later report counts it.
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
    """Note a test-set access with a run.

    Each sweep that reuses the trial gets the note, too.

    Parameters
    ----------
    store : Store
        Where the run is kept.
    run : MlflowRun
        The run that has the weights.
    details : mapping
        What else to note, JSON-able: ``records`` (how many), ``data`` (their hash) and ``place`` (of the files and
        metrics) tell accesses to different test records apart.

    Returns
    -------
    number : int
        Number of this access in the sweep, from 1; of several sweeps, the highest number.
    what : {'sweep', 'run'}
        Whose accesses are counted: the run's if it is no trial of a sweep.
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

    The accesses with each equal run count, too: with the run that a trial reuses, for example, even if it has been
    deleted since.

    Parameters
    ----------
    store : Store
        Where it is kept.
    run_id : str
        Of a trial or of a sweep.

    Returns
    -------
    list of dict
        ``when`` (ISO 8601, UTC), ``by`` (user@host), ``run`` (the trial's id), ``git_commit`` and ``git_dirty``
        where known, and what `note_access` was told.
    """
    run = store.client.get_run(run_id)
    own = replace(store, experiment_id=run.info.experiment_id)
    seen = own.search(has_tag(Tag.TEST_ACCESSES), ViewType.ALL)
    concerned = [run]
    if seen:
        concerned += own.search(where({Tag.PARENT: run_id}), ViewType.ALL)
        tags = [one.data.tags for one in concerned]
        equal = {one.get(Tag.IDENTITY) for one in tags} | {one.get(Tag.REUSED_FROM) for one in tags}
        concerned += [one for one in seen if equal & {one.info.run_id, one.data.tags.get(Tag.IDENTITY, "none")}]
    found = {key: text for one in concerned for key, text in one.data.tags.items() if is_access(key)}
    return [json.loads(found[key]) for key in sorted(found)]


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return "unknown"
