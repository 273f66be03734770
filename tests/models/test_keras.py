"""The nets compared with the same nets in Keras, on TensorFlow or the backend in KERAS_BACKEND, if installed."""

import copy
import math
import os

import numpy as np
import pytest
import torch

from ecgexp.fast import speed_up
from ecgexp.models import (
    CNN,
    MLP,
    AlexNet,
    DenseNetSmall,
    Rajpurkar,
    RajpurkarOriginal,
    ResNet18,
    Ribeiro,
    RibeiroOriginal,
)
from ecgexp.models.keras_weights import load_keras
from ecgexp.models.layers import BatchNorm

BACKEND = os.environ.get("KERAS_BACKEND", "tensorflow")
pytest.importorskip(BACKEND, reason=f"{BACKEND} is not installed: no Keras nets to compare with")
keras = pytest.importorskip("keras", minversion="3", reason="needs Keras 3")

from benchmarks.keras_nets import L, conv, norm_relu  # noqa: E402

from benchmarks import keras_nets  # noqa: E402

pytestmark = pytest.mark.slow


def keras_ribeiro_original(leads, samples, classes):
    return keras_nets.ribeiro(leads, samples, classes, second=196, bias=False, projection="he_normal")


def keras_rajpurkar_original(leads, samples, classes):
    inputs = keras.Input((samples, leads))
    x = norm_relu(conv(inputs, 64, 16, "stem-0"), "stem-1")
    for i in range(16):
        filters, stride, block = 64 * (1 + i // 4), 1 + i % 2, f"blocks-{i}"
        main = L.Dropout(0.2)(norm_relu(x, f"{block}-main-0")) if i > 0 else x
        main = norm_relu(conv(main, filters, 16, f"{block}-main-1", stride), f"{block}-main-2")
        main = conv(L.Dropout(0.2)(main), filters, 16, f"{block}-main-3")
        x = L.MaxPooling1D(stride, padding="same")(x)
        if filters > x.shape[-1]:
            x = L.Concatenate()([x, keras.ops.zeros_like(x[..., : filters - x.shape[-1]])])
        x = L.Add()([main, x])
    steps = L.Dense(classes, name="head")(norm_relu(x, "activation"))
    return keras.Model(inputs, L.Activation("sigmoid")(L.GlobalAveragePooling1D()(steps)))


PAIRS = {
    "rajpurkar": (Rajpurkar, keras_nets.rajpurkar),
    "ribeiro": (Ribeiro, keras_nets.ribeiro),
    "rajpurkar_original": (RajpurkarOriginal, keras_rajpurkar_original),
    "ribeiro_original": (RibeiroOriginal, keras_ribeiro_original),
}
pairs = pytest.mark.parametrize(("ours", "theirs"), PAIRS.values(), ids=PAIRS.keys())


def weights_of(model):
    """State dict of our net with the weights of a Keras net, whose layers bear our names."""
    state = {}
    for layer in model.layers:
        for variable in layer.weights:
            name, value = variable.path.split("/")[-1], variable.numpy()
            key = {
                "kernel": "weight",
                "gamma": "weight",
                "bias": "bias",
                "beta": "bias",
                "moving_mean": "running_mean",
                "moving_variance": "running_var",
            }[name]
            value = np.moveaxis(value, (-1, -2), (0, 1)) if name == "kernel" else value
            state[f"{layer.name.replace('-', '.')}.{key}"] = torch.tensor(np.ascontiguousarray(value))
    return state


def mlp(channels, height, width, classes, **options):
    return MLP(channels * height * width, classes, **options)


# The sizes of a net, and what is left to its default in the tests that compare initial weights or count.
IMAGES = {
    "mlp": (mlp, keras_nets.mlp, {"hidden": (64,)}),
    "mlp of sigmoids": (mlp, keras_nets.mlp, {"hidden": (16, 8), "activation": "sigmoid"}),
    "logistic regression": (mlp, keras_nets.mlp, {"hidden": ()}),
    "cnn": (CNN, keras_nets.cnn, {}),
    "cnn of 4 x 4": (CNN, keras_nets.cnn, {"filters": 8, "kernel": 4, "pooling": 3, "activation": "tanh"}),
    "densenet_small": (DenseNetSmall, keras_nets.densenet_small, {}),
    "alexnet": (AlexNet, keras_nets.alexnet, {"filters": 24, "hidden": 64}),
    "resnet18": (ResNet18, keras_nets.resnet18, {"filters": 8}),
}
image_nets = pytest.mark.parametrize(("ours", "theirs", "options"), IMAGES.values(), ids=IMAGES.keys())


def load(net, model):
    missing, unexpected = net.load_state_dict(weights_of(model), strict=False)
    assert unexpected == []
    assert [name for name in missing if "num_batches_tracked" not in name] == []


def randomize_normalization(model, rng):
    for layer in model.layers:
        if isinstance(layer, L.BatchNormalization):
            shape = layer.gamma.shape
            layer.gamma.assign(rng.uniform(0.5, 1.5, shape))
            layer.beta.assign(rng.normal(0, 0.2, shape))
            layer.moving_mean.assign(rng.normal(0, 0.2, shape))
            layer.moving_variance.assign(rng.uniform(0.5, 1.5, shape))


@pairs
@pytest.mark.parametrize(("leads", "samples", "classes"), [(12, 1000, 5), (3, 187, 4)])
def test_loaded_weights_give_the_same_probabilities(ours, theirs, leads, samples, classes):
    rng = np.random.default_rng(0)
    keras.utils.set_random_seed(0)
    model, net = theirs(leads, samples, classes), ours(leads, samples, classes).eval()
    randomize_normalization(model, rng)
    # so that probabilities fill (0, 1): saturated ones would all agree
    head = model.get_layer("head")
    head.bias.assign(rng.normal(0, 0.5, head.bias.shape))
    x = rng.normal(size=(8, samples, leads)).astype(np.float32)
    load(net, model)
    spread = net(torch.tensor(x).transpose(1, 2)).std().item()
    head.kernel.assign(head.kernel / spread)
    load(net, model)

    expected = np.asarray(model(x, training=False))
    assert expected.std() > 0.1
    for built in (net, speed_up(net)):
        actual = torch.sigmoid(built(torch.tensor(x).transpose(1, 2))).detach().numpy()
        print(f"\nlargest difference {np.abs(actual - expected).max():.1e}, deviation {expected.std():.2f}")
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5)


