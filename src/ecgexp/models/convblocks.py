"""Convolutional net of Giraldi 2025, with attention, on beats folded into pictures."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ecgexp.models.layers import ACTIVATIONS, Activation, Count, ceil_div, check_heads, check_signals


class ConvBlocks(nn.Module):
    """Blocks of two 3 x 3 convolutions on folded signals, with pooling and self-attention after every second.

    (batch, leads, samples) to logits (batch, outputs). Each lead is one channel of a picture. Its samples fill
    rows of `columns`, and zeros fill the last row. A beat of 192 samples is 16 x 12 as in the paper, a record of
    12 x 1000 is 12 channels of 84 x 12. The net has 1 + `layers` blocks of two convolutions with padding and
    ReLU. After the second, fourth, ... block follow a maximum over each 2 x 2, and x + w MHSA(x) over the
    positions of the picture, where w is learned and starts at zero. Two dense layers follow, with an activation
    in between.

    Deviation from the authors' code: where a picture has an odd side, the pooling keeps its last line. So any
    length and number of layers works. 16 x 12 has no odd side before its third pooling.

    Parameters
    ----------
    leads, samples : int
        Shape of one record.
    outputs : int
        Logits of a record.
    hidden : int
        Filters of every convolution, and units between the dense layers.
    layers : int
        Blocks after the first; the paper counts these.
    attention : bool
        Whether there is self-attention after the pooling.
    heads : int
        Heads of the attention, a divisor of `hidden`.
    activation : {'relu', 'sigmoid', 'tanh', 'gelu', 'leaky_relu'}
        Between the dense layers.
    columns : int
        Samples in a row of the picture.

    Raises
    ------
    UserError
        If `heads` does not divide `hidden`.

    References
    ----------
    Giraldi 2025, ConvBlocks vs. Recurrent Layers, https://github.com/vgiraldi99/MADS-ML-Heart, for the net and
    for what the paper leaves open (8 heads, ReLU in the blocks); Kapila et al. 2024 for the attention.

    Examples
    --------
    >>> import torch
    >>> net = ConvBlocks(leads=2, samples=256)
    >>> net(torch.zeros(3, 2, 256)).shape
    torch.Size([3, 5])
    """

    def __init__(
        self,
        leads: Count = 12,
        samples: Count = 1000,
        outputs: Count = 5,
        hidden: Count = 64,
        layers: Count = 1,
        attention: bool = True,
        heads: Count = 8,
        activation: Activation = "relu",
        columns: Count = 12,
    ) -> None:
        super().__init__()
        self.check_arguments(hidden, heads, attention)
        self.leads, self.samples, self.columns = leads, samples, columns
        self.blocks = nn.Sequential(_block(leads, hidden))
        sides = self.rows, columns
        for block in range(2, layers + 2):
            self.blocks.append(_block(hidden, hidden))
            if block % 2 == 0:
                self.blocks.append(nn.MaxPool2d(2, ceil_mode=True))
                sides = ceil_div(sides[0], 2), ceil_div(sides[1], 2)
                if attention:
                    self.blocks.append(ResidualAttention(hidden, heads))
        self.blocks.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # missing in torch's annotations
        self.hidden = nn.Linear(sides[0] * sides[1] * hidden, hidden)
        self.activation = ACTIVATIONS[activation]()
        self.head = nn.Linear(hidden, outputs)

    @staticmethod
    def check_arguments(hidden: int = 64, heads: int = 8, attention: bool = True, **_: Any) -> None:
        """Refuse hidden sizes that the heads do not divide."""
        if attention:
            check_heads(hidden, heads)

    @property
    def rows(self) -> int:
        """Lines of the picture."""
        return ceil_div(self.samples, self.columns)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, leads, samples) to logits (batch, outputs)."""
        check_signals(x, self.leads, self.samples)
        lines = F.pad(x, (0, self.rows * self.columns - self.samples))
        picture = lines.reshape(-1, self.leads, self.rows, self.columns).contiguous(memory_format=torch.channels_last)
        return self.head(self.activation(self.hidden(self.blocks(picture).flatten(1))))


class ResidualAttention(nn.Module):
    """x + w MHSA(x) over the positions of a picture; w is learned and starts at zero.

    Parameters
    ----------
    channels : int
        Channels of the picture.
    heads : int
        A divisor of `channels`.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(channels, heads, batch_first=True)
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, rows, columns) to the same."""
        places = x.flatten(2).transpose(1, 2)
        found, _ = self.attention(places, places, places, need_weights=False)
        return x + self.weight * found.transpose(1, 2).reshape(x.shape)


def _block(inputs: int, outputs: int) -> nn.Sequential:
    """Two convolutions of 3 x 3, each with ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(), nn.Conv2d(outputs, outputs, 3, padding=1), nn.ReLU()
    )
