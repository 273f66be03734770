"""Tuned thresholds of probabilities, one for each label."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def tuned_thresholds(probabilities: ArrayLike, targets: ArrayLike, default: float) -> Floats:
    """For each label, the threshold with the highest F1 of this label alone.

    Parameters
    ----------
    probabilities, targets : arrays, (records, labels)
        Of the validation split. Scores with these thresholds on the same split would be too good.
    default : float
        Threshold for a label without positives. Among equally good thresholds, the nearest to this is chosen.

    Returns
    -------
    float64 array, (labels,)
        Each is the default, half the lowest probability, or halfway between two. A label is predicted above it.
    """
    columns = zip(np.asarray(probabilities, dtype=np.float64).T, np.asarray(targets).T == 1, strict=True)
    return np.array([_best_threshold(values, true, default) for values, true in columns])


def _best_threshold(values: Floats, true: NDArray[np.bool_], default: float) -> float:
    if not true.any():
        return default
    levels = np.unique(values)
    candidates = np.concatenate([[default], (levels[:-1] + levels[1:]) / 2, [levels[0] / 2]])
    order = np.argsort(values)
    hits_below = np.concatenate([[0], np.cumsum(true[order])])
    below = np.searchsorted(values[order], candidates, side="right")
    hits, predicted = true.sum() - hits_below[below], len(values) - below
    f1 = 2 * hits / (predicted + true.sum())
    best = candidates[f1 >= f1.max() - 1e-12]
    return float(best[np.abs(best - default).argmin()])