@pairs
def test_parameters_are_as_many(ours, theirs):
    model, net = theirs(12, 1000, 5), ours(12, 1000, 5)
    trainable = sum(math.prod(w.shape) for w in model.trainable_weights)
    running = sum(math.prod(w.shape) for w in model.non_trainable_weights if "moving" in w.path)
    assert sum(p.numel() for p in net.parameters()) == trainable
    assert sum(b.numel() for name, b in net.named_buffers() if "running" in name) == running


@pairs
def test_initial_weights_have_the_same_distribution(ours, theirs):
    torch.manual_seed(0)
    keras.utils.set_random_seed(0)
    expected, actual = weights_of(theirs(12, 1000, 5)), ours(12, 1000, 5).state_dict()
    for name, value in expected.items():
        if value.dim() == 1:
            assert torch.equal(actual[name], value), name
        else:
            # some hundred weights in the smallest layer: deviations agree to their sampling error
            error = 5 / math.sqrt(value.numel())
            assert actual[name].std().item() == pytest.approx(value.std().item(), rel=error), name
            assert actual[name].abs().max().item() == pytest.approx(value.abs().max().item(), rel=0.1), name


@pytest.mark.parametrize("name", ["rajpurkar", "ribeiro"])
def test_a_training_batch_gives_the_same_output_and_statistics(name):
    ours, theirs = PAIRS[name]
    keras.utils.set_random_seed(0)
    model, net = theirs(2, 300, 3, dropout=0.0), ours(2, 300, 3, dropout=0.0)
    load(net, model)
    net = speed_up(net)
    x = np.random.default_rng(0).normal(size=(16, 300, 2)).astype(np.float32)
    expected = np.asarray(model(x, training=True))
    actual = torch.sigmoid(net(torch.tensor(x).transpose(1, 2))).detach().numpy()
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-4)
    state = net.state_dict()
    for key, value in weights_of(model).items():
        torch.testing.assert_close(state[key], value, rtol=1e-4, atol=1e-5, msg=key)


def spread_out(model, net, x):
    """Scale the last layer of both so that probabilities fill (0, 1): saturated ones would all agree."""
    load(net.eval(), model)
    head = model.get_layer("head")
    head.kernel.assign(head.kernel / net(x).std().item())
    load(net, model)


