"""The layers of `ecgexp.models.layers`, faster.

In memory a signal lies as Keras has it, (batch, samples, channels), of which those here are transposed views: so
the data come, and so the convolutions are fastest. Each layer takes any layout and returns this one.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ecgexp.fast.convolution import LAYOUT, Convolution, fold, image, pad
from ecgexp.fast.dropout import Drop
from ecgexp.models import layers


def speed_up(net: nn.Module) -> nn.Module:
    """Have the layers of `ecgexp.models.layers` in a net compute faster, in place.

    Parameters, buffers and their names stay as they are; other layers, and subclasses of ours, are left alone.

    Parameters
    ----------
    net : nn.Module
        Of this project or of a user, before its optimizer is built.

    Returns
    -------
    nn.Module
        The same net.
    """
    for layer in net.modules():
        if type(layer) in _FASTER:
            layer.__class__ = _FASTER[type(layer)]
            if isinstance(layer, layers.SameConv):
                layer.weight.data = image(layer.weight.data).contiguous(memory_format=LAYOUT).squeeze(2)
    return net


class FastSameConv(layers.SameConv):
    """`SameConv`; in training on a CPU it has first derivatives only, by `torch.autograd`; in evaluation all."""

    def forward(self, x: Tensor) -> Tensor:
        """(batch, inputs, n) to (batch, outputs, ceil(n / stride))."""
        (left, right), samples = self.padding_of(x.shape[-1]), x.shape[-1]
        weight, stride = self.weight, self.stride[0]
        if stride == 1:
            # a filter longer than the signal: its ends see nothing but padding
            unseen = (max(left - samples + 1, 0), max(right - samples + 1, 0))
            weight = weight[..., unseen[0] : weight.shape[-1] - unseen[1]]
            left, right = left - unseen[0], right - unseen[1]
        x = pad(x, (left, right))
        if stride > 1 and weight.shape[-1] % stride == 0:
            x, weight, stride = fold(x, stride), fold(image(weight), stride).squeeze(2), 1
        weight = image(weight)
        if x.is_cpu and torch.is_autocast_enabled("cpu") and x.dtype != torch.float64:  # which autocast leaves alone
            x, weight = (layers.odd_channels(t.to(torch.get_autocast_dtype("cpu"))) for t in (x, weight))
        if self.training and stride == 1 and x.is_cpu and not torch.compiler.is_compiling():
            return Convolution.apply(x, weight, self.bias).squeeze(2)
        return F.conv2d(x, weight, self.bias, stride=(1, stride)).squeeze(2)


class FastDecimatedConv(FastSameConv, layers.DecimatedConv):
    """`DecimatedConv`, as `FastSameConv` computes it."""


class FastDecimate(layers.Decimate):
    """`Decimate`, whose gradient has the layout of the signal."""

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, n) to (batch, channels, ceil(n / stride))."""
        return x.transpose(1, 2)[:, :: self.stride].transpose(1, 2)


class FastSameMaxPool(layers.SameMaxPool):
    """`SameMaxPool` of images of one line."""

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, n) to (batch, channels, ceil(n / size))."""
        padding = layers.same_padding(x.shape[-1], self.size, self.size)
        return F.max_pool2d(pad(x, padding, -math.inf), (1, self.size)).squeeze(2)


class FastBatchNorm(layers.BatchNorm):
    """`BatchNorm` of images of one line."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise each channel; in training also move the running statistics."""
        return super().forward(image(x)).squeeze(2) if x.dim() == 3 else super().forward(x)


class FastReLUDropout(layers.ReLUDropout):
    """`ReLUDropout`, on a CPU with cheap random numbers and without a mask to keep.

    The rate `p` is rounded to a multiple of 2^-16 there: one 64-bit random number then decides on four values.
    `nn.Dropout` draws one for each, and next to the convolutions spends a fifth of a step on it.
    """

    def forward(self, x: Tensor) -> Tensor:
        """The same shape; in training a share of the values is zero, and the others are scaled to keep the mean."""
        # what a compiler traces is torch's own: it cannot see through the other
        if not self.training or self.p == 0 or not x.is_cpu or torch.compiler.is_compiling():
            return super().forward(x)
        return Drop.apply(x, self.p)


_FASTER: dict[type[nn.Module], type[nn.Module]] = {
    layers.SameConv: FastSameConv,
    layers.DecimatedConv: FastDecimatedConv,
    layers.Decimate: FastDecimate,
    layers.SameMaxPool: FastSameMaxPool,
    layers.BatchNorm: FastBatchNorm,
    layers.ReLUDropout: FastReLUDropout,
}
