"""The residual net of 18 layers of He et al. 2016, for small images."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ecgexp.models.layers import BatchNorm, Count, DecimatedConv2d, check_images, he_normal_, initialize


class ResNet18(nn.Module):
    """A convolution of 3 x 3, eight residual blocks of two convolutions, and the mean over all positions.

    (batch, channels, height, width) to logits (batch, outputs). The blocks have 1, 2, 4 and 8 times `filters`
    channels, two blocks each; the first of the last three pairs halves the image. Each convolution has batch
    normalisation; where the shape changes, so does a convolution of 1 x 1 in the shortcut.

    Deviations from the paper, which has images of 224 x 224: the first convolution is 3 x 3 without stride, and no
    pooling follows, as in the paper's own nets for images of 32 x 32 and in MedMNIST's.

    Parameters
    ----------
    channels, height, width : int
        Shape of one image. Height and width do not change the net.
    outputs : int
        Logits of an image.
    filters : int
        Filters of the first convolution.

    Notes
    -----
    For 3 channels and 8 outputs 11,172,936 trainable parameters and 9,600 batch statistics. As these nets come from
    PyTorch, so do the constants of the batch normalisation (eps 1e-5, running statistics move by 0.1 a step) and the
    padding (one pixel on each side of a 3 x 3 convolution, also with a stride).

    References
    ----------
    He et al. 2016, arXiv 1512.03385; Yang et al. 2023, MedMNIST v2, doi 10.1038/s41597-022-01721-8.

    Examples
    --------
    >>> import torch
    >>> net = ResNet18(channels=3, height=16, width=16, outputs=4, filters=8)
    >>> net(torch.zeros(5, 3, 16, 16)).shape
    torch.Size([5, 4])
    """

    def __init__(
        self,
        channels: Count = 3,
        height: Count = 28,
        width: Count = 28,
        outputs: Count = 8,
        filters: Count = 64,
    ) -> None:
        super().__init__()
        self.shape = channels, height, width
        self.stem = nn.Sequential(*_convolution(channels, filters, 3), nn.ReLU())
        self.blocks = nn.Sequential()
        inputs = filters
        for stage in range(4):
            outputs_of_stage = filters * 2**stage
            self.blocks.append(_Block(inputs, outputs_of_stage, stride=1 if stage == 0 else 2))
            self.blocks.append(_Block(outputs_of_stage, outputs_of_stage, stride=1))
            inputs = outputs_of_stage
        self.head = initialize(nn.Linear(inputs, outputs), nn.init.xavier_uniform_)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, height, width) to logits (batch, outputs)."""
        check_images(x, *self.shape)
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


class _Block(nn.Module):
    """Two convolutions added to the input, or to a convolution of it where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.main = nn.Sequential(
            *_convolution(inputs, outputs, 3, stride), nn.ReLU(), *_convolution(outputs, outputs, 3)
        )
        self.shortcut = nn.Sequential()
        if stride > 1 or inputs != outputs:
            self.shortcut = nn.Sequential(*_convolution(inputs, outputs, 1, stride))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.main(x) + self.shortcut(x))


def _convolution(inputs: int, outputs: int, kernel: int, stride: int = 1) -> tuple[nn.Module, nn.Module]:
    conv = DecimatedConv2d(inputs, outputs, kernel, stride, bias=False, weight=he_normal_)
    return conv, BatchNorm(outputs, momentum=0.1, eps=1e-5)
