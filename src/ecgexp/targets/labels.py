"""Common parts of targets with one column of 0 and 1 for each label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ecgexp.metrics.evaluation import classification_metrics

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor


@dataclass(frozen=True)
class Decisions:
    """Right and wrong decisions for records whose labels are known.

    Attributes
    ----------
    mistakes : DataFrame
        A row for each wrong decision: ``record`` (its row in the predictions), ``true`` and ``predicted`` (names of the
        right and of the wrong decision) and ``confidence`` (probability that the net gave to the wrong decision).
    margins : float array, (records,)
        Distance of each record from another decision, in probability.
    correct : mapping of str to bool array, (records,)
        By the name of a decision, the records for which the net made it and was right.
    """

    mistakes: pd.DataFrame
    margins: NDArray[np.float64]
    correct: Mapping[str, NDArray[np.bool_]]


def one_label_decisions(
    probabilities: NDArray[Any], targets: NDArray[Any], predicted: NDArray[np.bool_], names: Sequence[str]
) -> Decisions:
    """Decisions for exactly one label. The margin is the difference between the two highest probabilities.

    Parameters
    ----------
    probabilities, targets, predicted : arrays, (records, labels)
        A record whose probabilities are not finite has no predicted label, and no part in the result.
    names : sequence of str, (labels,)
    """
    true, values = np.asarray(targets) == 1, np.asarray(probabilities, dtype=np.float64)
    label, decision = true.argmax(axis=1), predicted.argmax(axis=1)
    wrong = np.flatnonzero(predicted.any(axis=1) & (label != decision))
    mistakes = _mistakes(
        wrong,
        [names[i] for i in label[wrong].tolist()],
        [names[i] for i in decision[wrong].tolist()],
        values[wrong, decision[wrong]],
    )
    highest = np.sort(values, axis=1)[:, -2:]
    margins = highest[:, -1] - highest[:, 0] if len(names) > 1 else np.ones(len(values))
    return Decisions(mistakes, margins, {name: true[:, i] & predicted[:, i] for i, name in enumerate(names)})


def each_label_decisions(
    probabilities: NDArray[Any],
    targets: NDArray[Any],
    predicted: NDArray[np.bool_],
    names: Sequence[str],
    thresholds: NDArray[np.float64],
) -> Decisions:
    """Decisions for each label alone: 'AF', or 'no AF'. The margin is the smallest distance from a threshold.

    Parameters
    ----------
    probabilities, targets, predicted : arrays, (records, labels)
        A record whose probabilities are not finite has no part in the result.
    names : sequence of str, (labels,)
    thresholds : float array, (labels,)
    """
    true, values = np.asarray(targets) == 1, np.asarray(probabilities, dtype=np.float64)
    known = np.asarray(np.isfinite(values).all(axis=1))
    record, label = np.nonzero(np.logical_and(true != predicted, known[:, None]))
    has = true[record, label].tolist()
    true_names = [names[i] if yes else f"no {names[i]}" for i, yes in zip(label.tolist(), has, strict=True)]
    wrong_names = [f"no {names[i]}" if yes else names[i] for i, yes in zip(label.tolist(), has, strict=True)]
    confidence = np.where(has, 1 - values[record, label], values[record, label])
    correct = {name: true[:, i] & predicted[:, i] & known for i, name in enumerate(names)}
    correct |= {f"no {name}": ~true[:, i] & ~predicted[:, i] & known for i, name in enumerate(names)}
    margins = np.abs(values - thresholds).min(axis=1)
    return Decisions(_mistakes(record, true_names, wrong_names, confidence), margins, correct)


def _mistakes(
    records: NDArray[np.intp], true: Sequence[str], predicted: Sequence[str], confidence: NDArray[np.float64]
) -> pd.DataFrame:
    return pd.DataFrame({"record": records, "true": true, "predicted": predicted, "confidence": confidence})


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
