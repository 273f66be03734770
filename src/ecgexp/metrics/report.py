"""Precision, recall and F1 from a multi-label confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ecgexp.errors import UserError
from ecgexp.metrics.names import NO_TRUE_LABEL


@dataclass(frozen=True)
class MLCMReport:
    """Scores of a multi-label confusion matrix, or of several (leading dimensions `...`).

    Attributes
    ----------
    label_names : tuple of str, (labels + 1,)
        The labels, then 'NTL' (no true label).
    precision, recall, f1 : float64 array, (..., labels + 1)
        Per label, from 0 to 1; 0/0 is 0.
    support : array, (..., labels + 1)
        Sum of the label's row. It may exceed the label's number of records, because the matrix counts a record once per
        assigned pair.
    counted : bool array, (..., labels + 1)
        Whether the label is in the macro and weighted averages: true except for NTL with an empty row.
    averages : dict of str to float64 array, (...)
        'precision_micro', 'precision_macro', 'precision_weighted', and the same for recall and f1.
    """

    label_names: tuple[str, ...]
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    f1: NDArray[np.float64]
    support: NDArray[Any]
    counted: NDArray[np.bool_]
    averages: dict[str, NDArray[np.float64]]


def mlcm_report(matrix: Tensor | ArrayLike, label_names: Sequence[str] | None = None) -> MLCMReport:
    """Score a multi-label confusion matrix.

    Let tp be a label's diagonal entry, fp the rest of its column and fn the rest of its row. Then precision is
    tp / (tp + fp), recall is tp / (tp + fn), F1 is 2 tp / (2 tp + fp + fn), and 0/0 is 0. The macro average is the mean
    over the labels, and the weighted average is their mean weighted by row sums. The micro average uses the sums over
    all labels; there precision, recall and F1 are equal, because each error is fp of one label and fn of another. If
    every record has a label, the row NTL is empty, and NTL is left out of the macro and weighted averages; the
    column NPL still counts as fn. A label that does not occur is included with the score 0.

    Parameters
    ----------
    matrix : integer tensor or array, (..., labels + 1, labels + 1)
        As `mlcm` returns it.
    label_names : sequence of str, (labels,), optional
        By default '0', '1', ...

    Returns
    -------
    MLCMReport

    Raises
    ------
    UserError
        If the matrix is not square, or the number of names differs from its number of labels.

    References
    ----------
    .. [1] M. Heydarian, T. E. Doyle, R. Samavi, "MLCM: Multi-Label Confusion Matrix", IEEE Access 10, 2022,
       https://doi.org/10.1109/ACCESS.2022.3151048

    Examples
    --------
    >>> report = mlcm_report([[2, 0, 0], [1, 1, 0], [0, 0, 0]], ["AF", "SB"])
    >>> report.f1.round(2)
    array([0.8 , 0.67, 0.  ])
    >>> round(float(report.averages["f1_macro"]), 2)
    0.73
    """
    counts = torch.as_tensor(matrix).cpu().numpy()
    _validate(counts, label_names)
    names = [str(label) for label in range(counts.shape[-1] - 1)] if label_names is None else label_names

    hits = np.diagonal(counts, axis1=-2, axis2=-1)
    predicted, support = counts.sum(axis=-2), counts.sum(axis=-1)
    scores = {
        "precision": _ratio(hits, predicted),
        "recall": _ratio(hits, support),
        "f1": _ratio(2 * hits, predicted + support),
    }
    counted = np.ones(support.shape, dtype=bool)
    counted[..., -1] = support[..., -1] > 0
    micro = _ratio(hits.sum(axis=-1), support.sum(axis=-1))
    averages = {}
    for name, score in scores.items():
        averages[f"{name}_micro"] = micro
        averages[f"{name}_macro"] = (score * counted).sum(axis=-1) / counted.sum(axis=-1)
        averages[f"{name}_weighted"] = _ratio((score * support).sum(axis=-1), support.sum(axis=-1))
    return MLCMReport((*names, NO_TRUE_LABEL), **scores, support=support, counted=counted, averages=averages)


def _validate(counts: NDArray[Any], label_names: Sequence[str] | None) -> None:
    if counts.ndim < 2 or counts.shape[-1] != counts.shape[-2] or counts.shape[-1] < 2:
        raise UserError(
            "A multi-label confusion matrix must have the shape (..., labels + 1, labels + 1), "
            f"not {counts.shape}: pass what mlcm() returns."
        )
    if label_names is not None and len(label_names) != counts.shape[-1] - 1:
        raise UserError(
            f"A multi-label confusion matrix of {counts.shape[-1] - 1} labels got {len(label_names)} label "
            "names: name each label once, without NTL."
        )


def _ratio(numerator: NDArray[Any], denominator: NDArray[Any]) -> NDArray[np.float64]:
    """Quotient where 0/0 is 0."""
    return np.asarray(numerator / np.where(denominator == 0, 1, denominator), dtype=np.float64)
