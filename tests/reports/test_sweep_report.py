from __future__ import annotations

import json
import warnings
from functools import partial
from types import SimpleNamespace

import pandas as pd
import pytest
from matplotlib.image import imread

from ecgexp.reports import tables as sweep_module
from ecgexp.reports.figures import heat_map
from ecgexp.reports.tables import (
    best_trial,
    best_trials,
    described,
    failures,
    objective_grid,
    set_name,
    sweep_results,
    sweep_table,
    swept_keys,
    validation_sets,
    write_sweep_report,
)
from ecgexp.tracking.names import Tag
from ecgexp.tracking.store import open_store

OBJECTIVE = "best/val/mlcm_f1_macro"


class Sweep:
    """A parent run whose trials a test writes down."""

    def __init__(self, store):
        self.store = store
        self.parent = self.run({"kind": "sweep"})
        self.count = 0

    def run(self, tags, metrics=None, status="FINISHED"):
        client = self.store.client
        run_id = client.create_run(self.store.experiment_id, tags=tags).info.run_id
        for name, value in (metrics or {}).items():
            client.log_metric(run_id, name, value)
        client.set_terminated(run_id, status)
        return run_id

    def trial(self, *overrides, status="FINISHED", error="", diverged=False, **metrics):
        tags = {
            "kind": "trial",
            "job": str(self.count),
            "mlflow.parentRunId": self.parent,
            "overrides": json.dumps(overrides),
            "diverged": str(diverged).lower(),
        }
        self.count += 1
        if error:
            tags["error"] = error
        named = {OBJECTIVE if name == "f1" else name: value for name, value in metrics.items()}
        return self.run(tags, named, status)

    def results(self):
        return sweep_results(self.store, self.parent)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return open_store(
        SimpleNamespace(root=str(tmp_path_factory.mktemp("store")), uri=None, experiment="ecgexp", patience=0.0)
    )


@pytest.fixture
def sweep(store):
    return Sweep(store)


def cells(table):
    """A printed table as a list of its lines' words, the headings first."""
    return [line.split() for line in table.splitlines()]


def test_results_have_a_row_per_trial_of_this_sweep_only(sweep, store):
    first = sweep.trial("lr=0.1", f1=0.5)
    second = sweep.trial("lr=0.2", f1=0.6)
    other = Sweep(store)
    other.trial("lr=0.3", f1=0.9)
    results = sweep.results()
    assert list(results["run_id"]) == [first, second]
    assert list(results[OBJECTIVE]) == [0.5, 0.6]
    assert list(results["trial"]) == [0, 1]


def test_a_sweep_may_have_more_trials_than_mlflow_gives_at_once(sweep, monkeypatch):
    pages = partial(sweep.store.client.search_runs, max_results=2)
    monkeypatch.setattr(sweep.store.client, "search_runs", pages)
    runs = [sweep.trial(f"seed={seed}") for seed in range(5)]
    assert list(sweep.results()["run_id"]) == runs


def test_a_metric_that_is_named_like_a_swept_key_does_not_take_its_place(sweep):
    # The learning rate at the end of training is a metric, the one that training began with an override.
    sweep.trial("lr=0.1", "scheduler=cosine", f1=0.5, lr=0.0)
    sweep.trial("lr=0.2", "scheduler=cosine", f1=0.6, lr=0.0)
    results = sweep.results()
    assert swept_keys(results) == ["lr"]
    assert list(results["lr"].astype(str)) == ["0.1", "0.2"]
    best = best_trial(results, OBJECTIVE)
    assert best is not None
    assert "lr=0.2" in described(best, ["lr"])


def test_swept_keys_are_those_that_differ_in_the_order_of_the_command_line(sweep):
    sweep.trial("optimizer=sgd", "seed=1", "lr=0.1", f1=0.5)
    sweep.trial("optimizer=adam", "seed=1", "lr=0.1", f1=0.5)
    sweep.trial("optimizer=adam", "seed=1", "lr=0.2", f1=0.5)
    assert swept_keys(sweep.results()) == ["optimizer", "lr"]


