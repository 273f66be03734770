"""The multi-label confusion matrix (MLCM)."""

# No `from __future__ import annotations` here: torch.jit.script cannot read annotations that are strings.
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor
from torchmetrics import Metric

from ecgexp.errors import UserError
from ecgexp.metrics.names import NO_TRUE_LABEL

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Rule = Literal["published", "order_free"]

# Limits the memory (about 60 MB with 71 labels) and keeps every count exact in float32 (below 2**24).
_RECORDS_PER_CHUNK = 2**15
# A plot with more rows has no room for the number in each cell and the name of each row and column.
_MOST_NAMED = 25


def mlcm(
    preds: Tensor,
    target: Tensor,
    num_labels: int,
    threshold: float = 0.5,
    rule: Rule = "published",
    validate_args: bool = True,
) -> Tensor:
    """Multi-label confusion matrix: which labels are predicted in place of the true ones.

    The rows are the true labels, and last NTL (no true label). The columns are the predicted labels, and last NPL (no
    predicted label). In a record, a true label that is not predicted is called missed, and a predicted label that is
    not true is called surplus. A record counts as follows:

    - Each label that is true and predicted counts on the diagonal.
    - If a label is missed, the first surplus label (in the order of the labels) counts in the row of each missed
      label, and each further surplus label in the row of each true label.
    - If no label is missed, each surplus label counts in the row of each true label.
    - If no label is surplus, each missed label counts in the column NPL.
    - If no label is true, each predicted label counts in the row NTL. If also no label is predicted, the record counts
      in the row NTL and the column NPL.

    Parameters
    ----------
    preds : tensor, (records, labels)
        Probabilities as floats, or 0 and 1 as integers or booleans. Apply the sigmoid to logits first. A label with
        the probability NaN is not predicted.
    target : tensor, (records, labels)
        0 and 1, of any type.
    num_labels : int
    threshold : float
        From 0 to 1; a label is predicted if its probability is above this, not equal to it.
    rule : {'published', 'order_free'}
        'published' is the rule above, of the authors' code and of published tables. It depends on the order of the
        labels if a record has missed labels, hits and two or more surplus labels. 'order_free' counts every pair of a
        missed and a surplus label in such a record.
    validate_args : bool
        Whether to check the input. On an accelerator, the check waits for the data.

    Returns
    -------
    int64 tensor, (labels + 1, labels + 1), on the device of `preds`

    Raises
    ------
    UserError
        If an argument or a tensor is not as described above.

    References
    ----------
    .. [1] M. Heydarian, T. E. Doyle, R. Samavi, "MLCM: Multi-Label Confusion Matrix", IEEE Access 10, 2022,
       https://doi.org/10.1109/ACCESS.2022.3151048

    Examples
    --------
    >>> import torch
    >>> mlcm(torch.tensor([[0.9, 0.2], [0.7, 0.6]]), torch.tensor([[1, 1], [0, 1]]), num_labels=2)
    tensor([[1, 0, 0],
            [1, 1, 1],
            [0, 0, 0]])
    """
    if validate_args:
        _validate_arguments(num_labels, threshold, rule)
        validate_tensors(preds, target, num_labels)
    return _update(*_format(preds, target, threshold), rule)


def mlcm_marginals(
    preds: Tensor, target: Tensor, num_labels: int, threshold: float = 0.5, rule: Rule = "published"
) -> tuple[Tensor, Tensor, Tensor]:
    """Contributions of each record to the diagonal, the row sums and the column sums of the `mlcm`.

    Precision, recall and F1 depend only on these three. So their weighted sums over the records give the scores of a
    resample, without its matrix.

    Parameters
    ----------
    preds, target, num_labels, threshold, rule
        As in `mlcm`.

    Returns
    -------
    hits, true, predicted : int64 tensor, (records, labels + 1)

    Raises
    ------
    UserError
        As in `mlcm`.

    Examples
    --------
    >>> import torch
    >>> hits, true, predicted = mlcm_marginals(torch.tensor([[0.9, 0.2]]), torch.tensor([[1, 1]]), num_labels=2)
    >>> hits, true, predicted
    (tensor([[1, 0, 0]]), tensor([[1, 1, 0]]), tensor([[1, 0, 1]]))
    """
    _validate_arguments(num_labels, threshold, rule)
    validate_tensors(preds, target, num_labels)
    hit, pairs = _assign(*_format(preds, target, threshold), rule)
    hits = hit.long()
    true = hits + sum(rows * columns.sum(dim=0) for rows, columns in pairs)
    predicted = hits + sum(columns * rows.sum(dim=0) for rows, columns in pairs)
    return hits.T, true.T, predicted.T


