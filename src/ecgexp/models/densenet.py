"""The deep convolutional net of Toffanetto 2024: one dense block."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ecgexp.models.layers import Count, NormReLU, SameConv2d, check_images, check_side, initialize


class DenseNetSmall(nn.Module):
    """A convolution, one block of densely connected layers, and the mean over all positions.

    (batch, channels, height, width) to logits (batch, outputs). A convolution with batch normalisation, ReLU and a
    maximum over each 2 x 2; `depth` layers, each of which adds `growth` channels to its input: batch normalisation,
    ReLU, convolution of 1 x 1 to 4 x `growth` channels, batch normalisation, ReLU, convolution of 3 x 3; the mean of
    each channel; a dense layer.

    Parameters
    ----------
    channels, height, width : int
        Shape of one image.
    outputs : int
        Logits of an image.
    filters : int
        Filters of the first convolution.
    kernel : int
        Side of the filters of the first convolution, in pixels.
    depth : int
        Layers of the block.
    growth : int
        Channels that each layer adds.

    Raises
    ------
    UserError
        Where an image has a side of one pixel.

    Notes
    -----
    At the defaults 347,656 trainable parameters and 3,392 batch statistics, together 351,048. Padding, batch
    normalisation and initial weights (Glorot uniform, biases zero, in every convolution) are Keras'.

    References
    ----------
    Toffanetto 2024, section 4, for the net; Huang et al. 2017, arXiv 1608.06993, for the block.

    Examples
    --------
    >>> import torch
    >>> net = DenseNetSmall(channels=3, height=8, width=8, outputs=4, depth=2)
    >>> net(torch.zeros(5, 3, 8, 8)).shape
    torch.Size([5, 4])
    """

    def __init__(
        self,
        channels: Count = 3,
        height: Count = 28,
        width: Count = 28,
        outputs: Count = 8,
        filters: Count = 64,
        kernel: Count = 7,
        depth: Count = 6,
        growth: Count = 32,
    ) -> None:
        super().__init__()
        self.check_arguments(height, width)
        self.shape = channels, height, width
        self.stem = nn.Sequential(SameConv2d(channels, filters, kernel), NormReLU(filters), nn.MaxPool2d(2))
        self.block = nn.Sequential()
        for _ in range(depth):
            self.block.append(_DenseLayer(filters, growth))
            filters += growth
        self.head = initialize(nn.Linear(filters, outputs), nn.init.xavier_uniform_)

    @staticmethod
    def check_arguments(height: int = 28, width: int = 28, **_: Any) -> None:
        """Refuse images that the pooling would leave nothing of."""
        check_side(height, width, 2)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, height, width) to logits (batch, outputs)."""
        check_images(x, *self.shape)
        return self.head(self.block(self.stem(x)).mean((2, 3)))


class _DenseLayer(nn.Sequential):
    """Adds `growth` channels, computed from all of its input, to its input."""

    def __init__(self, inputs: int, growth: int) -> None:
        between = 4 * growth
        super().__init__(
            NormReLU(inputs), SameConv2d(inputs, between, 1), NormReLU(between), SameConv2d(between, growth, 3)
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, super().forward(x)], dim=1)
