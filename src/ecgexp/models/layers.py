"""Keras' layers and initial weights, on signals of shape (batch, channels, samples).

In memory a signal lies as Keras has it, (batch, samples, channels), of which those here are transposed views: so
the data come, and so the convolutions are fastest. Each layer takes any layout and returns this one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ecgexp.errors import UserError

Count = Annotated[int, Field(gt=0, strict=True)]
"""A constructor argument that is a whole number of at least 1."""

Rate = Annotated[float, Field(ge=0, lt=1)]
"""A constructor argument that is a share of what is dropped, below 1."""

Initializer = Callable[[Tensor], Tensor]
Weighted = TypeVar("Weighted", nn.Linear, nn.Conv1d)

LAYOUT = torch.channels_last
"""How PyTorch names channels last in memory: (batch, samples, channels), taken as images a line high."""

LONGEST = 512
"""Outputs of a record up to which oneDNN 3.12 takes the gradient by the weight of a convolution at full speed on a
CPU: of 600 it takes it at half of that (64 channels, 16 taps, two AMD cores with AVX-512), so that those are cut."""

FEW_OUTPUTS = 2048
"""Outputs of a batch up to which, in bfloat16, that gradient is better one product of matrices, of what comes back and
a copy of what each output sees: 1.2 to 9 times as fast there, and slower from some 4,000 outputs on."""


def he_normal_(weight: Tensor) -> Tensor:
    """Fill `weight` as Keras' ``he_normal`` does.

    A normal distribution cut at two standard deviations and widened so that the variance is 2 / fan-in
    after the cut (`torch.nn.init.kaiming_normal_` does not cut).

    Parameters
    ----------
    weight : Tensor, (outputs, inputs) or (outputs, inputs, kernel)

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


class SameConv(nn.Conv1d):
    """Convolution with TensorFlow's 'same' padding.

    In training on a CPU it has first derivatives only, by `torch.autograd`; in evaluation all of them.

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

        self.weight = nn.Parameter(_image(self.weight.detach()).contiguous(memory_format=LAYOUT).squeeze(2))

    def padding_of(self, samples: int) -> tuple[int, int]:
        """Samples to add on the left and on the right of a signal."""
        return same_padding(samples, self.kernel_size[0], self.stride[0])

    def forward(self, x: Tensor) -> Tensor:
        """(batch, inputs, n) to (batch, outputs, ceil(n / stride))."""
        (left, right), samples = self.padding_of(x.shape[-1]), x.shape[-1]
        weight, stride = self.weight, self.stride[0]
        if stride == 1:
            # a filter longer than the signal: its ends see nothing but padding
            unseen = (max(left - samples + 1, 0), max(right - samples + 1, 0))
            weight = weight[..., unseen[0] : weight.shape[-1] - unseen[1]]
            left, right = left - unseen[0], right - unseen[1]
        x = _pad(x, (left, right))
        if stride > 1 and weight.shape[-1] % stride == 0:
            x, weight, stride = _fold(x, stride), _fold(_image(weight), stride).squeeze(2), 1
        weight = _image(weight)
        if x.is_cpu and torch.is_autocast_enabled("cpu") and x.dtype != torch.float64:  # which autocast leaves alone
            x, weight = (_with_odd_channels(t.to(torch.get_autocast_dtype("cpu"))) for t in (x, weight))
        if self.training and stride == 1 and x.is_cpu and not torch.compiler.is_compiling():
            return _Convolution.apply(x, weight, self.bias).squeeze(2)
        return F.conv2d(x, weight, self.bias, stride=(1, stride)).squeeze(2)


class _Convolution(torch.autograd.Function):
    """`F.conv2d` of images of one line, on a CPU, whose gradients take as little as half of PyTorch's time."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.conv2d(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        by_x, by_weight, by_bias = ctx.needs_input_grad
        upstream = gradients[0].contiguous(memory_format=LAYOUT)
        return (
            _gradient(upstream, x, weight, 0) if by_x else None,
            _gradient_by_weight(upstream, x, weight) if by_weight else None,
            # a plain sum: asked for it too, oneDNN takes up to 1.4 times as long for the gradient by the weight
            upstream.sum((0, 2, 3)) if by_bias else None,
        )


