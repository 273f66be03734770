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
    multiclass : bool
        Each record has exactly one of them: the logits are for a softmax.

    Examples
    --------
    >>> import torch
    >>> net = Linear(leads=2, samples=256)
    >>> net(torch.zeros(3, 2, 256)).shape
    torch.Size([3, 5])
    """

    def __init__(self, leads: Count = 12, samples: Count = 1000, classes: Count = 5, multiclass: bool = False) -> None:
        super().__init__()
        self.leads, self.samples, self.multiclass = leads, samples, multiclass
        self.standardize = BatchNorm(2 * leads, momentum=None, affine=False)
        self.head = nn.Linear(2 * leads, classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def fit_labels(self, targets: Tensor) -> None:
        """Start from the prevalences in the training targets, (records, classes)."""
        with torch.no_grad():
            self.head.bias.copy_(_prevalence_logits(targets, self.multiclass))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, leads, samples) to logits (batch, classes)."""
        check_signals(x, self.leads, self.samples)
        deviation, mean = torch.std_mean(x, dim=-1, correction=0)
        return self.head(self.standardize(torch.cat([mean, deviation], dim=1)))


class Constant(nn.Module):
    """The prevalence of each label, whatever the record: (batch, leads, samples) to logits (batch, classes).

    Nothing is trained; until `fit_labels` is called all logits are 0.

    Parameters
    ----------
    leads, samples : int
        Shape of one record.
    classes : int
        Labels to predict.
    multiclass : bool
        Each record has exactly one of them: the logits are for a softmax.

    Attributes
    ----------
    logits : Tensor, (classes,)
        What it answers.

    Examples
    --------
    >>> import torch
    >>> net = Constant(leads=2, samples=256)
    >>> net.fit_labels(torch.tensor([[1, 0, 0, 1, 1], [0, 0, 1, 1, 0]]))
    >>> net(torch.zeros(1, 2, 256))[0, 0].sigmoid()
    tensor(0.5000)
    """

    logits: Tensor

    def __init__(self, leads: Count = 12, samples: Count = 1000, classes: Count = 5, multiclass: bool = False) -> None:
        super().__init__()
        self.leads, self.samples, self.multiclass = leads, samples, multiclass
        self.register_buffer("logits", torch.zeros(classes))

    def fit_labels(self, targets: Tensor) -> None:
        """Take the prevalences from the training targets, (records, classes)."""
        self.logits.copy_(_prevalence_logits(targets, self.multiclass))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, leads, samples) to logits (batch, classes)."""
        check_signals(x, self.leads, self.samples)
        return self.logits.repeat(x.shape[0], 1)


def _prevalence_logits(targets: Tensor, multiclass: bool) -> Tensor:
    """What gives each column its prevalence, (classes,); finite also where a label always or never holds."""
    prevalences = targets.double().mean(dim=0)
    return prevalences.clamp(min=1e-6).log() if multiclass else torch.logit(prevalences, eps=1e-6)