@image_nets
@pytest.mark.parametrize("shape", [(3, 28, 28, 8), (1, 65, 62, 3)])
def test_loaded_weights_of_images_give_the_same_probabilities(ours, theirs, options, shape):
    rng = np.random.default_rng(0)
    keras.utils.set_random_seed(0)
    model, net = theirs(*shape, **options), ours(*shape, **options)
    randomize_normalization(model, rng)
    stored = rng.normal(size=(8, *shape[1:3], shape[0])).astype(np.float32)
    x = torch.tensor(stored).permute(0, 3, 1, 2)
    spread_out(model, net, x)
    expected = np.asarray(model(stored, training=False))
    assert expected.std() > 0.1
    for built in (net, speed_up(net)):
        actual = torch.softmax(built(x), dim=1).detach().numpy()
        np.testing.assert_allclose(actual, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("file", ["net.keras", "net.h5", "net.weights.h5"])
@image_nets
def test_a_file_of_keras_gives_the_same_probabilities(ours, theirs, options, file, tmp_path):
    rng = np.random.default_rng(0)
    keras.utils.set_random_seed(0)
    model, net = theirs(3, 28, 28, 8, **options), ours(3, 28, 28, 8, **options).eval()
    randomize_normalization(model, rng)
    stored = rng.normal(size=(8, 28, 28, 3)).astype(np.float32)
    x = torch.tensor(stored).permute(0, 3, 1, 2)
    spread_out(model, copy.deepcopy(net), x)
    (model.save_weights if "weights" in file else model.save)(tmp_path / file)
    found = load_keras(net, tmp_path / file, x[:1])
    np.testing.assert_allclose(torch.softmax(net(x), dim=1).detach(), model(stored), rtol=0, atol=2e-5)
    assert (found.activations or [None])[-1] == (None if "weights" in file else "softmax")
    assert len(found.pairs) == len([layer for layer in model.layers if layer.weights])


@image_nets
def test_nets_for_images_are_counted_and_begin_as_in_keras(ours, theirs, options):
    torch.manual_seed(0)
    keras.utils.set_random_seed(0)
    model, net = theirs(3, 28, 28, 8, **options), ours(3, 28, 28, 8, **options)
    statistics = sum(b.numel() for name, b in net.named_buffers() if "running" in name)
    assert sum(p.numel() for p in net.parameters()) + statistics == model.count_params()
    actual = net.state_dict()
    for name, value in weights_of(model).items():
        if value.dim() == 1:
            assert torch.equal(actual[name], value), name
        else:
            error = 5 / math.sqrt(value.numel())
            assert actual[name].std().item() == pytest.approx(value.std().item(), rel=error), name
            assert actual[name].abs().max().item() == pytest.approx(value.abs().max().item(), rel=0.15), name


@image_nets
def test_a_training_of_images_has_the_losses_of_keras(ours, theirs, options):
    rng = np.random.default_rng(0)
    keras.utils.set_random_seed(0)
    options = {**options, **({"dropout": 0.0} if theirs in (keras_nets.mlp, keras_nets.alexnet) else {})}
    model, net = theirs(3, 28, 28, 4, **options), ours(3, 28, 28, 4, **options)
    stored, labels = rng.normal(size=(16, 28, 28, 3)).astype(np.float32), np.arange(16) % 4
    x = torch.tensor(stored).permute(0, 3, 1, 2)
    spread_out(model, net, x)
    model.compile(keras.optimizers.SGD(0.005), "sparse_categorical_crossentropy")
    net = speed_up(net.train())
    optimizer, losses = torch.optim.SGD(net.parameters(), lr=0.005), []
    for _ in range(3):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(net(x), torch.tensor(labels))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    expected = [float(model.train_on_batch(stored, labels)) for _ in range(3)]
    assert losses == pytest.approx(expected, rel=1e-3)


def test_batch_normalization_updates_its_statistics_as_keras_does():
    rng = np.random.default_rng(0)
    theirs, ours = L.BatchNormalization(), BatchNorm(6)
    for _ in range(3):
        # two values per channel: the unbiased variance would be twice the biased one
        x = rng.normal(3, 2, size=(2, 1, 6)).astype(np.float32)
        expected = theirs(x, training=True)
        actual = ours(torch.tensor(x).transpose(1, 2)).transpose(1, 2)
        np.testing.assert_allclose(actual.detach(), expected, atol=1e-4)
    np.testing.assert_allclose(ours.running_mean, theirs.moving_mean, rtol=1e-5)
    np.testing.assert_allclose(ours.running_var, theirs.moving_variance, rtol=1e-5)
