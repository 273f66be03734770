"""What a sweep's own run says of its best trial."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pandas as pd
import pytest

from ecgexp.reports.trial import validation_fingerprint
from ecgexp.sweeps.session import _record_best
from ecgexp.tracking.run import Run
from ecgexp.tracking.store import open_store
from trained import trained_once

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
