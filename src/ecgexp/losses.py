"""Losses on logits: modules called with ``(logits, targets)``, both (batch, classes)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class BinaryCrossEntropy(nn.Module):
    """Mean binary cross-entropy over records and labels.

    Parameters
    ----------
    pos_weight : {'none', 'inverse_frequency'}
        Weight of the positive term of each label. ``'inverse_frequency'``: negatives / positives in the
        training split; a label without positives there keeps weight 1.
    """

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
