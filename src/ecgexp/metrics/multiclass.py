"""Metrics of records that have exactly one label each, of which the most probable one is predicted."""

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
    """The most probable class of each record, the first of equally probable ones.

    Parameters
    ----------
    probabilities : float tensor, (records, classes)

    Returns
    -------
    int64 tensor, (records,)
        From 0; `classes`, which is none of them, where a probability is NaN: a diverged net predicts nothing.
    """
    return probabilities.argmax(dim=1).masked_fill(probabilities.isnan().any(dim=1), probabilities.shape[1])


def confusion_matrix(probabilities: Tensor, targets: Tensor) -> Tensor:
    """How many records of each class are predicted to be of each class.

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
        Where a tensor is not as above.

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
        raise UserError("Each record has exactly one label here: give targets with one 1 in each row.")
    places = targets.long().argmax(dim=1) * (classes + 1) + predicted_classes(probabilities)
    return torch.bincount(places, minlength=classes * (classes + 1)).reshape(classes, classes + 1)


def multiclass_metrics(
    probabilities: Tensor, targets: Tensor, label_names: Sequence[str], smallest_class: int = 1
) -> Evaluation:
    """Every metric of a split but its loss, where each record has exactly one label.

    - `accuracy`: share of the records whose most probable class is the true one.
    - `precision/<label>`, `recall/<label>`, `f1/<label>`: of each class against the rest; 0/0 is 0.
    - `{precision,recall,f1}_macro`: mean over the classes; `balanced_accuracy`: another name of `recall_macro`.
    - `{precision,recall,f1}_weighted`: mean weighted by the records of each class.
    - `auroc_macro`, `ap_macro`: mean over the classes of the area under the ROC curve and of the average
      precision of each class against the rest, exact, without bins.

    Classes with fewer than `smallest_class` records, which by default are those without any, are left out of the
    macro averages; where none is left these are absent. A record with a probability that is NaN has no prediction:
    it is wrong, and counts as missed for its class and as predicted for none; for `auroc_macro` and `ap_macro` NaN
    is 0, ranked last.

    Parameters
    ----------
    probabilities : float tensor, (records, classes)
    targets : tensor, (records, classes)
        One-hot, of any type, on the same device.
    label_names : sequence of str, (classes,)
        Written into the names of metrics as by `escape_label`.
    smallest_class : int
        Records from which on a class enters the macro averages.

    Returns
    -------
    Evaluation
        The metrics, and the classes left out of macro averages; may be unpacked as a pair.

    Raises
    ------
    UserError
        Where there are no records, where a tensor is not as above, or where two labels would be written alike.
    """
    names = escape_labels(label_names)
    validate_tensors(probabilities, targets, len(names))
    matrix = confusion_matrix(probabilities, targets).double()
    if len(probabilities) == 0:
        raise UserError("A split without records has no metrics: check which records the split takes.")
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
