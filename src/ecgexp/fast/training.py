"""Memory and updates of a training, in less time."""

from __future__ import annotations

import ctypes
import inspect
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial

import torch
from torch import Tensor

Optimizer = Callable[..., torch.optim.Optimizer]


def keep_freed_memory() -> None:
    """Have the C library keep what a step frees for the next one, where it is glibc.

    It would give large tensors back to the system at once, and each page that is asked for anew costs a fault: up
    to a tenth of a step on a CPU.
    """
    trim_threshold, mmap_max = -1, -4  # of malloc.h
    with suppress(AttributeError, OSError, TypeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(mmap_max, 0)
        libc.mallopt(trim_threshold, 2**31 - 1)


def fused(optimizer: Optimizer, device: str) -> Optimizer:
    """An optimizer that updates all parameters in one kernel, where it can and that is faster.

    Parameters
    ----------
    optimizer : callable
        Parameters to an optimizer.
    device : str
        Kind of device: 'cuda' or 'cpu'.

    Returns
    -------
    callable
        The same where it has no such kernel, where it was told which to use, or where another one is faster.
    """
    parameters = inspect.signature(optimizer).parameters
    unset = all(name not in parameters or parameters[name].default is None for name in ("fused", "foreach"))
    # on a CPU it takes half the time for Adam and AdamW, and three times as long for SGD
    kind = getattr(optimizer, "func", optimizer)
    faster = device == "cuda" or (isinstance(kind, type) and issubclass(kind, torch.optim.Adam))
    return partial(optimizer, fused=True) if "fused" in parameters and unset and faster else optimizer


def as_it_lies(parameters: Iterable[Tensor]) -> None:
    """Declare gradients contiguous that lie in memory as their parameters do, until they are computed anew.

    A fused update goes through parameters, gradients and moments in the order in which they lie. PyTorch's own on a
    CPU copies each gradient of a convolution with channels last all the same: half of the time of an update.
    """
    for parameter in parameters:
        gradient = parameter.grad
        if gradient is not None and not gradient.is_contiguous() and gradient.stride() == parameter.stride():
            contiguous = torch.empty(gradient.shape, device="meta").stride()
            parameter.grad = gradient.as_strided(gradient.shape, contiguous)
