"""Files of Keras, read by h5py alone: their layout, which Keras does not document, of Keras 2.2 to 3.15."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count, takewhile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecgexp.errors import UserError, summarised

_CONTAINERS = ("layers", "_layer_checkpoint_dependencies")
_STATISTICS = ("gamma", "beta", "moving_mean", "moving_variance")


@dataclass(frozen=True)
class KerasLayer:
    """A layer with weights.

    Attributes
    ----------
    name : str
        In the file.
    arrays : mapping of str to array
        By Keras' names: ``kernel``, ``bias``, ``gamma``, ...; by numbers where the file has no names and the layer is
        no convolution, dense layer or batch normalisation.
    """

    name: str
    arrays: Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class KerasFile:
    """What a file of Keras holds.

    Attributes
    ----------
    layers : tuple of KerasLayer
        Those with weights. Layers of a kind are in the order of the net; kinds may be in another one.
    described : tuple of (str, mapping), or None
        Class and settings of every layer, in the order of the net; None where the file holds weights only.
    """

    layers: tuple[KerasLayer, ...]
    described: tuple[tuple[str, Mapping[str, Any]], ...] | None


def read_keras(path: Path) -> KerasFile:
    """Read a whole model (``.keras``, ``.h5``) or its weights (``.weights.h5``, ``.h5``), without running anything.

    Nothing outside of the file is read, whatever it links to.

    Raises
    ------
    UserError
        Where h5py is not installed, or the file is missing, damaged or of another kind.
    """
    try:
        import h5py
    except ImportError as error:
        raise UserError(
            f"{path} can be read only with the package h5py, which is not installed: pip install 'ecgexp[keras]'."
        ) from error
    if not path.is_file():
        raise UserError(f"There is no file {path}.")
    try:
        with _opened(path) as (file, archive_config), h5py.File(file, "r") as root:
            config = archive_config or root.attrs.get("model_config")
            whole = _child(root, "model_weights") if "model_weights" in root else root
            container = next((name for name in _CONTAINERS if name in root), None)
            if "layer_names" in whole.attrs or "layer_names0" in whole.attrs:
                layers = tuple(_named_layers(whole))
            elif container is not None:
                layers = tuple(_numbered_layers(_child(root, container)))
            else:
                raise UserError(f"{path} holds no weights of a Keras net.")
            return KerasFile(layers, None if config is None else tuple(_described(json.loads(config))))
    except (OSError, KeyError, TypeError, ValueError, AttributeError, RuntimeError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is damaged or no file of Keras: {summarised(error).rstrip('.')}.") from error


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, bytes | None]]:
    """The HDF5 file, and the net's description of a ``.keras`` file."""
    if not zipfile.is_zipfile(path):
        yield path, None
        return
    with zipfile.ZipFile(path) as archive:
        yield io.BytesIO(archive.read("model.weights.h5")), archive.read("config.json")


def _child(group: Any, name: str) -> Any:
    """What a group holds under a name, or under names of groups within each other."""
    import h5py

    for part in filter(None, name.split("/")):
        if not isinstance(group.get(part, getlink=True), h5py.HardLink):
            raise ValueError(f"'{name}' is not in the file itself")
        group = group[part]
    return group


def _array(dataset: Any) -> NDArray[Any]:
    if dataset.external or dataset.is_virtual:
        raise ValueError(f"'{dataset.name}' is not in the file itself")
    if dataset.dtype.kind not in "fiu":
        raise ValueError(f"'{dataset.name}' holds no numbers")
    values: NDArray[Any] = np.asarray(dataset[()])
    return values


def _named_layers(group: Any) -> Iterator[KerasLayer]:
    """Layers of a file with names of layers and weights: of Keras 2, and of Keras 3 where it writes ``.h5``."""
    for layer in _texts(group, "layer_names"):
        within = _child(group, layer)
        found: dict[str, dict[str, NDArray[Any]]] = {}
        for name in _texts(within, "weight_names"):
            place, _, weight = name.rpartition("/")
            # a net within the net is one layer here: its own layers have places of their own
            found.setdefault(place, {})[weight.partition(":")[0]] = _array(_child(within, name))
        for place, arrays in found.items():
            yield KerasLayer(layer if len(found) == 1 else place, arrays)


def _texts(group: Any, name: str) -> list[str]:
    """A list of texts among the attributes of a group, which Keras divides where it is long."""
    attributes = group.attrs
    numbered = takewhile(attributes.__contains__, (f"{name}{number}" for number in count()))
    texts = [text for part in (name, *numbered) for text in attributes.get(part, ())]
    return [text.decode() if isinstance(text, bytes) else str(text) for text in texts]


def _numbered_layers(group: Any, path: str = "") -> Iterator[KerasLayer]:
    """Layers of Keras 3, named by their class and a number, whose weights have numbers only."""
    for name in sorted(group, key=_place):
        if name in ("vars", "seed_generator"):  # the latter is of dropout
            continue
        layer, full = _child(group, name), f"{path}{name}"
        numbered = _child(layer, "vars") if "vars" in layer else {}
        arrays = [_array(_child(numbered, number)) for number in sorted(numbered, key=int)]
        if arrays:
            yield KerasLayer(full, _with_names(arrays))
        yield from _numbered_layers(layer, f"{full}/")


def _place(name: str) -> tuple[str, int]:
    """Sorts 'dense', 'dense_1', ..., 'dense_10' as they were made."""
    found = re.fullmatch(r"(.*?)(?:_(\d+))?", name)
    assert found
    return found[1], int(found[2] or 0)


def _with_names(arrays: Sequence[NDArray[Any]]) -> dict[str, NDArray[Any]]:
    first, *others = (array.ndim for array in arrays)
    if first >= 2 and others in ([], [1]):
        names: Sequence[str] = ("kernel", "bias")
    elif first == 1 and others == [1, 1, 1]:
        names = _STATISTICS
    else:
        names = [str(number) for number in range(len(arrays))]
    return dict(zip(names, arrays, strict=False))


def _described(config: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    inner = config["config"]
    layers = inner if isinstance(inner, list) else inner.get("layers")
    if layers is None:
        yield str(config["class_name"]), inner
        return
    for layer in layers:
        yield from _described(layer)
