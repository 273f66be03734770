"""The path of a search by stages: what it trains next, and what it chooses, from what the store has."""

from __future__ import annotations

import json
import math
from itertools import product

import numpy as np
import pandas as pd
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from trained import is_one_sentence

from ecgexp.commands.report import read_report
from ecgexp.config.schema import plain
from ecgexp.errors import UserError
from ecgexp.reports.page import write_report
from ecgexp.reports.stages import read_path, stage_column
from ecgexp.reports.tables import sweep_results
from ecgexp.search.stages import Staged
from ecgexp.statistics import resample_patients
from ecgexp.sweeps.staged import StagedSweep
from ecgexp.sweeps.status import Board, TrialStatus
from ecgexp.sweeps.supervisor import TrialFailed
from ecgexp.trials.identity import slot
from sweeps import LABELS, Sweep, measured, new_store

RESAMPLES = 50
F1 = "best/val/mlcm_f1_macro"
STAGES = [{"width": [4, 8, 16]}, {"lr": [0.1, 0.2], "optimizer": ["sgd", "adam"]}, {"dropout": [0, 0.5]}]


def plan(*repetitions, stages=STAGES, rule="best", start=None):
    config = OmegaConf.create({"stages": stages, "start": start or {}, "rule": rule, "params": None})
    return Staged.read(config, OverridesParser.create().parse_overrides(list(repetitions)))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return new_store(tmp_path_factory.mktemp("store"))


class Fake:
    """A sweep whose trials are a formula of their overrides instead of trainings."""

    def __init__(self, store, staged, value, weights=lambda setting: 1.0, objective=F1):
        self.sweep = Sweep(store)
        self.board = Board(self.sweep.store.root, self.sweep.parent)
        self.board.clear()
        self.staged, self.value, self.weights, self.objective = staged, value, weights, objective
        self.limit = None
        self.trained: list[list[str]] = []

    def compose(self, cell):
        keys = dict(override.split("=") for override in cell)
        return OmegaConf.create(
            {
                "tracking": {"root": str(self.sweep.store.root.parent), "uri": None, "experiment": "ecgexp",
                             "patience": 0.0},
                "sweep": {"max_failures": self.limit},
                "target": {"_target_": "ecgexp.targets.MultiLabel", "threshold": 0.5},
                "metrics": {}, "dataset": {"label_names": list(LABELS)}, "trainer": {}, "objective": self.objective,
                "keys": keys,
            }
        )  # fmt: skip

    def train(self, cell):
        setting = dict(override.split("=") for override in cell)
        own = slot(plain(self.compose(cell)), cell, self.staged.swept)
        value = self.value(setting)
        tags = {"slot": own, "validation_fingerprint": "records"}
        run = self.sweep.trial(*cell, skill=None, status="FAILED" if value is None else "FINISHED", **tags)
        client = self.sweep.store.client
        if value is None:
            client.set_tag(run, "error", "It was too much.")
        else:
            client.log_metric(run, self.objective, value)
            client.log_metric(run, "parameters", self.weights(setting))
        self.trained.append(cell)
        return run

    def run(self, killed_after=None):
        """All stages; a trial that has a run is not trained again, as in a sweep."""
        known = {tuple(cell) for cell in self.trained}
        steps = StagedSweep(self.staged, self.compose, self.sweep.parent)
        for _ in self.staged.stages:
            for cell in steps.cells():
                if tuple(cell) not in known:
                    if killed_after is not None and len(self.trained) >= killed_after:
                        return None
                    self.train(cell)
            steps.choose()
        return read_path(self.board.folder / "stages.json")


def words(path):
    return [stage.candidates[stage.chosen].words for stage in path.done]


def by_hand(cell):
    """A score with the best path width=8, then lr=0.2 optimizer=sgd, then dropout=0: a table, read off below."""
    table = {"4": 0.50, "8": 0.60, "16": 0.55}
    score = table[cell["width"]]
    score += {("0.1", "sgd"): 0.0, ("0.1", "adam"): 0.02, ("0.2", "sgd"): 0.05, ("0.2", "adam"): -0.1}[
        (cell["lr"], cell["optimizer"])
    ]
    return score - (0.01 if cell["dropout"] == "0.5" else 0.0)


