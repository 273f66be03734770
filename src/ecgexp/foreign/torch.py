"""Of PyTorch, checked with 2.13.0 (pyproject: <2.14)."""

from __future__ import annotations

import torch
import torch._dynamo
from torch import Tensor


def relu_gradient(upstream: Tensor, output: Tensor) -> Tensor:
    """`upstream` where the output of a ReLU is above 0 (or NaN), and 0 elsewhere, as a new tensor.

    What is public, such as `torch.where`, takes two to ten times as long on a CPU.
    """
    return torch.ops.aten.threshold_backward(upstream, output, 0)


def allow_graphs(count: int) -> None:
    """Have `torch.compile` make up to so many graphs of one function, before it runs it uncompiled without an error.

    `torch.compiler.config` has the setting too, but `torch.compiler` does not document it.
    """
    torch._dynamo.config.recompile_limit = count


def any_batch_size(batch: Tensor) -> None:
    """Have `torch.compile` make one graph for all lengths of the first axis, where it can, and one for each elsewhere.

    The public ``dynamic=True`` is for all axes, and `mark_dynamic` an error where it cannot.
    """
    torch._dynamo.maybe_mark_dynamic(batch, 0)