class MLCM(Metric):
    """Multi-label confusion matrix accumulated over batches and processes; see `mlcm`.

    Parameters
    ----------
    num_labels : int
    threshold : float
    rule : {'published', 'order_free'}
    validate_args : bool
        As in `mlcm`.
    **kwargs
        Arguments of `torchmetrics.Metric`.

    Raises
    ------
    UserError
        On creation and in `update`, as in `mlcm`.

    Examples
    --------
    >>> import torch
    >>> metric = MLCM(num_labels=2)
    >>> metric.update(torch.tensor([[0.9, 0.2]]), torch.tensor([[1, 1]]))
    >>> metric.update(torch.tensor([[0.7, 0.6]]), torch.tensor([[0, 1]]))
    >>> metric.compute()
    tensor([[1, 0, 0],
            [1, 1, 1],
            [0, 0, 0]])
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False

    matrix: Tensor

    def __init__(
        self,
        num_labels: int,
        threshold: float = 0.5,
        rule: Rule = "published",
        validate_args: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if validate_args:
            _validate_arguments(num_labels, threshold, rule)
        self.num_labels = num_labels
        self.threshold = threshold
        self.rule = rule
        self.validate_args = validate_args
        zeros = torch.zeros(num_labels + 1, num_labels + 1, dtype=torch.int64)
        self.add_state("matrix", zeros, dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add a batch: `preds` and `target`, each (records, labels), as in `mlcm`."""
        if self.validate_args:
            validate_tensors(preds, target, self.num_labels)
        self.matrix += _update(*_format(preds, target, self.threshold), self.rule)

    def compute(self) -> Tensor:
        """Matrix of all batches so far: int64, (labels + 1, labels + 1)."""
        return self.matrix.clone()  # a later update must not change the returned matrix

    def set_dtype(self, dst_type: str | torch.dtype) -> "MLCM":
        """Do nothing: counts stay whole numbers, because float16 has no exact 2,049."""
        return self

    def plot(
        self,
        val: Tensor | None = None,
        ax: "Axes | None" = None,
        add_text: bool = True,
        labels: Sequence[str] | None = None,
        cmap: Any = None,
    ) -> "tuple[Figure, Axes]":
        """Draw a matrix in the style of torchmetrics' own confusion matrices.

        With more than 24 labels there is room for only some of the names, and for no counts.

        Parameters
        ----------
        val : int64 tensor, (labels + 1, labels + 1), optional
            The matrix that `compute` or `forward` returned; by default that of all batches so far.
        ax : matplotlib Axes, optional
            Axes to draw into; by default those of a new figure.
        add_text : bool
            Whether to write the count into each cell.
        labels : sequence of str, (labels,), optional
            Names of the labels; by default '0', '1', ...
        cmap : str or matplotlib Colormap, optional

        Returns
        -------
        figure : Figure
        axes : Axes

        Raises
        ------
        UserError
            If `val` or `labels` is not as described above.
        """
        from torchmetrics.utilities.plot import plot_confusion_matrix

        val = self.compute() if val is None else val
        size = self.num_labels + 1
        if not isinstance(val, Tensor) or val.shape != (size, size):
            raise UserError(f"The argument val must be a matrix of shape ({size}, {size}), as compute() returns it.")
        names = [str(label) for label in range(self.num_labels)] if labels is None else list(labels)
        if len(names) != self.num_labels:
            raise UserError(
                f"The argument labels must be {self.num_labels} names, without NTL and NPL, not {len(names)}."
            )
        figure, axes = plot_confusion_matrix(val, ax=ax, add_text=add_text and size <= _MOST_NAMED, cmap=cmap)
        places = range(0, size, -(-size // _MOST_NAMED))
        axes.set_xticks(places, [[*names, "NPL"][place] for place in places])
        axes.set_yticks(places, [[*names, NO_TRUE_LABEL][place] for place in places])
        return figure, axes


def _validate_arguments(num_labels: int, threshold: float, rule: Rule) -> None:
    if isinstance(num_labels, bool) or not isinstance(num_labels, int) or num_labels < 1:
        raise UserError(f"The argument num_labels must be a whole number of at least 1, not {num_labels!r}.")
    if not isinstance(threshold, float | int) or not 0 <= threshold <= 1:
        raise UserError(f"The argument threshold must be a number from 0 to 1, not {threshold!r}.")
    if rule not in get_args(Rule):
        raise UserError(f"The argument rule must be one of {', '.join(get_args(Rule))}, not {rule!r}.")


def validate_tensors(preds: Tensor, target: Tensor, num_labels: int) -> None:
    """Raise a UserError unless these are predictions and targets, both (records, labels)."""
    if preds.ndim != 2 or preds.shape[1] != num_labels:
        raise UserError(
            f"Predictions must have the shape (records, {num_labels}), one column per label, not {tuple(preds.shape)}."
        )
    if target.shape != preds.shape:
        raise UserError(
            f"Targets must have the shape of the predictions, {tuple(preds.shape)}, not {tuple(target.shape)}."
        )
    if not _within_0_and_1(target) or (target.is_floating_point() and (target != target.round()).any()):
        raise UserError("Targets must be 0 or 1: give one column per label, with 1 if the record has the label.")
    if not preds.is_floating_point() and not _within_0_and_1(preds):
        raise UserError("Predictions that are integers must be 0 or 1: pass probabilities as floats.")
    # NaN is allowed: it is the output of a diverged net.
    if preds.is_floating_point() and not _within_0_and_1(preds.nan_to_num(nan=0.0)):
        raise UserError("Predictions must be probabilities from 0 to 1: apply the sigmoid or softmax to logits first.")


def _within_0_and_1(values: Tensor) -> bool:
    if values.numel() == 0:
        return True
    low, high = values.aminmax()
    return bool((low >= 0) & (high <= 1))


def _format(preds: Tensor, target: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Predicted and true labels as booleans; NaN is never above the threshold."""
    return preds > threshold if preds.is_floating_point() else preds == 1, target == 1


def _update(predicted: Tensor, true: Tensor, rule: Rule) -> Tensor:
    labels = true.shape[1]
    matrix = torch.zeros(labels + 1, labels + 1, dtype=torch.int64, device=true.device)
    parts = _combinations(predicted, true)
    for predicted, true, records in zip(*(part.split(_RECORDS_PER_CHUNK) for part in parts), strict=True):
        hit, pairs = _assign(predicted, true, rule)
        matrix.diagonal().add_((hit * records).sum(dim=1).long())
        for rows, columns in pairs:
            matrix += _count(rows * records, columns)
    return matrix


def _combinations(predicted: Tensor, true: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Combinations of predicted and true labels, and their numbers of records; the records as they are if fewer."""
    labels = true.shape[1]
    combinations = 4**labels
    if combinations >= min(len(true), 2**24):  # float32 is not exact from 2**24
        return predicted, true, torch.ones(len(true), device=true.device)
    powers = 2 ** torch.arange(2 * labels, device=true.device)
    with torch.autocast(true.device.type, enabled=False):
        numbers = (predicted.float() @ powers[:labels].float() + true.float() @ powers[labels:].float()).long()
    records = torch.zeros(combinations, dtype=torch.float64, device=true.device)
    records.scatter_add_(0, numbers, torch.ones_like(numbers, dtype=torch.float64))
    flags = (torch.arange(combinations, device=true.device)[:, None] & powers) > 0
    return flags[:, :labels], flags[:, labels:], records


def _assign(predicted: Tensor, true: Tensor, rule: Rule) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """The cells in which each record counts, as uint8 masks of (labels + 1, records).

    Returns the mask of the hits, and pairs of masks (rows, columns): a record counts in each cell whose row is in the
    first mask and whose column is in the second.
    """
    true, predicted = _masks(true), _masks(predicted)
    no_true = 1 - true.amax(dim=0, keepdim=True)
    no_predicted = 1 - predicted.amax(dim=0, keepdim=True)
    true, predicted = torch.cat([true, no_true]), torch.cat([predicted, no_true & no_predicted])

    hit = true & predicted
    missed, surplus = true ^ hit, predicted ^ hit
    missed_any = missed.amax(dim=0)
    surplus[-1] = missed_any & (1 - surplus.amax(dim=0))
    rows = missed | (true & (1 - missed_any))
    if rule == "order_free":
        return hit, [(rows, surplus)]
    first = surplus & (surplus.cumsum(dim=0, dtype=torch.int32) == 1)
    return hit, [(rows, first), (true, surplus ^ first)]


def _masks(flags: Tensor) -> Tensor:
    """Booleans (records, labels) as contiguous uint8 (labels, records), which makes the next steps far faster."""
    return flags.T.to(torch.uint8, memory_format=torch.contiguous_format)


def _count(rows: Tensor, columns: Tensor) -> Tensor:
    """Number of records in each cell (row, column): int64, (labels + 1, labels + 1).

    `rows` has floating-point numbers of records. In float32 they must be few enough for exact sums.
    """
    with torch.autocast(rows.device.type, enabled=False):  # in mixed precision the sums would not be exact
        return (rows @ columns.to(rows.dtype).T).long()
