"""The same command lines with real records."""

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
    # Means and deviations of the leads contain some information on the labels (about 0.7), but not most of it.
    assert 0.6 < max(best_metrics(run)["auroc_macro"] for run in runs) < 0.9


def test_the_nets_of_beats_train_on_both_splits_and_every_table_names_the_split(mitdb_folder, tmp_path):
    swept = ("model=convblocks,recurrent", "dataset.split=random,interpatient")
    real = ("dataset=mitbih", f"dataset.root={mitdb_folder}", "dataset.beats_per_class=50", "++model.hidden=8")
    rest = ("max_epochs=1", "trainer=cpu", "trainer.threads=1", "tracking.system_metrics=false")
    done = ecgexp(tmp_path, "-m", *swept, *real, *rest, "tracking.log_model=all").expect()
    table, _, _ = done.stdout.partition("Best:")
    for text in ("all results are too good", "201 (DS1: training or validation) and 202 (DS2: test)"):
        assert table.count(text) == 1
    runs = trials(tmp_path)
    assert [run.info.status for run in runs] == ["FINISHED"] * 4
    for run in runs:
        ids, true, probability, labels = predictions(tmp_path, run)
        assert labels == ["N", "S", "V", "F", "Q"]
        assert (true.sum(axis=1) == 1).all() and (true.sum(axis=0) <= 50).all()
        assert probability.sum(axis=1) == pytest.approx(1, abs=1e-5)
        data = json.loads(artifact(tmp_path, run, "data.json").read_text())
        counts, random = data["counts"], run.data.params["dataset.split"] == "random"
        assert "test" not in counts and counts["warning"] == run.data.tags["warning"]
        assert ("too good" in run.data.tags["warning"]) == random
        assert {one.partition("/")[0] for one in ids} == set(counts["recordings"]["val"])
        assert (len(counts["shared_patients"]) > 40) == random
        assert run.outputs.model_outputs  # exported
