"""What is known of a metric before anything is measured: imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ecgexp.errors import UserError

Resampled = Callable[[Any, Any], Callable[[Any], Any]]
"""Probabilities and targets, both arrays (records, columns), to a function from weights of the records, a float64 array
(resamples, records), to scores, (resamples,): see `ecgexp.metrics.weighted`."""


@dataclass(frozen=True)
class Metric:
    """A score of a split.

    Attributes
    ----------
    name : str
        Without the split, such as 'auroc_macro'; a metric per label is written ``name/<label>``.
    higher_is_better : bool
    per_output : bool
        There is one value for each label.
    compute : callable, optional
        Probabilities and targets, both tensors (records, columns), to a number, or to one per label. None where
        the target measures it together with its other metrics.
    resampled : Resampled, optional
        What the bootstrap needs; None: the metric has no interval.
    """

    name: str
    higher_is_better: bool = True
    per_output: bool = False
    compute: Callable[[Any, Any], Any] | None = None
    resampled: Resampled | None = None


LOSS = Metric("loss", higher_is_better=False)


def as_metric(name: str, component: Any) -> Metric:
    """A user's own metric as a `Metric`.

    Parameters
    ----------
    name : str
        Under which it is measured: its key in the config group ``metrics``.
    component : callable
        ``(probabilities, targets)``, both tensors (records, columns), to a number. Its attribute
        ``higher_is_better`` has to be there; ``per_output`` and ``resampled`` may be, see `Metric`.

    Raises
    ------
    UserError
        Where it cannot be called, or does not say which way is better.
    """
    higher = getattr(component, "higher_is_better", None)
    if not callable(component) or not isinstance(higher, bool):
        raise UserError(
            f"Config key 'metrics.{name}' needs a callable whose attribute 'higher_is_better' is True or False, "
            f"which {type(component).__name__} is not."
        )
    per_output = bool(getattr(component, "per_output", False))
    return Metric(name, higher, per_output, component, getattr(component, "resampled", None))
