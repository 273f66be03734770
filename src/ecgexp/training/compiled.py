"""Compiles a net to one graph, since otherwise a GPU waits for Python to start each kernel."""

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
"""Number of steps from which compiling saves time: it takes about a minute, and saves milliseconds in each step."""

Compile = Literal["auto", True, False]
"""Whether nets are compiled on a GPU; 'auto': if it saves time and works."""

# With more graphs than this torch silently stops compiling. A sweep over widths needs one graph for each.
allow_graphs(64)


def compiles(setting: Compile, steps: float, device: str) -> bool:
    """Whether to compile a net.

    Parameters
    ----------
    setting : 'auto', True or False
        The config key `compile`.
    steps : float
        Largest number of steps of the training.
    device : str
        Kind of device: 'cuda', or 'cpu', where compiling gains nothing.
    """
    if device == "cpu" or not setting:
        return False
    return setting != "auto" or (steps >= PAYS_FROM and can_compile(device))


@cache
def can_compile(device: str) -> bool:
    """Whether compiling works here; it needs, for example, Triton and a C compiler. Logs a warning if it does not."""
    try:
        torch.compile(lambda x: x + 1)(torch.zeros(1, device=device))
    except Exception as error:  # from torch, Triton or the C compiler
        logger.warning("Nets are not compiled, which would make training faster: %s", first_line(error))
        return False
    return True


def forward(net: nn.Module, inputs: Inputs) -> Tensor:
    """``net(inputs)``, compiled once for all nets of one shape in this process, for any batch size.

    On a GPU, the next call overwrites the outputs of this one, and so its gradients.
    """
    for one in (inputs,) if isinstance(inputs, Tensor) else inputs.values():
        any_batch_size(one)
    return _compiled()(net, inputs)


@cache
def _compiled() -> Callable[[nn.Module, Inputs], Tensor]:
    return torch.compile(_forward, mode="reduce-overhead")


def _forward(net: nn.Module, inputs: Inputs) -> Tensor:
    # The net is an argument: a compiled net would have its own graph, and other names of its weights.
    result: Tensor = net(inputs)
    return result
