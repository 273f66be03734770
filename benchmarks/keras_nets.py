"""The adapted nets, written in Keras 3 from the papers. Layers have the names of ours.

The tests compare our nets with these nets, and the benchmarks compare their speed.
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


def dense(x: Any, units: int, name: str, init: str = "glorot_uniform", activation: str | None = None) -> Any:
    return L.Dense(units, kernel_initializer=init, activation=activation, name=name)(x)


def conv2d(x: Any, filters: int, kernel: int, name: str, stride: int = 1, **options: Any) -> Any:
    options = {"padding": "same", **options}
    return L.Conv2D(filters, kernel, strides=stride, name=name, **options)(x)


def mlp(
    channels: int,
    height: int,
    width: int,
    classes: int,
    hidden: tuple[int, ...] = (256,),
    activation: str = "relu",
    dropout: float = 0.0,
) -> keras.Model:
    inputs = keras.Input((height, width, channels))
    x = L.Flatten()(inputs)
    for number, units in enumerate(hidden):
        x = L.Dropout(dropout)(dense(x, units, f"hidden-{2 * number}", activation=activation))
    return keras.Model(inputs, dense(x, classes, "head", activation="softmax"))


def cnn(
    channels: int,
    height: int,
    width: int,
    classes: int,
    filters: int = 64,
    kernel: int = 9,
    pooling: int = 2,
    activation: str = "relu",
) -> keras.Model:
    inputs = keras.Input((height, width, channels))
    x = L.MaxPooling2D(pooling)(conv2d(inputs, filters, kernel, "conv", activation=activation))
    return keras.Model(inputs, dense(L.Flatten()(x), classes, "head", activation="softmax"))


def densenet_small(
    channels: int, height: int, width: int, classes: int, filters: int = 64, growth: int = 32
) -> keras.Model:
    inputs = keras.Input((height, width, channels))
    x = L.MaxPooling2D(2)(norm_relu(conv2d(inputs, filters, 7, "stem-0"), "stem-1"))
    for i in range(6):
        new = conv2d(norm_relu(x, f"block-{i}-0"), 4 * growth, 1, f"block-{i}-1")
        new = conv2d(norm_relu(new, f"block-{i}-2"), growth, 3, f"block-{i}-3")
        x = L.Concatenate()([x, new])
    return keras.Model(inputs, dense(L.GlobalAveragePooling2D()(x), classes, "head", activation="softmax"))


def alexnet(
    channels: int, height: int, width: int, classes: int, filters: int = 96, hidden: int = 4096, dropout: float = 0.5
) -> keras.Model:
    he = {"kernel_initializer": "he_normal", "activation": "relu"}
    side = min(height, width)
    stride = 4 if side >= 112 else 2 if side >= 56 else 1
    inputs = keras.Input((height, width, channels))
    x = L.MaxPooling2D(3, 2)(conv2d(inputs, filters, 2 * stride + 3, "features-0", stride, **he))
    x = L.MaxPooling2D(3, 2)(conv2d(x, filters * 8 // 3, 5, "features-3", **he))
    x = conv2d(conv2d(x, filters * 4, 3, "features-6", **he), filters * 4, 3, "features-8", **he)
    x = L.MaxPooling2D(3, 2)(conv2d(x, filters * 8 // 3, 3, "features-10", **he))
    for name in ("dense-1", "dense-3"):
        x = dense(L.Dropout(dropout)(L.Flatten()(x)), hidden, name, "he_normal", "relu")
    return keras.Model(inputs, dense(x, classes, "head", "he_normal", "softmax"))


def resnet18(channels: int, height: int, width: int, classes: int, filters: int = 64) -> keras.Model:
    def convolution(x: Any, outputs: int, kernel: int, block: str, number: int, stride: int = 1) -> Any:
        x = L.ZeroPadding2D(kernel // 2)(x)
        options = {"padding": "valid", "use_bias": False, "kernel_initializer": "he_normal"}
        x = conv2d(x, outputs, kernel, f"{block}-{number}", stride, **options)
        return L.BatchNormalization(momentum=0.9, epsilon=1e-5, name=f"{block}-{number + 1}")(x)

    inputs = keras.Input((height, width, channels))
    x = L.ReLU()(convolution(inputs, filters, 3, "stem", 0))
    for i in range(8):
        outputs, stride, block = filters * 2 ** (i // 2), 2 if i in (2, 4, 6) else 1, f"blocks-{i}"
        main = L.ReLU()(convolution(x, outputs, 3, f"{block}-main", 0, stride))
        main = convolution(main, outputs, 3, f"{block}-main", 3)
        if stride > 1:
            x = convolution(x, outputs, 1, f"{block}-shortcut", 0, stride)
        x = L.ReLU()(L.Add()([main, x]))
    return keras.Model(inputs, dense(L.GlobalAveragePooling2D()(x), classes, "head", activation="softmax"))
