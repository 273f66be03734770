"""Keras' layers and initial weights, on signals (batch, channels, samples) and images (batch, channels, rows, columns).

They are plain PyTorch, and the reference: `ecgexp.fast` computes the same in less time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Literal, TypeVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from ecgexp.errors import UserError

Count = Annotated[int, Field(gt=0, strict=True)]
"""A constructor argument that is a whole number of at least 1."""

Rate = Annotated[float, Field(ge=0, lt=1)]
"""A constructor argument that is a dropout rate: at least 0, below 1."""

Activation = Literal["relu", "sigmoid", "tanh", "gelu", "leaky_relu"]
"""A constructor argument that names an activation."""

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "leaky_relu": nn.LeakyReLU,
}

Initializer = Callable[[Tensor], Tensor]
Weighted = TypeVar("Weighted", nn.Linear, nn.Conv1d, nn.Conv2d)


def he_normal_(weight: Tensor) -> Tensor:
    """Fill `weight` as Keras' ``he_normal`` does.

    A normal distribution cut at two standard deviations and widened so that the variance is 2 / fan-in
    after the cut (`torch.nn.init.kaiming_normal_` does not cut).

    Parameters
    ----------
    weight : Tensor, (outputs, inputs, ...)

    References
    ----------
    He et al. 2015, arXiv 1502.01852; ``keras.initializers.HeNormal``.
    """
    std_after_cut = 0.87962566103423978
    std = math.sqrt(2 / weight[0].numel()) / std_after_cut
    return nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)


def initialize(layer: Weighted, weight: Initializer) -> Weighted:
    """Fill the weight of `layer` with an initializer, its bias with zeros, and return the layer."""
    weight(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def ceil_div(samples: int, stride: int) -> int:
    """Length of a signal of `samples` after a layer with 'same' padding and `stride`."""
    return -(-samples // stride)


def same_padding(samples: int, kernel: int, stride: int) -> tuple[int, int]:
    """TensorFlow's 'same' padding: samples to add on the left and on the right, the odd one on the right."""
    total = max((ceil_div(samples, stride) - 1) * stride + kernel - samples, 0)
    return total // 2, total - total // 2


def decimated_padding(samples: int, kernel: int, stride: int) -> tuple[int, int]:
    """Samples to add on the left and on the right for every `stride`-th output of a stride-1 'same' convolution."""
    left, _ = same_padding(samples, kernel, stride=1)
    return left, max((ceil_div(samples, stride) - 1) * stride + kernel - samples - left, 0)


class SameConv(nn.Conv1d):
    """Convolution with TensorFlow's 'same' padding.

    Parameters
    ----------
    inputs, outputs : int
        Channels.
    kernel : int
        Length of the filters, in samples.
    stride : int
        Step between outputs, in samples.
    bias : bool
        Whether a bias is learnt.
    weight : callable
        Fills the initial weight in place.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int = 1,
        bias: bool = True,
        weight: Initializer = he_normal_,
    ) -> None:
        super().__init__(inputs, outputs, kernel, stride=stride, bias=bias)
        initialize(self, weight)

    def padding_of(self, samples: int) -> tuple[int, int]:
        """Samples to add on the left and on the right of a signal."""
        return same_padding(samples, self.kernel_size[0], self.stride[0])

    def forward(self, x: Tensor) -> Tensor:
        """(batch, inputs, n) to (batch, outputs, ceil(n / stride))."""
        x, weight = F.pad(x, self.padding_of(x.shape[-1])), self.weight
        if x.is_cpu and torch.is_autocast_enabled("cpu"):
            x, weight = odd_channels(x), odd_channels(weight)
        return F.conv1d(x, weight, self.bias, self.stride)


class DecimatedConv(SameConv):
    """Every `stride`-th output of a stride-1 `SameConv`, without computing the others.

    A strided `SameConv` differs: it has another padding on the left.
    """

    def padding_of(self, samples: int) -> tuple[int, int]:
        """Samples to add on the left and on the right of a signal."""
        return decimated_padding(samples, self.kernel_size[0], self.stride[0])


class SameConv2d(nn.Conv2d):
    """Convolution of images with square filters and TensorFlow's 'same' padding.

    Parameters
    ----------
    inputs, outputs : int
        Channels.
    kernel : int
        Side of the filters, in pixels.
    stride : int
        Step between outputs, in pixels.
    bias : bool
        Whether a bias is learnt.
    weight : callable
        Fills the initial weight in place.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int = 1,
        bias: bool = True,
        weight: Initializer = nn.init.xavier_uniform_,
    ) -> None:
        super().__init__(inputs, outputs, kernel, stride=stride, bias=bias)
        initialize(self, weight)

    def padding_of(self, pixels: int) -> tuple[int, int]:
        """Pixels to add before and after a row or a column of `pixels`."""
        return same_padding(pixels, self.kernel_size[0], self.stride[0])

    def forward(self, x: Tensor, bias: bool = True) -> Tensor:
        """(batch, inputs, rows, columns) to (batch, outputs, ceil(rows / stride), ceil(columns / stride)).

        With ``bias=False`` the bias is left out, for a net that adds it later.
        """
        x, weight = F.pad(x, (*self.padding_of(x.shape[-1]), *self.padding_of(x.shape[-2]))), self.weight
        if x.is_cpu and torch.is_autocast_enabled("cpu"):
            x, weight = odd_channels(x), odd_channels(weight)
        return F.conv2d(x, weight, self.bias if bias else None, self.stride)


