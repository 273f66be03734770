"""A study outside of this package: its own data set with two inputs, net, loss, metric, statistic, callback, target."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
import pytest
import torch
import warm
from commands import (
    Done,
    artifact,
    artifact_names,
    best_metrics,
    ecgexp,
    history,
    once,
    only,
    parents,
    predictions,
    store_client,
    trials,
    weights,
)
from sklearn.metrics import cohen_kappa_score

from ecgexp.metrics import Evaluation
from ecgexp.reports.search import read_study
from ecgexp.targets import Target

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
HOUSE = Path(__file__).parent / "house"
SMALL = ("trainer=cpu", "trainer.threads=1", "tracking.system_metrics=false", "batch_size=16")
OWN = ("dataset=graded", "metrics=rps")
GRADES = ["none", "mild", "moderate", "severe"]


def command(name: str, folder: Path, *arguments: str) -> Done:
    done = warm.run(name, folder, *arguments)
    return Done(folder, done.returncode, done.stdout, done.stderr)


def train(folder: Path, *arguments: str) -> Done:
    return ecgexp(folder, "--config-dir", "conf", *arguments, *SMALL)


def new_house(folder: Path) -> Path:
    shutil.copytree(HOUSE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture(scope="module")
def sweep(session_folder) -> Done:
    """Four trials that the own metric decides on: of them, one is a floor that has nothing to train."""
    own = ("callbacks=weight_norm", "statistics=spread", "monitor=val/rps", "objective=best/val/rps")

    def run(folder: Path) -> Done:
        return train(new_house(folder), "-m", *OWN, *own, "lr=0.02,0.0001", "model=both,constant", "max_epochs=2")

    return once(session_folder, "house", run).expect()


def trial(sweep: Done, **wanted: str):
    return only([run for run in trials(sweep.folder) if wanted.items() <= {**run.data.params, **run.data.tags}.items()])


@pytest.fixture(scope="module")
def learned(sweep):
    return trial(sweep, model="both", lr="0.02")


def results(sweep: Done) -> pd.DataFrame:
    return pd.read_csv(artifact(sweep.folder, only(parents(sweep.folder)), "results.csv"))


def scores(folder: Path, run) -> np.ndarray:
    """The own metric of each validation record, written down anew."""
    _, targets, probabilities, _ = predictions(folder, run)
    differences = np.cumsum(probabilities.astype(float), axis=1) - np.cumsum(targets, axis=1)
    return (differences[:, :3] ** 2).mean(axis=1)


def test_a_data_set_has_two_inputs(sweep, learned):
    known = json.loads(artifact(sweep.folder, learned, "data.json").read_text())
    signal, tabular = known["inputs"]
    assert (signal["name"], signal["axes"], signal["shape"], signal["rate"]) == (
        "signal",
        ["lead", "time"],
        [2, 64],
        100,
    )
    assert (tabular["name"], tabular["axes"], tabular["coordinates"]) == (
        "tabular",
        ["feature"],
        {"feature": ["age", "sex"]},
    )
    assert known["counts"]["val"] == {**known["counts"]["val"], "records": 160, "patients": 80}
    state = weights(sweep.folder, learned)
    assert state["mean_tabular"].shape == (2,)
    assert 30 < state["mean_tabular"][0] < 90  # years
    assert "mean_signal" not in state


def test_a_net_takes_both_by_name(sweep, learned, tmp_path):
    head = weights(sweep.folder, learned)["net.head.weight"]
    assert head.shape[0] == 3  # one fewer than there are grades
    assert head[:, -2:].abs().sum(dim=0).min() > 0  # it uses age and sex
    refused = train(new_house(tmp_path / "study"), *OWN, "model=linear")
    assert refused.status == 1
    assert "The dataset gives signal, tabular, but the forward of Linear takes x" in refused.stderr


def test_a_loss_is_minimized(sweep, learned, tmp_path):
    _, targets, probabilities, _ = predictions(sweep.folder, learned)
    p, t = (np.cumsum(one[:, ::-1].astype(float), axis=1)[:, 2::-1] for one in (probabilities, targets))
    expected = -(t * np.log(p) + (1 - t) * np.log1p(-p)).mean()
    assert best_metrics(learned)["loss"] == pytest.approx(expected, rel=1e-3)
    assert np.diff(history(sweep.folder, learned, "train/loss")) < 0
    refused = train(new_house(tmp_path / "study"), *OWN, "model=both", "target=multiclass")
    assert refused.stderr.count("\n") == 1
    assert "Cumulative does not fit target=multiclass" in refused.stderr


def test_a_metric_is_objective_monitor_and_a_column_with_an_interval(sweep, learned):
    for run in trials(sweep.folder):
        assert best_metrics(run)["rps"] == pytest.approx(scores(sweep.folder, run).mean(), rel=1e-5)
        epochs = history(sweep.folder, run, "val/rps")
        assert int(run.data.tags["best_epoch"]) == int(np.argmin(epochs))
        assert best_metrics(run)["rps"] == pytest.approx(min(epochs), rel=1e-5)
    assert learned.data.params["scheduler.schedule.mode"] == "min"
    values = results(sweep)["best/val/rps"]
    (parent,) = parents(sweep.folder)
    assert parent.data.metrics["best/val/rps"] == values.min() < values.max()
    assert parent.data.tags["best_run_id"] == learned.info.run_id
    starred = only([line for line in sweep.stdout.splitlines() if line.startswith("*")])
    assert f" {values.min():.4f} " in starred


def test_a_statistic_is_shown_at_the_end_and_in_the_report(sweep, report):
    values = results(sweep)["best/val/rps"]
    sentence = f"best/val/rps is from {values.min():.3f} to {values.max():.3f} over 4 trials."
    assert f"spread: {sentence}" in sweep.stdout
    assert sentence in (report / "report.html").read_text()


def test_a_callback_logs_to_the_run(sweep, learned):
    norms = history(sweep.folder, learned, "weight_norm")
    assert len(norms) == 2
    last = torch.cat([one.flatten() for name, one in weights(sweep.folder, learned).items() if name.startswith("net.")])
    assert norms[int(learned.data.tags["best_epoch"])] == pytest.approx(float(last.norm()), rel=1e-5)


def test_a_kind_of_target_has_other_outputs_than_names_and_metrics_of_its_own(sweep, learned):
    for run in trials(sweep.folder):
        _, targets, probabilities, names = predictions(sweep.folder, run)
        assert names == GRADES
        np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)
        assert probabilities.min() >= 0
        true = targets.argmax(axis=1)
        # the median: at most half of the probability is on either side
        grades = [int(np.argmax(np.cumsum(row) >= 0.5)) for row in probabilities.astype(float)]
        assert best_metrics(run)["grade_error"] == pytest.approx(np.abs(grades - true).mean())
        if len(set(grades)) > 1:
            kappa = cohen_kappa_score(true, grades, weights="quadratic")
            assert best_metrics(run)["quadratic_kappa"] == pytest.approx(kappa)
    table = pd.read_csv(artifact(sweep.folder, learned, "confusion_val.csv"), index_col="true")
    assert (table.shape, table.to_numpy().sum()) == ((4, 4), 160)
    assert {"confusion_val.png", "predictions_val.parquet"} <= artifact_names(sweep.folder, learned)


def test_the_floor_predicts_how_often_each_grade_occurs(sweep):
    _, _, probabilities, _ = predictions(sweep.folder, trial(sweep, model="constant", lr="0.02"))
    counts = json.loads(artifact(sweep.folder, trial(sweep, model="constant", lr="0.02"), "data.json").read_text())[
        "counts"
    ]
    shares = np.array([counts["train"]["labels"][name] for name in GRADES]) / 160
    np.testing.assert_allclose(probabilities, np.tile(shares, (160, 1)), atol=1e-5)


def test_the_predictions_of_a_diverged_net_get_the_worst_score():
    target = house("ordinal").Ordinal(GRADES)
    probabilities, targets = torch.full((3, 4), torch.nan), torch.eye(4)[[0, 1, 3]]
    found = target.measure(probabilities, targets)
    assert isinstance(found, Evaluation)
    assert found.metrics["grade_error"] == pytest.approx((3 + 2 + 3) / 3)
    assert not target.decide(probabilities).any()
    assert house("rps").RankedProbabilityScore()(probabilities, targets) == 1


def test_resampled_scores_are_those_of_repeated_records():
    rng = np.random.default_rng(0)
    target: Target = house("ordinal").Ordinal(GRADES)
    probabilities = rng.dirichlet(np.ones(4), 50).astype(np.float32)
    targets = np.eye(4, dtype=np.uint8)[rng.integers(0, 4, 50)]
    times = rng.integers(0, 3, (5, 50))
    for name, resampled in target.scorers().items():
        found = resampled(probabilities, targets)(times.astype(float))
        for often, value in zip(times, found, strict=True):
            repeated = (torch.tensor(np.repeat(one, often, axis=0)) for one in (probabilities, targets))
            assert target.measure(*repeated).metrics[name] == pytest.approx(value)


@pytest.fixture(scope="module")
def report(session_folder, sweep) -> Path:
    asked = re.search(r"python -m ecgexp\.report (.*)", sweep.stdout)
    assert asked is not None
    assert "trust=housestudy" in asked[1]

    def run(folder: Path) -> Done:
        return command("ecgexp.report", sweep.folder, *asked[1].split(), f"out={folder}")

    return once(session_folder, "house_report", run).expect().folder


def test_the_report_has_each_score_with_its_interval_and_the_right_direction(sweep, learned, report):
    found = pd.read_csv(report / "results.csv").set_index("run_id")
    best = found.loc[learned.info.run_id]
    assert best["best/val/rps"] == found["best/val/rps"].min()
    for score in ("rps", "grade_error", "quadratic_kappa"):
        assert best[f"best/val/{score}_low"] <= best[f"best/val/{score}"] <= best[f"best/val/{score}_high"]
        higher = score == "quadratic_kappa"
        winner = found.loc[found[f"best/val/{score}_difference"].idxmin(), f"best/val/{score}"]
        assert winner == (found[f"best/val/{score}"].max() if higher else found[f"best/val/{score}"].min())
        assert (found[f"best/val/{score}_difference"] >= 0).all()
    # percentiles of resampled patients, drawn anew here
    each, rng = scores(sweep.folder, learned).reshape(80, 2).mean(axis=1), np.random.default_rng(1)
    low, high = np.percentile(each[rng.integers(0, 80, (4000, 80))].mean(axis=1), [2.5, 97.5])
    width = high - low
    assert best["best/val/rps_low"] == pytest.approx(low, abs=0.15 * width)
    assert best["best/val/rps_high"] == pytest.approx(high, abs=0.15 * width)
    page = (report / "report.html").read_text()
    heads = re.findall(r"<th>(.*?)</th>", page.replace("<wbr>", ""))
    assert {"rps", "grade_error", "quadratic_kappa"} <= set(heads)
    assert "auroc" not in page
    assert f"rps {best['best/val/rps']:.3f} in validation" in page
    assert "too low as well" in page


def test_nothing_is_reported_of_a_target_that_is_not_trusted(sweep):
    done = command("ecgexp.report", sweep.folder, "out=untrusted").expect(1)
    assert done.stderr.count("\n") == 1
    assert "housestudy.ordinal.Ordinal" in done.stderr
    assert "add trust=PACKAGE" in done.stderr


def test_the_best_trial_is_trained_again_from_the_file_of_the_report(learned, report, tmp_path):
    folder = new_house(tmp_path / "study")
    shutil.copytree(report / "experiment", folder / "conf" / "experiment")
    done = train(folder, "experiment=best").expect()
    assert f"best/val/rps = {best_metrics(learned)['rps']:.4f} " in done.stdout


def test_an_evaluation_has_the_own_scores_with_intervals_and_those_of_groups(sweep, learned):
    asked = (f"run={learned.info.run_id}", "split=test")
    refused = command("ecgexp.evaluate", sweep.folder, *asked).expect(1)
    assert "housestudy.both.Both" in refused.stderr
    done = command("ecgexp.evaluate", sweep.folder, *asked, "trust=housestudy").expect()
    assert done.stderr == ""
    run = store_client(sweep.folder).get_run(learned.info.run_id)
    for score in ("rps", "grade_error", "quadratic_kappa"):
        value, low, high = (run.data.metrics[f"test/{score}{end}"] for end in ("", "_low", "_high"))
        assert low < value < high
        assert re.search(rf"{score} +{value:.3f} +{low:.3f} to {high:.3f}", done.stdout)
    groups = pd.read_csv(artifact(sweep.folder, run, "evaluation/test/subgroups.csv"))
    assert set(groups["by"]) == {"age", "sex"}
    assert groups.loc[groups["by"] == "sex", "records"].sum() == 160
    sexes = groups[groups["by"] == "sex"]
    assert np.average(sexes["grade_error"], weights=sexes["records"]) == pytest.approx(
        run.data.metrics["test/grade_error"]
    )
    tuned = command("ecgexp.evaluate", sweep.folder, *asked, "trust=housestudy", "thresholds=tuned").expect(1)
    assert tuned.stderr == "Records with one grade each take no thresholds: leave out thresholds=tuned.\n"


def test_a_record_on_disk_is_no_input_for_a_net_that_takes_two(sweep, learned):
    done = command("ecgexp.predict", sweep.folder, f"run={learned.info.run_id}", "record=a", "trust=housestudy").expect(
        1
    )
    assert done.stderr.count("\n") == 1
    assert "takes signal (lead, time), tabular (feature)" in done.stderr
    assert "python -m ecgexp.evaluate" in done.stderr


def test_a_search_goes_towards_the_smaller_value(tmp_path):
    """With the defaults: the main metric of the target is the objective, and a smaller one is better."""
    search = (
        "hydra/sweeper=optuna",
        "hydra/sweeper/sampler=random",
        "hydra.sweeper.n_trials=3",
    )
    folder = new_house(tmp_path / "study")
    done = train(
        folder, "-m", *OWN, *search, "model=both", "lr=tag(log, interval(0.0001, 0.1))", "max_epochs=1"
    ).expect()
    (parent,) = parents(folder)
    study = read_study(artifact(folder, parent, "study.json"))
    assert study.direction == optuna.study.StudyDirection.MINIMIZE
    values = {run.info.run_id: best_metrics(run)["grade_error"] for run in trials(folder)}
    assert sorted(values.values()) == sorted(one.value for one in study.trials)
    assert values[parent.data.tags["best_run_id"]] == min(values.values())
    assert f"best/val/grade_error = {min(values.values()):.4f}" in done.stdout


def test_trials_without_the_own_metric_are_compared_with_those_that_have_it(tmp_path):
    folder = new_house(tmp_path / "study")
    rest = ("-m", "dataset=graded", "model=both", "lr=0.02", "max_epochs=1", "sweep.name=mixed")
    train(folder, *rest, "metrics=none,rps").expect()
    command("ecgexp.report", folder, "trust=housestudy", "out=page").expect()
    found = pd.read_csv(folder / "page" / "results.csv")
    assert found["best/val/rps"].notna().sum() == 1
    assert found["best/val/rps_low"].nunique() == 1  # the same net, measured alike
    assert found["best/val/rps_low"].notna().all()


def test_the_page_shows_what_is_tested():
    page = (ROOT / "docs" / "house.md").read_text()
    shown = re.findall(r"`((?:housestudy|conf)/[\w/.]+)`:\n\n```(?:python|yaml)\n(.*?)\n```", page, flags=re.DOTALL)
    assert len(shown) == page.count("```") / 2
    for name, code in shown:
        assert f"\n{code}\n" in "\n" + (HOUSE / name).read_text(), name
    written = {str(path.relative_to(HOUSE)) for path in HOUSE.rglob("*.*") if path.suffix in (".py", ".yaml")}
    assert {name for name, _ in shown} == written - {"housestudy/__init__.py"}


def house(name: str):
    """A module of the house, without its folder on the path of other tests."""
    import importlib.util

    spec = importlib.util.spec_from_file_location(f"housestudy_{name}", HOUSE / "housestudy" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
