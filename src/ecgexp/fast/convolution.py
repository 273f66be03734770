"""Convolutions of signals as images of one line; their gradients on a CPU take down to half of PyTorch's time."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.grad import conv2d_weight

from ecgexp.models.layers import ceil_div

LAYOUT = torch.channels_last
"""PyTorch's memory format for (batch, samples, channels), taken as images of one line."""

LONGEST = 512
"""Outputs of a record up to which oneDNN 3.12 computes the weight gradient of a convolution at full speed on a CPU.
For 600 it has half the speed (64 channels, 16 taps, two AMD cores with AVX-512), so longer records are cut."""

FEW_OUTPUTS = 2048
"""Outputs of a batch up to which, in bfloat16, the weight gradient is faster as one product of matrices: the upstream
gradient times a copy of the inputs of each output. It is 1.2 to 9 times as fast, and slower above 4,000."""


class Convolution(torch.autograd.Function):
    """`F.conv2d` of images of one line, on a CPU; its gradients take down to half of PyTorch's time."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """(batch, inputs, 1, n) to (batch, outputs, 1, n - kernel + 1)."""
        ctx.save_for_backward(x, weight)
        return F.conv2d(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of input, weight and bias, each only where it is needed."""
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        upstream = gradients[0].contiguous(memory_format=LAYOUT)
        return (
            F.conv_transpose2d(upstream, weight) if of_x else None,
            _weight_gradient(upstream, x, weight) if of_weight else None,
            # a plain sum: if oneDNN computes it too, the weight gradient takes up to 1.4 times as long
            upstream.sum((0, 2, 3)) if of_bias else None,
        )


def image(x: Tensor) -> Tensor:
    """(batch, channels, samples) as images of one line, (batch, channels, 1, samples)."""
    return x.unsqueeze(2)


def pad(x: Tensor, padding: tuple[int, int], value: float = 0.0) -> Tensor:
    """(batch, channels, samples) to padded images of one line; `F.pad` would copy even with no padding."""
    return F.pad(image(x), padding, value=value) if any(padding) else image(x)


def fold(x: Tensor, stride: int) -> Tensor:
    """(batch, channels, 1, n) to (batch, stride * channels, 1, n // stride): each output's step becomes channels.

    With signal and filter folded alike, a convolution of stride `stride` becomes one of stride 1. PyTorch's weight
    gradient is then up to twice as fast.
    """
    batch, channels, _, samples = x.shape
    steps = samples // stride
    lines = x[..., : steps * stride].permute(0, 2, 3, 1).reshape(batch, 1, steps, stride * channels)
    return lines.permute(0, 3, 1, 2)


def _weight_gradient(upstream: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """Weight gradient of an unpadded convolution of stride 1, by the fastest method."""
    (batch, outputs, _, samples), (_, inputs, _, kernel) = upstream.shape, weight.shape
    if x.dtype == torch.bfloat16 and batch * samples <= FEW_OUTPUTS:
        seen = _lines(x).flatten(1).unfold(1, kernel * inputs, inputs).flatten(0, 1)
        product = _lines(upstream).flatten(0, 1).t() @ seen
        return product.view(outputs, 1, kernel, inputs).permute(0, 3, 1, 2)
    pieces = ceil_div(samples, LONGEST)
    if pieces > 1:
        length = ceil_div(samples, pieces)
        missing = (0, pieces * length - samples)
        upstream, x = (_lines(pad(t.squeeze(2), missing)) for t in (upstream, x))
        upstream = upstream.reshape(batch * pieces, length, outputs)
        x = x.unfold(1, length + kernel - 1, length).transpose(2, 3).flatten(0, 1)
        upstream, x = (image(t.transpose(1, 2)) for t in (upstream, x))
    return conv2d_weight(x, weight.shape, upstream)


def _lines(x: Tensor) -> Tensor:
    """(batch, channels, 1, samples) as it lies in memory, (batch, samples, channels)."""
    return x.squeeze(2).transpose(1, 2)
