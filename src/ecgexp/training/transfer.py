"""Start a net from trained weights: load the layers that fit by name and shape, and keep some of them frozen.

A part of a net is named as in its ``state_dict``, such as ``blocks.0.main``; a pattern may have ``*`` and ``?`` as in
names of files, and stands for everything below what it names.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from ecgexp.errors import UserError

_ROOT = "the net itself"  # a layer without a name


@dataclass(frozen=True)
class Start:
    """What a net starts from.

    Attributes
    ----------
    weights : mapping of str to Tensor
        By their names in the net. Empty in all ranks but the first, which sends its weights to the others.
    frozen : tuple of str
        Names of weights and statistics that training leaves as they are.
    """

    weights: Mapping[str, Tensor] = field(default_factory=dict)
    frozen: tuple[str, ...] = ()

    def apply(self, net: nn.Module) -> None:
        """Load the weights, and let the frozen ones have no gradient."""
        net.load_state_dict(dict(self.weights), strict=False)
        frozen = set(self.frozen)
        for name, weight in net.named_parameters(remove_duplicate=False):
            if name in frozen:
                weight.requires_grad_(False)

    def still(self, net: nn.Module) -> list[nn.Module]:
        """Layers that stay in evaluation mode, so that their statistics stay as they are (batch normalisation).

        These are layers of which a statistic is frozen, or all weights.
        """
        frozen, found = set(self.frozen), []
        for name, layer in net.named_modules():
            prefix = f"{name}." if name else ""
            statistics = {f"{prefix}{own}" for own, _ in layer.named_buffers(recurse=False)}
            weights = {f"{prefix}{own}" for own, _ in layer.named_parameters(recurse=False)}
            if statistics and (statistics & frozen or (weights and weights <= frozen)):
                found.append(layer)
        return found


@dataclass(frozen=True)
class Fit:
    """What fits of trained weights. A layer is loaded whole, with its statistics, or not at all.

    Attributes
    ----------
    loaded : tuple of str
        Layers that are loaded.
    anew : dict of str to str
        Layers that start anew, with the reason.
    unused : tuple of str
        Layers of the source that are not loaded.
    frozen : tuple of str
        Weights and statistics, of loaded layers, that training leaves as they are.
    trained, parameters : int
        Weights that are trained, and all.
    start : Start
        To be applied to the net.
    """

    loaded: tuple[str, ...]
    anew: dict[str, str]
    unused: tuple[str, ...]
    frozen: tuple[str, ...]
    trained: int
    parameters: int
    start: Start

    @property
    def frozen_layers(self) -> tuple[str, ...]:
        """Layers of which something is frozen."""
        return tuple(dict.fromkeys(map(_layer, self.frozen)))


def fit_weights(
    net: nn.Module, weights: Mapping[str, Tensor], freeze: Sequence[str] = (), reset: Sequence[str] = ()
) -> Fit:
    """Find what fits of trained weights.

    Parameters
    ----------
    net : nn.Module
        It is not changed.
    weights : mapping of str to Tensor
        Trained weights and statistics by name.
    freeze : sequence of str
        Patterns of parts that stay as they are loaded. What starts anew is trained, whatever they say: it would stay
        as random as it began.
    reset : sequence of str
        Patterns of parts whose layers start anew although they fit.

    Raises
    ------
    UserError
        If a pattern matches nothing, nothing fits, or nothing would be trained.
    """
    own = {name: value for name, value in net.state_dict().items() if isinstance(value, Tensor)}
    for key, patterns in (("freeze", freeze), ("reset", reset)):
        _check_patterns(key, patterns, own)
    layers: dict[str, list[str]] = {}
    for name in own:
        layers.setdefault(_layer(name), []).append(name)
    reasons = {layer: _reason(names, own, weights, reset) for layer, names in layers.items()}
    anew = {layer: reason for layer, reason in reasons.items() if reason}
    loaded = tuple(layer for layer in layers if layer not in anew)
    if not loaded:
        theirs = dict.fromkeys(map(_layer, weights))
        raise UserError(
            f"Nothing of these weights can be loaded: the net starts anew in {_listed(anew)}; the layers of the "
            f"source are {_listed(theirs)}. Choose the net that they were trained with, or leave init.run out."
        )
    inside = [name for layer in loaded for name in layers[layer]]
    for pattern in freeze:
        if not any(matches(pattern, name) for name in inside):
            touched = dict.fromkeys(_layer(name) for name in own if matches(pattern, name))
            raise UserError(
                f"Config key 'init.freeze' names '{pattern}', of which nothing is loaded, so that random weights would "
                f"be frozen: {'; '.join(f'{layer} starts anew, since {anew[layer]}' for layer in touched)}."
            )
    frozen = tuple(name for name in inside if any(matches(pattern, name) for pattern in freeze))
    parameters = dict(net.named_parameters())
    trained = {name for name, one in parameters.items() if one.requires_grad} - set(frozen)
    if not trained:
        raise UserError(
            f"Config key 'init.freeze' is [{', '.join(freeze)}], which leaves nothing to train: freeze less, or let "
            "the last layer start anew with init.reset."
        )
    return Fit(
        loaded,
        anew,
        tuple(layer for layer in dict.fromkeys(map(_layer, weights)) if layer not in loaded),
        frozen,
        sum(parameters[name].numel() for name in trained),
        sum(one.numel() for one in parameters.values()),
        Start({name: weights[name] for name in inside}, frozen),
    )


def matches(pattern: str, name: str) -> bool:
    """Whether a pattern names a weight, or a part of the net that holds it."""
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")


def weights_hash(weights: Mapping[str, Tensor]) -> str:
    """Hash of names, types, shapes and values, however they lie in memory or in a file."""
    digest = hashlib.sha256()
    for name, value in sorted(weights.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _layer(name: str) -> str:
    """Layer that a weight or a statistic is of."""
    return name.rpartition(".")[0] or _ROOT


def _reason(
    names: Sequence[str], own: Mapping[str, Tensor], weights: Mapping[str, Tensor], reset: Sequence[str]
) -> str:
    """Why a layer with these weights starts anew; empty if it fits."""
    if any(matches(pattern, name) for pattern in reset for name in names):
        return "init.reset names it"
    if not any(name in weights for name in names):
        return "the source has no such layer"
    for name in names:
        if name not in weights:
            return f"the source has no {name}"
        if weights[name].shape != own[name].shape:
            return f"{name} is {_shape(own[name])} here and {_shape(weights[name])} in the source"
    return ""


def _shape(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "one number"


def _check_patterns(key: str, patterns: Sequence[str], names: Collection[str]) -> None:
    for pattern in patterns:
        if not any(matches(pattern, name) for name in names):
            raise UserError(
                f"Config key 'init.{key}' names '{pattern}', which is no part of the net: its parts are "
                f"{_listed(_parts(names))}."
            )


def _parts(names: Collection[str]) -> list[str]:
    """Names of what holds weights, and of weights that the net itself holds, the outermost first."""
    held = [name.split(".")[:-1] or [name] for name in names]
    found = {".".join(parts[:depth]) for parts in held for depth in range(1, len(parts) + 1)}
    order = {name: number for number, name in enumerate(dict.fromkeys(".".join(parts) for parts in held))}
    first = {part: min(n for name, n in order.items() if f"{name}.".startswith(f"{part}.")) for part in found}
    return sorted(found, key=lambda part: (part.count("."), first[part]))


def _listed(names: Collection[str], most: int = 60) -> str:
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more if names else "none"
