"""The net of Krizhevsky et al. 2012, in one tower, for images from 28 x 28 pixels on."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field
from torch import Tensor, nn

from ecgexp.models.layers import (
    Count,
    Rate,
    ReLUDropout,
    SameConv2d,
    ceil_div,
    check_images,
    check_side,
    flatten,
    he_normal_,
    initialize,
)

LEAST = 15
"""Pixels of the smallest side of which the three poolings leave a position."""


class AlexNet(nn.Module):
    """Five convolutions with ReLU, three of them with pooling, and three dense layers.

    (batch, channels, height, width) to logits (batch, outputs). The filters are those of the paper, each convolution
    over all channels (one tower). Maxima are over 3 x 3 pixels, 2 apart, after the first, second and fifth
    convolution. Dropout is before the first and the second dense layer.

    The first convolution depends on the shorter side of an image, so that at least 28 positions remain of it, and
    1 or more after the poolings:

    ============  ======  ======  =============================================
    shorter side  filter  stride  positions after the convolution and poolings
    ============  ======  ======  =============================================
    from 112      11      4       224: 56, 27, 13, 6; 144: 36, 17, 8, 3
    56 to 111     7       2       64: 32, 15, 7, 3
    below 56      5       1       28: 28, 13, 6, 2
    ============  ======  ======  =============================================

    At 224 it is the paper's layout.

    Deviations from the paper: no local response normalisation; He's initial weights and zero biases in place of a
    deviation of 0.01 and biases of 1; TensorFlow's 'same' padding in the convolutions.

    Parameters
    ----------
    channels, height, width : int
        Shape of one image.
    outputs : int
        Logits of an image.
    filters : int
        Filters of the first convolution, a multiple of 3; the others have 8/3, 4, 4 and 8/3 times as many.
    hidden : int
        Units of the first two dense layers.
    dropout : float
        Share of values dropped before each of these.

    Raises
    ------
    UserError
        Where an image is too small.

    Notes
    -----
    For 224 x 224 x 3 and 1,000 outputs 62,378,344 parameters; for 28 x 28 x 3 and 8 outputs 24,732,040.

    References
    ----------
    Krizhevsky, Sutskever and Hinton 2012, ImageNet classification with deep convolutional neural networks.

    Examples
    --------
    >>> import torch
    >>> net = AlexNet(channels=3, height=28, width=28, outputs=4, filters=12, hidden=16)
    >>> net(torch.zeros(5, 3, 28, 28)).shape
    torch.Size([5, 4])
    """

    def __init__(
        self,
        channels: Count = 3,
        height: Count = 224,
        width: Count = 224,
        outputs: Count = 1000,
        filters: Annotated[int, Field(gt=0, multiple_of=3, strict=True)] = 96,
        hidden: Count = 4096,
        dropout: Rate = 0.5,
    ) -> None:
        super().__init__()
        self.check_arguments(height, width)
        self.shape = channels, height, width
        wide, widest = filters * 8 // 3, filters * 4
        stride = _stride(min(height, width))
        self.features = nn.Sequential(
            *_convolution(channels, filters, 2 * stride + 3, stride),
            nn.MaxPool2d(3, 2),
            *_convolution(filters, wide, 5),
            nn.MaxPool2d(3, 2),
            *_convolution(wide, widest, 3),
            *_convolution(widest, widest, 3),
            *_convolution(widest, wide, 3),
            nn.MaxPool2d(3, 2),
        )
        rows, columns = (_positions(side, stride) for side in (height, width))
        self.dense = nn.Sequential(
            ReLUDropout(dropout),  # no value is below 0 before it
            initialize(nn.Linear(rows * columns * wide, hidden), he_normal_),
            ReLUDropout(dropout),
            initialize(nn.Linear(hidden, hidden), he_normal_),
            nn.ReLU(),
        )
        self.head = initialize(nn.Linear(hidden, outputs), he_normal_)

    @staticmethod
    def check_arguments(height: int = 224, width: int = 224, **_: Any) -> None:
        """Refuse images that the poolings would leave nothing of."""
        check_side(height, width, LEAST)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, height, width) to logits (batch, outputs)."""
        check_images(x, *self.shape)
        return self.head(self.dense(flatten(self.features(x))))


def _stride(side: int) -> int:
    """Step of the first convolution for images with this shorter side."""
    return 4 if side >= 112 else 2 if side >= 56 else 1


def _positions(side: int, stride: int) -> int:
    """What the first convolution and three poolings leave of a side."""
    side = ceil_div(side, stride)
    for _ in range(3):
        side = (side - 3) // 2 + 1
    return side


def _convolution(inputs: int, outputs: int, kernel: int, stride: int = 1) -> tuple[nn.Module, nn.Module]:
    return SameConv2d(inputs, outputs, kernel, stride, weight=he_normal_), nn.ReLU()
