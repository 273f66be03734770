"""How metrics are named where they are logged: imports no torch.

A name is one metric of one split; where it is logged, `train/`, `val/` or `best/val/` stands before it.
"""

import re
from collections.abc import Sequence

from ecgexp.errors import UserError

NO_TRUE_LABEL = "NTL"
# What a trained net costs rather than how good it is: its parameters, and milliseconds for one record.
PARAMETERS, LATENCY = COSTS = ("parameters", "latency")


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
