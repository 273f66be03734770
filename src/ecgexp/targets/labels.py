"""Common parts of targets with one column of 0 and 1 for each label."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ecgexp.metrics.evaluation import classification_metrics

if TYPE_CHECKING:
    from torch import Tensor


def label_table(probabilities: Tensor, targets: Tensor, names: Sequence[str], predicted: Tensor) -> pd.DataFrame:
    """Scores with one row per label, each label considered alone.

    Parameters
    ----------
    probabilities, targets : tensors, (records, labels)
    names : sequence of str, (labels,)
    predicted : bool tensor, (records, labels)

    Returns
    -------
    DataFrame
        The index is the label. Columns: ``positives`` (number of records with the label), ``prevalence``,
        ``mean_probability``, ``auroc`` and ``ap`` (NaN if not defined), ``brier`` (mean squared difference of
        probability and label), and ``precision``, ``recall`` and ``f1`` of the predicted labels.
    """
    true = targets == 1
    rows = []
    for i, name in enumerate(names):
        ranking = classification_metrics(probabilities[:, [i]], targets[:, [i]], [name]).metrics
        hits = int((predicted[:, i] & true[:, i]).sum())
        predictions, positives = int(predicted[:, i].sum()), int(true[:, i].sum())
        rows.append(
            {
                "label": name,
                "positives": positives,
                "prevalence": positives / len(true),
                "mean_probability": float(probabilities[:, i].double().mean()),
                "auroc": ranking.get("auroc_macro", np.nan),
                "ap": ranking.get("ap_macro", np.nan),
                "brier": brier(probabilities[:, i], targets[:, i]),
                "precision": hits / predictions if predictions else 0.0,
                "recall": hits / positives if positives else 0.0,
                "f1": 2 * hits / (predictions + positives) if predictions + positives else 0.0,
            }
        )
    return pd.DataFrame(rows).set_index("label")


def brier(probabilities: Tensor, targets: Tensor) -> float:
    """Mean squared difference of probability and label, over records and labels."""
    return float((probabilities.double() - targets.double()).square().mean())
