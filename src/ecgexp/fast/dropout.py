"""ReLU and dropout in one, with 16 random bits for each value."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ecgexp.foreign.torch import relu_gradient


class Drop(torch.autograd.Function):
    """ReLU, then dropout at a rate, on a CPU; gradients use the output, so no mask is stored."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rate: float) -> Tensor:
        """The same shape; a share of `rate`, rounded to a multiple of 2^-16, is zero, the rest is scaled."""
        dropped = round(rate * 2**16)
        ctx.scale = 2**16 / (2**16 - dropped)
        draws = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
        # the memory layout of x, so that products read both in order
        strides = torch.empty_like(x, device="meta").stride()
        # in place, as 0 and 1 of the same width: a mask of bool would be converted value by value
        kept = draws.ge_(dropped - 2**15).as_strided(x.shape, strides)
        y = kept.to(x.dtype).mul_(ctx.scale).mul_(x).relu_()
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """Gradient with respect to `x`: outputs above zero were above zero before, and not dropped."""
        (y,) = ctx.saved_tensors
        return relu_gradient(gradients[0], y).mul_(ctx.scale), None
