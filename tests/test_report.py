"""The report of a sweep: its content, refused arguments, and a page that needs no other file."""

from __future__ import annotations

import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from trained import call, is_one_sentence, shell

from ecgexp.reports import page as page_module
from ecgexp.reports.comparison import Group
from ecgexp.reports.figures import heat_map
from ecgexp.reports.findings import Report, merge
from ecgexp.targets import MultiClass, MultiLabel
from ecgexp.tracking.runs import sweep_runs
from ecgexp.training.predictions import Predictions
from sweeps import Sweep, new_store

F1 = "best/val/mlcm_f1_macro"


class Page(HTMLParser):
    """Text, tags and links of a page."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.links, self.words, self._cell = [], [], [], None
        self.rows: list[list[str]] = []
        self.named, self.unnamed, self._in_list = set(), 0, False
        self.feed(path.read_text(encoding="utf-8"))
        self.text = " ".join("".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for key, value in attrs if key in ("src", "href", "action", "xlink:href")]
        if tag == "tr":
            self.rows.append([])
        self._cell = [] if tag in ("td", "th") else self._cell
        if tag == "table":
            self._in_list = ("class", "list") in attrs
        if tag == "td" and self._in_list:
            name = dict(attrs).get("data-name")
            self.named.add(name)
            self.unnamed += name is None

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.rows[-1].append(" ".join("".join(self._cell).split()))
            self._cell = None

    def handle_data(self, data):
        self.words.append(data)
        if self._cell is not None:
            self._cell.append(data)


def report(monkeypatch, folder, *words):
    assert call(monkeypatch, "report", folder, *words) == 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("study")


@pytest.fixture(scope="module")
def store(folder):
    return new_store(folder)


@pytest.fixture(scope="module")
def seeds(store):
    """Two clear cells and a hopeless one, two seeds each; one trial failed, one diverged."""
    sweep = Sweep(store, "seeds")
    for model, skill in (("linear", 0.45), ("constant", 0.0)):
        for seed in "01":
            sweep.trial(f"model={model}", f"seed={seed}", skill=skill + 0.06 * int(seed))
    sweep.trial("model=ribeiro", "seed=0", skill=None, status="FAILED", error="Boom: <script>alert(1)</script> & so on")
    sweep.trial("model=ribeiro", "seed=1", skill=0.0, diverged="true", best_epoch="None")
    sweep.end("FAILED")
    return sweep


@pytest.fixture(scope="module")
def seeds_report(seeds, folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "deep" / "er"
    with pytest.MonkeyPatch.context() as patch:
        report(patch, folder, "sweep=seeds", f"out={out}")
    return out


@pytest.fixture(scope="module")
def page(seeds_report):
    return Page(seeds_report / "report.html")


# --- the files


def test_results_have_a_row_per_trial_with_metrics_and_intervals(seeds_report):
    results = pd.read_csv(seeds_report / "results.csv")
    assert len(results) == 6
    done = results[results["status"] == "FINISHED"]
    assert (done[f"{F1}_low"] <= done[F1]).all() and (done[F1] <= done[f"{F1}_high"]).all()
    assert done[f"{F1}_difference"].to_numpy() == pytest.approx((done[F1].max() - done[F1]).to_numpy(), abs=1e-6)
    assert done["best/val/auroc_macro_low"].notna().all()
    assert done.set_index("trial")[f"{F1}_maybe_best"].to_dict() == {0: True, 1: True, 2: False, 3: False, 5: False}
    failed = results[results["status"] == "FAILED"].iloc[0]
    assert failed["error"].startswith("Boom") and np.isnan(failed[f"{F1}_low"])
    assert {"epochs", "train_seconds", "device", "reused", "diverged"} <= set(results)


def test_a_cell_is_the_mean_of_its_seeds(seeds_report):
    results = pd.read_csv(seeds_report / "results.csv")
    cells = pd.read_csv(seeds_report / "cells.csv").set_index("model")
    for model in ("linear", "constant"):
        scores = results.loc[results["model"] == model, F1]
        assert cells.loc[model, "mean"] == pytest.approx(scores.mean())
        assert cells.loc[model, "sd"] == pytest.approx(scores.std())
        assert cells.loc[model, ["min", "max"]].tolist() == pytest.approx([scores.min(), scores.max()])
    assert cells.loc["ribeiro", ["trials", "finished", "diverged"]].tolist() == [2, 1, 1]
    shown = f"{cells.loc['linear', 'mean']:.3f} ± {cells.loc['linear', 'sd']:.3f}*"
    assert shown in (seeds_report / "table.csv").read_text() and shown in (seeds_report / "table.md").read_text()


def test_everything_is_also_in_the_run_of_the_sweep(seeds, seeds_report, store):
    kept = store.root / "artifacts" / seeds.parent / "artifacts" / "reports" / "seeds"
    files = {str(path.relative_to(seeds_report)) for path in seeds_report.rglob("*") if path.is_file()}
    assert files == {str(path.relative_to(kept)) for path in kept.rglob("*") if path.is_file()}
    assert {"results.csv", "table.csv", "table.md", "report.html", "experiment/best.yaml"} <= files
    assert {"heat_map_val_mlcm_f1_macro.png", "learning_curves_best.png", "learning_curves_worst.png"} <= files
    assert {"mlcm_best.png", "mlcm_best_constant.png", "mlcm_best_ribeiro.png"} <= files


def test_a_warning_of_the_data_is_shown_once_with_all_results(store, folder, tmp_path, monkeypatch, capsys):
    sweep = Sweep(store, "warned")
    for number, data in enumerate(["Patients are on <both> sides.", "Patients are on <both> sides.", ""]):
        sweep.trial("model=linear", f"lr={number}", **({"warning": data} if data else {}))
    sweep.end()
    report(monkeypatch, folder, "sweep=warned", f"out={tmp_path}")
    told = [
        capsys.readouterr().out,
        Page(tmp_path / "report.html").text,
        (tmp_path / "table.md").read_text(),
    ]
    assert [text.count("Patients are on <both> sides.") for text in told] == [1, 1, 1]
    assert pd.read_csv(tmp_path / "results.csv")["warning"].notna().tolist() == [True, True, False]


# --- the page


def test_the_page_needs_nothing_else_and_runs_nothing(page):
    assert "script" not in page.tags and "link" not in page.tags and "iframe" not in page.tags
    assert page.links and all(link.startswith("data:image/png;base64,") for link in page.links)
    assert "<script>alert(1)</script> & so on" in page.text  # shown, not run
    assert "@import" not in page.text and "url(" not in page.text


def test_the_page_states_what_can_be_concluded(page):
    assert "The best trial is trial 1 model=linear seed=1" in page.text
    assert (
        "Of the 4 other trials, 1 cannot be distinguished from the winner by these 60 records of 30 patients"
        in page.text
    )
    assert "3 are worse, with 95 % confidence" in page.text
    assert "cover the choice of the records, but not of the seed" in page.text
    assert "Over its repetitions the best cell is model=linear" in page.text
    assert re.search(r"Of the variance between single trials, \d+% comes from seed, not from the cell", page.text)
    assert "None of these trials has accessed the test set" in page.text
    assert "The sweep is not complete" in page.text


def test_a_best_cell_of_one_run_has_no_standard_deviation(store):
    sweep = Sweep(store, "one run")
    for seed in "01":
        sweep.trial("lr=0.1", f"seed={seed}", skill=0.3)
    sweep.trial("lr=0.2", "seed=0", skill=0.9)
    sweep.end()
    runs, results = merge({"one run": sweep_runs(store, sweep.parent)})
    study = Report([store.client.get_run(sweep.parent)], runs, results, [], {}, [], [], [], {})
    (message,) = (line for line in study.findings() if "best cell" in line)
    assert re.fullmatch(r"The best cell is lr=0\.2: 1\.000, from one run, so its spread is not known\.", message)


KEYS = ("lr", "batch_size", "optimizer", "model.some_rate", "early_stopping.patience", "scheduler")


@pytest.fixture(scope="module")
def many_keys(store, folder):
    """Page of a sweep over six keys."""
    sweep = Sweep(store, "keys")
    for number, skill in enumerate((0.2, 0.3, 0.4, 0.5)):
        values = [f"{key}={['adam', 'sgd'][number >> place % 2 & 1]}" for place, key in enumerate(KEYS)]
        sweep.trial(*values, skill=skill)
    sweep.end()
    with pytest.MonkeyPatch.context() as patch:
        report(patch, folder, "sweep=keys", "out=keys")
    return Page(folder / "keys" / "report.html")


def test_each_row_of_headings_names_its_key(many_keys):
    first = many_keys.rows.index(next(row for row in many_keys.rows if row[0] == "optimizer"))
    headings = many_keys.rows[first : first + 4]
    assert [row[0] for row in headings[:3]] == ["optimizer", "early_stopping.patience", "scheduler"]
    assert all(set(row[1:]) == {"adam", "sgd"} for row in headings[:3])
    assert headings[3] == ["model.some_rate", "lr", "batch_size", "mlcm_f1_macro"]


def test_of_many_keys_a_trial_has_its_settings_in_one_column(many_keys):
    trials = [row for row in many_keys.rows if row[:2] == ["trial", "settings"]]
    assert len(trials) == 1 and len(trials[0]) < 12
    (best,) = [row for row in many_keys.rows if row[0] == "3" and len(row) == len(trials[0])]
    assert best[1] == " ".join(f"{key}=sgd" for key in KEYS)


def test_each_cell_has_its_label_on_a_narrow_screen(page, many_keys):
    for one in (page, many_keys):
        assert one.unnamed == 0
    assert {
        "trial",
        "model",
        "seed",
        "mlcm_f1_macro",
        "difference to the best",
        "epochs",
        "median of a trial",
    } <= page.named


def test_failed_and_diverged_trials_are_listed(page):
    (line,) = [row for row in page.rows if row and row[0] == "trial 4 model=ribeiro seed=0"]
    assert line[1:] == ["failed", "Boom: <script>alert(1)</script> & so on"]
    assert "Diverged (a result, not a failure): trial 5 model=ribeiro seed=1." in page.text


def test_cost_is_shown_per_net_and_in_total(page):
    costs = {row[0]: row for row in page.rows if row and " on cpu" in row[0]}
    assert costs["linear on cpu"][1:6] == ["2", "10.0 s", "10.0 s", "3.3 s", "20.0 s"]
    (total,) = [row for row in page.rows if row and row[0] == "all"]
    assert total[5] == "50.0 s"


def test_of_an_earlier_report_nothing_stays_but_what_is_not_of_it(store, folder, tmp_path, monkeypatch):
    sweep = Sweep(store, "grows")
    for lr in ("0.1", "0.2"):
        sweep.trial(f"lr={lr}", skill=0.6)
    sweep.end()
    out, beside = tmp_path / "out", tmp_path / "beside.png"
    report(monkeypatch, folder, "sweep=grows", f"out={out}")
    kept = store.root / "artifacts" / sweep.parent / "artifacts" / "reports" / "grows"
    assert (out / "experiment" / "best.yaml").is_file() and (kept / "mlcm_best.png").is_file()
    (out / "mlcm_best_mine.png").write_text("of the reader")
    beside.write_text("of the reader")
    with (out / "files.txt").open("a") as file:  # as a stranger's folder may have it
        file.write("../beside.png\n/etc/hostname\n")
    sweep.trial("lr=0.1", "dataset.val_fold=2", skill=0.5, data_seed=1)
    report(monkeypatch, folder, "sweep=grows", f"out={out}")
    for place in (out, kept):
        names = {str(path.relative_to(place)) for path in place.rglob("*") if path.is_file()}
        assert names - {"mlcm_best_mine.png"} == set((place / "files.txt").read_text().split())
        assert "mlcm_best_1.png" in names and not {"mlcm_best.png", "experiment/best.yaml"} & names
    assert beside.is_file() and (out / "mlcm_best_mine.png").is_file()


def test_accesses_of_a_sweep_whose_name_only_resembles_it_are_not_its_own(store, folder, monkeypatch, capsys):
    from ecgexp.tracking.test_access import note_access

    when = "before 2026-01-01 00:00:00"
    for name in (f"aXb {when}", f"a_b {when}", "a_b before dinner", f"it's {when}", "it's"):
        sweep = Sweep(store, name)
        run = sweep.trial("lr=0.1", skill=0.6, identity=name)
        sweep.end()
        if name != "it's":
            note_access(store, store.client.get_run(run), {})
    sweep = Sweep(store, "a_b")
    sweep.trial("lr=0.1", skill=0.6, identity="a_b")
    sweep.end()
    for name in ("a_b", "it's"):
        report(monkeypatch, folder, f"sweep={name}", "out=names")
        assert "The test set was accessed once" in capsys.readouterr().out


# --- which sweep


def test_the_latest_sweep_is_the_default_and_named(store, folder, seeds, monkeypatch, capsys):
    sweep = Sweep(store, "latest")
    sweep.trial("lr=0.1", skill=1.0)
    sweep.trial("lr=0.2", skill=0.9)
    sweep.end()
    report(monkeypatch, folder)
    printed = capsys.readouterr().out
    assert printed.rstrip().endswith(str(folder / "reports" / "latest" / "report.html"))
    report(monkeypatch, folder, f"sweep={seeds.parent}", "out=by_id")
    assert len(pd.read_csv(folder / "by_id" / "results.csv")) == 6


def test_several_sweeps_make_one_table_with_shared_trials_once(store, folder, monkeypatch):
    first, second = Sweep(store, "first"), Sweep(store, "second")
    shared = first.trial("lr=0.1", skill=1.0)
    first.trial("lr=0.2", skill=0.9)
    second.trial("lr=0.1", skill=1.0, reused_from=shared)
    second.trial("model=linear", skill=0.5, params={"lr": "0.7"})
    first.end()
    second.end()
    report(monkeypatch, folder, "sweep=first,second", "out=both")
    results = pd.read_csv(folder / "both" / "results.csv")
    assert results["sweep"].tolist() == ["first", "first", "second"]
    assert results["lr"].tolist() == [0.1, 0.2, 0.7]
    assert results["model"].tolist() == ["ribeiro", "ribeiro", "linear"]
    for sweep in (first, second):
        kept = store.root / "artifacts" / sweep.parent / "artifacts" / "reports" / "first+second"
        assert (kept / "report.html").is_file()


def test_a_reused_trial_has_the_predictions_of_the_run_that_trained(store, folder, monkeypatch):
    sweep, other = Sweep(store, "old"), Sweep(store, "new")
    trained = sweep.trial("lr=0.1", skill=1.0)
    sweep.end()
    again = other.trial("lr=0.1", skill=None, reused_from=trained, reused_from_commit="0123456789abc")
    other.store.client.log_metric(again, F1, 0.9)
    other.end()
    report(monkeypatch, folder, "sweep=new", "out=new")
    (row,) = pd.read_csv(folder / "new" / "results.csv").to_dict("records")
    assert row["source_run_id"] == trained and row[f"{F1}_low"] > 0.5
    assert "reused, trained by commit 012345678" in Page(folder / "new" / "report.html").text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sweep=nothing"], "There is no sweep nothing in .* only "),
        (["sweeps=x"], "There is no key 'sweeps': did you mean 'sweep'"),
        (["tracking.root=/nowhere"], "There is no /nowhere/mlruns/mlflow.db"),
        (["sweep=empty"], "The sweep empty has no trial yet"),
        (["sweep=seeds", "out=occupied"], "The folder occupied cannot be created"),
    ],
)
def test_what_cannot_be_reported_is_refused_in_a_sentence(words, message, store, seeds, folder, monkeypatch):
    Sweep(store, "empty").end()
    (folder / "occupied").write_text("a file")
    sentence = call(monkeypatch, "report", folder, *words)
    assert is_one_sentence(sentence) and re.match(message, sentence)


def test_a_store_without_a_sweep_is_refused(tmp_path, monkeypatch):
    new_store(tmp_path)
    sentence = call(monkeypatch, "report", tmp_path)
    assert is_one_sentence(sentence) and "There is no sweep" in sentence


def test_help_is_given(monkeypatch, tmp_path, capsys):
    assert call(monkeypatch, "report", tmp_path, "--help") == 0
    assert "tracking.root" in capsys.readouterr().out


# --- what there is of it


def test_a_sweep_of_which_nothing_finished_is_reported(store, folder, monkeypatch, capsys):
    sweep = Sweep(store, "hopeless")
    for lr in ("0.1", "0.2"):
        sweep.trial(f"lr={lr}", skill=None, status="FAILED", error="no memory")
    report(monkeypatch, folder, "sweep=hopeless", "out=hopeless")
    assert "No trial has finished" in capsys.readouterr().out
    assert Page(folder / "hopeless" / "report.html").text.count("no memory") == 2


def test_trials_are_compared_only_on_equal_validation_records(store, folder, monkeypatch):
    sweep = Sweep(store, "folds")
    for fold, shift in (("1", 0.0), ("2", 0.3)):
        for lr in ("0.1", "0.2"):
            skill = 0.2 + shift + float(lr)
            sweep.trial(f"lr={lr}", f"dataset.val_fold={fold}", skill=skill, data_seed=int(fold))
    sweep.end()
    report(monkeypatch, folder, "sweep=folds", "out=folds")
    results = pd.read_csv(folder / "folds" / "results.csv")
    assert results["validation_set"].tolist() == [1, 1, 2, 2]
    for _, alike in results.groupby("validation_set"):
        assert alike[f"{F1}_difference"].min() == 0
        assert alike[f"{F1}_difference"].to_numpy() == pytest.approx((alike[F1].max() - alike[F1]).to_numpy(), abs=1e-6)
    text = Page(folder / "folds" / "report.html").text
    assert "validated on 2 different sets of records" in text and "no trial is the best of all" in text
    for number, trial in (("1", 1), ("2", 3)):
        name = f"validation set {number} (dataset.val_fold={number})"
        assert f"The best trial on {name} is trial {trial} " in text
        assert f"by these 60 records of 30 patients in {name}" in text
        assert (folder / "folds" / "experiment" / f"best_{number}.yaml").is_file()
        assert (folder / "folds" / f"mlcm_best_{number}.png").is_file()
    assert not (folder / "folds" / "experiment" / "best.yaml").exists()
    assert "A fold that is easy for all cells adds to this share" in text


def test_cells_of_other_records_are_not_ranked_nor_drawn_in_the_same_colours(store, folder, monkeypatch):
    sweep = Sweep(store, "tasks")
    for task, easy in (("a", 0.0), ("b", 0.1)):
        for lr in ("0.1", "0.2"):
            data = {"data_seed": "ab".index(task), "params": {"dataset.labels": task}}
            sweep.trial(f"dataset.labels={task}", f"lr={lr}", skill=0.3 + easy + float(lr), **data)
    sweep.trial("dataset.labels=c", "lr=0.1", skill=3.0, data_seed=7)
    sweep.end()
    panels = []
    monkeypatch.setattr(page_module, "heat_map", lambda *given: panels.append(given) or heat_map(*given))
    report(monkeypatch, folder, "sweep=tasks", "out=tasks")
    results, cells = (pd.read_csv(folder / "tasks" / f"{name}.csv", dtype=str) for name in ("results", "cells"))
    assert results["validation_set"].tolist() == ["1", "1", "2", "2", "3"]
    marked = [cell for row in Page(folder / "tasks" / "report.html").rows for cell in row if cell.endswith("*")]
    best = cells.astype({"mean": float}).groupby("dataset.labels")["mean"].max().loc[["a", "b"]]
    assert marked == [f"{value:.3f}*" for value in best]  # that of c is the highest, and alone on its records
    assert [title for _, title in panels[0]] == [
        f"val/mlcm_f1_macro, validation set {number} (dataset.labels={task})" for number, task in ((1, "a"), (2, "b"))
    ]


def test_trials_of_other_thresholds_are_compared_on_the_same_records(store, folder, monkeypatch, capsys):
    sweep = Sweep(store, "thresholds")
    for threshold in ("0.3", "0.5"):
        sweep.trial(f"target.threshold={threshold}", skill=0.6)
    sweep.end()
    report(monkeypatch, folder, "sweep=thresholds", "out=thresholds")
    results = pd.read_csv(folder / "thresholds" / "results.csv")
    assert results["validation_set"].tolist() == [1, 1]
    assert results[f"{F1}_low"].nunique() == 2  # each by its own threshold
    assert "different sets" not in capsys.readouterr().out


def test_the_choice_of_the_epoch_is_reported_if_there_was_one(store, folder, monkeypatch, capsys):
    sweep = Sweep(store, "epochs")
    sweep.trial("lr=0.1", skill=0.6)
    sweep.end()
    report(monkeypatch, folder, "sweep=epochs", "out=epochs")
    message = "Each value is from the epoch with the best val/loss. The same validation records chose this epoch"
    assert message in capsys.readouterr().out and message in Page(folder / "epochs" / "report.html").text
    other = Sweep(store, "by training loss")
    other.trial("lr=0.1", skill=0.6, params={"monitor": "train/loss"})
    other.end()
    report(monkeypatch, folder, "sweep=by training loss", "out=other")
    assert "is from the epoch" not in capsys.readouterr().out


def test_without_patients_the_report_says_that_records_are_resampled(store, folder, monkeypatch, capsys):
    sweep = Sweep(store, "anonymous", patient_column=False)
    sweep.trial("lr=0.1", skill=1.0)
    sweep.trial("lr=0.2", skill=0.1)
    sweep.end()
    report(monkeypatch, folder, "sweep=anonymous", "out=anonymous")
    printed = capsys.readouterr().out
    assert "60 records of 60 patients" in printed and "Each record counts as a separate patient" in printed


def test_lost_predictions_cost_the_interval_only(store, folder, monkeypatch, capsys):
    sweep = Sweep(store, "lost")
    sweep.trial("lr=0.1", skill=1.0)
    run = sweep.trial("lr=0.2", skill=0.1)
    sweep.end()
    (store.root / "artifacts" / run / "artifacts" / "predictions_val.parquet").unlink()
    report(monkeypatch, folder, "sweep=lost", "out=lost")
    assert "There is no interval for trial 1, whose predictions are missing" in capsys.readouterr().out
    assert pd.read_csv(folder / "lost" / "results.csv")[f"{F1}_low"].isna().tolist() == [False, True]


def test_accesses_through_another_sweep_count_where_a_trial_is_reused_later(store, folder, monkeypatch):
    from ecgexp.tracking.test_access import note_access

    tested, reusing = Sweep(store, "tested"), Sweep(store, "reusing")
    run = tested.trial("lr=0.17")
    note_access(store, store.client.get_run(run), {"thresholds": "fixed", "records": 12, "data": "ab"})
    reusing.trial("lr=0.17", reused_from=run)
    for sweep in (tested, reusing):
        sweep.end()
    report(monkeypatch, folder, "sweep=reusing", "out=reusing")
    page = Page(folder / "reusing" / "report.html")
    assert "The test set was accessed once" in page.text
    assert [row[6] for row in page.rows if run in row] == ["12"]
    report(monkeypatch, folder, "sweep=reusing,tested", "out=both")
    assert "The test set was accessed once" in Page(folder / "both" / "report.html").text


def test_test_set_accesses_are_shown(store, folder, monkeypatch):
    from ecgexp.tracking import provenance
    from ecgexp.tracking.test_access import note_access

    sweep = Sweep(store, "looked")
    run = sweep.trial("lr=0.1", skill=1.0, identity="looked")
    sweep.trial("lr=0.2", skill=0.9)
    sweep.end()
    note_access(store, store.client.get_run(run), {"thresholds": "fixed"})
    monkeypatch.setattr(provenance, "git_state", lambda folder: {})  # as outside of a git checkout
    note_access(store, store.client.get_run(run), {"thresholds": "fixed"})
    store.client.log_metric(run, "test/mlcm_f1_macro", 0.4321)
    report(monkeypatch, folder, "sweep=looked", "out=looked")
    page = Page(folder / "looked" / "report.html")
    assert "The test set was accessed 2 times" in page.text
    shown = [row for row in page.rows if run in row]
    assert [row[0] for row in shown] == ["1", "2"] and all("0.432" in row for row in shown)


def test_classes_that_validation_lacks_are_named():
    targets = np.eye(4, dtype=np.uint8)[[0, 1, 1]]
    ids, probabilities = np.array(["a", "b", "c"]), targets.astype(np.float32)
    lacking = [
        Predictions(ids, targets, probabilities, kind(("N", "V", "S", "F")), None) for kind in (MultiClass, MultiLabel)
    ]
    groups = [Group(["run"], found, "few", True) for found in lacking]
    (message,) = Report([], [], pd.DataFrame(), groups, {}, [], [], [], {})._about_data()
    assert message == "Macro averages leave out S, F, which no validation record has."


# --- the paper's study


def paper_grid(sweep, **settings):
    for model in ("rajpurkar", "ribeiro"):
        for lr in ("0.001", "0.01"):
            cell = (f"model={model}", "batch_size=64", "optimizer=adam", f"lr={lr}")
            sweep.trial("experiment=leandro2023", *cell, skill=0.5, **settings)
    sweep.end()


def test_the_value_of_the_paper_is_beside_each_of_ours(store, folder, monkeypatch):
    paper_grid(Sweep(store, "paper"))
    report(monkeypatch, folder, "sweep=paper", "out=paper")
    cells = pd.read_csv(folder / "paper" / "cells.csv")
    assert cells["paper"].tolist() == [0.70, 0.69, 0.68, 0.69]
    assert cells["difference"].to_numpy() == pytest.approx((cells["mean"] - cells["paper"]).to_numpy())
    page = Page(folder / "paper" / "report.html")
    assert any(re.search(r"0\.\d{3}\S* 0\.70 \([+−]0\.\d\d\)", cell) for row in page.rows for cell in row)
    assert "Not comparable" not in page.text


def test_differences_from_the_paper_are_reported(store, folder, monkeypatch):
    choices, params = {"dataset": "synthetic"}, {"max_epochs": "2"}
    paper_grid(Sweep(store, "rehearsal"), choices=choices, params=params)
    report(monkeypatch, folder, "sweep=rehearsal", "out=rehearsal")
    text = Page(folder / "rehearsal" / "report.html").text
    assert "Not comparable with the paper: dataset is synthetic, not ptbxl; max_epochs is 2, not 100." in text


# --- a real sweep


@pytest.mark.slow
def test_a_trained_sweep_is_reported(tmp_path, monkeypatch):
    words = ("model=constant", "lr=0.01,0.1", "max_epochs=1", "dataset.records=240", "trainer.threads=1")
    done = shell("__main__", tmp_path, "-m", "sweep.name=real", *words, "trainer=cpu", "tracking.system_metrics=false")
    assert done.returncode == 0, done.stderr
    report(monkeypatch, tmp_path)
    out = tmp_path / "reports" / "real"
    results = pd.read_csv(out / "results.csv")
    assert len(results) == 2 and results[f"{F1}_low"].notna().all()
    text = Page(out / "report.html").text
    errors = pd.read_csv(out / "errors.csv")
    assert len(errors) and (out / "report.html").read_text().count("data:image/png;base64,") > len(errors)
    assert "Errors in validation" in text and "nearest correct" in text
    assert "separate patient" not in text and "No other trial can be distinguished from the winner" in text
    again = shell("__main__", tmp_path, "--config-dir", str(out), "experiment=best", "--cfg", "job")
    assert again.returncode == 0 and f"lr: {results['lr'][0]}" in again.stdout
    shutil.rmtree(tmp_path / "data")
    (tmp_path / "data").write_text("no folder")
    report(monkeypatch, tmp_path)
    assert not (out / "errors.csv").exists()
    assert "The errors are not drawn: " in Page(out / "report.html").text
