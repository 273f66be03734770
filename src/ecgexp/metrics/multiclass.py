"""Metrics for records with exactly one label each; the most probable class is the predicted one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress

import torch
from torch import Tensor

from ecgexp.errors import UserError
from ecgexp.metrics.confusion import validate_tensors
from ecgexp.metrics.evaluation import Evaluation, ranking_metrics
from ecgexp.metrics.names import escape_labels


def predicted_classes(probabilities: Tensor) -> Tensor:
    """The most probable class of each record; among equally probable ones, the first.

    Parameters
    ----------
    probabilities : float tensor, (records, classes)

    Returns
    -------
    int64 tensor, (records,)
        Index from 0. If a probability is NaN, it is the number of classes, which means no prediction.
    """
    return probabilities.argmax(dim=1).masked_fill(probabilities.isnan().any(dim=1), probabilities.shape[1])


def confusion_matrix(probabilities: Tensor, targets: Tensor) -> Tensor:
    """Number of records by true and predicted class.

    Parameters
    ----------
    probabilities : float tensor, (records, classes)
    targets : tensor, (records, classes)
        One-hot, of any type, on the same device.

    Returns
    -------
    int64 tensor, (classes, classes + 1)
        Rows are true classes, columns predicted ones; the last column counts records without a prediction, see
        `predicted_classes`.

    Raises
    ------
    UserError
        If a tensor is not as described above.

    Examples
    --------
    >>> import torch
    >>> confusion_matrix(torch.tensor([[0.9, 0.1], [0.7, 0.3]]), torch.tensor([[1, 0], [0, 1]]))
    tensor([[1, 0, 0],
            [1, 0, 0]])
    """
    classes = probabilities.shape[-1]
    validate_tensors(probabilities, targets, classes)
    if ((targets == 1).sum(dim=1) != 1).any():
        raise UserError("Each record must have exactly one label: give targets with one 1 in each row.")
    places = targets.long().argmax(dim=1) * (classes + 1) + predicted_classes(probabilities)
    return torch.bincount(places, minlength=classes * (classes + 1)).reshape(classes, classes + 1)


def multiclass_metrics(
    probabilities: Tensor, targets: Tensor, label_names: Sequence[str], smallest_class: int = 1
) -> Evaluation:
    """All metrics of a split except its loss, for records with exactly one label each.

    - `accuracy`: share of the records whose most probable class is the true one.
    - `precision/<label>`, `recall/<label>`, `f1/<label>`: for each class against the rest; 0/0 is 0.
    - `{precision,recall,f1}_macro`: mean over the classes; `balanced_accuracy` is another name of `recall_macro`.
    - `{precision,recall,f1}_weighted`: mean weighted by the number of records of each class.
    - `auroc_macro`, `ap_macro`: mean over the classes of the area under the ROC curve and of the average
      precision of each class against the rest, exact, without bins.

    Classes with fewer than `smallest_class` records (by default, classes without records) are left out of the macro
    averages. If no class is left, these metrics are absent. A record with a probability that is NaN has no
    prediction: it is wrong, it is missed for its class, and it is predicted for no class. For `auroc_macro` and
    `ap_macro`, NaN counts as 0 and is ranked last.

    Parameters
    ----------
    probabilities : float tensor, (records, classes)
    targets : tensor, (records, classes)
        One-hot, of any type, on the same device.
    label_names : sequence of str, (classes,)
        Escaped by `escape_label` in the names of metrics.
    smallest_class : int
        A class enters the macro averages if it has at least so many records.

    Returns
    -------
    Evaluation
        The metrics, and the classes left out of macro averages.

    Raises
    ------
    UserError
        If there are no records, a tensor is not as described above, or two labels become equal when escaped.
    """
    names = escape_labels(label_names)
    validate_tensors(probabilities, targets, len(names))
    matrix = confusion_matrix(probabilities, targets).double()
    if len(probabilities) == 0:
        raise UserError("A split without records has no metrics: check how the records are split.")
    hits, support, predicted = matrix.diagonal(), matrix.sum(dim=1), matrix[:, :-1].sum(dim=0)
    scores = {
        "precision": hits / predicted.clamp(min=1),
        "recall": hits / support.clamp(min=1),
        "f1": 2 * hits / (support + predicted).clamp(min=1),
    }
    counted = support >= max(smallest_class, 1)
    metrics = {"accuracy": (hits.sum() / support.sum()).item()}
    macro: dict[str, float] = {}
    for score, values in scores.items():
        metrics |= {f"{score}/{name}": value for name, value in zip(names, values.tolist(), strict=True)}
        metrics[f"{score}_weighted"] = ((values * support).sum() / support.sum()).item()
        macro[f"{score}_macro"] = values[counted].mean().item()
    macro["balanced_accuracy"] = macro["recall_macro"]
    known = probabilities.float().nan_to_num(nan=0.0)
    ranking, left_out = ranking_metrics(known, targets.long(), label_names, counted)
    if not counted.all():
        left_out |= dict.fromkeys(macro, tuple(compress(label_names, (~counted).tolist())))
    return Evaluation(metrics | ranking | (macro if counted.any() else {}), left_out)