def test_overrides_may_be_added_deleted_or_hold_an_equals_sign(sweep):
    sweep.trial("+trainer.fast=1", "~scheduler", "++model.note='a=b'", f1=0.5)
    results = sweep.results()
    assert results["trainer.fast"][0] == "1"
    assert results["model.note"][0] == "'a=b'"


@pytest.mark.parametrize(("objective", "expected"), [(OBJECTIVE, "lr=0.2"), ("best/val/loss", "lr=0.1")])
def test_the_best_trial_has_the_largest_score_or_the_smallest_loss(sweep, objective, expected):
    sweep.trial("lr=0.1", f1=0.5, **{"best/val/loss": 0.3})
    sweep.trial("lr=0.2", f1=0.6, **{"best/val/loss": 0.4})
    best = best_trial(sweep.results(), objective)
    assert best is not None
    assert expected in described(best, ["lr"])


def test_a_trial_that_did_not_finish_is_never_the_best_and_is_named_with_its_error(sweep):
    sweep.trial("lr=0.1", f1=0.5)
    sweep.trial("lr=0.2", f1=0.9, status="FAILED", error="ValueError: no")
    sweep.trial("lr=0.3", f1=float("nan"))
    results = sweep.results()
    best = best_trial(results, OBJECTIVE)
    assert best is not None
    assert "lr=0.1" in described(best, ["lr"])
    (line,) = failures(results, ["lr"])
    assert "lr=0.2" in line
    assert "ValueError: no" in line


def test_the_warnings_of_the_data_stand_below_the_table(sweep, tmp_path):
    for lr in ("0.1", "0.2"):
        sweep.store.client.set_tag(sweep.trial(f"lr={lr}", f1=0.5), "warning", "It flatters.")
    sweep.trial("lr=0.3", f1=0.5)
    results = sweep.results()
    write_sweep_report(tmp_path, results, ["lr"], [OBJECTIVE])
    lines = (tmp_path / "table.txt").read_text().splitlines()
    assert len(lines) == 5 and lines[4] == "It flatters."
    assert lines == sweep_table(results, ["lr"], [OBJECTIVE]).splitlines()
    assert results["warning"].tolist() == ["It flatters.", "It flatters.", ""]


def test_without_a_finished_trial_there_is_a_table_but_no_best(sweep, tmp_path):
    sweep.trial("lr=0.1", status="FAILED", error="ValueError: no")
    sweep.trial("lr=0.2", status="KILLED")
    results = sweep.results()
    assert best_trial(results, OBJECTIVE) is None
    lines = cells(sweep_table(results, ["lr"], [OBJECTIVE]))
    assert ["failed" in lines[1], "killed" in lines[2]] == [True, True]
    write_sweep_report(tmp_path, results, ["lr"], [OBJECTIVE])
    assert (tmp_path / "table.txt").is_file()
    assert not (tmp_path / "heat_map.png").exists()


def test_the_table_shows_each_trial_and_marks_the_best(sweep):
    sweep.trial("optimizer=sgd", "lr=0.001", f1=0.25, **{"best/val/auroc_macro": 0.7})
    sweep.trial("optimizer=adam", "lr=0.01", f1=0.5, **{"best/val/auroc_macro": 0.8})
    sweep.trial("optimizer=adam", "lr=0.1", status="FAILED", error="broke")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lines = cells(sweep_table(sweep.results(), ["optimizer", "lr"], [OBJECTIVE]))
    assert lines[0] == ["trial", "optimizer", "lr", "status", "val/mlcm_f1_macro", "val/auroc_macro"]
    assert lines[1] == ["0", "sgd", "0.001", "finished", "0.2500", "0.7000"]
    assert lines[2] == ["*", "1", "adam", "0.01", "finished", "0.5000", "0.8000"]
    assert lines[3] == ["2", "adam", "0.1", "failed", "-", "-"]


