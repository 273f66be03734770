"""Files as Keras writes them, written by h5py alone; tests/models/test_keras.py compares them with Keras' own."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

ORDER = ("kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance")


@dataclass
class Layer:
    """A layer of Keras: its class, settings, and arrays by their names."""

    kind: str
    settings: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, NDArray[np.float32]] = field(default_factory=dict)


def named(layers: list[Layer]) -> list[tuple[str, Layer]]:
    """Layers with the names that Keras gives them: conv2d, conv2d_1, batch_normalization, ..."""
    counts: Counter[str] = Counter()
    found = []
    for layer in layers:
        name = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", layer.kind.replace("2D", "2d").replace("1D", "1d")).lower()
        found.append((f"{name}_{counts[name]}" if counts[name] else name, layer))
        counts[name] += 1
    return found


def config(layers: list[Layer]) -> str:
    listed = [{"class_name": layer.kind, "config": {"name": n, **layer.settings}} for n, layer in named(layers)]
    return json.dumps({"class_name": "Sequential", "config": {"name": "sequential", "layers": listed}})


def write_keras2(path: Path, layers: list[Layer], whole: bool = True) -> Path:
    """`model.save('x.h5')`, or only `save_weights`."""
    with h5py.File(path, "w") as root:
        if whole:
            root.attrs["model_config"] = config(layers)
        group = root.create_group("model_weights") if whole else root
        group.attrs["layer_names"] = [name.encode() for name, _ in named(layers)]
        for name, layer in named(layers):
            within = group.create_group(name)
            within.attrs["weight_names"] = [f"{name}/{weight}:0".encode() for weight in layer.arrays]
            for weight, values in layer.arrays.items():
                within.create_dataset(f"{name}/{weight}:0", data=values)
    return path


def write_weights3(file: Any, layers: list[Layer]) -> Any:
    """`model.save_weights('x.weights.h5')` of Keras 3."""
    with h5py.File(file, "w") as root:
        root.create_group("vars")
        for name, layer in named(layers):
            within = root.create_group(f"layers/{name}/vars")
            for number, weight in enumerate(sorted(layer.arrays, key=ORDER.index)):
                within.create_dataset(str(number), data=layer.arrays[weight])
            if layer.kind == "Dropout":
                root.create_dataset(f"layers/{name}/seed_generator/vars/0", data=np.array([0, 1], np.uint32))
    return file


def write_keras3(path: Path, layers: list[Layer]) -> Path:
    """`model.save('x.keras')`."""
    weights = io.BytesIO()
    write_weights3(weights, layers)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": "3.15.1"}))
        archive.writestr("config.json", config(layers))
        archive.writestr("model.weights.h5", weights.getvalue())
    return path
