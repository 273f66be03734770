"""Scores of weighted records, for the resamples of a bootstrap.

Each function takes the outputs of one net, prepares everything that does not depend on the weights, and returns a
function from weights to scores. The weights are a float64 array (resamples, records), the scores (resamples,).
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

    The label NTL counts if any record has no label, whatever the record's weight.

    Parameters
    ----------
    probabilities : float array, (records, labels)
        NaN counts as 0.
    targets : array, (records, labels)
        0 and 1.
    threshold : float
        From 0 to 1; a label is predicted if its probability is above this.

    Raises
    ------
    UserError
        As in `ecgexp.metrics.mlcm`.

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


def accuracy(probabilities: ArrayLike, targets: ArrayLike) -> Weighted:
    """`accuracy` of `ecgexp.metrics.multiclass_metrics`; arguments as of `f1_macro`."""
    given = torch.tensor(np.asarray(probabilities, dtype=np.float32))
    true = np.asarray(targets) == 1
    hits = (predicted_classes(given).numpy()[:, None] == np.arange(true.shape[1])) & true
    return _macro_ratio(hits.any(axis=1, keepdims=True), np.ones((len(true), 1)))


def f1_macro(probabilities: ArrayLike, targets: ArrayLike, smallest_class: int = 1) -> Weighted:
    """`f1_macro` of `ecgexp.metrics.multiclass_metrics`.

    Parameters
    ----------
    probabilities : float array, (records, classes)
        A record with NaN has no prediction.
    targets : array, (records, classes)
        One-hot.
    smallest_class : int
        A class counts if it has at least so many records, whatever their weights.

    Raises
    ------
    UserError
        If no class has so many records.
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
        A label counts if it has at least so many positives, whatever their weights.

    Returns
    -------
    callable
        Its scores are NaN if no label counts.
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
    """Hits, predictions and true labels of the classes that count, each 0 and 1, (records, counted)."""
    true = np.asarray(targets) == 1
    counted = true.sum(axis=0) >= max(smallest_class, 1)
    if not counted.any():
        raise UserError(f"No class has at least {smallest_class} records, so there is no macro average.")
    given = torch.tensor(np.asarray(probabilities, dtype=np.float32))
    predicted = predicted_classes(given).numpy()[:, None] == np.arange(true.shape[1])
    hits, predicted, true = ((part[:, counted]).astype(np.float64) for part in (predicted & true, predicted, true))
    return hits, predicted, true


def _macro_ratio(numerators: ArrayLike, denominators: ArrayLike) -> Weighted:
    """Mean over the labels of the quotients of weighted sums, with 0/0 = 0; both arguments are (records, labels)."""
    parts = np.ascontiguousarray(np.hstack([numerators, denominators]).T, dtype=np.float64)

    def score(weights: Floats) -> Floats:
        above, below = np.split(parts @ weights.T, 2)
        return np.asarray((above / np.maximum(below, 1)).mean(axis=0))

    return score


def _curve(known: NDArray[np.float32], true: Bools) -> tuple[csr_array, csr_array]:
    """Assign a label's records to the steps of its ROC curve; this does not depend on their weights.

    Returns
    -------
    positives : sparse array, (steps, records)
        1 if a record is a positive of the step. The steps are the different scores of the positives, ascending.
    negatives : sparse array, (2 * steps + 1, records)
        1 if a record is a negative whose score is between two steps (even rows) or equal to a step (odd rows).
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
    """Area under the weighted ROC curves: the share of pairs in the right order, where ties count half.

    `weights` are (records, resamples) here, in this order in memory.
    """
    higher = positives @ weights
    up_to = np.cumsum(negatives @ weights, axis=0)
    # Row 2 i of `up_to` has the negatives below step i, row 2 i + 1 also those equal to it.
    ordered = np.einsum("sr,sr->r", higher, up_to[:-1:2] + up_to[1::2]) / 2
    return np.asarray(ordered / (higher.sum(axis=0) * up_to[-1]))
