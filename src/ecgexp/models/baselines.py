"""Baselines: trivial models to compare nets with."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ecgexp.models.layers import BatchNorm, Count, check_signals


class Linear(nn.Module):
    """Logistic regression on the mean and the standard deviation of each lead.

    (batch, leads, samples) to logits (batch, outputs). The features are standardised with their averages
    over the training batches. Weights start at zero. `fit_prior` sets the biases to the prevalences, so that
    training starts from the predictions of `Constant`.

    Parameters
    ----------
    leads, samples : int
        Shape of one record.
    outputs : int
        Logits of a record.

    Examples
    --------
    >>> import torch
    >>> net = Linear(leads=2, samples=256)
    >>> net(torch.zeros(3, 2, 256)).shape
    torch.Size([3, 5])
    """

    def __init__(self, leads: Count = 12, samples: Count = 1000, outputs: Count = 5) -> None:
        super().__init__()
        self.leads, self.samples = leads, samples
        self.standardize = BatchNorm(2 * leads, momentum=None, affine=False)
        self.head = nn.Linear(2 * leads, outputs)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def fit_prior(self, logits: Tensor) -> None:
        """Set the biases to the logits of the distribution of the training targets, (outputs,)."""
        with torch.no_grad():
            self.head.bias.copy_(logits)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, leads, samples) to logits (batch, outputs)."""
        check_signals(x, self.leads, self.samples)
        deviation, mean = torch.std_mean(x, dim=-1, correction=0)
        return self.head(self.standardize(torch.cat([mean, deviation], dim=1)))


class Constant(nn.Module):
    """The prevalence of each label, whatever the record: any inputs of a batch to logits (batch, outputs).

    Nothing is trained. Until `fit_prior` is called, all logits are 0.

    Parameters
    ----------
    leads, samples : int
        Shape of one record.
    outputs : int
        Logits of a record.

    Attributes
    ----------
    logits : Tensor, (outputs,)
        The output for each record.

    Examples
    --------
    >>> import torch
    >>> net = Constant(leads=2, samples=256)
    >>> net.fit_prior(torch.zeros(5))
    >>> net(torch.zeros(1, 2, 256))[0, 0].sigmoid()
    tensor(0.5000)
    """

    logits: Tensor

    def __init__(self, leads: Count = 12, samples: Count = 1000, outputs: Count = 5) -> None:
        super().__init__()
        self.leads, self.samples = leads, samples
        self.register_buffer("logits", torch.zeros(outputs))

    def fit_prior(self, logits: Tensor) -> None:
        """Set the logits to those of the distribution of the training targets, (outputs,)."""
        self.logits.copy_(logits)

    def forward(self, x: Tensor | None = None, **inputs: Tensor) -> Tensor:
        """(batch, leads, samples), or several inputs by name, to logits (batch, outputs)."""
        if x is None:
            x = next(iter(inputs.values()))
        else:
            check_signals(x, self.leads, self.samples)
        return self.logits.repeat(x.shape[0], 1)
