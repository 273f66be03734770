import dataclasses
import math

import numpy as np
import pytest
from scipy.stats import chi2, f, f_oneway

from ecgexp.errors import UserError
from ecgexp.statistics.variance import variance_components

BALANCED = {
    "adam": [0.70, 0.72, 0.69],
    "sgd": [0.60, 0.61, 0.64],
    "rmsprop": [0.68, 0.65, 0.66],
    "lr": [0.5, 0.52, 0.49],
}


def test_cells_are_summarised():
    cells = variance_components({"adam": [0.70, 0.74], "sgd": [0.6]}).cells
    assert dataclasses.astuple(cells["adam"]) == pytest.approx((2, 0.72, 0.04 / math.sqrt(2), 0.70, 0.74))
    assert dataclasses.astuple(cells["sgd"]) == (1, 0.6, None, 0.6, 0.6)


def test_equal_repetitions_give_the_textbook_estimates_and_limits():
    # Analysis of variance by scipy; limits of the intraclass correlation as in Shrout & Fleiss 1979, ICC(1,1).
    n, cells, runs = 12, 4, 3
    ratio = f_oneway(*BALANCED.values()).statistic
    within = sum(np.var(cell, ddof=1) for cell in BALANCED.values()) / cells
    icc = (ratio - 1) / (ratio + runs - 1)
    upper = ratio * f.ppf(0.975, n - cells, cells - 1)
    lower = ratio / f.ppf(0.975, cells - 1, n - cells)
    icc_limits = (lower - 1) / (lower + runs - 1), (upper - 1) / (upper + runs - 1)

    components = variance_components(BALANCED)
    assert components.within_sd == pytest.approx(math.sqrt(within))
    assert components.between_sd == pytest.approx(math.sqrt((ratio - 1) * within / runs))
    assert components.within_share == pytest.approx(1 - icc)
    assert components.within_share_interval == pytest.approx((1 - icc_limits[1], 1 - icc_limits[0]))
    sd_limits = [math.sqrt(8 * within / chi2.ppf(share, 8)) for share in (0.975, 0.025)]
    assert components.within_sd_interval == pytest.approx(sd_limits)
    assert components.remark == ""


@pytest.mark.slow
def test_estimates_of_unequal_repetitions_have_no_bias():
    # The estimates of the variances are unbiased where they are not cut off at 0, which here hardly occurs.
    rng, counts, variances = np.random.default_rng(0), [1, 2, 2, 3, 4, 6, 1, 3], []
    for _ in range(1000):
        cells = {str(i): 3 * rng.normal() + rng.normal(size=count) for i, count in enumerate(counts)}
        components = variance_components(cells)
        variances.append((components.between_sd**2, components.within_sd**2))
    means, errors = np.mean(variances, axis=0), np.std(variances, axis=0) / math.sqrt(1000)
    assert np.abs((means - [9, 1]) / errors).max() < 3.5


def test_cells_that_do_not_differ_leave_all_to_the_repetitions():
    components = variance_components({"a": [0.5, 0.7], "b": [0.7, 0.5], "c": [0.5, 0.7]})
    assert (components.between_sd, components.within_share) == (0, 1)
    assert components.within_share_interval == (1, 1)


def test_repetitions_that_do_not_differ_leave_all_to_the_cells():
    components = variance_components({"a": [0.5, 0.5], "b": [0.75, 0.75]})
    assert (components.within_sd, components.within_share, components.within_share_interval) == (0, 0, (0, 0))


@pytest.mark.parametrize(
    ("values", "remark"),
    [
        ({"a": [0.5], "b": [0.6]}, "Every cell was run once"),
        ({"a": [0.5, 0.6]}, "at least two cells"),
        ({}, "at least two cells"),
        ({"a": [0.5, 0.5], "b": [0.5]}, "All values are equal"),
    ],
)
def test_what_the_repetitions_do_not_show_is_none_with_a_remark(values, remark):
    components = variance_components(values)
    assert remark in components.remark
    assert components.within_share is components.within_share_interval is components.within_sd is None
    assert list(components.cells) == list(values)


def test_cells_run_once_give_a_remark_and_count_for_the_spread_between_cells():
    few = variance_components({"a": [0.70, 0.72], "b": [0.60, 0.61]})
    more = variance_components({"a": [0.70, 0.72], "b": [0.60, 0.61], "c": [0.2], "d": [0.9]})
    assert more.remark == "2 of 4 cells were run once: they count only for the variance between cells."
    assert more.within_sd == pytest.approx(few.within_sd)
    assert more.between_sd > 2 * few.between_sd


@pytest.mark.parametrize("values", [{"a": [0.5], "b": []}, {"a": [0.5], "b": [float("nan")]}])
def test_a_cell_without_finite_values_is_named(values):
    with pytest.raises(UserError, match="The cell 'b'"):
        variance_components(values)


def test_a_level_that_is_none_is_refused():
    with pytest.raises(UserError, match="level must be a confidence"):
        variance_components(BALANCED, level=95)


@pytest.mark.slow
@pytest.mark.parametrize("counts", [[3] * 10, [1, 1, 1, 2, 3, 5, 8, 3]], ids=["equal", "unequal"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("repetitions", [300, pytest.param(1000, marks=pytest.mark.full)])
def test_limits_cover_the_true_share_and_the_true_standard_deviation(counts, share, repetitions):
    """8 or 10 cells of 1 to 8 runs; accepted: 95 % within 3 binomial standard errors, of 1,000 repetitions 93-97 %."""
    rng = np.random.default_rng(3)
    covered = np.zeros(2)
    for _ in range(repetitions):
        cells = {
            str(i): math.sqrt(1 - share) * rng.normal() + math.sqrt(share) * rng.normal(size=count)
            for i, count in enumerate(counts)
        }
        components = variance_components(cells)
        intervals = (components.within_share_interval, share), (components.within_sd_interval, math.sqrt(share))
        covered += [low <= true <= high for (low, high), true in intervals]
    margin = 3 * math.sqrt(0.95 * 0.05 / repetitions)
    assert (np.abs(covered / repetitions - 0.95) <= margin).all(), covered