def test_rows_of_one_training_are_named(sweep, store):
    first, second = (sweep.trial(f"lr={lr}", f1=0.5) for lr in (0.1, 0.2))
    for run, lr in ((first, 0.1), (second, 0.2), ("of another sweep", 0.3)):
        store.client.set_tag(sweep.trial(f"lr={lr}", "trainer.threads=1", f1=0.5), "reused_from", run)
    sweep.trial("lr=0.4", status="FAILED")
    results = sweep.results()
    told = "Each of these groups of trials is one training, so its results are equal: trials 0, 2; trials 1, 3."
    assert told in sweep_table(results, ["lr", "trainer.threads"], [OBJECTIVE])


def test_a_diverged_trial_is_called_so(sweep):
    sweep.trial("lr=1e30", f1=0.0, diverged=True)
    assert "diverged" in sweep_table(sweep.results(), [], [OBJECTIVE])


def test_the_grid_has_the_values_of_the_command_line_in_their_order_and_averages_repetitions(sweep):
    for lr in ("0.1", "0.02", "1e-5"):
        for optimizer, shift in (("sgd", 0), ("adam", 0.1)):
            for seed in (0, 1):
                sweep.trial(f"optimizer={optimizer}", f"lr={lr}", f1=float(lr) + shift + seed)
    results = sweep.results()
    grid = objective_grid(results, ["optimizer", "lr"], OBJECTIVE)
    assert list(grid.index) == ["sgd", "adam"]
    assert list(grid.columns) == ["0.1", "0.02", "1e-5"]
    assert grid.loc["adam", "0.02"] == pytest.approx(0.02 + 0.1 + 0.5)


@pytest.mark.parametrize("keys", [["a"], ["a", "b"], ["a", "b", "c"], ["a", "b", "c", "d"]])
def test_a_heat_map_is_drawn_over_any_number_of_swept_keys(sweep, tmp_path, keys):
    for number in range(2 ** len(keys)):
        values = [f"{key}={number >> place & 1}" for place, key in enumerate(keys)]
        sweep.trial(*values, f1=number / 10)
    write_sweep_report(tmp_path, sweep.results(), swept_keys(sweep.results()), [OBJECTIVE])
    assert (tmp_path / "heat_map.png").read_bytes().startswith(b"\x89PNG")


def test_a_heat_map_of_thousands_of_trials_is_still_a_picture(tmp_path):
    rows = [
        {"trial": i, "run_id": str(i), "status": "FINISHED", "diverged": False, "pruned": False, "reused": False,
         "warning": "", "validation_set": 1, "lr": str(i), OBJECTIVE: i / 3000}
        for i in range(3000)
    ]  # fmt: skip
    write_sweep_report(tmp_path, pd.DataFrame(rows), ["lr"], [OBJECTIVE])
    height, width = imread(tmp_path / "heat_map.png").shape[:2]
    assert 300 < width < height < 5000


def test_a_heat_map_leaves_missing_combinations_empty(sweep):
    sweep.trial("a=1", "b=1", f1=0.5)
    sweep.trial("a=2", "b=2", f1=0.6)
    grid = objective_grid(sweep.results(), ["a", "b"], OBJECTIVE)
    assert grid.isna().to_numpy().tolist() == [[False, True], [True, False]]


def test_results_are_written_as_they_are(sweep, tmp_path):
    sweep.trial("lr=0.1", "optimizer=sgd", f1=0.5)
    sweep.trial("lr=0.2", "optimizer=sgd", status="FAILED", error="ValueError: a, b")
    write_sweep_report(tmp_path, sweep.results(), ["lr"], [OBJECTIVE])
    table = pd.read_csv(tmp_path / "results.csv")
    assert list(table["lr"]) == [0.1, 0.2]
    assert list(table["status"]) == ["FINISHED", "FAILED"]
    assert table["error"][1] == "ValueError: a, b"


def test_a_sweep_without_trials_has_no_rows(sweep):
    assert sweep.results().empty


# --- several validation sets


def on(fingerprint, records="", **params):
    """Tags and parameters of a trial on some data."""
    tags = {"dataset": "folder", "dataset_fingerprint": fingerprint, **({Tag.VALIDATION: records} if records else {})}
    return SimpleNamespace(tags=tags, params={f"dataset.{key}": value for key, value in params.items()})