class DecimatedConv2d(SameConv2d):
    """Every `stride`-th output of a stride-1 `SameConv2d`: for an odd kernel the padding that PyTorch's nets have.

    A strided `SameConv2d` begins one pixel later where the side is even.
    """

    def padding_of(self, pixels: int) -> tuple[int, int]:
        """Pixels to add before and after a row or a column of `pixels`."""
        return decimated_padding(pixels, self.kernel_size[0], self.stride[0])


class Decimate(nn.Module):
    """Every `stride`-th sample, from the first on."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, n) to (batch, channels, ceil(n / stride))."""
        return x[..., :: self.stride]


class SameMaxPool(nn.Module):
    """Maximum over windows of `size` samples, `size` apart, with TensorFlow's 'same' padding.

    Padding counts as -inf, so it is never the maximum.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, n) to (batch, channels, ceil(n / size))."""
        padding = same_padding(x.shape[-1], self.size, self.size)
        return F.max_pool1d(F.pad(x, padding, value=-math.inf), self.size)


class BatchNorm(nn.BatchNorm1d):
    """Batch normalisation as Keras computes it, on (batch, channels), signals or images.

    Differences to `nn.BatchNorm1d`: eps is 1e-3; running statistics move by 0.01 a step; the running variance
    averages the biased variances of the batches. A batch with a single value per channel has no variance; it is
    normalised with the running statistics instead of being refused.

    Parameters
    ----------
    channels : int
        Channels of the input.
    momentum : float or None
        Share of the new batch in the running statistics; None takes the plain average over all batches.
    affine : bool
        Whether a scale and a shift are learnt.
    eps : float
        Added to the variance.
    """

    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, channels: int, momentum: float | None = 0.01, affine: bool = True, eps: float = 1e-3) -> None:
        super().__init__(channels, eps=eps, momentum=momentum, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise each channel; in training also move the running statistics."""
        values = x.numel() // x.shape[1]
        if not self.training or values == 1:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        self.num_batches_tracked += 1
        momentum = 1 / int(self.num_batches_tracked) if self.momentum is None else self.momentum
        # PyTorch averages unbiased variances, each larger than the biased one by this factor
        excess = values / (values - 1)
        variance = self.running_var * excess
        y = F.batch_norm(x, self.running_mean, variance, self.weight, self.bias, True, momentum, self.eps)
        self.running_var.copy_(variance / excess)
        return y


class ReLUDropout(nn.Dropout):
    """`nn.ReLU` and then `nn.Dropout`."""

    def forward(self, x: Tensor) -> Tensor:
        """The same shape; in training a share of the values is zero, and the others are scaled to keep the mean."""
        return super().forward(F.relu(x))


class NormReLU(nn.Sequential):
    """Batch normalisation, ReLU and, with a rate above 0, dropout."""

    def __init__(self, channels: int, dropout: float = 0.0) -> None:
        super().__init__(BatchNorm(channels), ReLUDropout(dropout))


def odd_channels(x: Tensor) -> Tensor:
    """(batch, channels, ...) with one more channel of zeros, where channels are even and below 32.

    oneDNN 3.12 (torch 2.13) computes wrong sums there, in bfloat16 on a CPU with AMX, without an error. For 12 leads
    and filters of 16 samples the results were unrelated to the convolution. With an odd number, or at least 32, none
    of 40,000 random cases was wrong.
    """
    channels = x.shape[1]
    return F.pad(x, (0, 0) * (x.dim() - 2) + (0, 1)) if channels < 32 and channels % 2 == 0 else x


def flatten(x: Tensor) -> Tensor:
    """(batch, channels, ...) to (batch, values), position-major as Keras flattens."""
    return x.movedim(1, -1).flatten(1)


def check_signals(x: Tensor, leads: int, samples: int | None = None) -> None:
    """Refuse a batch that is not (batch, leads, samples); any length is allowed where `samples` is None.

    Raises
    ------
    UserError
        Names the given shape and the needed one.
    """
    if x.dim() != 3 or x.shape[1] != leads or samples not in (None, x.shape[2]):
        raise UserError(
            f"This net takes signals of shape (batch, {leads}, {samples or 'samples'}) but was given "
            f"{tuple(x.shape)}: build it with the leads and samples of the data."
        )


def check_images(x: Tensor, channels: int, height: int, width: int) -> None:
    """Refuse a batch that is not (batch, channels, height, width).

    Raises
    ------
    UserError
        Names the given shape and the needed one.
    """
    if tuple(x.shape[1:]) != (channels, height, width):
        raise UserError(
            f"This net takes images of shape (batch, {channels}, {height}, {width}) but was given {tuple(x.shape)}: "
            "build it with the channels, height and width of the data."
        )


def check_side(height: int, width: int, least: int) -> None:
    """Refuse images with a side of fewer than `least` pixels.

    Raises
    ------
    UserError
        Names the size.
    """
    if min(height, width) < least:
        raise UserError(
            f"Images of {height} x {width} pixels are too small for this net, which takes at least {least} x {least}: "
            "choose larger images or another net."
        )


def check_heads(hidden: int, heads: int) -> None:
    """Refuse a number of heads that does not divide the hidden size.

    Raises
    ------
    UserError
        Names the nearest sizes that `heads` divides.
    """
    if hidden % heads:
        lower = hidden // heads * heads
        nearest = f"{lower} or {lower + heads}" if lower else f"{heads}"
        raise UserError(
            f"Config key 'model.hidden' is {hidden}, which model.heads={heads} cannot share equally: take {nearest}."
        )
