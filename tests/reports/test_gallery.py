"""The gallery of errors: which records it shows, with which neighbours, and how it draws them."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.image import imread
from sklearn.metrics import precision_score, recall_score

from ecgexp.datasets import Input, Split
from ecgexp.reports.evaluation import label_intervals
from ecgexp.reports.gallery import MOST_PAIRS, draw_errors, find_errors
from ecgexp.reports.page import write_gallery
from ecgexp.statistics import resample_patients
from ecgexp.targets import MultiClass, MultiLabel, Target
from ecgexp.tracking.names import File
from ecgexp.training.predictions import Predictions

LABELS = ("a", "b", "c")
# Rows 0 to 2 are right, 3 to 6 are wrong, and row 7 diverged.
ONE = np.array(
    [
        [0.90, 0.05, 0.05], [0.10, 0.80, 0.10], [0.60, 0.30, 0.10],
        [0.20, 0.70, 0.10], [0.02, 0.96, 0.02], [0.45, 0.44, 0.11], [0.30, 0.60, 0.10], [np.nan] * 3,
    ],
    dtype=np.float32,
)  # fmt: skip
TRUE = [0, 1, 0, 0, 2, 1, 2, 0]


def predicted(probabilities, targets, target: Target) -> Predictions:
    ids = np.array([f"r{i}" for i in range(len(targets))])
    return Predictions(ids, np.asarray(targets, dtype=np.uint8), probabilities, target, None)


def one_label() -> Predictions:
    return predicted(ONE, np.eye(3, dtype=np.uint8)[TRUE], MultiClass(LABELS))


def test_the_most_confident_errors_come_first_and_those_hardly_decided_last():
    found = find_errors(one_label())
    sections = dict(list(found.groupby("section", sort=False)))
    assert list(sections["Most confident"]["id"]) == ["r4", "r3", "r6", "r5"]
    np.testing.assert_allclose(sections["Most confident"]["confidence"], [0.96, 0.70, 0.60, 0.45], rtol=1e-6)
    assert list(sections["Least decided"]["id"]) == ["r5", "r6", "r3", "r4"]
    np.testing.assert_allclose(sections["Least decided"]["margin"], [0.01, 0.30, 0.50, 0.94], atol=1e-6)


def test_each_pair_of_labels_has_its_most_confident_error_and_the_number_of_its_errors():
    found = find_errors(one_label())
    pairs = {name: list(part["id"]) for name, part in found.groupby("section", sort=False) if "taken" in name}
    assert pairs == {"c taken for b (2)": ["r4"], "a taken for b (1)": ["r3"], "b taken for a (1)": ["r5"]}


def test_the_nearest_correct_records_are_those_of_the_smallest_distance_in_log_odds():
    found = find_errors(one_label()).set_index("id")
    odds = np.log(ONE.astype(float) / (1 - ONE.astype(float)))
    for row, error in found.iterrows():
        record = int(row[1:])
        correct = {"a": [0, 2], "b": [1], "c": []}
        for column in ("predicted", "true"):
            rows = correct[error[column]]
            distances = [np.linalg.norm(odds[other] - odds[record]) for other in rows]
            expected = rows[int(np.argmin(distances))] if rows else -1
            assert error[f"nearest_{column}"] == expected


def test_each_label_of_a_multi_label_record_is_a_decision():
    probabilities = np.array([[0.9, 0.2], [0.3, 0.1], [0.4, 0.8], [0.1, 0.35]], dtype=np.float32)
    targets = [[1, 0], [1, 0], [0, 0], [0, 1]]
    found = find_errors(predicted(probabilities, targets, MultiLabel(("a", "b"), threshold=0.5)))
    first = found[found["section"] == "Most confident"]
    assert list(zip(first["id"], first["true"], first["predicted"], strict=True)) == [
        ("r2", "no b", "b"), ("r1", "a", "no a"), ("r3", "b", "no b"),
    ]  # fmt: skip
    np.testing.assert_allclose(first["confidence"], [0.8, 0.7, 0.65], rtol=1e-6)
    np.testing.assert_allclose(first["margin"], [0.1, 0.2, 0.15], atol=1e-6)
    assert list(first["nearest_true"]) == [1, 0, -1]  # no record has b and gets it
    tuned = MultiLabel(("a", "b")).with_thresholds([0.25, 0.3])
    left = find_errors(predicted(probabilities, targets, tuned))
    assert set(zip(left["id"], left["predicted"], strict=True)) == {("r2", "b"), ("r2", "a")}


def test_a_target_without_decisions_has_no_gallery():
    class Numbers(MultiClass):
        def decisions(self, probabilities, targets):
            return Target.decisions(self, probabilities, targets)

    assert find_errors(predicted(ONE, np.eye(3)[TRUE], Numbers(LABELS))) is None


def test_of_many_pairs_the_most_frequent_are_shown():
    rng = np.random.default_rng(0)
    targets, names = rng.integers(0, 12, 500), [f"l{i}" for i in range(12)]
    probabilities = rng.dirichlet(np.ones(12), 500).astype(np.float32)
    found = find_errors(predicted(probabilities, np.eye(12)[targets], MultiClass(names)))
    counts = [int(re.search(r"\((\d+)\)$", name)[1]) for name in found["section"].unique() if "taken" in name]
    pairs = pd.Series(list(zip(targets, probabilities.argmax(axis=1), strict=True)))
    expected = pairs[[true != guess for true, guess in pairs]].value_counts().to_list()[:MOST_PAIRS]
    assert counts == expected


def images(records: int) -> tuple[Split, Input]:
    pixels = np.random.default_rng(1).integers(0, 256, (records, 6, 9, 3)).astype(np.uint8)
    ids = np.array([f"r{i}" for i in range(records)])
    one = Input("image", ("channel", "row", "column"), (3, 6, 9), stored=("row", "column", "channel"))
    return Split({"image": pixels}, np.arange(records), np.eye(3, dtype=np.uint8)[TRUE], ids, ids), one


def test_images_are_drawn_with_their_own_colours_and_records_with_their_facts(tmp_path):
    split, one = images(8)
    metadata = pd.DataFrame({"age": [50.0 + i for i in range(8)], "note": ["<b>"] * 8})
    sections, table = draw_errors(one_label(), split, [one], metadata)
    record = sections[0].errors[0][0]
    assert record.role == "c, predicted b (0.96)"
    assert record.facts == [("age", "54"), ("note", "<b>")]
    assert record.probabilities[0] == ("b", pytest.approx(0.96))
    picture = imread(io.BytesIO(base64.b64decode(record.picture.partition(",")[2])))
    height, width = picture.shape[:2]
    for row in range(6):
        for column in range(9):
            middle = picture[int((row + 0.5) * height / 6), int((column + 0.5) * width / 9), :3]
            np.testing.assert_allclose(255 * middle, split.inputs["image"][4, row, column], atol=1.5)
    write_gallery(tmp_path, "Errors of <run>", "Generated.", sections, table)
    page = (tmp_path / File.ERRORS_PAGE).read_text()
    assert "Errors of &lt;run&gt;" in page and "&lt;b&gt;" in page and "<b>50" not in page and "Generated." in page
    assert "there is no correct c" in page
    kept = pd.read_csv(tmp_path / File.ERRORS)
    assert list(kept["nearest_predicted"][:2]) == ["r1", "r1"]


def test_other_inputs_are_drawn_or_left_out():
    split, _ = images(8)
    signals = np.zeros((8, 100, 2), dtype=np.float32)
    split.inputs["signal"] = signals
    ecg = Input("signal", ("lead", "time"), (2, 100), "mV", 50.0, {"lead": ("I", "II")}, ("time", "lead"))
    grey = Input("image", ("row", "column", "channel"), (6, 9, 3))  # an order that is no image's
    drawn = draw_errors(one_label(), split, [ecg])[0][0].errors[0][0].picture
    assert drawn.startswith("data:image/png;base64,")
    assert draw_errors(one_label(), split, [grey])[0][0].errors[0][0].picture == ""


def test_limits_of_precision_and_recall_are_quantiles_over_resampled_patients():
    rng = np.random.default_rng(3)
    targets = torch.from_numpy(np.eye(3)[rng.integers(0, 2, 60)])  # the last label never occurs
    probabilities = torch.from_numpy(rng.dirichlet(np.ones(3), 60) * [1, 1, 0.01])
    patients = np.arange(60) // 2
    found = label_intervals(MultiClass(LABELS), probabilities, targets, patients)
    weights = resample_patients(np.zeros((60, 0)), patients).weights
    true, guess = targets.argmax(dim=1).numpy(), probabilities.argmax(dim=1).numpy()
    options = {"labels": [0, 1], "average": None, "zero_division": np.nan}
    for name, score in (("precision", precision_score), ("recall", recall_score)):
        draws = np.array([score(true, guess, sample_weight=one, **options) for one in weights.astype(float)])
        for end, level in (("low", 0.025), ("high", 0.975)):
            expected = np.nanquantile(draws, level, axis=0)
            np.testing.assert_allclose(found[f"{name}_{end}"][:2], expected, atol=1e-12)
    assert found.loc["c"].isna().all()
