"""Scores of records that count more than once or not at all, as in the resamples of a bootstrap.

Each function takes the outputs of one net, prepares what does not depend on the weights, and returns a function from
weights to scores. The weights are a float64 array (resamples, records), the scores one (resamples,).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array

from ecgexp.errors import UserError
from ecgexp.metrics.confusion import mlcm_marginals
from ecgexp.metrics.multiclass import predicted_classes

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Weighted = Callable[[Floats], Floats]


def mlcm_f1_macro(probabilities: ArrayLike, targets: ArrayLike, threshold: float = 0.5) -> Weighted:
    """`mlcm_f1_macro` of `ecgexp.metrics.classification_metrics`.

    The label NTL counts where a record has no label, whatever its weight.

    Parameters
    ----------
    probabilities : float array, (records, labels)
        NaN counts as 0.
    targets : array, (records, labels)
        0 and 1.
    threshold : float
        From 0 to 1; a probability above it is a prediction.

    Raises
    ------
    UserError
        As for `ecgexp.metrics.mlcm`.

    Examples
    --------
    >>> import numpy as np
    >>> score = mlcm_f1_macro([[0.9, 0.2], [0.7, 0.6]], [[1, 0], [0, 1]])
    >>> score(np.array([[1.0, 1.0], [2.0, 0.0]]))
    array([0.66666667, 0.5       ])
    """
    known, true = _known(probabilities), np.asarray(targets) == 1
    hits, rows, columns = mlcm_marginals(
        torch.from_numpy(known), torch.from_numpy(true), num_labels=true.shape[1], threshold=threshold
    )
    counted = true.shape[1] + int(not true.any(axis=1).all())
    return _macro_ratio(2 * hits[:, :counted].numpy(), (rows + columns)[:, :counted].numpy())


def f1_macro(probabilities: ArrayLike, targets: ArrayLike, smallest_class: int = 1) -> Weighted:
    """`f1_macro` of `ecgexp.metrics.multiclass_metrics`.

    Parameters
    ----------
    probabilities : float array, (records, classes)
        A record with NaN has no prediction.
    targets : array, (records, classes)
        One-hot.
    smallest_class : int
        Records from which on a class counts, whatever their weights.

    Raises
    ------
    UserError
        Where no class has as many records.
    """
    hits, predicted, true = _one_label(probabilities, targets, smallest_class)
    return _macro_ratio(2 * hits, predicted + true)


def recall_macro(probabilities: ArrayLike, targets: ArrayLike, smallest_class: int = 1) -> Weighted:
    """`recall_macro` of `ecgexp.metrics.multiclass_metrics`; see `f1_macro` for the arguments."""
    hits, _, true = _one_label(probabilities, targets, smallest_class)
    return _macro_ratio(hits, true)


def auroc_macro(probabilities: ArrayLike, targets: ArrayLike, smallest_class: int = 1) -> Weighted:
    """`auroc_macro`: mean area under the ROC curve of the labels that have both positives and negatives.

    Parameters
    ----------
    probabilities : float array, (records, labels)
        NaN counts as 0.
    targets : array, (records, labels)
        0 and 1.
    smallest_class : int
        Positives from which on a label counts, whatever their weights.

    Returns
    -------
    callable
        Its scores are NaN where no label counts.
    """
    known, true = _known(probabilities), np.asarray(targets) == 1
    counted = (true.sum(axis=0) >= max(smallest_class, 1)) & ~true.all(axis=0)
    curves = [_curve(known[:, label], true[:, label]) for label in np.flatnonzero(counted)]

    def score(weights: Floats) -> Floats:
        if not curves:
            return np.full(len(weights), np.nan)
        return np.asarray(np.mean([_areas(*curve, weights.T) for curve in curves], axis=0))

    return score


def _known(probabilities: ArrayLike) -> NDArray[np.float32]:
    return np.nan_to_num(np.asarray(probabilities, dtype=np.float32), nan=0.0)


def _one_label(probabilities: ArrayLike, targets: ArrayLike, smallest_class: int) -> tuple[Floats, Floats, Floats]:
    """Hits, predictions and true labels of the classes that count: 0 and 1, (records, counted) each."""
    true = np.asarray(targets) == 1
    counted = true.sum(axis=0) >= max(smallest_class, 1)
    if not counted.any():
        raise UserError(f"No class has {smallest_class} records, so there is no macro average to find an interval of.")
    given = torch.tensor(np.asarray(probabilities, dtype=np.float32))
    predicted = predicted_classes(given).numpy()[:, None] == np.arange(true.shape[1])
    hits, predicted, true = ((part[:, counted]).astype(np.float64) for part in (predicted & true, predicted, true))
    return hits, predicted, true


def _macro_ratio(numerators: ArrayLike, denominators: ArrayLike) -> Weighted:
    """Mean over the labels of the quotients of weighted sums, where 0/0 is 0; both are (records, labels)."""
    parts = np.ascontiguousarray(np.hstack([numerators, denominators]).T, dtype=np.float64)

    def score(weights: Floats) -> Floats:
        above, below = np.split(parts @ weights.T, 2)
        return np.asarray((above / np.maximum(below, 1)).mean(axis=0))

    return score


def _curve(known: NDArray[np.float32], true: Bools) -> tuple[csr_array, csr_array]:
    """One label's records sorted into the steps of its ROC curve, whatever their weights.

    Returns
    -------
    positives : sparse array, (steps, records)
        1 where a record is a positive of the step: the steps are the different scores of positives, ascending.
    negatives : sparse array, (2 * steps + 1, records)
        1 where a record is a negative that scores between the steps (even rows) or at one (odd rows).
    """
    positive, negative = np.flatnonzero(true), np.flatnonzero(~true)
    steps, step = np.unique(known[positive], return_inverse=True)
    place = np.searchsorted(steps, known[negative], "left") + np.searchsorted(steps, known[negative], "right")
    return _membership(step, positive, len(steps), len(true)), _membership(
        place, negative, 2 * len(steps) + 1, len(true)
    )


def _membership(rows: NDArray[np.intp], records: NDArray[np.intp], groups: int, total: int) -> csr_array:
    return csr_array((np.ones(len(records)), (rows, records)), shape=(groups, total))


def _areas(positives: csr_array, negatives: csr_array, weights: Floats) -> Floats:
    """Area under the weighted ROC curves: pairs in the right order, and half of the tied ones.

    `weights` are (records, resamples) here, in this order in memory.
    """
    higher = positives @ weights
    up_to = np.cumsum(negatives @ weights, axis=0)
    # A step's negatives below it end one row before those that tie with it.
    ordered = np.einsum("sr,sr->r", higher, up_to[:-1:2] + up_to[1::2]) / 2
    return np.asarray(ordered / (higher.sum(axis=0) * up_to[-1]))
