"""The net of Rajpurkar et al. 2017, as published and as adapted to whole 12-lead records."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ecgexp.models.layers import (
    Count,
    Decimate,
    DecimatedConv,
    NormReLU,
    Rate,
    SameConv,
    SameMaxPool,
    ceil_div,
    check_signals,
    flatten,
    initialize,
)


class Rajpurkar(nn.Module):
    """Residual net of 34 layers on whole records, adapted from Rajpurkar et al. 2017.

    (batch, leads, samples) to logits (batch, outputs). A convolution of `width` filters with batch
    normalisation and ReLU; `depth` pre-activation residual blocks of two convolutions each; batch normalisation,
    ReLU, and two dense layers on the flattened features. The width grows by `width` every fourth block. The
    first, third, ... block halves the length.

    Deviations of the adaptation from `RajpurkarOriginal`: the first block halves the length and the second
    not; the second convolution of a block has the stride; the shortcut takes every second sample (no
    maximum), after a convolution where the width grows (no zeros added); and two dense layers take all
    steps at once instead of one layer at each step.

    Parameters
    ----------
    leads, samples : int
        Shape of one record.
    outputs : int
        Logits of a record.
    width : int
        Filters of the first four blocks.
    depth : int
        Residual blocks.
    kernel : int
        Length of the filters, in samples.
    dropout : float
        Share of activations dropped before each convolution of a block, except the first of all.
    hidden : int
        Outputs of the first dense layer, which has no activation.

    Notes
    -----
    At the defaults 16,510,917 trainable parameters and 10,368 batch statistics. Padding, batch
    normalisation and initial weights are Keras' (see `ecgexp.models.layers`).

    References
    ----------
    Leandro et al. 2023 for the adaptation; arXiv 1707.01836 for the original.

    Examples
    --------
    >>> import torch
    >>> net = Rajpurkar(leads=2, samples=256)
    >>> net(torch.zeros(3, 2, 256)).shape
    torch.Size([3, 5])
    """

    def __init__(
        self,
        leads: Count = 12,
        samples: Count = 1000,
        outputs: Count = 5,
        width: Count = 64,
        depth: Count = 16,
        kernel: Count = 16,
        dropout: Rate = 0.2,
        hidden: Count = 32,
    ) -> None:
        super().__init__()
        self.leads, self.samples = leads, samples
        self.blocks = nn.Sequential()
        inputs, steps = width, samples
        for index, filters in enumerate(_filters(width, depth)):
            stride = 2 if index % 2 == 0 else 1
            shortcut = (
                Decimate(stride)
                if filters == inputs
                else DecimatedConv(inputs, filters, kernel, stride, weight=nn.init.xavier_uniform_)
            )
            self.blocks.append(_Block(inputs, filters, kernel, (1, stride), dropout, shortcut, activated=index == 0))
            inputs, steps = filters, ceil_div(steps, stride)
        self.stem = nn.Sequential(SameConv(leads, width, kernel), NormReLU(width))
        self.activation = NormReLU(inputs)
        self.hidden = initialize(nn.Linear(steps * inputs, hidden), nn.init.xavier_uniform_)
        self.head = initialize(nn.Linear(hidden, outputs), nn.init.xavier_uniform_)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, leads, samples) to logits (batch, outputs)."""
        check_signals(x, self.leads, self.samples)
        features = self.activation(self.blocks(self.stem(x)))
        return self.head(self.hidden(flatten(features)))


class RajpurkarOriginal(nn.Module):
    """Residual net of 34 layers of Rajpurkar et al. 2017, as published.

    (batch, leads, samples) to logits (batch, outputs). A convolution of 64 filters with batch normalisation
    and ReLU; 16 pre-activation residual blocks of two convolutions each, with 64, 128, 192 and 256 filters,
    four blocks each, where every second one halves the length; batch normalisation, ReLU and a dense layer
    at each of the ceil(samples / 256) remaining steps.

    Deviations from the paper: the logits of the steps (`step_logits`) are averaged to one prediction per
    record, and no softmax follows, since a record may have several labels; records may have several leads;
    and the pooling pads an odd length, so that any length works. What the paper leaves open follows its
    authors' published code: the first convolution of a block has the stride, the shortcut adds zeros for
    new channels, dropout is 0.2.

    Parameters
    ----------
    leads : int
        Leads of a record; 1 in the paper.
    samples : int
        Samples of a record, 30 s at 200 Hz in the paper. It does not change the net.
    outputs : int
        Logits of a record; 14 rhythms in the paper.

    References
    ----------
    Rajpurkar et al. 2017, arXiv 1707.01836; https://github.com/awni/ecg for what the paper leaves open.

    Examples
    --------
    >>> import torch
    >>> net = RajpurkarOriginal(leads=2, samples=256)
    >>> net(torch.zeros(3, 2, 256)).shape
    torch.Size([3, 14])
    """

    def __init__(self, leads: Count = 1, samples: Count = 6000, outputs: Count = 14) -> None:
        super().__init__()
        kernel, dropout = 16, 0.2
        self.leads = leads
        self.blocks = nn.Sequential()
        inputs = 64
        for index, filters in enumerate(_filters(width=64, depth=16)):
            stride = 1 if index % 2 == 0 else 2
            shortcut = nn.Sequential(SameMaxPool(stride), _AddChannels(filters - inputs))
            self.blocks.append(_Block(inputs, filters, kernel, (stride, 1), dropout, shortcut, activated=index == 0))
            inputs = filters
        self.stem = nn.Sequential(SameConv(leads, 64, kernel), NormReLU(64))
        self.activation = NormReLU(inputs)
        self.head = initialize(nn.Linear(inputs, outputs), nn.init.xavier_uniform_)

    def step_logits(self, x: Tensor) -> Tensor:
        """(batch, leads, samples) to the logits of each step, (batch, ceil(samples / 256), outputs)."""
        check_signals(x, self.leads)
        features = self.activation(self.blocks(self.stem(x)))
        return self.head(features.transpose(1, 2))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, leads, samples) to the mean logits (batch, outputs)."""
        return self.step_logits(x).mean(dim=1)


class _Block(nn.Module):
    """Two convolutions, each after batch normalisation, ReLU and dropout, added to a shortcut.

    For an `activated` input the first convolution follows at once.
    """

    def __init__(
        self,
        inputs: int,
        filters: int,
        kernel: int,
        strides: tuple[int, int],
        dropout: float,
        shortcut: nn.Module,
        activated: bool,
    ) -> None:
        super().__init__()
        self.shortcut = shortcut
        self.main = nn.Sequential(
            nn.Identity() if activated else NormReLU(inputs, dropout),
            SameConv(inputs, filters, kernel, strides[0]),
            NormReLU(filters, dropout),
            SameConv(filters, filters, kernel, strides[1]),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.main(x) + self.shortcut(x)


class _AddChannels(nn.Module):
    """(batch, channels, samples) to (batch, channels + new, samples), the new ones zero."""

    def __init__(self, new: int) -> None:
        super().__init__()
        self.new = new

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x, (0, 0, 0, self.new))


def _filters(width: int, depth: int) -> list[int]:
    """Filters of each block: `width`, and as much again after every fourth."""
    return [width * (1 + index // 4) for index in range(depth)]
