"""The same words on real records."""

from __future__ import annotations

import json

import pandas as pd
import pytest
from commands import SENTENCE, artifact, best_metrics, ecgexp, only, parents, predictions, trials

pytestmark = pytest.mark.slow


def test_the_sentence_trains_on_ptbxl(ptbxl_folder, tmp_path):
    real = ("dataset=ptbxl", f"dataset.root={ptbxl_folder}", "model=linear", "max_epochs=3")
    rest = ("trainer=cpu", "trainer.threads=1", "tracking.system_metrics=false")
    done = ecgexp(tmp_path, *SENTENCE, *real, *rest).expect()
    assert "Best: trial" in done.stdout
    parent = only(parents(tmp_path))
    runs = trials(tmp_path)
    assert [run.info.status for run in (parent, *runs)] == ["FINISHED"] * 5

    database = pd.read_csv(ptbxl_folder / "ptbxl_database.csv", dtype={"ecg_id": str}).set_index("ecg_id")
    for run in runs:
        ids, true, _, _ = predictions(tmp_path, run)
        assert (database.strat_fold[ids] == 9).all()
        counts = json.loads(artifact(tmp_path, run, "data.json").read_text())["counts"]
        assert counts["val"]["records"] == len(ids)
        assert list(counts["val"]["labels"].values()) == true.sum(axis=0).tolist()
        assert "labels" not in counts.get("test", {})
    # Means and deviations of the leads tell something of the heart (about 0.7), but far from all.
    assert 0.6 < max(best_metrics(run)["auroc_macro"] for run in runs) < 0.9
