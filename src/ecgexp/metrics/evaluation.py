"""All metrics of one split in one call."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress
from typing import NamedTuple

from torch import Tensor
from torchmetrics.functional.classification import (
    multilabel_auroc,
    multilabel_average_precision,
    multilabel_f1_score,
)

from ecgexp.errors import UserError
from ecgexp.metrics.confusion import mlcm
from ecgexp.metrics.names import escape_labels
from ecgexp.metrics.report import mlcm_report


class Evaluation(NamedTuple):
    """Result of `classification_metrics` and `multiclass_metrics`.

    Attributes
    ----------
    metrics : dict of str to float
        Values by name; none is NaN.
    left_out : dict of str to tuple of str
        Labels left out of a macro average, unescaped, by the name of the average.
    """

    metrics: dict[str, float]
    left_out: dict[str, tuple[str, ...]]


def classification_metrics(
    probabilities: Tensor, targets: Tensor, label_names: Sequence[str], threshold: float = 0.5
) -> Evaluation:
    """All metrics of a split except its loss; if each record has exactly one label, see `multiclass_metrics`.

    - `subset_accuracy`: share of the records with all labels right.
    - `binary_accuracy`: share of all labels that are right.
    - `keras_accuracy`: share of the records whose most probable label is the first true one (the first label if none
      is true). This is what Keras' 'accuracy' computes on several sigmoids.
    - `auroc_macro`, `ap_macro`: mean over the labels of the area under the ROC curve and of the average
      precision, exact, without bins. A label without a positive is left out of both; a label without a negative is
      left out of `auroc_macro`. If no label is left, the metric is absent.
    - `f1/<label>`: F1 of each label alone; 0 for a label that is neither true nor predicted in any record.
    - `mlcm_{precision,recall,f1}_{micro,macro,weighted}` and `mlcm_f1/<label>`: from the multi-label confusion
      matrix by the published rule, see `mlcm` and `mlcm_report`. `mlcm_f1/NTL` exists only if a record has no label.

    A probability that is NaN counts as 0: the label is not predicted, and is ranked last. A record with only NaN is
    wrong for `keras_accuracy`.

    Parameters
    ----------
    probabilities : float tensor, (records, labels)
    targets : tensor, (records, labels)
        0 and 1, of any type, on the same device.
    label_names : sequence of str, (labels,)
        Escaped by `escape_label` in the names of metrics.
    threshold : float
        From 0 to 1; a label is predicted if its probability is above this.

    Returns
    -------
    Evaluation
        The metrics, and the labels left out of macro averages.

    Raises
    ------
    UserError
        If there are no records, a tensor or an argument is not as described above, or two labels become equal when
        escaped.
    """
    names = escape_labels(label_names)
    unknown = probabilities.isnan()
    scores = probabilities.float().nan_to_num(nan=0.0)
    matrix = mlcm(scores, targets, len(names), threshold)
    if len(scores) == 0:
        raise UserError("A split without records has no metrics: check how the records are split.")
    true, predicted = targets.long(), (scores > threshold).long()

    matches = predicted == true
    first_matches = (scores.argmax(dim=1) == true.argmax(dim=1)) & ~unknown.all(dim=1)
    metrics = {
        "subset_accuracy": matches.all(dim=1).float().mean().item(),
        "binary_accuracy": matches.float().mean().item(),
        "keras_accuracy": first_matches.float().mean().item(),
    }
    macro_averages, left_out = ranking_metrics(scores, true, label_names)
    f1 = multilabel_f1_score(predicted, true, len(names), average="none", validate_args=False)
    per_label = zip(names, f1.reshape(-1).tolist(), strict=True)
    metrics |= macro_averages | {f"f1/{name}": value for name, value in per_label}
    return Evaluation(metrics | _mlcm_metrics(matrix, names), left_out)


def ranking_metrics(
    scores: Tensor, true: Tensor, label_names: Sequence[str], counted: Tensor | None = None
) -> tuple[dict[str, float], dict[str, tuple[str, ...]]]:
    """`auroc_macro` and `ap_macro`, each label against the rest, and the labels that are left out of them.

    Parameters
    ----------
    scores : float tensor, (records, labels)
        Must have no NaN.
    true : integer tensor, (records, labels)
        0 and 1.
    label_names : sequence of str, (labels,)
    counted : bool tensor, (labels,), optional
        Labels to average over; by default all.
    """
    positive, negative = (true == 1).any(dim=0), (true == 0).any(dim=0)
    if counted is not None:
        positive = positive & counted
    metrics, left_out = {}, {}
    for name, compute, defined in (
        ("auroc_macro", multilabel_auroc, positive & negative),
        ("ap_macro", multilabel_average_precision, positive),
    ):
        columns = defined.nonzero().flatten()
        if len(columns) > 0:
            value = compute(scores[:, columns], true[:, columns], len(columns), validate_args=False)
            metrics[name] = value.item()
        if len(columns) < len(label_names):
            left_out[name] = tuple(compress(label_names, (~defined).tolist()))
    return metrics, left_out


def _mlcm_metrics(matrix: Tensor, names: Sequence[str]) -> dict[str, float]:
    report = mlcm_report(matrix, names)
    averages = {f"mlcm_{name}": float(value) for name, value in report.averages.items()}
    per_label = zip(report.label_names, report.f1.tolist(), report.counted, strict=True)
    return averages | {f"mlcm_f1/{name}": value for name, value, counted in per_label if counted}
