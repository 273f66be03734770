"""The search space, written as Hydra's overrides."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from hydra.core.override_parser.types import (
    ChoiceSweep,
    IntervalSweep,
    Override,
    QuotedString,
    RangeSweep,
)
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from ecgexp.errors import UserError


@dataclass(frozen=True)
class Axis:
    """A searched key.

    Attributes
    ----------
    key : str
        Text left of the ``=`` in its override.
    distribution : BaseDistribution
        Its possible values.
    words : dict
        Text right of the ``=`` for each value of a choice.
    """

    key: str
    distribution: BaseDistribution
    words: Mapping[Any, str]

    def override(self, value: Any) -> str:
        """The override that sets a value."""
        found = self.distribution
        if isinstance(found, FloatDistribution) and found.step is not None:
            value = _steps(found.low, found.step, [round((value - found.low) / found.step)])[0]
        return f"{self.key}={self.words.get(value, value)}"

    def values(self) -> Sequence[Any]:
        """All possible values; for an interval, its two ends."""
        found = self.distribution
        if isinstance(found, CategoricalDistribution):
            return found.choices
        if isinstance(found, IntDistribution):
            return range(found.low, found.high + 1, found.step)
        assert isinstance(found, FloatDistribution)
        if found.step is None:
            return [found.low, found.high]
        return _steps(found.low, found.step, range(round((found.high - found.low) / found.step) + 1))


def axes(overrides: Iterable[Override]) -> dict[str, Axis]:
    """Searched keys by parameter name, from the overrides that give several values.

    ``a,b``, ``choice(a,b)`` and ``glob(*)`` are categories, ``range(start, stop, step)`` numbers in steps without
    its stop, ``interval(low, high)`` a float; ``int(interval(...))`` a whole number; ``tag(log, ...)`` of an
    interval, or a range of whole numbers in steps of 1, samples its logarithm.

    Raises
    ------
    UserError
        If the space is empty or cannot be sampled.
    """
    return {o.get_key_element().lstrip("+"): _axis(o) for o in overrides if o.is_sweep_override()}


def _axis(override: Override) -> Axis:
    key, sweep = override.get_key_element(), override.value()
    try:
        tags: set[str] = getattr(sweep, "tags", set())
        if unknown := tags - {"log"}:
            raise ValueError(f"the tag '{min(unknown)}' is unknown; the only tag is log.")
        if isinstance(sweep, IntervalSweep):
            return Axis(key, _interval(sweep), {})
        if isinstance(sweep, RangeSweep):
            return Axis(key, _range(sweep), {})
        if isinstance(sweep, ChoiceSweep):
            sweep.shuffle = False  # else the two iterators below would differ
        words = list(override.sweep_string_iterator())
        values = [_category(value, word) for value, word in zip(override.sweep_iterator(), words, strict=True)]
        if len(set(values)) < len(values):
            raise ValueError("a value is there twice.")
        return Axis(key, CategoricalDistribution(values), dict(zip(values, words, strict=True)))
    except ValueError as error:
        raise UserError(f"The search space {override.input_line} cannot be sampled: {error}") from error


def _interval(sweep: IntervalSweep) -> BaseDistribution:
    log = "log" in sweep.tags
    assert sweep.start is not None and sweep.end is not None
    if isinstance(sweep.start, int) and isinstance(sweep.end, int):
        return IntDistribution(sweep.start, sweep.end, log=log)
    return FloatDistribution(float(sweep.start), float(sweep.end), log=log)


def _range(sweep: RangeSweep) -> BaseDistribution:
    log, found = "log" in sweep.tags, sweep.range()
    if isinstance(found, range):
        if not found:
            raise ValueError("the range holds no value.")
        low, high = sorted((found[0], found[-1]))
        return IntDistribution(low, high, log=log, step=abs(found.step))
    if not sweep.step:
        raise ValueError("its step is 0.")
    count = len(list(found))  # as many as a grid has
    if not count:
        raise ValueError("the range holds no value.")
    ends = _steps(sweep.start, sweep.step, [0, count - 1])
    return FloatDistribution(min(ends), max(ends), log=log, step=float(abs(sweep.step)))


def _steps(start: Any, step: Any, counts: Iterable[int]) -> list[float]:
    """Numbers at these counts of steps from the first, exact as decimals: 0.3, not 0.1 + 2 * 0.1."""
    first, width = Decimal(str(start)), Decimal(str(step))
    return [float(first + count * width) for count in counts]


def _category(value: Any, word: str) -> Any:
    """A category as Optuna keeps it: a plain value unchanged, anything else as its text."""
    if isinstance(value, QuotedString):
        return value.text
    return value if value is None or isinstance(value, (bool, int, float, str)) else word
