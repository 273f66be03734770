"""A net with the normalisation of its dataset; checks and measurements of nets."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ecgexp.datasets.base import SIGNAL, Statistics
from ecgexp.errors import UserError
from ecgexp.training.batches import Inputs

if TYPE_CHECKING:
    from ecgexp.metrics import Evaluation
    from ecgexp.targets import Target


class Network(nn.Module):
    """A net with the normalisation of its dataset, so that both are saved together.

    It takes the stored inputs of a batch, and converts each to float32. A net with one input is called with this
    input, a net with several inputs is called by their names.

    Parameters
    ----------
    net : nn.Module
        Maps inputs to logits (batch, outputs).
    normalization : mapping of str to pair of arrays, optional
        Mean and standard deviation of the inputs that are normalised, by name; see `Dataset.normalization`.
    """

    def __init__(self, net: nn.Module, normalization: Mapping[str, Statistics] | None = None) -> None:
        super().__init__()
        self.net = net
        self.normalized = tuple(normalization or ())
        for name, (mean, std) in (normalization or {}).items():
            self.register_buffer(f"mean_{name}", torch.from_numpy(mean))
            self.register_buffer(f"std_{name}", torch.from_numpy(std))

    def forward(self, inputs: Inputs) -> Tensor:
        """Logits of a batch."""
        inputs = as_float(inputs)
        for name in self.normalized:
            mean, std = getattr(self, f"mean_{name}"), getattr(self, f"std_{name}")
            if isinstance(inputs, Tensor):  # the only input
                inputs = (inputs - mean) / std
            else:
                inputs[name] = (inputs[name] - mean) / std
        return call(self.net, inputs)


def restored(net: nn.Module, state: Mapping[str, Tensor]) -> Network:
    """A network with the weights and the normalisation of a `Network.state_dict`.

    Raises
    ------
    RuntimeError
        If the state does not fit the net.
    """
    # Earlier versions had only signals, and used no names.
    state = {f"{key}_{SIGNAL}" if key in ("mean", "std") else key: value for key, value in state.items()}
    names = [key.removeprefix("mean_") for key in state if key.startswith("mean_")]
    unset = np.zeros(0, np.float32)
    network = Network(net, dict.fromkeys(names, (unset, unset)))
    for name, value in state.items():
        if not name.startswith("net."):  # mean, std and other buffers
            network.register_buffer(name, torch.empty_like(value))
    network.load_state_dict(state)
    return network


def call(net: nn.Module, inputs: Inputs) -> Tensor:
    """Outputs of a net: called with one input, or with several by their names."""
    result: Tensor = net(inputs) if isinstance(inputs, Tensor) else net(**inputs)
    return result


def check_takes(net: nn.Module, names: Sequence[str]) -> None:
    """Refuse a net that cannot be called with the inputs of these names.

    Raises
    ------
    UserError
        If its ``forward`` lacks an argument for one of them, or needs a further one.
    """
    signature = inspect.signature(net.forward)
    try:
        if len(names) == 1:
            signature.bind(None)
        else:
            signature.bind(**dict.fromkeys(names))
    except TypeError as error:
        raise UserError(
            f"The dataset gives {', '.join(names)}, but the forward of {type(net).__name__} takes "
            f"{', '.join(signature.parameters) or 'nothing'}: a net takes one input as its only argument, and several "
            "by their names."
        ) from error


def as_float(inputs: Inputs) -> Inputs:
    """Inputs in the type of the computation: float32, or the default type that Lightning has set."""
    if isinstance(inputs, Tensor):
        return inputs.to(torch.get_default_dtype())
    return {name: one.to(torch.get_default_dtype()) for name, one in inputs.items()}


def measure(logits: Tensor, targets: Tensor, loss: Callable[[Tensor, Tensor], Tensor], target: Target) -> Evaluation:
    """Loss and metrics of a split, from its logits (records, outputs) and targets (records, names)."""
    # Imported here: torchmetrics takes a second to import, and predicting does not need it.
    from ecgexp.metrics import Evaluation

    with torch.no_grad():
        value = float(loss(logits, targets))
    metrics, left_out = target.measure(target.activation()(logits), targets)
    return Evaluation({"loss": value, **metrics}, left_out)


@torch.no_grad()
def check_layers(net: nn.Module, inputs: Inputs, reduced: AbstractContextManager[Any]) -> None:
    """Refuse a net with a layer that this machine computes wrongly in reduced precision.

    Libraries have computed wrong sums in bfloat16 for some shapes of convolutions, without an error, and training
    does not show it. Each layer with weights, and without layers inside, is compared with its result in 32 bits.

    Parameters
    ----------
    net : nn.Module
        Its mode (training or evaluation) is restored.
    inputs : Tensor or dict of str to Tensor
        A batch for it.
    reduced : context manager
        The context with reduced precision.

    Raises
    ------
    UserError
        For the first such layer, with its error.
    """
    rounding = 0.25  # bfloat16 is off by less than 0.01; wrong sums were off by about 1

    def compare(name: str, layer: nn.Module, given: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
        result = _first(output)
        if not isinstance(result, Tensor):
            return
        with torch.autocast(result.device.type, enabled=False):
            widened = {key: _widened(value) for key, value in named.items()}
            exact = _first(layer.forward(*map(_widened, given), **widened))
        off = float((result - exact).norm() / exact.norm().clamp(min=1e-6))
        if off > rounding:
            raise UserError(
                f"Layer '{name}' ({type(layer).__name__}) is computed wrongly in reduced precision on this machine: "
                f"{off:.0%} off its result in 32 bits, a defect of a library below PyTorch. Take precision=32."
            )

    modes = {layer: layer.training for layer in net.modules()}
    layers = [(name, layer) for name, layer in net.named_modules() if [*layer.parameters()] and not [*layer.children()]]
    hooks = [layer.register_forward_hook(partial(compare, name), with_kwargs=True) for name, layer in layers]
    try:
        with reduced:
            call(net.eval(), inputs)
    finally:
        for hook in hooks:
            hook.remove()
        for layer, training in modes.items():
            layer.training = training


def _first(output: Any) -> Any:
    """Output of a layer, without the state of a recurrent one."""
    return output[0] if isinstance(output, tuple) else output


def _widened(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value
