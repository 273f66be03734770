"""Cells, the paper's figures, and the best trial as an experiment."""

from __future__ import annotations

import csv
import json
import re
import statistics
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser

from ecgexp import CONF
from ecgexp.commands.plan import plan
from ecgexp.config.resolvers import register_resolvers
from ecgexp.config.schema import plain
from ecgexp.errors import UserError
from ecgexp.reports import paper
from ecgexp.reports.cells import arrange, cell_keys, collect_cells, repetition_keys, to_csv, to_markdown
from ecgexp.reports.experiment import experiment_file
from ecgexp.targets import MultiLabel
from ecgexp.tracking.provenance import flatten
from ecgexp.training.predictions import Predictions, read_predictions, write_predictions

F1 = "best/val/mlcm_f1_macro"
REFERENCE = Path(__file__).resolve().parents[2] / "../shared/REFERENCE.md"


def table_of(*trials):
    """Results of trials, each a dict of keys with its score as 'f1'."""
    rows = [
        {
            "status": "FINISHED",
            "diverged": False,
            "model": "ribeiro",
            "validation_set": 1,
            **{F1 if k == "f1" else k: v for k, v in t.items()},
        }
        for t in trials
    ]
    results = pd.DataFrame(rows)
    results.attrs["overridden"] = [key for key in dict.fromkeys(k for t in trials for k in t) if key not in NOT_KEYS]
    return results


NOT_KEYS = ("f1", "status", "diverged", "validation_set")


def grid(values):
    return [{"optimizer": o, "lr": lr, "f1": f1} for (o, lr), f1 in values.items()]


# --- cells


def test_keys_of_too_many_columns_stand_below_each_other():
    values = {(f"o{o}", f"l{lr}"): 0.1 * o + 0.01 * lr for o in range(3) for lr in range(20)}
    results = table_of(*[{**trial, "dropout": b} for trial in grid(values) for b in ("1", "2")])
    cells = collect_cells(results, ["optimizer", "lr", "dropout"], F1)
    assert len(arrange(cells).columns) == 40
    few = arrange(cells, 12)
    assert (few.row_keys, few.column_keys, len(few.columns), len(few.rows)) == (
        ["optimizer", "lr"],
        ["dropout"],
        2,
        60,
    )
    (lonely,) = arrange(collect_cells(table_of(*grid(values)), ["optimizer", "lr"], F1), 12).columns
    assert lonely == ()


def test_cells_of_other_validation_data_are_not_ranked_against_each_other():
    table = table_of(
        {"lr": "1", "dataset": "a", "f1": 0.1, "validation_set": 1},
        {"lr": "2", "dataset": "a", "f1": 0.2, "validation_set": 1},
        {"lr": "1", "dataset": "b", "f1": 0.8, "validation_set": 2},
        {"lr": "2", "dataset": "b", "f1": 0.7, "validation_set": 2},
        {"lr": "1", "dataset": "c", "f1": 0.9, "validation_set": 3},
    )
    found = collect_cells(table, ["lr", "dataset"], F1)
    assert [(cell.mean, cell.best) for cell in found] == [
        (0.1, False), (0.2, True), (0.8, True), (0.7, False), (0.9, False)
    ]  # fmt: skip
    folds = [{"lr": lr, "dataset.val_fold": str(fold), "f1": float(lr) + fold, "validation_set": fold}
             for lr in ("0.1", "0.2") for fold in (1, 2)]  # fmt: skip
    assert [cell.best for cell in collect_cells(table_of(*folds), ["lr"], F1)] == [False, True]
    # of which one lacks the harder fold, and so has the higher mean
    assert [cell.best for cell in collect_cells(table_of(*folds[1:]), ["lr"], F1)] == [False, False]


def test_repetitions_are_averaged_and_spread():
    scores = [0.5, 0.6, 0.85]
    results = table_of(
        *({"lr": "0.1", "seed": str(i), "f1": f1} for i, f1 in enumerate(scores)),
        *({"lr": "0.2", "seed": str(i), "f1": 0.1} for i in range(3)),
    )
    assert cell_keys(results) == ["lr"] and repetition_keys(results) == ["seed"]
    first, second = collect_cells(results, ["lr"], F1)
    assert first.mean == pytest.approx(statistics.mean(scores)) and first.sd == pytest.approx(statistics.stdev(scores))
    assert first.text() == f"{statistics.mean(scores):.3f} ± {statistics.stdev(scores):.3f}*"
    assert first.best and not second.best


