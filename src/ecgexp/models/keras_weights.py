"""Weights of a Keras file for the nets here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ecgexp.errors import UserError
from ecgexp.foreign.keras import KerasFile, KerasLayer, read_keras
from ecgexp.models.layers import DecimatedConv, DecimatedConv2d

# Our name of each of Keras' arrays.
_NAMES = {
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
_CONVOLUTION, _DENSE, _NORM = "convolution", "dense layer", "batch normalisation"
_CLASSES = {"Conv1D": _CONVOLUTION, "Conv2D": _CONVOLUTION, "Dense": _DENSE, "BatchNormalization": _NORM}
# Layers that have weights in no file; those with weights are matched.
_SILENT = ("InputLayer", "Dropout", "SpatialDropout1D", "SpatialDropout2D", "Flatten", "Activation", "ReLU", "Softmax")


@dataclass(frozen=True)
class Converted:
    """What was copied from a Keras file.

    Attributes
    ----------
    pairs : tuple of (str, str)
        Name of each layer in the file and of its layer in the net, in the order of the net.
    activations : tuple of str, or None
        Of each layer of the file that says one, 'linear' among them, in its order; None where it holds weights only.
    remarks : tuple of str
        A sentence on each thing that could not be compared.
    """

    pairs: tuple[tuple[str, str], ...]
    activations: tuple[str, ...] | None
    remarks: tuple[str, ...]


@torch.no_grad()
def load_keras(net: nn.Module, path: Path, record: Tensor) -> Converted:
    """Copy the weights of a Keras file into a net, in place.

    Layers are matched in the order in which the net computes them, by kind and shape: each takes the first unused
    layer of the file that fits. Kernels of convolutions are stored as (rows, columns, inputs, outputs) and of dense
    layers as (inputs, outputs). Keras flattens channels-last, as `ecgexp.models.layers.flatten` does, so that the
    order of a dense layer's inputs is the same.

    Parameters
    ----------
    net : nn.Module
        One of `ecgexp.models` of convolutions, dense layers and batch normalisations.
    path : Path
        A whole model or weights: ``.h5``, ``.keras`` or ``.weights.h5``.
    record : Tensor, (1, ...)
        Any record that the net takes.

    Returns
    -------
    Converted
        Which layer was copied to which, and what the file says beside weights.

    Raises
    ------
    UserError
        Where a layer of the file or of the net has no counterpart, or they differ. The net may be half filled then.
    """
    file = read_keras(path)
    unused = list(file.layers)
    for layer in unused:
        _check_readable(path, layer)
    pairs: list[tuple[str, str]] = []
    described = _described(file)
    for name, module in _in_order(net, record):
        kind, own = _kind_of(module), _own_arrays(module)
        same_kind = [layer for layer in unused if _kind(layer) == kind]
        found = next((layer for layer in same_kind if _shapes(_arranged(layer)) == _shapes(own)), None)
        if found is None:
            wanted = f"layer '{name}' of the net is {_words(kind, own)}"
            if not same_kind:
                raise UserError(f"{path} has no {kind} left, but {wanted}: give the net the layers of the file.")
            raise UserError(
                f"Layer '{same_kind[0].name}' of {path} is {_words(kind, _arranged(same_kind[0]))}, but {wanted}: give "
                "the net the sizes of the file."
            )
        _check_settings(path, found.name, described.get(found.name, {}), name, module)
        for key, values in _arranged(found).items():
            own[key].copy_(torch.from_numpy(values))
        unused.remove(found)
        pairs.append((found.name, name))
    if unused:
        kind = _kind(unused[0])
        raise UserError(
            f"Layer '{unused[0].name}' of {path} is {_words(kind, _arranged(unused[0]))}, for which the net has no "
            "layer: give the net the layers of the file."
        )
    activations = None if file.described is None else tuple(_activations(file.described))
    return Converted(tuple(pairs), activations, tuple(_remarks(path, file)))


def _in_order(net: nn.Module, record: Tensor) -> Iterator[tuple[str, nn.Module]]:
    """Layers with weights in the order in which the net computes them.

    Raises
    ------
    UserError
        Where the net has weights that no convolution, dense layer or batch normalisation holds.
    """
    names = {module: name for name, module in net.named_modules() if _kind_of(module)}
    order: list[nn.Module] = []
    hooks = [module.register_forward_hook(lambda one, _, __: order.append(one)) for module in names]
    modes = {module: module.training for module in net.modules()}
    try:
        net.eval()(record)
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes.items():
            module.training = mode
    seen = {id(tensor) for module in order for tensor in module.parameters()}
    missed = [name for name, tensor in net.named_parameters() if id(tensor) not in seen]
    if missed:
        raise UserError(
            f"The net has weights '{missed[0]}' in a layer that is no convolution, dense layer or batch normalisation: "
            "only nets of these can take the weights of a Keras file."
        )
    return ((names[module], module) for module in order)


def _kind_of(module: nn.Module) -> str:
    """The kind of one of our layers; "" of others."""
    if isinstance(module, nn.Conv1d | nn.Conv2d):
        return _CONVOLUTION
    if isinstance(module, nn.Linear):
        return _DENSE
    return _NORM if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) else ""


def _kind(layer: KerasLayer) -> str:
    """The kind of a layer of a file; "" of others."""
    kernel = layer.arrays.get("kernel")
    if kernel is not None and set(layer.arrays) <= {"kernel", "bias"}:
        return {2: _DENSE, 3: _CONVOLUTION, 4: _CONVOLUTION}.get(kernel.ndim, "")
    return _NORM if "moving_mean" in layer.arrays and set(layer.arrays) <= _NAMES.keys() else ""


def _check_readable(path: Path, layer: KerasLayer) -> None:
    if not _kind(layer):
        shapes = ", ".join(f"{name} {array.shape}" for name, array in layer.arrays.items())
        raise UserError(
            f"Layer '{layer.name}' of {path} holds {shapes}, which is no convolution, dense layer or batch "
            "normalisation with a scale and a shift: no net here has such a layer."
        )
    for name, array in layer.arrays.items():
        if not np.isfinite(array).all():
            raise UserError(f"Layer '{layer.name}' of {path} holds values in '{name}' that are not finite.")


def _own_arrays(module: nn.Module) -> dict[str, Tensor]:
    names = set(_NAMES.values())
    return {name: tensor for name, tensor in module.state_dict(keep_vars=True).items() if name in names}


def _arranged(layer: KerasLayer) -> dict[str, NDArray[Any]]:
    """Arrays of a layer by our names, kernels as (outputs, inputs, ...)."""
    return {
        _NAMES[name]: np.moveaxis(array, (-1, -2), (0, 1)).copy() if name == "kernel" else np.array(array)
        for name, array in layer.arrays.items()
    }


def _shapes(arrays: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(array.shape) for name, array in arrays.items()}


def _words(kind: str, arrays: Mapping[str, Any]) -> str:
    """A layer by its sizes."""
    weight = arrays.get("weight", arrays.get("running_mean"))
    assert weight is not None
    if kind == _NORM:
        return f"a batch normalisation of {weight.shape[0]} channels"
    outputs, inputs, *sides = weight.shape
    bias = "" if "bias" in arrays else ", without a bias"
    if kind == _DENSE:
        return f"a dense layer from {inputs} to {outputs} values{bias}"
    return f"a convolution of {outputs} filters of {' x '.join(map(str, sides))} over {inputs} channels{bias}"


def _described(file: KerasFile) -> dict[str, Mapping[str, Any]]:
    """Settings of the layers with weights, by their names in the file."""
    settings: dict[str, Mapping[str, Any]] = {}
    for kind in (_CONVOLUTION, _DENSE, _NORM):
        named = [layer.name for layer in file.layers if _kind(layer) == kind]
        known = [config for name, config in file.described or () if _CLASSES.get(name) == kind]
        # some files name layers by their class: those of a kind are in the order of the net in any case
        if len(named) == len(known):
            settings |= dict(zip(named, known, strict=True))
    return settings


def _check_settings(path: Path, layer: str, settings: Mapping[str, Any], name: str, module: nn.Module) -> None:
    """Refuse settings that have no shape, and differ."""
    compared: dict[str, tuple[Any, Any]] = {}
    if isinstance(module, nn.Conv1d | nn.Conv2d):
        ones = (1,) * len(module.kernel_size)
        compared = {"strides": (settings.get("strides"), module.stride), "data_format": (None, "channels_last")}
        compared |= {"dilation_rate": (settings.get("dilation_rate"), ones), "groups": (settings.get("groups"), 1)}
        compared["data_format"] = settings.get("data_format"), "channels_last"
        if not isinstance(module, DecimatedConv | DecimatedConv2d) and max(module.kernel_size) > 1:
            compared["padding"] = settings.get("padding"), "same"
    elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
        compared = {"epsilon": (settings.get("epsilon"), module.eps)}
    for key, (theirs, ours) in compared.items():
        theirs = tuple(theirs) if isinstance(theirs, list) else theirs
        if theirs is not None and theirs != ours and (theirs,) != ours:
            raise UserError(
                f"Layer '{layer}' of {path} has {key}={theirs}, but layer '{name}' of the net has {ours}: no weights "
                "make the two equal."
            )


def _activations(described: Sequence[tuple[str, Mapping[str, Any]]]) -> Iterator[str]:
    for name, settings in described:
        if name == "Activation" or name in _CLASSES:
            activation = settings.get("activation", "linear")
            yield "Keras' leaky_relu" if activation == "leaky_relu" else str(activation)  # its slope is not ours
        elif name == "ReLU" and settings.get("max_value") is None:
            yield "relu"
        elif name in ("ReLU", "LeakyReLU", "PReLU", "ELU", "Softmax"):
            yield "softmax" if name == "Softmax" else f"Keras' {name}"


def _remarks(path: Path, file: KerasFile) -> Iterator[str]:
    if file.described is None:
        yield (
            f"{path} holds weights only: it is assumed that activations, strides, padding, pooling and the eps of "
            "batch normalisations were those of this net."
        )
        return
    for name, settings in file.described:
        if name == "Rescaling":
            yield (
                f"The Keras net multiplied its input by {settings.get('scale')} and added {settings.get('offset')}, "
                "which the net here does not: it is assumed that the dataset gives such values."
            )
    others = dict.fromkeys(name for name, _ in file.described if name not in (*_CLASSES, *_SILENT, "Rescaling"))
    if others:
        yield (
            f"Of the Keras net's layers without weights ({', '.join(others)}) it is assumed that they compute what the "
            "net here computes at their places."
        )
