"""The description of a metric: name, direction and functions. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ecgexp.errors import UserError

Resampled = Callable[[Any, Any], Callable[[Any], Any]]
"""Takes probabilities and targets, both arrays (records, columns), and returns a scoring function. The latter takes
weights of the records, a float64 array (resamples, records), and returns scores, (resamples,). See
`ecgexp.metrics.weighted`."""


@dataclass(frozen=True)
class Metric:
    """A score of a split.

    Attributes
    ----------
    name : str
        Name without the split, for example 'auroc_macro'; a metric per label is logged as ``name/<label>``.
    higher_is_better : bool
    per_output : bool
        Whether there is one value for each label.
    compute : callable, optional
        Takes probabilities and targets, both tensors (records, columns), and returns a number, or one per label. None
        if the target measures it together with its other metrics.
    resampled : Resampled, optional
        Scores for the bootstrap; None: the metric has no interval.
    """

    name: str
    higher_is_better: bool = True
    per_output: bool = False
    compute: Callable[[Any, Any], Any] | None = None
    resampled: Resampled | None = None


LOSS = Metric("loss", higher_is_better=False)


def as_metric(name: str, component: Any) -> Metric:
    """Turn a user's own metric into a `Metric`.

    Parameters
    ----------
    name : str
        Its key in the config group ``metrics``.
    component : callable
        Takes ``(probabilities, targets)``, both tensors (records, columns), and returns a number. It must have the
        attribute ``higher_is_better``, and may have ``per_output`` and ``resampled``; see `Metric`.

    Raises
    ------
    UserError
        If it cannot be called, or has no attribute ``higher_is_better`` that is True or False.
    """
    higher = getattr(component, "higher_is_better", None)
    if not callable(component) or not isinstance(higher, bool):
        raise UserError(
            f"Config key 'metrics.{name}' needs a callable whose attribute 'higher_is_better' is True or False, "
            f"which {type(component).__name__} is not."
        )
    per_output = bool(getattr(component, "per_output", False))
    return Metric(name, higher, per_output, component, getattr(component, "resampled", None))
