"""A net as one compiled graph: a GPU would wait for Python to start each of its kernels."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from typing import Literal

import torch
from torch import Tensor, nn

from ecgexp.errors import first_line
from ecgexp.foreign.torch import allow_graphs, any_batch_size
from ecgexp.training.batches import Inputs

logger = logging.getLogger(__name__)

PAYS_FROM = 5_000
"""Steps of a training from which on compiling, a minute or so, should pay by the milliseconds that each is spared."""

Compile = Literal["auto", True, False]
"""Whether nets are compiled on a GPU; 'auto': where that pays and works."""

# Past this many graphs torch would silently stop compiling; a sweep over widths has one for each.
allow_graphs(64)


def compiles(setting: Compile, steps: float, device: str) -> bool:
    """Whether to compile a net.

    Parameters
    ----------
    setting : 'auto', True or False
        What the configuration says.
    steps : float
        Of the training at most.
    device : str
        Kind of device: 'cuda', or 'cpu', where nothing would be gained.
    """
    if device == "cpu" or not setting:
        return False
    return setting != "auto" or (steps >= PAYS_FROM and can_compile(device))


@cache
def can_compile(device: str) -> bool:
    """Whether this machine has what compiling takes, such as Triton and a C compiler; says so where it has not."""
    try:
        torch.compile(lambda x: x + 1)(torch.zeros(1, device=device))
    except Exception as error:  # of torch, of Triton or of the compiler that it calls
        logger.warning("Nets are not compiled, which would make training faster: %s", first_line(error))
        return False
    return True


def forward(net: nn.Module, inputs: Inputs) -> Tensor:
    """``net(inputs)``, compiled once for all nets of one shape in this process, whatever the batch size.

    On a GPU the answer, and so each gradient, lies where the next call will write its own.
    """
    for one in (inputs,) if isinstance(inputs, Tensor) else inputs.values():
        any_batch_size(one)
    return _compiled()(net, inputs)


@cache
def _compiled() -> Callable[[nn.Module, Inputs], Tensor]:
    return torch.compile(_forward, mode="reduce-overhead")


def _forward(net: nn.Module, inputs: Inputs) -> Tensor:
    # the net is an argument: compiled itself, each would have a graph of its own, and other names for its weights
    result: Tensor = net(inputs)
    return result
