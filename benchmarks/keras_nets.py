"""The adapted nets as one writes them in Keras 3, from the papers; layers bear the names of ours.

The tests compare our nets with these, and the benchmarks race them.
"""

from __future__ import annotations

from typing import Any

import keras

L = keras.layers


def conv(
    x: Any, filters: int, kernel: int, name: str, stride: int = 1, init: str = "he_normal", bias: bool = True
) -> Any:
    layer = L.Conv1D(filters, kernel, strides=stride, padding="same", kernel_initializer=init, use_bias=bias, name=name)
    return layer(x)


def norm_relu(x: Any, name: str) -> Any:
    return L.ReLU()(L.BatchNormalization(name=f"{name}-0")(x))


def rajpurkar(leads: int, samples: int, classes: int, dropout: float = 0.2) -> keras.Model:
    inputs = keras.Input((samples, leads))
    x = norm_relu(conv(inputs, 64, 16, "stem-0"), "stem-1")

    main = norm_relu(conv(x, 64, 16, "blocks-0-main-1"), "blocks-0-main-2")
    main = conv(L.Dropout(dropout)(main), 64, 16, "blocks-0-main-3", stride=2)
    x = L.Add()([main, L.MaxPooling1D(1, strides=2)(x)])

    for i, filters in enumerate([64] * 3 + [128] * 4 + [192] * 4 + [256] * 4):
        stride = 1 if i % 2 == 0 else 2
        block = f"blocks-{i + 1}"
        main = L.Dropout(dropout)(norm_relu(x, f"{block}-main-0"))
        main = norm_relu(conv(main, filters, 16, f"{block}-main-1"), f"{block}-main-2")
        main = conv(L.Dropout(dropout)(main), filters, 16, f"{block}-main-3", stride)
        if i in (3, 7, 11):
            x = conv(x, filters, 16, f"{block}-shortcut", init="glorot_uniform")
        x = L.Add()([main, L.MaxPooling1D(1, strides=stride)(x)])

    x = L.Flatten()(norm_relu(x, "activation"))
    x = L.Dense(32, name="hidden")(x)
    return keras.Model(inputs, L.Dense(classes, activation="sigmoid", name="head")(x))


def ribeiro(
    leads: int,
    samples: int,
    classes: int,
    dropout: float = 0.2,
    second: int = 192,
    bias: bool = True,
    projection: str = "glorot_uniform",
) -> keras.Model:
    inputs = keras.Input((samples, leads))
    main = skip = norm_relu(conv(inputs, 64, 16, "stem-0", bias=bias), "stem-1")
    for i, filters in enumerate([128, second, 256, 320]):
        block = f"blocks-{i}"
        skip = L.MaxPooling1D(4, strides=4, padding="same")(skip)
        skip = conv(skip, filters, 1, f"{block}-shortcut-1", init=projection, bias=bias)
        main = norm_relu(conv(main, filters, 16, f"{block}-main-0", bias=bias), f"{block}-main-1")
        main = conv(L.Dropout(dropout)(main), filters, 16, f"{block}-main-2", stride=4, bias=bias)
        skip = L.Add()([main, skip])
        main = L.Dropout(dropout)(norm_relu(skip, f"{block}-activation"))
    x = L.Flatten()(main)
    outputs = L.Dense(classes, activation="sigmoid", kernel_initializer="he_normal", name="head")(x)
    return keras.Model(inputs, outputs)
