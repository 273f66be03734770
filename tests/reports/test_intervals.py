"""Intervals of a user's own metrics, which define their resampling."""

from __future__ import annotations

import re

import numpy as np
import pytest

from ecgexp.metrics.base import Metric
from ecgexp.reports.comparison import intervals
from ecgexp.targets import MultiLabel

RNG = np.random.default_rng(0)
TARGETS = (RNG.random((80, 2)) < 0.4).astype(np.uint8)
PATIENTS = np.arange(80) // 2
TRIALS = [np.clip(RNG.normal(0.3 + 0.4 * TARGETS, size), 0, 1).astype(np.float32) for size in (0.2, 0.5)]


def error_of(probabilities, targets):
    errors = np.abs(probabilities.astype(float) - targets).mean(axis=1)
    return lambda weights: weights @ errors / weights.sum(axis=1)


def with_metric(resampled, higher_is_better=False):
    target = MultiLabel(("a", "b"))
    target.extra = (Metric("error", higher_is_better, compute=abs, resampled=resampled),)
    return intervals([(target, trial) for trial in TRIALS], TARGETS, PATIENTS)


def test_a_metric_of_ones_own_gets_an_interval_beside_the_others():
    found = with_metric(error_of)
    assert list(found.scores) == ["mlcm_f1_macro", "auroc_macro", "error"]
    error = found.scores["error"]
    by_hand = [np.abs(trial - TARGETS).mean() for trial in TRIALS]
    np.testing.assert_allclose(error.values, by_hand, rtol=1e-6)
    assert error.comparison.winner == 0
    assert (error.low < error.values).all() and (error.values < error.high).all()
    # A mean over 40 patients: normal limits from the means of the patients are close to those of the bootstrap.
    means = np.abs(TRIALS[1] - TARGETS).mean(axis=1).reshape(40, 2).mean(axis=1)
    assert error.high[1] - error.low[1] == pytest.approx(2 * 1.96 * means.std(ddof=1) / np.sqrt(40), rel=0.15)


def test_it_changes_nothing_about_the_others():
    target = MultiLabel(("a", "b"))
    alone = intervals([(target, trial) for trial in TRIALS], TARGETS, PATIENTS)
    beside = with_metric(error_of)
    for name, score in alone.scores.items():
        np.testing.assert_array_equal(score.draws, beside.scores[name].draws)
        assert score.optimism == beside.scores[name].optimism


def breaks(probabilities, targets):
    raise KeyError("x")


def breaks_later(probabilities, targets):
    return lambda weights: weights @ np.ones(3)


@pytest.mark.parametrize(
    ("resampled", "message"),
    [
        (breaks, r"'resampled' fails with KeyError: 'x'\."),
        (breaks_later, r"'resampled' fails with ValueError: .*\."),
        (lambda probabilities, targets: lambda weights: weights.sum(), r"returns the shape \(\)"),
        (lambda probabilities, targets: lambda weights: weights.sum(axis=1) * np.nan, "not a finite number"),
    ],
)
def test_a_failing_metric_is_reported_and_the_others_have_intervals(resampled, message):
    found = with_metric(resampled)
    assert list(found.scores) == ["mlcm_f1_macro", "auroc_macro"]
    (remark,) = found.undefined.values()
    assert remark.startswith("There is no interval of error, ")
    assert re.search(message, remark)