def test_it_takes_the_path_that_a_hand_takes_and_trains_nothing_twice(store):
    fake = Fake(store, plan(), by_hand)
    path = fake.run()
    assert words(path) == ["width=8", "lr=0.2 optimizer=sgd", "dropout=0"]
    assert [stage.candidates[stage.chosen].score for stage in path.done] == pytest.approx([0.6, 0.65, 0.65])
    assert len(fake.trained) == len({tuple(cell) for cell in fake.trained}) == 3 + 3 + 1 == fake.staged.trials
    assert [[round(one.score, 3) for one in stage.candidates] for stage in path.done] == [
        [0.5, 0.6, 0.55], [0.6, 0.62, 0.65, 0.5], [0.65, 0.64],
    ]  # fmt: skip
    results = sweep_results(fake.sweep.store, fake.sweep.parent)
    assert stage_column(results, path).tolist() == [1, 1, 1, 2, 2, 2, 3]


def test_on_random_tables_it_is_coordinate_search(store):
    rng = np.random.default_rng(0)
    sizes = [3, 2, 4]
    keys = ["a", "b", "c"]
    stages = [{key: list(range(size))} for key, size in zip(keys, sizes, strict=True)]
    table = {cell: float(rng.integers(0, 5)) for cell in product(*map(range, sizes))}  # with ties
    weights = {cell: float(rng.integers(0, 2)) for cell in table}

    def of(values, setting):
        return values[tuple(int(setting[key]) for key in keys)]

    path = Fake(store, plan(stages=stages), lambda s: of(table, s), lambda s: of(weights, s)).run()
    at = [0, 0, 0]
    for stage, size in enumerate(sizes):
        cells = [(*at[:stage], value, *at[stage + 1 :]) for value in range(size)]
        at[stage] = min(range(size), key=lambda value: (-table[cells[value]], weights[cells[value]], value))
    assert words(path) == [f"{key}={value}" for key, value in zip(keys, at, strict=True)]


def test_a_lower_loss_is_better(store):
    fake = Fake(store, plan(), lambda cell: 1 - by_hand(cell), objective="best/val/loss")
    assert words(fake.run()) == ["width=8", "lr=0.2 optimizer=sgd", "dropout=0"]


def test_a_tie_goes_to_fewer_weights_and_then_to_the_earlier_value(store, capsys):
    fake = Fake(store, plan(), lambda cell: 0.5, lambda cell: {"4": 9.0, "8": 3.0, "16": 5.0}[cell["width"]])
    assert words(fake.run()) == ["width=8", "lr=0.1 optimizer=sgd", "dropout=0"]
    said = capsys.readouterr().err
    assert "width=4, width=16 have the same score: width=8 has fewer weights." in said
    assert "dropout=0.5 has the same score: dropout=0 comes first." in said


def test_the_score_of_a_setting_is_the_mean_over_its_seeds(store):
    # One seed favours 4, but the mean of all is 0.5, 0.55 and 0.4.
    table = {"4": [0.9, 0.3, 0.3], "8": [0.5, 0.55, 0.6], "16": [0.4] * 3}
    fake = Fake(store, plan("seed=0,1,2"), lambda cell: table[cell["width"]][int(cell["seed"])])
    path = fake.run()
    assert words(path)[0] == "width=8"
    assert path.done[0].candidates[0].score == pytest.approx(0.5)
    assert [len(candidate.runs) for candidate in path.done[0].candidates] == [3, 3, 3]
    assert len(fake.trained) == 21


@pytest.mark.parametrize("killed_after", [0, 1, 3, 4, 6])
def test_killed_at_any_moment_it_takes_the_same_path(store, killed_after):
    fake = Fake(store, plan(), by_hand)
    assert fake.run(killed_after) is None
    fake.board.clear()  # as the next command does
    assert words(fake.run()) == ["width=8", "lr=0.2 optimizer=sgd", "dropout=0"]
    assert len(fake.trained) == 7


def test_what_the_store_says_now_decides_not_what_was_chosen_before(store):
    failing = {"8"}
    fake = Fake(store, plan(), lambda cell: None if cell["width"] in failing else by_hand(cell))
    first = fake.run()
    assert words(first)[0] == "width=16"
    (left,) = [one for one in first.done[0].candidates if one.left_out]
    assert (left.words, left.left_out, left.runs) == ("width=8", "failed: It was too much", [])
    failing.clear()  # the same command tries it again
    fake.trained = [cell for cell in fake.trained if "width=8" not in cell]
    second = fake.run()
    assert words(second) == ["width=8", "lr=0.2 optimizer=sgd", "dropout=0"]
    results = sweep_results(fake.sweep.store, fake.sweep.parent)
    other = results[stage_column(results, second).isna()]
    assert set(other["width"]) == {"16"}, "trials of the other path belong to no stage of this one"