def test_folds_repeat_as_seeds_do_and_a_sweep_of_seeds_alone_is_one_cell():
    folds = table_of(*({"lr": lr, "dataset.val_fold": f, "f1": 0.5} for lr in ("1", "2") for f in ("1", "2")))
    assert cell_keys(folds) == ["lr"] and repetition_keys(folds) == ["dataset.val_fold"]
    seeds = table_of(*({"seed": s, "f1": 0.5} for s in "012"))
    assert cell_keys(seeds) == ["model"]
    (cell,) = collect_cells(seeds, ["model"], F1)
    assert len(cell.scores) == 3


def test_what_is_missing_or_diverged_is_marked():
    results = table_of(
        {"lr": "1", "seed": "0", "f1": 0.5},
        {"lr": "1", "seed": "1", "f1": float("nan"), "status": "FAILED"},
        {"lr": "2", "seed": "0", "f1": 0.0, "diverged": True},
        {"lr": "3", "seed": "0", "f1": float("nan"), "status": "FAILED"},
        {"lr": "2", "seed": "1", "f1": 0.0, "diverged": True},
    )
    assert [cell.text() for cell in collect_cells(results, ["lr"], F1)] == ["0.500*‡", "0.000 ± 0.000†", "-"]


def test_the_lowest_loss_is_the_best():
    results = table_of({"lr": "1", "best/val/loss": 0.3}, {"lr": "2", "best/val/loss": 0.2})
    assert [cell.best for cell in collect_cells(results, ["lr"], "best/val/loss")] == [False, True]


def test_the_keys_of_the_paper_have_the_places_of_the_paper_in_any_order():
    trials = [
        {"lr": lr, "optimizer": o, "batch_size": b, "model": m, "f1": 0.1}
        for lr in ("0.001", "0.01") for o in ("adam", "sgd") for b in ("16", "32") for m in ("rajpurkar", "ribeiro")
    ]  # fmt: skip
    table = arrange(collect_cells(table_of(*trials), ["lr", "optimizer", "batch_size", "model"], F1))
    assert table.row_keys == ["model", "batch_size"] and table.column_keys == ["optimizer", "lr"]
    assert table.heading() == [[("adam", 2), ("sgd", 2)], [("0.001", 1), ("0.01", 1)] * 2]
    assert [begins for begins, _ in table.lines()] == [
        [("rajpurkar", 2), ("16", 1)], [("32", 1)], [("ribeiro", 2), ("16", 1)], [("32", 1)],
    ]  # fmt: skip


def test_nets_are_rows_and_each_cell_is_found_in_its_place():
    trials = [
        {"loss.x": x, "model": m, "f1": f1}
        for (x, m), f1 in {("a", "linear"): 0.1, ("b", "linear"): 0.2, ("b", "constant"): 0.4}.items()
    ]
    table = arrange(collect_cells(table_of(*trials), ["loss.x", "model"], F1))
    assert table.flat() == [["model", "a", "b"], ["linear", "0.100", "0.200"], ["constant", "", "0.400*"]]
    assert table.means().loc["linear", "b"] == 0.2
    assert table.means().isna().to_numpy().tolist() == [[False, False], [True, False]]


def test_one_key_makes_a_column_and_files_hold_the_table():
    lines = arrange(collect_cells(table_of({"a|b": "x,y", "f1": 0.1}, {"a|b": "z", "f1": 0.2}), ["a|b"], F1)).flat()
    assert lines == [["a|b", ""], ["x,y", "0.100"], ["z", "0.200*"]]
    assert list(csv.reader(to_csv(lines).splitlines())) == lines
    assert to_markdown(lines).splitlines() == ["| a\\|b |  |", "| --- | --- |", "| x,y | 0.100 |", "| z | 0.200* |"]


# --- the paper