class DecimatedConv(SameConv):
    """Every `stride`-th output of a stride-1 `SameConv`, without computing the others.

    Not the same as a strided `SameConv`, whose padding on the left is another.
    """

    def padding_of(self, samples: int) -> tuple[int, int]:
        """Samples to add on the left and on the right of a signal."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        left, _ = same_padding(samples, kernel, stride=1)
        return left, max((ceil_div(samples, stride) - 1) * stride + kernel - samples - left, 0)


class Decimate(nn.Module):
    """Every `stride`-th sample, from the first on."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, n) to (batch, channels, ceil(n / stride))."""
        return x.transpose(1, 2)[:, :: self.stride].transpose(1, 2)


class SameMaxPool(nn.Module):
    """Maximum over windows of `size` samples, `size` apart, with TensorFlow's 'same' padding.

    Padding never wins: it counts as -inf.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, n) to (batch, channels, ceil(n / size))."""
        padding = same_padding(x.shape[-1], self.size, self.size)
        return F.max_pool2d(_pad(x, padding, -math.inf), (1, self.size)).squeeze(2)


class BatchNorm(nn.BatchNorm1d):
    """Batch normalisation as Keras computes it, on (batch, channels) or (batch, channels, samples).

    Other than `nn.BatchNorm1d`: eps 1e-3; running statistics move by 0.01 a step; the running variance
    averages the biased variances of the batches; and a batch with a single value per channel, which has no
    variance, is normalised with the running statistics instead of being refused.

    Parameters
    ----------
    channels : int
        Channels of the input.
    momentum : float or None
        Share of the new batch in the running statistics; None takes the plain average over all batches.
    affine : bool
        Whether a scale and a shift are learnt.
    """

    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, channels: int, momentum: float | None = 0.01, affine: bool = True) -> None:
        super().__init__(channels, eps=1e-3, momentum=momentum, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise each channel; in training also move the running statistics."""
        if x.dim() == 3:
            return self.forward(_image(x)).squeeze(2)
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
    """`nn.ReLU` and then `nn.Dropout`, on a CPU with cheap random numbers and without a mask to keep.

    The rate `p` is rounded to a multiple of 2^-16 there: one 64-bit random number then decides on four values.
    `nn.Dropout` draws one for each, and next to the convolutions spends a fifth of a step on it.
    """

    def forward(self, x: Tensor) -> Tensor:
        """The same shape; in training a share of the values is zero, and the others are scaled to keep the mean."""
        # what a compiler traces is torch's own: it cannot see through the other
        if not self.training or self.p == 0 or not x.is_cpu or torch.compiler.is_compiling():
            return super().forward(F.relu(x))
        return _Drop.apply(x, self.p)


class _Drop(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rate: float) -> Tensor:
        dropped = round(rate * 2**16)
        ctx.scale = 2**16 / (2**16 - dropped)
        draws = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
        # laid out as x is in memory, so that products run through both at once
        strides = torch.empty_like(x, device="meta").stride()
        # in place, as 0 and 1 of the same width: a mask of bool would be converted value by value
        kept = draws.ge_(dropped - 2**15).as_strided(x.shape, strides)
        y = kept.to(x.dtype).mul_(ctx.scale).mul_(x).relu_()
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        # what is above zero was so before, and was kept
        (y,) = ctx.saved_tensors
        return torch.ops.aten.threshold_backward(gradients[0], y, 0).mul_(ctx.scale), None


class NormReLU(nn.Sequential):
    """Batch normalisation, ReLU and, with a rate above 0, dropout."""

    def __init__(self, channels: int, dropout: float = 0.0) -> None:
        super().__init__(BatchNorm(channels), ReLUDropout(dropout))


def _image(x: Tensor) -> Tensor:
    """(batch, channels, samples) as images of one line, (batch, channels, 1, samples)."""
    return x.unsqueeze(2)


def _pad(x: Tensor, padding: tuple[int, int], value: float = 0.0) -> Tensor:
    """(batch, channels, samples) to padded images of one line; `F.pad` would copy where there is nothing to add."""
    return F.pad(_image(x), padding, value=value) if any(padding) else _image(x)


def _fold(x: Tensor, stride: int) -> Tensor:
    """(batch, channels, 1, n) to (batch, stride * channels, 1, n // stride): each output's step becomes channels.

    A convolution of step `stride` is one of step 1 on signal and filter folded alike, and PyTorch's gradient by
    the weight is up to twice as fast there.
    """
    batch, channels, _, samples = x.shape
    steps = samples // stride
    lines = x[..., : steps * stride].permute(0, 2, 3, 1).reshape(batch, 1, steps, stride * channels)
    return lines.permute(0, 3, 1, 2)


def _gradient_by_weight(upstream: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """Gradient of an unpadded convolution of step 1 by its weight, in the way in which it is fastest."""
    (batch, outputs, _, samples), (_, inputs, _, kernel) = upstream.shape, weight.shape
    if x.dtype == torch.bfloat16 and batch * samples <= FEW_OUTPUTS:
        seen = _lines(x).flatten(1).unfold(1, kernel * inputs, inputs).flatten(0, 1)
        product = _lines(upstream).flatten(0, 1).t() @ seen
        return product.view(outputs, 1, kernel, inputs).permute(0, 3, 1, 2)
    pieces = ceil_div(samples, LONGEST)
    if pieces > 1:
        length = ceil_div(samples, pieces)
        missing = (0, pieces * length - samples)
        upstream, x = (_lines(_pad(t.squeeze(2), missing)) for t in (upstream, x))
        upstream = upstream.reshape(batch * pieces, length, outputs)
        x = x.unfold(1, length + kernel - 1, length).transpose(2, 3).flatten(0, 1)
        upstream, x = (_image(t.transpose(1, 2)) for t in (upstream, x))
    return _gradient(upstream, x, weight, 1)


def _gradient(upstream: Tensor, x: Tensor, weight: Tensor, which: int) -> Tensor:
    """Gradient of an unpadded convolution of step 1 by `x` (0) or by its weight (1), as PyTorch has it."""
    wanted = [which == 0, which == 1, False]
    steps, padding = [1, 1], [0, 0]
    found = torch.ops.aten.convolution_backward(
        upstream, x, weight, None, steps, padding, steps, False, padding, 1, wanted
    )
    return found[which]


def _lines(x: Tensor) -> Tensor:
    """(batch, channels, 1, samples) as it lies in memory, (batch, samples, channels)."""
    return x.squeeze(2).transpose(1, 2)


def _with_odd_channels(x: Tensor) -> Tensor:
    """(batch, channels, 1, n) with one more channel, of zeros, where they are few and even.

    oneDNN 3.12 (torch 2.13) takes wrong sums there, in bfloat16 on a CPU with AMX and without a word: 12 leads and
    filters of 16 samples came out unrelated to the convolution. With an odd number, or with 32 or more, none of
    40,000 drawn at random was wrong.
    """
    channels = x.shape[1]
    return F.pad(x, (0, 0, 0, 0, 0, 1)) if channels < 32 and channels % 2 == 0 else x


def flatten(x: Tensor) -> Tensor:
    """(batch, channels, samples) to (batch, samples * channels), position-major as Keras flattens."""
    return x.transpose(1, 2).flatten(1)


def check_signals(x: Tensor, leads: int, samples: int | None = None) -> None:
    """Refuse a batch that is not (batch, leads, samples); any length will do where `samples` is None.

    Raises
    ------
    UserError
        With the shape that came and the one that is needed.
    """
    if x.dim() != 3 or x.shape[1] != leads or samples not in (None, x.shape[2]):
        raise UserError(
            f"This net takes signals of shape (batch, {leads}, {samples or 'samples'}) but was given "
            f"{tuple(x.shape)}: build it with the leads and samples of the data."
        )


def check_heads(hidden: int, heads: int) -> None:
    """Refuse a number of heads that does not divide the hidden size.

    Raises
    ------
    UserError
        With the next sizes that it divides.
    """
    if hidden % heads:
        lower = hidden // heads * heads
        nearest = f"{lower} or {lower + heads}" if lower else f"{heads}"
        raise UserError(
            f"Config key 'model.hidden' is {hidden}, which model.heads={heads} cannot share equally: take {nearest}."
        )