def test_a_setting_of_which_a_seed_failed_is_left_out_and_said(store, capsys):
    fails = lambda cell: cell["width"] == "8" and cell["seed"] == "1"  # noqa: E731
    fake = Fake(store, plan("seed=0,1"), lambda cell: None if fails(cell) else by_hand(cell))
    assert words(fake.run())[0] == "width=16"
    assert "It left out width=8 (failed: It was too much)." in capsys.readouterr().err


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_setting_without_a_finite_score_is_left_out(store, value):
    fake = Fake(store, plan(), lambda cell: value if cell["width"] == "8" else by_hand(cell))
    path = fake.run()
    assert words(path)[0] == "width=16"
    assert path.done[0].candidates[1].left_out == f"has no finite {F1}"


def test_a_stage_that_failed_ends_the_search_in_one_sentence(store):
    fake = Fake(store, plan(), lambda cell: None)
    with pytest.raises(TrialFailed) as error:
        fake.run()
    assert is_one_sentence(str(error.value).replace("width=4 failed: It was too much.", "")), error.value
    assert "Stage 1 ended the search" in str(error.value)


def test_too_many_failures_end_the_search_before_it_chooses(store):
    fake = Fake(store, plan(), by_hand)
    fake.limit = 2
    for job in range(2):
        fake.board.write(job, TrialStatus("failed", [], 0.0))
    with pytest.raises(TrialFailed, match="max_failures=2 ended the search in stage 1"):
        fake.run()
    assert not (fake.board.folder / "stages.json").exists()


def test_settings_that_were_validated_on_other_records_are_not_compared(store):
    fake = Fake(store, plan(), by_hand)
    steps = StagedSweep(fake.staged, fake.compose, fake.sweep.parent)
    for number, cell in enumerate(steps.cells()):
        run = fake.train(cell)
        fake.sweep.store.client.set_tag(run, "validation_fingerprint", f"records {number // 2}")
    with pytest.raises(UserError, match="compares width=4 and width=16, which were validated on different records"):
        steps.choose()


# --- one standard error: trials with predictions


WEIGHTS = {64: 64.0, 32: 32.0, 16: 16.0, 8: 8.0}


