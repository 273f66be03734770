"""Losses on logits: modules called with ``(logits, targets)``, (batch, outputs) and (batch, labels).

A loss may have an attribute ``fits``, a tuple of kinds such as 'multilabel': it is only for targets of these kinds.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F


class BinaryCrossEntropy(nn.Module):
    """Mean binary cross-entropy over records and labels.

    Parameters
    ----------
    pos_weight : {'none', 'inverse_frequency'}
        Weight of the positive term of each label. ``'inverse_frequency'``: negatives / positives in the
        training split; a label without positives there keeps weight 1.

    Examples
    --------
    >>> loss = BinaryCrossEntropy(pos_weight="inverse_frequency")
    >>> loss.fit_labels(torch.tensor([[1.0], [0.0], [0.0], [0.0]]))
    >>> loss(torch.zeros(1, 1), torch.ones(1, 1))
    tensor(2.0794)
    """

    fits = ("multilabel",)
    pos_weight: Tensor | None

    def __init__(self, pos_weight: Literal["none", "inverse_frequency"] = "none") -> None:
        super().__init__()
        self.weighting = pos_weight
        self.register_buffer("pos_weight", None)

    def fit_labels(self, targets: Tensor) -> None:
        """Set the weights from the training targets, (records, classes)."""
        if self.weighting == "none":
            return
        positives = targets.sum(dim=0, dtype=torch.float64)
        weight = (len(targets) - positives) / positives
        self.pos_weight = torch.where(positives > 0, weight, torch.ones_like(weight)).float()

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Loss of a batch, a scalar."""
        return F.binary_cross_entropy_with_logits(logits, targets, pos_weight=self.pos_weight)


class CrossEntropy(nn.Module):
    """Cross-entropy of the softmax for records with exactly one label each, as a mean weighted by class.

    As in torch, the sum of the weighted terms is divided by the sum of their weights, so only the ratios of the
    weights matter.

    Parameters
    ----------
    class_weights : {'none', 'inverse_frequency', 'effective_number'}
        How the weight of a class follows from its number of records n_c in the training split. n is the number of all
        records there, and K the number of classes with any record. A class without records keeps weight 1.
        ``'inverse_frequency'``: n / (K n_c), which scikit-learn calls 'balanced'. ``'effective_number'``: proportional
        to (1 - beta) / (1 - beta^n_c), with a mean of 1 [1]_.
    beta : float
        Parameter of the effective number, at least 0 (equal weights) and below 1 (its limit is inverse frequency).

    References
    ----------
    .. [1] Y. Cui, M. Jia, T.-Y. Lin, Y. Song, S. Belongie, "Class-Balanced Loss Based on Effective Number of
       Samples", CVPR 2019, https://doi.org/10.1109/CVPR.2019.00949

    Examples
    --------
    >>> CrossEntropy()(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]))
    tensor(0.6931)
    """

    fits = ("multiclass",)
    weight: Tensor | None

    def __init__(
        self,
        class_weights: Literal["none", "inverse_frequency", "effective_number"] = "none",
        beta: Annotated[float, Field(ge=0, lt=1)] = 0.9999,
    ) -> None:
        super().__init__()
        self.class_weights, self.beta = class_weights, beta
        self.register_buffer("weight", None)

    def fit_labels(self, targets: Tensor) -> None:
        """Set the weights from the training targets, one-hot (records, classes)."""
        if self.class_weights == "none":
            return
        counts = targets.sum(dim=0, dtype=torch.float64)
        seen = counts > 0
        if self.class_weights == "inverse_frequency":
            weight = counts.sum() / (seen.sum() * counts)
        else:
            weight = (1 - self.beta) / (1 - self.beta**counts)
            weight = weight / weight[seen].mean()
        self.weight = torch.where(seen, weight, torch.ones_like(weight)).float()

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Loss of a batch, a scalar."""
        return F.cross_entropy(logits, targets.argmax(dim=1), weight=self.weight)
