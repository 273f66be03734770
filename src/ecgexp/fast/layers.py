"""Faster versions of the layers of `ecgexp.models.layers`.

In memory a signal is (batch, samples, channels) and an image (batch, rows, columns, channels), as in Keras; the tensors
here are transposed views of it. The data have this layout, and convolutions are fastest with it. Each layer takes any
layout and returns this one.
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
    """Replace the layers of `ecgexp.models.layers` in a net by faster ones, in place.

    Parameters, buffers and their names do not change. Other layers, and subclasses of ours, are not replaced.

    Parameters
    ----------
    net : nn.Module
        Any net, before its optimizer is built.

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
            if isinstance(layer, layers.SameConv2d):
                layer.weight.data = layer.weight.data.contiguous(memory_format=LAYOUT)
    return net


class FastSameConv(layers.SameConv):
    """`SameConv`; in training on a CPU it has first derivatives only."""

    def forward(self, x: Tensor) -> Tensor:
        """(batch, inputs, n) to (batch, outputs, ceil(n / stride))."""
        (left, right), samples = self.padding_of(x.shape[-1]), x.shape[-1]
        weight, stride = self.weight, self.stride[0]
        if stride == 1:
            # a filter longer than the signal: its ends see only padding
            unseen = (max(left - samples + 1, 0), max(right - samples + 1, 0))
            weight = weight[..., unseen[0] : weight.shape[-1] - unseen[1]]
            left, right = left - unseen[0], right - unseen[1]
        x = pad(x, (left, right))
        if stride > 1 and weight.shape[-1] % stride == 0:
            x, weight, stride = fold(x, stride), fold(image(weight), stride).squeeze(2), 1
        weight = image(weight)
        if x.is_cpu and torch.is_autocast_enabled("cpu") and x.dtype != torch.float64:  # autocast leaves it
            x, weight = (layers.odd_channels(t.to(torch.get_autocast_dtype("cpu"))) for t in (x, weight))
        if self.training and stride == 1 and x.is_cpu and not torch.compiler.is_compiling():
            return Convolution.apply(x, weight, self.bias).squeeze(2)
        return F.conv2d(x, weight, self.bias, stride=(1, stride)).squeeze(2)


class FastDecimatedConv(FastSameConv, layers.DecimatedConv):
    """`DecimatedConv`, as `FastSameConv` computes it."""


class FastSameConv2d(layers.SameConv2d):
    """`SameConv2d` with the layout of the data, which pads without a copy where both sides are padded alike."""

    def forward(self, x: Tensor, bias: bool = True) -> Tensor:
        """(batch, inputs, rows, columns) to (batch, outputs, ceil(rows / stride), ceil(columns / stride))."""
        (top, bottom), (left, right) = self.padding_of(x.shape[-2]), self.padding_of(x.shape[-1])
        x, weight = x.contiguous(memory_format=LAYOUT), self.weight
        if (top, left) != (bottom, right):
            x, top, left = F.pad(x, (left, right, top, bottom)), 0, 0
        if x.is_cpu and torch.is_autocast_enabled("cpu"):
            x, weight = layers.odd_channels(x), layers.odd_channels(weight)
        return F.conv2d(x, weight, self.bias if bias else None, self.stride, (top, left))


class FastDecimatedConv2d(FastSameConv2d, layers.DecimatedConv2d):
    """`DecimatedConv2d`, as `FastSameConv2d` computes it."""


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
    """`ReLUDropout`, on a CPU with cheap random numbers and without a stored mask.

    The rate `p` is rounded to a multiple of 2^-16, so that one 64-bit random number decides on four values.
    `nn.Dropout` draws one number for each value, which takes a fifth of a step.
    """

    def forward(self, x: Tensor) -> Tensor:
        """The same shape; in training a share of the values is zero, and the others are scaled to keep the mean."""
        # a compiler cannot trace `Drop`
        if not self.training or self.p == 0 or not x.is_cpu or torch.compiler.is_compiling():
            return super().forward(x)
        return Drop.apply(x, self.p)


_FASTER: dict[type[nn.Module], type[nn.Module]] = {
    layers.SameConv: FastSameConv,
    layers.DecimatedConv: FastDecimatedConv,
    layers.SameConv2d: FastSameConv2d,
    layers.DecimatedConv2d: FastDecimatedConv2d,
    layers.Decimate: FastDecimate,
    layers.SameMaxPool: FastSameMaxPool,
    layers.BatchNorm: FastBatchNorm,
    layers.ReLUDropout: FastReLUDropout,
}