def predicting(store, rule, skills, seeds=1):
    """A search over widths whose trials have saved predictions, each with errors of its own."""
    repeated = [f"seed={','.join(map(str, range(seeds)))}"] if seeds > 1 else []
    fake = Fake(store, plan(*repeated, stages=[{"width": list(WEIGHTS)}], rule=rule), lambda cell: 0.0)
    rng = np.random.default_rng(3)
    for choice, (skill, weights) in enumerate(zip(skills, WEIGHTS.values(), strict=True)):
        for cell in fake.staged.cells([], choice):
            own = slot(plain(fake.compose(cell)), cell, fake.staged.swept)
            run = fake.sweep.trial(*cell, slot=own, validation_fingerprint="records")
            path = store.root / "artifacts" / run / "artifacts" / "predictions_val.parquet"
            table = pd.read_parquet(path)
            targets = table[[f"true/{name}" for name in LABELS]].to_numpy()
            logits = skill * (2.0 * targets - 1) + rng.normal(size=targets.shape)
            probabilities = (1 / (1 + np.exp(-logits))).astype(np.float32)
            table[[f"probability/{name}" for name in LABELS]] = probabilities
            table.to_parquet(path, index=False)
            store.client.log_metric(run, F1, measured(probabilities, targets)["mlcm_f1_macro"])
            store.client.log_metric(run, "parameters", weights)
            fake.trained.append(cell)
    return fake


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [1, 2])
def test_one_se_takes_the_net_with_the_fewest_weights_that_is_within_the_error(store, monkeypatch, tmp_path, seeds):
    monkeypatch.setattr("ecgexp.reports.comparison.RESAMPLES", RESAMPLES)
    skills = (1.0, 1.05, 0.98, 0.3)
    best = predicting(store, "best", skills, seeds).run()
    fake = predicting(store, "one_se", skills, seeds)
    path = fake.run()
    # The oracle: the same resamples, scored by repeating records, and the rule in plain words.
    scores, draws = by_resampling(fake, RESAMPLES)  # (widths x seeds), (resamples, widths x seeds)
    single = scores.reshape(4, seeds)
    scores, draws = single.mean(axis=1), draws.reshape(RESAMPLES, 4, seeds).mean(axis=2)
    top = int(np.argmax(scores))
    variances = np.var(draws[:, [top]] - draws, axis=0, ddof=1)
    if seeds > 1:
        variances = variances + np.mean(np.var(single, axis=1, ddof=1)) * (1 / seeds + 1 / seeds)
    near = [at for at in range(4) if at == top or scores[top] - scores[at] <= variances[at] ** 0.5]
    chosen = max(near)  # the widths fall
    assert (words(best), words(path)) == ([f"width={list(WEIGHTS)[top]}"], [f"width={list(WEIGHTS)[chosen]}"])
    assert chosen != top, "else the rule makes no difference here"
    assert path.done[0].error == pytest.approx(variances[chosen] ** 0.5)
    assert [one.score for one in path.done[0].candidates] == pytest.approx(scores)

    # How often it would have chosen another: the same rule in each resample, in plain words.
    differences = draws[:, :, None] - draws[:, None, :]
    between = np.mean(np.var(single, axis=1, ddof=1)) * 2 / seeds if seeds > 1 else 0.0
    error = np.sqrt(np.var(differences, axis=0, ddof=1) + between * (1 - np.eye(4)))
    counts = np.zeros(4)
    for row in draws:
        first = max(at for at in range(4) if row[at] == row.max())
        counts[max(at for at in range(4) if row.max() - row[at] <= error[first, at])] += 1
    report = read_report(store, [store.client.get_run(fake.sweep.parent)])
    assert [report.stage_shares[0][at] for at in range(4)] == pytest.approx(counts / RESAMPLES)
    (tmp_path / "report").mkdir()
    said = write_report(tmp_path / "report", report)
    assert said[0].startswith(f"The stages chose width={list(WEIGHTS)[chosen]}: mlcm_f1_macro {scores[chosen]:.3f}")
    others = 1 - counts[chosen] / RESAMPLES
    assert f"In {others:.1%} of the resamples of the validation records it would have chosen another" in said[1]
    assert "standard error" in said[1]
    page = (tmp_path / "report" / "report.html").read_text()
    assert "Stage 1 of 1: width" in page
    assert f"{100 * counts[chosen] / RESAMPLES:.1f} %" in page
    assert (tmp_path / "report" / "stage_1.png").is_file()
    results = pd.read_csv(tmp_path / "report" / "results.csv")
    assert results["stage"].tolist() == [1] * 4 * seeds


def by_resampling(fake, resamples):
    """Macro F1 of each trial on all records, and in resamples of patients: of records repeated as often as drawn."""
    store = fake.sweep.store
    runs = store.search(f"tags.`mlflow.parentRunId` = '{fake.sweep.parent}'")
    runs.sort(key=lambda run: int(run.data.tags["job"]))
    scores, draws = [], []
    for run in runs:
        table = pd.read_parquet(store.root / "artifacts" / run.info.run_id / "artifacts" / "predictions_val.parquet")
        targets, probabilities = (
            table[[f"{part}/{name}" for name in LABELS]].to_numpy() for part in ("true", "probability")
        )
        weights = resample_patients(targets, table["patient"], resamples=resamples, seed=0).weights
        drawn = [np.repeat(np.arange(len(table)), row) for row in weights]
        f1 = [measured(probabilities[rows], targets[rows])["mlcm_f1_macro"] for rows in [np.arange(len(table)), *drawn]]
        scores.append(f1[0])
        draws.append(f1[1:])
    return np.array(scores), np.array(draws).T


def test_one_se_without_predictions_says_what_is_missing(store):
    fake = Fake(store, plan(rule="one_se"), by_hand)
    with pytest.raises(UserError, match=r"no standard errors \(validation predictions of its trials are missing\)"):
        fake.run()


def test_the_path_is_kept_as_json_and_damage_is_refused(store):
    fake = Fake(store, plan(), by_hand)
    path = fake.run()
    file = fake.board.folder / "stages.json"
    assert read_path(file) == path
    content = json.loads(file.read_text())
    content["done"][0]["chosen"] = 7
    for text in ("", "[]", "{}", json.dumps(content), json.dumps({**content, "planned": []})):
        file.write_text(text)
        with pytest.raises(UserError, match="is damaged or holds no stages") as error:
            read_path(file)
        assert is_one_sentence(str(error.value)), error.value
