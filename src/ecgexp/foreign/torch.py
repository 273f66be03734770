"""Private API of PyTorch, checked with 2.13.0 (pyproject: <2.14)."""

from __future__ import annotations

import torch
from torch import Tensor


def relu_gradient(upstream: Tensor, output: Tensor) -> Tensor:
    """`upstream` where the output of a ReLU is above 0 (or NaN), and 0 elsewhere, as a new tensor.

    Public functions, such as `torch.where`, take two to ten times as long on a CPU.
    """
    return torch.ops.aten.threshold_backward(upstream, output, 0)


def allow_graphs(count: int) -> None:
    """Let `torch.compile` make `count` graphs of one function; above that it silently runs uncompiled.

    `torch.compiler.config` has the setting too, but it is not documented.
    """
    import torch._dynamo  # takes seconds, and only what is compiled needs it

    torch._dynamo.config.recompile_limit = count


def any_batch_size(batch: Tensor) -> None:
    """Let `torch.compile` make one graph for all lengths of the first axis, where it can.

    The public ``dynamic=True`` affects all axes, and `mark_dynamic` raises an error where it cannot.
    """
    import torch._dynamo

    torch._dynamo.maybe_mark_dynamic(batch, 0)
