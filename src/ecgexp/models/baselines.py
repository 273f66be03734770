"""The trivial rows that every study needs beside its nets."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ecgexp.models.layers import BatchNorm, Count, check_signals


class Linear(nn.Module):
    """Logistic regression on the mean and the standard deviation of each lead.

    (batch, leads, samples) to logits (batch, classes). The features are standardised with their averages
    over the training batches; weights start at zero and, where `fit_labels` is called, biases at the
    prevalences, so that training starts from what `Constant` predicts.

    Parameters
    ----------
    leads, samples : int
        Shape of one record.
    classes : int
        Labels to predict.
    """

    def __init__(self, leads: Count = 12, samples: Count = 1000, classes: Count = 5) -> None:
        super().__init__()
        self.leads, self.samples = leads, samples
        self.standardize = BatchNorm(2 * leads, momentum=None, affine=False)
        self.head = nn.Linear(2 * leads, classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def fit_labels(self, targets: Tensor) -> None:
        """Start from the prevalences in the training targets, (records, classes)."""
        with torch.no_grad():
            self.head.bias.copy_(_prevalence_logits(targets))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, leads, samples) to logits (batch, classes)."""
        check_signals(x, self.leads, self.samples)
        deviation, mean = torch.std_mean(x, dim=-1, correction=0)
        return self.head(self.standardize(torch.cat([mean, deviation], dim=1)))


class Constant(nn.Module):
    """The prevalence of each label, whatever the record: (batch, leads, samples) to logits (batch, classes).

    Nothing is trained; until `fit_labels` is called every label has probability 0.5.

    Parameters
    ----------
    leads, samples : int
        Shape of one record.
    classes : int
        Labels to predict.

    Attributes
    ----------
    logits : Tensor, (classes,)
        What it answers.
    """

    logits: Tensor

    def __init__(self, leads: Count = 12, samples: Count = 1000, classes: Count = 5) -> None:
        super().__init__()
        self.leads, self.samples = leads, samples
        self.register_buffer("logits", torch.zeros(classes))

    def fit_labels(self, targets: Tensor) -> None:
        """Take the prevalences from the training targets, (records, classes)."""
        self.logits.copy_(_prevalence_logits(targets))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, leads, samples) to logits (batch, classes)."""
        check_signals(x, self.leads, self.samples)
        return self.logits.repeat(x.shape[0], 1)


def _prevalence_logits(targets: Tensor) -> Tensor:
    """Log odds of each column, (classes,); those of a label that always or never holds stay finite."""
    return torch.logit(targets.double().mean(dim=0), eps=1e-6)
