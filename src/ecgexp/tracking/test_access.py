"""The ledger of looks at the test fold: tags on the run and on each sweep that it is a trial of.

Whoever chooses between trials after a look at the test fold has trained on it. So a look is allowed, but noted
before its result is known, and can be counted by every report after.
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
from ecgexp.tracking.names import Tag, has_tag, is_look, look, where
from ecgexp.tracking.store import Store


def note_look(store: Store, run: MlflowRun, details: Mapping[str, Any]) -> tuple[int, str]:
    """Note that the test fold is looked at with a run.

    A trial that other sweeps took over is theirs as well, so each of them is told.

    Parameters
    ----------
    store : Store
        Where the run is kept.
    run : MlflowRun
        The run that has the weights.
    details : mapping
        What else to note, JSON-able: ``records`` (how many), ``data`` (their hash) and ``place`` (of the files and
        metrics) tell looks at different test records apart.

    Returns
    -------
    number : int
        Of this look, from 1: at the test fold of the sweep, of several the one that looked most often.
    what : {'sweep', 'run'}
        What has been counted: the run where it is no trial of a sweep.
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
        # Each look has a tag of its own, so that two at a time are both counted.
        store.client.set_tag(one, look(now), json.dumps(entry))
        counts[one] = len(looks(store, one))
        store.client.log_batch(one, tags=[RunTag(Tag.LOOKS, str(counts[one]))])
    if sweeps:
        return max(counts[sweep] for sweep in sweeps), "sweep"
    return counts[run.info.run_id], "run"


def looks(store: Store, run_id: str) -> list[dict[str, Any]]:
    """Looks at the test fold with a run, or with any trial of a sweep, the earliest first.

    A trial was looked at with each run that is equal to it, whoever trained that and has deleted it since: with the
    one that it reuses, for one.

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
        where known, and what `note_look` was told.
    """
    run = store.client.get_run(run_id)
    own = replace(store, experiment_id=run.info.experiment_id)
    seen = own.search(has_tag(Tag.LOOKS), ViewType.ALL)
    concerned = [run]
    if seen:
        concerned += own.search(where({Tag.PARENT: run_id}), ViewType.ALL)
        tags = [one.data.tags for one in concerned]
        equal = {one.get(Tag.IDENTITY) for one in tags} | {one.get(Tag.REUSED_FROM) for one in tags}
        concerned += [one for one in seen if equal & {one.info.run_id, one.data.tags.get(Tag.IDENTITY, "none")}]
    found = {key: text for one in concerned for key, text in one.data.tags.items() if is_look(key)}
    return [json.loads(found[key]) for key in sorted(found)]


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return "unknown"
