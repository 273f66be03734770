"""A net as it is used: behind the standardisation of its dataset, and what its logits come to."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ecgexp.errors import UserError
from ecgexp.training.batches import Batch

if TYPE_CHECKING:
    from ecgexp.metrics import Evaluation


class Network(nn.Module):
    """A net behind the standardisation of its dataset, so that both are kept together.

    Parameters
    ----------
    net : nn.Module
        (batch, leads, samples) to logits (batch, classes).
    normalization : pair of float32 arrays (leads,), optional
        Mean and standard deviation in mV; None: signals enter the net as they are.
    """

    mean: Tensor | None
    std: Tensor | None

    def __init__(self, net: nn.Module, normalization: tuple[NDArray[np.float32], NDArray[np.float32]] | None) -> None:
        super().__init__()
        self.net = net
        mean, std = normalization or (None, None)
        self.register_buffer("mean", None if mean is None else torch.from_numpy(mean)[:, None])
        self.register_buffer("std", None if std is None else torch.from_numpy(std)[:, None])

    def forward(self, signals: Tensor) -> Tensor:
        """Logits of signals in mV."""
        if self.mean is not None and self.std is not None:
            signals = (signals - self.mean) / self.std
        return self.net(signals)


def output_layer(multiclass: bool) -> nn.Module:
    """Logits to probabilities, both (batch, classes): softmax where each record has exactly one label, else sigmoid."""
    return nn.Softmax(dim=1) if multiclass else nn.Sigmoid()


def measure(
    logits: Tensor,
    targets: Tensor,
    loss: Callable[[Tensor, Tensor], Tensor],
    label_names: tuple[str, ...],
    threshold: float,
    multiclass: bool,
    smallest_class: int = 1,
) -> Evaluation:
    """Loss and metrics of a split from its logits and targets, both (records, classes).

    See `classification_metrics` and, for `smallest_class`, `multiclass_metrics`.
    """
    # Not above: torchmetrics takes a second to import, and a command that only predicts needs none of it.
    from ecgexp.metrics import Evaluation, classification_metrics, multiclass_metrics

    with torch.no_grad():
        value = float(loss(logits, targets))
    probabilities = output_layer(multiclass)(logits)
    if multiclass:
        metrics, left_out = multiclass_metrics(probabilities, targets, label_names, smallest_class)
    else:
        metrics, left_out = classification_metrics(probabilities, targets, label_names, threshold)
    return Evaluation({"loss": value, **metrics}, left_out)


@torch.no_grad()
def check_layers(net: nn.Module, signals: Tensor, reduced: AbstractContextManager[Any]) -> None:
    """Refuse a net of which this machine computes a layer wrongly in reduced precision.

    Libraries have taken wrong sums in bfloat16 for some shapes of convolutions, without a word, and a net trains
    with them all the same. Each layer that has weights, and no layers in it, is compared with itself in 32 bits.

    Parameters
    ----------
    net : nn.Module
        In any mode, which it is left in.
    signals : Tensor
        A batch for it.
    reduced : context manager
        In which the precision is reduced.

    Raises
    ------
    UserError
        With the first such layer, and how far it is off.
    """
    rounding = 0.25  # bfloat16 is off by less than 0.01; what was wrong, by as much as the result is large

    def compare(name: str, layer: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
        result = _first(output)
        if not isinstance(result, Tensor):
            return
        with torch.autocast(signals.device.type, enabled=False):
            widened = {key: _widened(value) for key, value in named.items()}
            exact = _first(layer.forward(*map(_widened, inputs), **widened))
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
            net.eval()(signals)
    finally:
        for hook in hooks:
            hook.remove()
        for layer, training in modes.items():
            layer.training = training


def _first(output: Any) -> Any:
    """What a layer gives on: of a recurrent one without its state."""
    return output[0] if isinstance(output, tuple) else output


def _widened(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value


@torch.no_grad()
def predict(
    net: nn.Module,
    batches: Iterable[Batch],
    device: torch.device,
    context: AbstractContextManager[Any] | None = None,
) -> tuple[Tensor, Tensor]:
    """Logits and targets of batches in order, both (records, classes), with the net in evaluation mode."""
    net.eval()
    logits, targets = [], []
    with context or nullcontext():
        for signals, target, _ in batches:
            logits.append(net(signals.to(device)).float())
            targets.append(target.to(device))
    return torch.cat(logits), torch.cat(targets)
