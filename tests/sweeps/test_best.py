"""The output at the end of a sweep: its best trial, and trials without a result."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pandas as pd
import pytest
from omegaconf import OmegaConf
from trained import trained_once

from ecgexp.reports.trial import validation_fingerprint
from ecgexp.sweeps import session
from ecgexp.sweeps.session import _Plan, _record_best
from ecgexp.sweeps.status import DONE, Board, TrialStatus
from ecgexp.tracking.run import Run
from ecgexp.tracking.store import open_store
from sweeps import Sweep, new_store

F1 = "best/val/mlcm_f1_macro"


def test_where_no_trial_is_the_best_of_all_the_sweep_forgets_which_one_was(tmp_path):
    store = open_store(SimpleNamespace(root=str(tmp_path), uri=None, experiment="ecgexp", patience=0.0))
    rows = [pd.Series({"trial": i, "source_run_id": f"run{i}", "lr": "0.1", F1: 0.5 + i / 10}) for i in range(2)]
    with Run(store, "sweep", {"kind": "sweep"}) as run:
        _record_best(run, [], F1, ["lr"])
        _record_best(run, rows[:1], F1, ["lr"])
        data = store.client.get_run(run.id).data
        assert (data.tags["best_run_id"], data.tags["best_trial"]) == ("run0", "trial 0 lr=0.1")
        assert data.metrics[F1] == 0.5
        _record_best(run, rows, F1, ["lr"])  # a fold was added
    data = store.client.get_run(run.id).data
    assert not {"best_run_id", "best_trial"} & set(data.tags)
    assert math.isnan(data.metrics[F1])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["grid", "search"])
@pytest.mark.parametrize("planned", [3, 4, 9])
def test_trials_without_a_result_are_counted_after_the_table(tmp_path, capsys, kind, planned):
    sweep = Sweep(new_store(tmp_path))
    board = Board(sweep.store.root, sweep.parent)
    for job, status in enumerate(("FINISHED", "FINISHED", "KILLED")):
        sweep.trial(f"lr=0.{job + 1}", status=status)
        board.write(job, TrialStatus("done" if status == "FINISHED" else "running", [], 0.0))
    plan = _Plan(
        OmegaConf.create({"objective": F1, "tracking": {"log_model": "none"}}),
        "made",
        [[f"lr=0.{job + 1}"] for job in range(planned)] if kind == "grid" else None,
        SimpleNamespace(n_trials=planned) if kind == "search" else None,  # type: ignore[arg-type]
    )
    continued = sweep.store.client.get_run(sweep.parent)
    with pytest.MonkeyPatch.context() as patch, Run(sweep.store, "made", {}, continues=continued) as run:
        patch.setattr(session, "_write_study", lambda *_: None)
        patch.setattr(_Plan, "study", lambda *_: ("storage", "study"))
        session._report(run, plan)
    printed, left = capsys.readouterr().out, planned - 2
    told = f"Not complete: {left} of the {planned} trials {'has' if left == 1 else 'have'} no result."
    assert printed.index("killed") < printed.index(told) < printed.index("Best: trial ")
    table = sweep.store.root / "artifacts" / sweep.parent / "artifacts" / "table.txt"
    assert told in table.read_text()


def test_a_complete_sweep_has_no_remark(tmp_path):
    board = Board(tmp_path, "parent")
    for job, state in enumerate(DONE):
        board.write(job, TrialStatus(state, [], 0.0))
    results = pd.DataFrame({"status": ["FINISHED"] * len(DONE)})
    cells = [[f"lr={job}"] for job, _ in enumerate(DONE)]
    for given in ((cells, None), (None, SimpleNamespace(n_trials=len(DONE))), (None, None)):
        assert session._incomplete(_Plan(None, "made", *given), results, board) == []  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_trial_notes_which_records_it_was_validated_on(tmp_path_factory):
    trained = trained_once(tmp_path_factory.getbasetemp())
    table = trained.validation()
    labels = [name.removeprefix("true/") for name in table if name.startswith("true/")]
    targets = table[[f"true/{label}" for label in labels]].to_numpy()
    found = trained.client.get_run(trained.run_id).data.tags["validation_fingerprint"]
    assert found == validation_fingerprint(table["id"].to_numpy(dtype=str), targets, labels)
    other = targets.copy()
    other[0, 0] = 1 - other[0, 0]
    assert found != validation_fingerprint(table["id"].to_numpy(dtype=str), other, labels)
    assert found != validation_fingerprint(table["id"].to_numpy(dtype=str)[1:], targets[1:], labels)
