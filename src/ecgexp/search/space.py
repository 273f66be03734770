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
    texts : dict
        Text right of the ``=`` for each value of a choice.
    """

    key: str
    distribution: BaseDistribution
    texts: Mapping[Any, str]

    def override(self, value: Any) -> str:
        """The override that sets a value."""
        space = self.distribution
        if isinstance(space, FloatDistribution) and space.step is not None:
            value = _steps(space.low, space.step, [round((value - space.low) / space.step)])[0]
        return f"{self.key}={self.texts.get(value, value)}"

    def values(self) -> Sequence[Any]:
        """All possible values; for an interval, its two ends."""
        space = self.distribution
        if isinstance(space, CategoricalDistribution):
            return space.choices
        if isinstance(space, IntDistribution):
            return range(space.low, space.high + 1, space.step)
        assert isinstance(space, FloatDistribution)
        if space.step is None:
            return [space.low, space.high]
        return _steps(space.low, space.step, range(round((space.high - space.low) / space.step) + 1))


def axes(overrides: Iterable[Override]) -> dict[str, Axis]:
    """Searched keys by parameter name, from the overrides that give several values.

    ``a,b``, ``choice(a,b)`` and ``glob(*)`` are categories. ``range(start, stop, step)`` gives numbers in steps,
    without `stop`. ``interval(low, high)`` gives a float, ``int(interval(...))`` a whole number. ``tag(log, ...)``
    samples the logarithm; it takes an interval, or a range of whole numbers in steps of 1.

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
        texts = list(override.sweep_string_iterator())
        values = [_category(value, text) for value, text in zip(override.sweep_iterator(), texts, strict=True)]
        if len(set(values)) < len(values):
            raise ValueError("a value is listed twice.")
        return Axis(key, CategoricalDistribution(values), dict(zip(values, texts, strict=True)))
    except ValueError as error:
        raise UserError(f"The search space {override.input_line} cannot be sampled: {error}") from error


def _interval(sweep: IntervalSweep) -> BaseDistribution:
    log = "log" in sweep.tags
    assert sweep.start is not None and sweep.end is not None
    if isinstance(sweep.start, int) and isinstance(sweep.end, int):
        return IntDistribution(sweep.start, sweep.end, log=log)
    return FloatDistribution(float(sweep.start), float(sweep.end), log=log)


def _range(sweep: RangeSweep) -> BaseDistribution:
    log, numbers = "log" in sweep.tags, sweep.range()
    if isinstance(numbers, range):
        if not numbers:
            raise ValueError("the range holds no value.")
        low, high = sorted((numbers[0], numbers[-1]))
        return IntDistribution(low, high, log=log, step=abs(numbers.step))
    if not sweep.step:
        raise ValueError("its step is 0.")
    count = len(list(numbers))  # a grid has as many
    if not count:
        raise ValueError("the range holds no value.")
    ends = _steps(sweep.start, sweep.step, [0, count - 1])
    return FloatDistribution(min(ends), max(ends), log=log, step=float(abs(sweep.step)))


def _steps(start: Any, step: Any, counts: Iterable[int]) -> list[float]:
    """`start` plus each count of steps, exact as a decimal number: 0.3, not the float 0.1 + 2 * 0.1."""
    first, width = Decimal(str(start)), Decimal(str(step))
    return [float(first + count * width) for count in counts]


def _category(value: Any, text: str) -> Any:
    """A category as Optuna stores it: a plain value unchanged, any other value as its text."""
    if isinstance(value, QuotedString):
        return value.text
    return value if value is None or isinstance(value, (bool, int, float, str)) else text