def test_the_papers_figures_are_those_of_its_table():
    if not REFERENCE.is_file():
        pytest.skip("needs the paper's table")
    expected, net = {}, ""
    for line in REFERENCE.read_text().splitlines():
        fields = [field.strip() for field in line.strip("|").split("|")]
        if len(fields) == 11 and re.fullmatch(r"\d+", fields[1]):
            net = fields[0].lower() or net
            for i, value in enumerate(fields[2:]):
                optimizer, lr = ("adam", "rmsprop", "sgd")[i // 3], (0.001, 0.01, 0.1)[i % 3]
                expected[net, int(fields[1]), optimizer, lr] = float(value)
    assert len(expected) == 90 and paper.LEANDRO2023.published == expected


@pytest.mark.skipif(not REFERENCE.exists(), reason="needs the paper's table")
def test_the_cells_of_the_second_study_are_those_of_its_table():
    lines = re.findall(
        r"^\| (\d+) \| (\.\d{4}) \| (\.\d{4}) \| (\.\d{4}) \| (\.\d{4}) \|$", REFERENCE.read_text(), re.M
    )
    expected = {
        ("cnn", int(filters), kernel): float(value)
        for filters, *values in lines
        for kernel, value in zip((3, 5, 7, 9), values, strict=True)
    }
    assert len(expected) == 20 and paper.TOFFANETTO2024.published == expected


def test_the_grid_of_the_second_study_is_recognised_and_shown_in_the_papers_axes():
    cells = [(str(n), str(k)) for n in (8, 16) for k in (3, 9)]
    rows = [
        {"model": "cnn", "model.filters": n, "model.kernel": k, "best/val/accuracy": 0.8 + i / 100}
        for i, (n, k) in enumerate(cells)
    ]
    results = table_of(*rows)
    results.attrs["overridden"] = ["model.filters", "model.kernel"]
    study = paper.study_of(results, cell_keys(results))
    assert study is paper.TOFFANETTO2024
    found = collect_cells(results, cell_keys(results), study.metric, study)
    assert [cell.paper for cell in found] == [0.8715, 0.8849, 0.8835, 0.8899]
    table = arrange(found)
    assert (table.row_keys, table.column_keys) == (["model.filters"], ["model.kernel"])
    other = results.assign(model="mlp")
    other.attrs = results.attrs
    assert paper.study_of(other, cell_keys(other)) is None


def test_statements_in_the_text_of_the_paper_about_its_figures():
    best = {net: max((f1, cell) for cell, f1 in paper.LEANDRO2023.published.items() if cell[0] == net) for net in NETS}
    assert best["rajpurkar"] == (0.71, ("rajpurkar", 128, "adam", 0.01))
    assert best["ribeiro"] == (0.70, ("ribeiro", 64, "rmsprop", 0.01))
    assert len(paper.LEANDRO2023.published) == 90


NETS = ("rajpurkar", "ribeiro")


def test_a_value_is_found_however_its_numbers_are_written():
    cell = {"model": "ribeiro", "batch_size": "64", "optimizer": "sgd", "lr": "1e-3"}
    assert paper.LEANDRO2023.published_value(cell) == 0.59
    assert paper.LEANDRO2023.published_value({**cell, "lr": "0.005"}) is None
    assert paper.LEANDRO2023.published_value({**cell, "batch_size": None}) is None


def test_a_reduced_grid_is_recognised_and_another_study_is_not():
    reduced = table_of(
        *({"model": m, "batch_size": "64", "optimizer": "adam", "lr": "0.001", "seed": "0", "f1": 0.5} for m in NETS)
    )
    assert paper.study_of(reduced, cell_keys(reduced))
    baseline = table_of(
        *({"model": m, "batch_size": "64", "optimizer": "adam", "lr": "0.01", "f1": 0.5} for m in ("linear", "ribeiro"))
    )
    assert not paper.study_of(baseline, cell_keys(baseline))
    demo = table_of(*grid({("adam", "0.001"): 0.1, ("sgd", "0.001"): 0.2}))
    assert not paper.study_of(demo, cell_keys(demo))


# --- predictions


@pytest.mark.parametrize("patients", [np.array(["a", "a", "b"]), None])
def test_predictions_are_read_as_they_were_written(patients, tmp_path):
    path, ids = tmp_path / "predictions.parquet", np.array(["3", "1", "2"])
    targets = np.array([[1, 0], [0, 0], [1, 1]], np.uint8)
    probabilities = np.random.default_rng(0).random((3, 2), np.float32)
    write_predictions(path, Predictions(ids, targets, probabilities, MultiLabel(("A", "true/B")), patients))
    found = read_predictions(path, MultiLabel)
    assert found.ids.tolist() == ids.tolist() and found.target.names == ("A", "true/B")
    assert (found.targets == targets).all() and (found.probabilities == probabilities).all()
    assert patients is None if found.patients is None else found.patients.tolist() == patients.tolist()


def test_a_damaged_file_of_predictions_is_refused(tmp_path):
    (tmp_path / "predictions.parquet").write_text("nothing")
    with pytest.raises(UserError, match="is damaged or holds no predictions"):
        read_predictions(tmp_path / "predictions.parquet", MultiLabel)


# --- the best trial as an experiment


def composed(overrides, *search):
    register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return plain(compose("config", [*search, *overrides]))


@pytest.mark.parametrize(
    "overrides",
    [
        ["model=linear", "lr=0.01", "seed=2"],
        ["model=ribeiro", "model.width=4", "model.depth=2", "optimizer=sgd", "optimizer.momentum=0.9", "lr=1e-3"],
        ["experiment=leandro2023", "dataset=synthetic", "max_epochs=2", "model=rajpurkar", "batch_size=16", "lr=0.1"],
        ["experiment=leandro2023", "model=ribeiro", "batch_size=16", "optimizer=rmsprop", "lr=0.1"],
        ["scheduler=none", "early_stopping.patience=null", "tracking.system_metrics=false", "trainer.threads=1"],
        ["dataset.train_folds=[1,2]", "dataset.val_fold=3", "dataset.root='a b: c'", "+trainer.fast_dev_run=true"],
        [],
    ],
)
@pytest.mark.parametrize("sweeper", [None, "optuna", "staged"])
def test_best_yaml_composes_to_what_the_trial_was_trained_with(overrides, sweeper, tmp_path):
    wanted = composed(overrides)
    params = {key: str(value) for key, value in flatten(wanted)}
    run = SimpleNamespace(data=SimpleNamespace(tags={"overrides": json.dumps(overrides)}, params=params))
    (tmp_path / "experiment").mkdir()
    text = experiment_file(run, "Best of\nsweep: 0.5", sweeper)
    (tmp_path / "experiment" / "best.yaml").write_text(text)
    assert text.startswith("# @package _global_\n# Best of sweep: 0.5\n")
    assert composed(["experiment=best"], f"hydra.searchpath=[file://{tmp_path}]") == wanted


@pytest.mark.parametrize(
    ("experiment", "sweeper"), [("leandro2023", None), ("giraldi2025_cnn", "optuna"), ("by_stages", "staged")]
)
def test_best_yaml_is_varied_by_nothing_but_the_command_line(experiment, sweeper, tmp_path):
    overrides = [f"experiment={experiment}", "lr=0.5"]
    run = SimpleNamespace(data=SimpleNamespace(tags={"overrides": json.dumps(overrides)}, params={}))
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "best.yaml").write_text(experiment_file(run, "x", sweeper))
    (tmp_path / "experiment" / "by_stages.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /hydra/sweeper: staged\nhydra:\n  sweeper:\n"
        "    stages: [{lr: [0.1, 0.2]}]\n    start: {lr: 0.2}\n"
    )
    register_resolvers()
    words = ["--config-dir", str(tmp_path), "-m", "experiment=best", "seed=0,1,2"]
    asked = plan(CONF, get_args_parser().parse_args(words))
    assert sorted(cfg.seed for cfg in asked.configurations) == [0, 1, 2]
    if sweeper == "staged":
        assert asked.staged.cells([], 0) == [["experiment=best", f"seed={seed}"] for seed in range(3)]
    elif sweeper == "optuna":
        assert (asked.search.n_trials, list(asked.search.axes)) == (3, ["seed"])
    else:
        assert [sorted(cell) for cell in asked.cells] == [["experiment=best", f"seed={seed}"] for seed in range(3)]


def test_a_file_names_the_settings_that_it_cannot_contain():
    run = SimpleNamespace(
        data=SimpleNamespace(tags={"overrides": '["~trainer.devices", "lr=0.1"]'}, params={"lr": "0.1"})
    )
    assert "# Add this to the command line, as a file cannot contain it: ~trainer.devices" in experiment_file(run, "x")
