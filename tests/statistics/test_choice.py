"""Choosing the best candidate, or a cheaper one that cannot be told from it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ecgexp.errors import UserError
from ecgexp.statistics import bootstrap, choices, noise, score_in_blocks


def by_hand(scores, costs, errors) -> int:
    """The rule in plain Python: the cheapest, then the first, of those within an error of the best."""
    known = [i for i, score in enumerate(scores) if not math.isnan(score)]
    if not known:
        return min(range(len(scores)), key=lambda i: (costs[i], i))
    top = max(scores[i] for i in known)
    best = min((i for i in known if scores[i] == top), key=lambda i: (costs[i], i))
    near = [i for i in known if top - scores[i] <= errors[best][i]]
    return min(near, key=lambda i: (costs[i], i))


@pytest.mark.parametrize(
    ("scores", "costs", "chosen"),
    [
        ([0.1, 0.3, 0.2], [1, 1, 1], 1),
        ([0.3, 0.3, 0.3], [1, 1, 1], 0),  # a tie: the earlier
        ([0.3, 0.3, 0.3], [3, 1, 2], 1),  # a tie: the cheaper
        ([0.3, 0.3, 0.1], [2, 2, 1], 0),  # equally cheap: the earlier
        ([math.nan, 0.1, 0.2], [1, 5, 9], 2),
        ([math.nan, -5.0], [1, 9], 1),
        ([0.2], [7], 0),
    ],
)
def test_ties_go_to_the_cheaper_and_then_to_the_earlier(scores, costs, chosen):
    assert choices([scores], costs).tolist() == [chosen]


def test_it_is_the_rule_by_hand_also_with_errors():
    rng = np.random.default_rng(0)
    for _ in range(300):
        n = int(rng.integers(1, 6))
        scores = rng.integers(0, 4, size=(5, n)) / 4  # ties are frequent
        scores[rng.random(scores.shape) < 0.1] = np.nan
        costs = rng.integers(1, 3, size=n)
        errors = rng.choice([0.0, 0.25, 0.5], size=(n, n))
        errors = np.triu(errors, 1) + np.triu(errors, 1).T
        expected = [by_hand(row, costs, errors) for row in scores.tolist()]
        assert choices(scores, costs, errors).tolist() == expected


def test_shapes_that_do_not_match_are_refused():
    for given in (([[0.1, 0.2]], [1]), ([0.1], [1]), ([[]], []), ([[0.1]], [1], [0.1])):
        with pytest.raises(UserError, match="do not match"):
            choices(*given)
    with pytest.raises(UserError, match="do not match"):
        noise([[0.1, 0.2]], [[0.1]])


def test_noise_is_the_error_of_the_paired_difference_and_grows_with_the_spread_of_seeds():
    rng = np.random.default_rng(1)
    draws = rng.normal(size=(400, 3))
    draws[:, 2] = draws[:, 0] + 0.5  # always better by as much
    found = noise(draws, [[0.1], [0.2], [0.3]])
    assert found[0, 1] == pytest.approx(np.std(draws[:, 0] - draws[:, 1], ddof=1))
    assert found[0, 2] == 0
    # Variances of the three pairs of seeds: 0.02, 0.0002 and 0.
    repeated = noise(draws, [[0.1, 0.3], [0.21, 0.19], [0.4, 0.4]])
    between = (0.02 + 0.0002 + 0) / 3 * 2 / 2
    assert repeated[0, 2] == pytest.approx(math.sqrt(between))
    assert repeated[0, 1] == pytest.approx(math.sqrt(found[0, 1] ** 2 + between))
    assert np.diag(repeated).tolist() == [0, 0, 0]


def test_the_share_of_resamples_with_another_choice_is_that_of_the_binomial_distribution():
    # Candidate 0 is right on 6 of 10 records, candidate 1 on 5 others: 11 records disagree. In a resample, candidate 1
    # wins where more of its own records are drawn than of the other's; a tie goes to candidate 0.
    records, first, second = 40, 6, 5
    hits = np.zeros((2, records))
    hits[0, :first] = 1
    hits[1, first : first + second] = 1
    scorers = [
        lambda weights, hit=hit: score_in_blocks([lambda block: block @ hit / block.sum(axis=1)], weights)
        for hit in hits
    ]
    found = bootstrap(scorers, np.ones((records, 0)), np.arange(records), ["hits"], resamples=20_000)
    share = (choices(found.scores["hits"].draws, [1, 1]) == 1).mean()
    factorial = math.factorial
    exact = sum(
        factorial(records)
        / (factorial(a) * factorial(b) * factorial(records - a - b))
        * (first / records) ** a
        * (second / records) ** b
        * (1 - (first + second) / records) ** (records - a - b)
        for b in range(records + 1)
        for a in range(min(b, records - b + 1))
    )
    assert share == pytest.approx(exact, abs=0.012)