def runs_on(*data):
    """Finished runs, as many as there are of data."""
    return [
        SimpleNamespace(
            info=SimpleNamespace(run_id=str(number), status=getattr(one, "status", "FINISHED")),
            data=SimpleNamespace(tags=one.tags, params=one.params),
        )
        for number, one in enumerate(data)
    ]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ([on("a", "r"), on("a", "r")], [1, 1]),
        ([on("a", "r", val_fold="1"), on("b", "s", val_fold="2"), on("a", "r", val_fold="1")], [1, 2, 1]),
        # the same records read otherwise, or with other training records: as it was asked for
        ([on("a", "r", sampling_rate="100"), on("b", "r", sampling_rate="500")], [1, 1]),
        # the same settings, and yet other data: these were changed in between
        ([on("a", "r", sampling_rate="100"), on("b", "r", sampling_rate="100")], [1, 2]),
        ([on("a", "r", root="/one"), on("b", "r", root="/two"), on("a", "r", root="/copy")], [1, 2, 1]),
        # runs of a version that did not yet say which records they were validated on
        ([on("a"), on("a", "r"), on("b", "r", lead="I"), on("c")], [1, 1, 1, 2]),
        ([on(""), on("")], [1, 1]),
    ],
)
def test_validation_sets_are_of_the_same_records_with_the_same_labels(data, expected):
    assert validation_sets(runs_on(*data)) == expected


def test_trials_without_a_result_come_last_in_the_numbers_of_validation_sets():
    failed = on("")
    failed.status = "FAILED"
    assert validation_sets(runs_on(failed, on("a", "r"), on("b", "s"))) == [3, 1, 2]


@pytest.fixture
def folds(sweep):
    """Two folds, of which the second is easier; one trial failed before its data were known."""
    for fold, easy in (("1", 0.0), ("2", 0.3)):
        for lr in ("0.1", "0.2"):
            run = sweep.trial(f"dataset.val_fold={fold}", f"lr={lr}", f1=float(lr) + easy)
            sweep.store.client.set_tag(run, Tag.VALIDATION, fold)
    sweep.trial("dataset.val_fold=3", "lr=0.1", status="FAILED", error="no such fold")
    return sweep


def test_trials_of_different_validation_sets_are_not_ranked_against_each_other(folds):
    results = folds.results()
    assert results["validation_set"].tolist() == [1, 1, 2, 2, 3]
    assert best_trial(results, OBJECTIVE) is None
    assert [trial["trial"] for trial in best_trials(results, OBJECTIVE)] == [1, 3]
    assert set_name(results, 2) == "validation set 2 (dataset.val_fold=2)"
    table = sweep_table(results, ["dataset.val_fold", "lr"], [OBJECTIVE])
    lines = cells(table)
    assert lines[0][:3] == ["trial", "validation_set", "dataset.val_fold"]
    assert [line[0] for line in lines[1:6]] == ["0", "*", "2", "*", "4"]
    assert "have 2 validation sets" in table and "ranked only within each" in table


def test_a_single_validation_set_is_not_named_in_the_table(sweep):
    sweep.trial("lr=0.1", f1=0.5)
    table = sweep_table(sweep.results(), ["lr"], [OBJECTIVE])
    assert "validation" not in table


def test_a_heat_map_has_a_panel_for_each_validation_set(folds, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(sweep_module, "heat_map", lambda *panels: drawn.extend(panels) or heat_map(*panels))
    write_sweep_report(tmp_path, folds.results(), ["dataset.val_fold", "lr"], [OBJECTIVE])
    assert [title for _, title in drawn] == [
        f"{OBJECTIVE}, validation set {number} (dataset.val_fold={number})" for number in (1, 2)
    ]
    assert [grid.to_numpy().tolist() for grid, _ in drawn] == [
        [pytest.approx([0.1, 0.2])],
        [pytest.approx([0.4, 0.5])],
    ]
    assert (tmp_path / "heat_map.png").is_file()
