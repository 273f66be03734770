"""The names of logged metrics. Imports no torch.

A name is one metric of one split. It is logged with the prefix `train/`, `val/` or `best/val/`.
"""

import re
from collections.abc import Sequence

from ecgexp.errors import UserError

NO_TRUE_LABEL = "NTL"
# Costs of a trained net: its number of parameters, and milliseconds for one record.
PARAMETERS, LATENCY = COSTS = ("parameters", "latency")


def escape_label(label: str) -> str:
    """Escape `label` for the name of a metric.

    Every character except letters, digits, '_', '.' and '-' becomes '-', because MLflow refuses parentheses and nests
    names at a slash. So 'PRC(S)' becomes 'PRC-S-' and 'LAFB/LPFB' becomes 'LAFB-LPFB'.

    Raises
    ------
    UserError
        If the label is empty or consists of dots only.

    Examples
    --------
    >>> escape_label("LAFB/LPFB")
    'LAFB-LPFB'
    """
    escaped = re.sub(r"[^\w.-]", "-", label)
    if not _is_escaped(escaped):
        raise UserError(f"The label {label!r} cannot be part of the name of a metric: rename it.")
    return escaped


def escape_labels(labels: Sequence[str]) -> tuple[str, ...]:
    """Escape `labels`; they and 'NTL' (no true label) must stay different.

    Raises
    ------
    UserError
        If a label cannot be escaped, or two labels become equal.
    """
    unescaped: dict[str, str] = {}
    for label in (*labels, NO_TRUE_LABEL):
        escaped = escape_label(label)
        if escaped in unescaped:
            raise UserError(
                f"The labels {unescaped[escaped]!r} and {label!r} would both be written {escaped!r} in the names "
                "of metrics: rename one of them."
            )
        unescaped[escaped] = label
    return tuple(unescaped)[:-1]


def _is_escaped(label: str) -> bool:
    return re.fullmatch(r"[\w.-]+", label) is not None and label.strip(".") != ""
