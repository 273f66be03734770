"""Hydra's syntax for several values as Optuna's distributions, and back."""

from __future__ import annotations

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from trained import is_one_sentence

from ecgexp.errors import UserError
from ecgexp.search.space import Axis, axes


def axis(word: str) -> Axis:
    (found,) = axes(OverridesParser.create().parse_overrides([word])).values()
    return found


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("k=1,2", CategoricalDistribution([1, 2])),
        ("k=choice(a,b)", CategoricalDistribution(["a", "b"])),
        ("k=true,false,null", CategoricalDistribution([True, False, None])),
        ("k='a b','c'", CategoricalDistribution(["a b", "c"])),
        ("k=choice([1,2],[3])", CategoricalDistribution(["[1,2]", "[3]"])),
        ("k=shuffle(3,1,2)", CategoricalDistribution([3, 1, 2])),
        ("k=range(1,9,2)", IntDistribution(1, 7, step=2)),
        ("k=range(9,1,-2)", IntDistribution(3, 9, step=2)),
        ("k=shuffle(range(1,4))", IntDistribution(1, 3)),
        ("k=range(0.1,0.5,0.1)", FloatDistribution(0.1, 0.4, step=0.1)),
        ("k=range(0,1,0.3)", FloatDistribution(0.0, 0.9, step=0.3)),
        ("k=range(1,0,-0.3)", FloatDistribution(0.1, 1.0, step=0.3)),
        ("k=range(1e-13,5e-13,1e-13)", FloatDistribution(1e-13, 4e-13, step=1e-13)),
        ("k=range(0,10000000000)", IntDistribution(0, 9999999999)),
        ("k=tag(log, range(1,100))", IntDistribution(1, 99, log=True)),
        ("k=interval(0, 0.5)", FloatDistribution(0.0, 0.5)),
        ("k=int(interval(1, 64))", IntDistribution(1, 64)),
        ("k=tag(log, interval(1e-4, 1e-1))", FloatDistribution(1e-4, 1e-1, log=True)),
        ("k=tag(log, int(interval(1, 64)))", IntDistribution(1, 64, log=True)),
    ],
)
def test_distribution(word, expected):
    assert axis(word).distribution == expected


@pytest.mark.parametrize(
    ("word", "value", "override"),
    [
        ("lr=tag(log, interval(1e-4, 1e-1))", 0.00012, "lr=0.00012"),
        ("k=range(1,9,2)", 3, "k=3"),
        ("k=range(0.1,0.5,0.1)", 0.1 + 2 * 0.1, "k=0.3"),
        ("k=true,false,null", None, "k=null"),
        ("k='a b','c'", "a b", "k='a b'"),
        ("k=choice([1,2],[3])", "[1,2]", "k=[1,2]"),
        ("+k=1,2", 2, "+k=2"),
        ("optimizer=sgd,adam", "adam", "optimizer=adam"),
        ("model@net=a,b", "a", "model@net=a"),
    ],
)
def test_a_value_becomes_the_override_that_a_user_would_write(word, value, override):
    found = axis(word)
    assert found.override(value) == override
    (parsed,) = OverridesParser.create().parse_overrides([override])
    expected = value if not isinstance(value, str) or not value.startswith("[") else [1, 2]
    assert parsed.value() == (pytest.approx(expected) if isinstance(expected, float) else expected)


@pytest.mark.parametrize("start", [0, 0.1, -0.5, 1, 0.05, 2.5])
@pytest.mark.parametrize("step", [0.1, 0.3, 0.05, 0.25, 0.7, -0.1, -0.3, 0.01, 0.15, 0.2])
def test_a_range_has_the_values_that_a_grid_has(start, step):
    for stop in (1, 0.9, 0.5, 2, 1.0001, 3, 10.5, -1):
        word = f"k=range({start},{stop},{step})"
        grid = sorted(OverridesParser.create().parse_override(word).value().range())
        if not grid:
            continue
        found = axis(word)
        assert list(found.values()) == pytest.approx(grid, abs=1e-9)
        assert [found.override(value) for value in grid] == [f"k={value}" for value in found.values()]


def test_only_what_has_several_values_is_searched():
    words = ["a=1", "+b=1,2", "~c", "d=[1,2]", "e='x,y'"]
    assert list(axes(OverridesParser.create().parse_overrides(words))) == ["b"]


@pytest.mark.parametrize(
    "word",
    [
        "k=range(3,3)",
        "k=range(3.0,3)",
        "k=range(0,1,0)",
        "k=range(0,1.5,0)",
        "k=interval(1,0)",
        "k=tag(log, interval(0,1))",
        "k=tag(log, range(1,100,2))",
        "k=tag(log, range(0.1,0.9,0.1))",
        "k=0.1,0.1",
        "k=1,true",
    ],
)
def test_a_space_that_cannot_be_sampled_is_refused_in_one_sentence(word):
    with pytest.raises(UserError) as refused:
        axis(word)
    assert is_one_sentence(str(refused.value))
    assert word in str(refused.value)
