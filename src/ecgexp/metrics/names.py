"""The names of the metrics, known before any data are read: imports no torch.

A name here is one metric of one split; where it is logged, `train/`, `val/` or `best/val/` stands before it.
"""

import re
from collections.abc import Sequence

from ecgexp.errors import UserError

AVERAGES = ("micro", "macro", "weighted")
NO_TRUE_LABEL = "NTL"
# Of a split whose records have any number of labels, and of one whose records have exactly one label each.
MULTILABEL_METRIC_NAMES = (
    "loss",
    "subset_accuracy",
    "binary_accuracy",
    "keras_accuracy",
    "auroc_macro",
    "ap_macro",
    *(f"mlcm_{score}_{average}" for score in ("precision", "recall", "f1") for average in AVERAGES),
)
MULTICLASS_METRIC_NAMES = (
    "loss",
    "accuracy",
    "balanced_accuracy",
    "auroc_macro",
    "ap_macro",
    *(f"{score}_{average}" for score in ("precision", "recall", "f1") for average in ("macro", "weighted")),
)
METRIC_NAMES = tuple(dict.fromkeys((*MULTILABEL_METRIC_NAMES, *MULTICLASS_METRIC_NAMES)))
MULTILABEL_PER_LABEL_METRIC_NAMES = ("f1", "mlcm_f1")
MULTICLASS_PER_LABEL_METRIC_NAMES = ("precision", "recall", "f1")
PER_LABEL_METRIC_NAMES = ("precision", "recall", "f1", "mlcm_f1")
# What a trained net costs rather than how good it is: its parameters, and milliseconds for one record.
PARAMETERS, LATENCY = COSTS = ("parameters", "latency")


def is_metric_name(name: str, multiclass: bool | None = None) -> bool:
    """Whether `name` is a metric of a split, such as 'loss', 'mlcm_f1_macro' or 'f1/NORM'.

    The label after the slash, escaped as by `escape_label`, may be any: which labels there are only the
    data can say.

    Parameters
    ----------
    name : str
    multiclass : bool, optional
        Whether the records have exactly one label each; by default a metric of either kind is one.
    """
    whole, per_label = {
        None: (METRIC_NAMES, PER_LABEL_METRIC_NAMES),
        False: (MULTILABEL_METRIC_NAMES, MULTILABEL_PER_LABEL_METRIC_NAMES),
        True: (MULTICLASS_METRIC_NAMES, MULTICLASS_PER_LABEL_METRIC_NAMES),
    }[multiclass]
    metric, slash, label = name.partition("/")
    if slash:
        return metric in per_label and _is_escaped(label)
    return metric in whole


def macro_f1_name(multiclass: bool) -> str:
    """The metric that trials are compared by unless told otherwise: macro F1, multi-label by the MLCM."""
    return "f1_macro" if multiclass else "mlcm_f1_macro"


def higher_is_better(name: str) -> bool:
    """Whether a larger value of the metric `name` is the better one: false for 'loss' only.

    Raises
    ------
    UserError
        Where there is no metric of this name.

    Examples
    --------
    >>> higher_is_better("loss"), higher_is_better("auroc_macro")
    (False, True)
    """
    if not is_metric_name(name):
        per_label = ", ".join(f"{metric}/<label>" for metric in PER_LABEL_METRIC_NAMES)
        raise UserError(f"There is no metric {name!r}: choose one of {', '.join(METRIC_NAMES)}, {per_label}.")
    return name != "loss"


def escape_label(label: str) -> str:
    """`label` as it stands in the name of a metric.

    Every character other than a letter, a digit, '_', '.' and '-' becomes '-': MLflow refuses parentheses
    and nests at a slash, so 'PRC(S)' is written 'PRC-S-' and 'LAFB/LPFB' 'LAFB-LPFB'.

    Raises
    ------
    UserError
        Where the label is empty or dots only, which no metric can be named after.

    Examples
    --------
    >>> escape_label("LAFB/LPFB")
    'LAFB-LPFB'
    """
    escaped = re.sub(r"[^\w.-]", "-", label)
    if not _is_escaped(escaped):
        raise UserError(f"The label {label!r} cannot stand in the name of a metric: rename it.")
    return escaped


def escape_labels(labels: Sequence[str]) -> tuple[str, ...]:
    """Escape `labels`, which together with 'NTL' (no true label) have to stay different.

    Raises
    ------
    UserError
        Where a label cannot be escaped, or where two would be written alike.
    """
    taken: dict[str, str] = {}
    for label in (*labels, NO_TRUE_LABEL):
        escaped = escape_label(label)
        if escaped in taken:
            raise UserError(
                f"The labels {taken[escaped]!r} and {label!r} would both be written {escaped!r} in the names "
                "of metrics: rename one of them."
            )
        taken[escaped] = label
    return tuple(taken)[:-1]


def _is_escaped(label: str) -> bool:
    return re.fullmatch(r"[\w.-]+", label) is not None and label.strip(".") != ""
