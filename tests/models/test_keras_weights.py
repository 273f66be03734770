"""Weights of a Keras file, in each layout that Keras has written, for our nets."""

import json
import shutil

import h5py
import numpy as np
import pytest
import torch
from keras_files import Layer, config, write_keras2, write_keras3, write_weights3
from scipy.signal import correlate

from ecgexp.errors import UserError
from ecgexp.foreign.keras import read_keras
from ecgexp.models import CNN, MLP, DenseNetSmall, Recurrent, ResNet18, Ribeiro
from ecgexp.models.keras_weights import load_keras

RNG = np.random.default_rng(0)
SAME = {"padding": "same", "strides": [1, 1], "dilation_rate": [1, 1], "groups": 1, "data_format": "channels_last"}


def random(*shape):
    return RNG.normal(0, 0.3, shape).astype(np.float32)


def conv(kernel, inputs, outputs, activation="relu", **settings):
    arrays = {"kernel": random(kernel, kernel, inputs, outputs), "bias": random(outputs)}
    return Layer("Conv2D", {**SAME, "activation": activation, **settings}, arrays)


def dense(inputs, outputs, activation="softmax"):
    return Layer("Dense", {"activation": activation}, {"kernel": random(inputs, outputs), "bias": random(outputs)})


def norm(channels, **settings):
    names = ("gamma", "beta", "moving_mean", "moving_variance")
    return Layer("BatchNormalization", {"epsilon": 1e-3, **settings}, {name: random(channels) ** 2 for name in names})


def shallow(filters=4, kernel=3):
    """The shallow net of the paper, small, for images of 8 x 6 x 3."""
    pooled = 4 * 3 * filters
    return [
        conv(kernel, 3, filters),
        Layer("MaxPooling2D", {"pool_size": [2, 2]}),
        Layer("Dropout"),
        Layer("Flatten"),
        dense(pooled, 5),
    ]


def net(**options):
    return CNN(3, 8, 6, 5, filters=4, **{"kernel": 3, **options})


RECORD = torch.zeros(1, 3, 8, 6)
LAYOUTS = {
    "keras 2, whole": lambda path, layers: write_keras2(path / "net.h5", layers),
    "keras 2, weights": lambda path, layers: write_keras2(path / "weights.h5", layers, whole=False),
    "keras 3, whole": lambda path, layers: write_keras3(path / "net.keras", layers),
    "keras 3, weights": lambda path, layers: write_weights3(path / "net.weights.h5", layers),
}
layouts = pytest.mark.parametrize("write", LAYOUTS.values(), ids=LAYOUTS.keys())


def computed(layers, images):
    """What the shallow net of Keras computes of (batch, rows, columns, channels), by scipy and numpy."""
    first, last = layers[0].arrays, layers[-1].arrays
    sums = [
        [
            correlate(np.pad(image, ((1, 1), (1, 1), (0, 0))), first["kernel"][..., one], "valid")[..., 0]
            for image in images
        ]
        for one in range(first["kernel"].shape[-1])
    ]
    seen = np.maximum(np.moveaxis(np.array(sums), 0, -1) + first["bias"], 0)
    batch, rows, columns, filters = seen.shape
    pooled = seen.reshape(batch, rows // 2, 2, columns // 2, 2, filters).max((2, 4))
    return pooled.reshape(batch, -1) @ last["kernel"] + last["bias"]


@layouts
def test_each_layout_gives_the_net_that_was_saved(write, tmp_path):
    layers = shallow()
    ours, images = net().eval(), random(7, 8, 6, 3)
    found = load_keras(ours, write(tmp_path, layers), RECORD)
    assert found.pairs == (("conv2d", "conv"), ("dense", "head"))
    logits = ours(torch.tensor(images).permute(0, 3, 1, 2)).detach().numpy()
    np.testing.assert_allclose(logits, computed(layers, images), rtol=1e-4, atol=1e-4)
    if "weights" in write(tmp_path, layers).name:
        assert found.activations is None
        (remark,) = found.remarks
        assert "holds weights only" in remark
    else:
        assert found.activations == ("relu", "softmax")
        (remark,) = found.remarks
        assert "MaxPooling2D" in remark


@layouts
def test_layers_of_a_kind_are_matched_in_order_of_computation(write, tmp_path):
    """Eleven layers of a kind and of one shape: after conv2d_1 comes conv2d_2, not conv2d_10."""
    layers = [conv(7, 1, 4), norm(4)]
    for _ in range(6):
        layers += [norm(4), conv(1, 4, 4), norm(4), conv(3, 4, 1)]
    ours = DenseNetSmall(1, 8, 8, 3, filters=4, depth=1, growth=1)
    with pytest.raises(UserError, match="for which the net has no layer"):
        load_keras(ours, write(tmp_path, [*layers, dense(5, 3)]), torch.zeros(1, 1, 8, 8))
    widths = [12] * 13
    layers = [dense(12, 12, "relu") for _ in widths] + [dense(12, 3)]
    mlp = MLP(12, 3, hidden=widths)
    found = load_keras(mlp, write(tmp_path, layers), torch.zeros(1, 12))
    assert [theirs for theirs, _ in found.pairs] == ["dense", *(f"dense_{i}" for i in range(1, 14))]
    for layer, linear in zip(layers, (m for m in mlp.modules() if isinstance(m, torch.nn.Linear)), strict=True):
        np.testing.assert_array_equal(linear.weight.detach().numpy(), layer.arrays["kernel"].T)


def test_statistics_are_those_of_the_file(tmp_path):
    layers = [conv(7, 3, 4), norm(4), norm(4), conv(1, 4, 8), norm(8), conv(3, 8, 2), dense(6, 5)]
    ours = DenseNetSmall(3, 8, 6, 5, filters=4, depth=1, growth=2)
    load_keras(ours, write_keras2(tmp_path / "net.h5", layers), RECORD)
    for layer, own in ((layers[1], ours.stem[1][0]), (layers[4], ours.block[0][2][0])):
        expected = [layer.arrays[name] for name in ("gamma", "beta", "moving_mean", "moving_variance")]
        actual = [own.weight, own.bias, own.running_mean, own.running_var]
        for one, other in zip(actual, expected, strict=True):
            np.testing.assert_array_equal(one.detach().numpy(), other)
    assert ours.training and all(module.training for module in ours.modules())


def test_a_net_within_a_net_has_its_own_layers(tmp_path):
    layers = shallow()
    path = tmp_path / "net.h5"
    with h5py.File(path, "w") as root:
        root.attrs["layer_names"] = [b"inner"]
        inner = root.create_group("inner")
        names = []
        for name, layer in (("conv", layers[0]), ("out", layers[-1])):
            for weight, values in layer.arrays.items():
                names.append(f"inner/{name}/{weight}:0")
                inner.create_dataset(names[-1], data=values)
        inner.attrs["weight_names"] = [name.encode() for name in names]
    assert load_keras(net(), path, RECORD).pairs == (("inner/conv", "conv"), ("inner/out", "head"))


@layouts
@pytest.mark.parametrize(
    ("layers", "options", "sentence"),
    [
        (
            shallow(filters=6),
            {},
            "Layer 'conv2d' of {} is a convolution of 6 filters of 3 x 3 over 3 channels, but layer 'conv' of the net "
            "is a convolution of 4 filters of 3 x 3 over 3 channels: give the net the sizes of the file.",
        ),
        (
            shallow(),
            {"pooling": 1},
            "Layer 'dense' of {} is a dense layer from 48 to 5 values, but layer 'head' of the net is a dense layer "
            "from 192 to 5 values: give the net the sizes of the file.",
        ),
        (
            shallow()[1:],
            {},
            "{} has no convolution left, but layer 'conv' of the net is a convolution of 4 filters of 3 x 3 over 3 "
            "channels: give the net the layers of the file.",
        ),
        (
            [*shallow(), dense(5, 5)],
            {},
            "Layer 'dense_1' of {} is a dense layer from 5 to 5 values, for which the net has no layer: give the net "
            "the layers of the file.",
        ),
    ],
    ids=["other filters", "other pooling", "no convolution", "one more"],
)
def test_each_mismatch_names_the_layer(write, layers, options, sentence, tmp_path):
    path = write(tmp_path, layers)
    with pytest.raises(UserError) as caught:
        load_keras(net(**options), path, RECORD)
    assert str(caught.value) == sentence.format(path)


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"padding": "valid"}, "Layer 'conv2d' of {} has padding=valid, but layer 'conv' of the net has same"),
        ({"strides": [2, 2]}, r"Layer 'conv2d' of {} has strides=(2, 2), but layer 'conv' of the net has (1, 1)"),
        ({"dilation_rate": [2, 2]}, "has dilation_rate=(2, 2), but"),
        ({"data_format": "channels_first"}, "has data_format=channels_first, but"),
    ],
)
def test_settings_that_have_no_shape_are_compared(changed, sentence, tmp_path):
    layers = shallow()
    layers[0].settings |= changed
    for path in (write_keras2(tmp_path / "net.h5", layers), write_keras3(tmp_path / "net.keras", layers)):
        with pytest.raises(UserError) as caught:
            load_keras(net(), path, RECORD)
        assert sentence.format(path) in str(caught.value)


def test_the_eps_of_a_batch_normalisation_is_compared(tmp_path):
    layers = [conv(7, 3, 4), norm(4), norm(4, epsilon=1e-5), conv(1, 4, 8), norm(8), conv(3, 8, 2), dense(6, 5)]
    ours = DenseNetSmall(3, 8, 6, 5, filters=4, depth=1, growth=2)
    with pytest.raises(
        UserError, match=r"Layer 'batch_normalization_1' of .* has epsilon=1e-05, but layer 'block.0.0.0'"
    ):
        load_keras(ours, write_keras2(tmp_path / "net.h5", layers), RECORD)


def test_a_layer_without_a_bias_fits_none_with_one(tmp_path):
    layers = shallow()
    del layers[0].arrays["bias"]
    with pytest.raises(UserError, match="over 3 channels, without a bias, but layer 'conv' of the net"):
        load_keras(net(), write_keras2(tmp_path / "net.h5", layers), RECORD)


def test_what_a_file_says_beside_weights_is_told(tmp_path):
    layers = [Layer("Rescaling", {"scale": 1 / 255, "offset": 0.0}), *shallow()]
    remarks = load_keras(net(), write_keras2(tmp_path / "net.h5", layers), RECORD).remarks
    assert "multiplied its input by 0.00392" in remarks[0]


@pytest.mark.parametrize(
    ("layer", "sentence"),
    [
        (Layer("LSTM", {}, {"kernel": random(3, 8), "recurrent_kernel": random(2, 8), "bias": random(8)}), "'lstm' of"),
        (Layer("Normalization", {}, {"mean": random(3), "variance": random(3)}), "'normalization' of"),
        (Layer("DepthwiseConv2D", {}, {"depthwise_kernel": random(3, 3, 3, 1)}), "depthwise_kernel (3, 3, 3, 1)"),
    ],
)
def test_layers_of_other_kinds_are_refused(layer, sentence, tmp_path):
    with pytest.raises(UserError) as caught:
        load_keras(net(), write_keras2(tmp_path / "net.h5", [layer, *shallow()]), RECORD)
    assert sentence in str(caught.value)


def test_nets_with_other_layers_take_no_weights_of_keras(tmp_path):
    path = write_keras2(tmp_path / "net.h5", shallow())
    with pytest.raises(UserError, match="only nets of these can take the weights of a Keras file"):
        load_keras(Recurrent(leads=2, samples=16, hidden=8), path, torch.zeros(1, 2, 16))


def test_signals_are_converted_as_well(tmp_path):
    """Ribeiro's net, whose layers are not in the order in which they stand in the class."""
    ours = Ribeiro(leads=2, samples=64, outputs=3, width=4, depth=1)

    def conv1d(kernel, inputs, outputs):
        return Layer(
            "Conv1D", {"padding": "same"}, {"kernel": random(kernel, inputs, outputs), "bias": random(outputs)}
        )

    stem, first, last, skip = conv1d(16, 2, 4), conv1d(16, 4, 8), conv1d(16, 8, 8), conv1d(1, 4, 8)
    layers = [stem, norm(4), first, norm(8), last, skip, norm(8), dense(128, 3)]
    load_keras(ours, write_keras2(tmp_path / "net.h5", layers), torch.zeros(1, 2, 64))
    for own, layer in ((ours.stem[0], stem), (ours.blocks[0].main[0], first), (ours.blocks[0].shortcut[1], skip)):
        np.testing.assert_array_equal(own.weight.detach().numpy(), np.transpose(layer.arrays["kernel"], (2, 1, 0)))


def test_values_that_are_not_finite_are_refused(tmp_path):
    layers = shallow()
    layers[-1].arrays["bias"][2] = np.nan
    with pytest.raises(UserError, match=r"Layer 'dense' of .* holds values in 'bias' that are not finite"):
        load_keras(net(), write_keras2(tmp_path / "net.h5", layers), RECORD)


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 nothing", None])
def test_other_files_are_refused_in_one_sentence(content, tmp_path):
    path = tmp_path / "net.h5"
    if content is None:
        write_keras2(path, shallow())
        path.write_bytes(path.read_bytes()[:-2000])
    else:
        path.write_bytes(content)
    with pytest.raises(UserError, match="damaged or no file of Keras") as caught:
        read_keras(path)
    assert "\n" not in str(caught.value)


def test_an_hdf5_file_of_something_else_holds_no_net(tmp_path):
    with h5py.File(tmp_path / "data.h5", "w") as root:
        root["x"] = np.zeros(3)
    with pytest.raises(UserError, match="holds no weights of a Keras net"):
        read_keras(tmp_path / "data.h5")
    with pytest.raises(UserError, match="There is no file"):
        read_keras(tmp_path / "missing.h5")


@pytest.mark.parametrize("how", ["link", "soft link", "virtual", "external"])
def test_nothing_outside_of_the_file_is_read(how, tmp_path):
    secret = write_keras2(tmp_path / "secret.h5", shallow())
    path = tmp_path / "net.h5"
    shutil.copy(secret, path)
    place = "model_weights/dense/dense/kernel:0"
    with h5py.File(path, "a") as root:
        del root[place]
        if how == "link":
            root[place] = h5py.ExternalLink(str(secret), place)
        elif how == "soft link":
            root[place] = h5py.SoftLink("/model_weights/conv2d/conv2d/kernel:0")
        elif how == "virtual":
            layout = h5py.VirtualLayout((48, 5), np.float32)
            layout[:] = h5py.VirtualSource(str(secret), place, (48, 5))
            root.create_virtual_dataset(place, layout)
        else:
            root.create_dataset(place, (48, 5), np.float32, external=[(str(secret), 0, h5py.h5f.UNLIMITED)])
    with pytest.raises(UserError, match="is not in the file itself"):
        read_keras(path)


def test_files_of_keras_2_12_name_the_layers_otherwise(tmp_path):
    """From 2.12 to 2.15 a ``.keras`` file has them in another group."""
    layers, path = shallow(), tmp_path / "net.weights.h5"
    write_weights3(path, layers)
    with h5py.File(path, "a") as root:
        root.move("layers", "_layer_checkpoint_dependencies")
    assert [layer.name for layer in read_keras(path).layers] == ["conv2d", "dense"]


def test_long_lists_of_names_are_divided(tmp_path):
    layers, path = shallow(), tmp_path / "net.h5"
    write_keras2(path, layers, whole=False)
    with h5py.File(path, "a") as root:
        names = list(root.attrs["layer_names"])
        del root.attrs["layer_names"]
        root.attrs["layer_names0"], root.attrs["layer_names1"] = names[:2], names[2:]
    assert [layer.name for layer in read_keras(path).layers] == ["conv2d", "dense"]


def test_a_functional_net_is_described_too(tmp_path):
    path = write_keras2(tmp_path / "net.h5", shallow())
    with h5py.File(path, "a") as root:
        listed = json.loads(config(shallow()))["config"]
        root.attrs["model_config"] = json.dumps({"class_name": "Functional", "config": listed})
    assert [kind for kind, _ in read_keras(path).described] == [layer.kind for layer in shallow()]


def test_resnets_are_compared_without_their_padding(tmp_path):
    """Keras pads them by a layer of its own, so that its convolutions have none."""
    ours = ResNet18(1, 8, 8, 2, filters=1)
    layers = []

    def convolution(kernel, inputs, outputs, stride=1):
        settings = {**SAME, "padding": "valid", "strides": [stride, stride]}
        kernels = {"kernel": random(kernel, kernel, inputs, outputs)}
        layers.extend([Layer("Conv2D", settings, kernels), norm(outputs, epsilon=1e-5)])

    convolution(3, 1, 1)
    inputs = 1
    for i in range(8):
        outputs, stride = 2 ** (i // 2), 2 if i in (2, 4, 6) else 1
        convolution(3, inputs, outputs, stride)
        convolution(3, outputs, outputs)
        if stride > 1:
            convolution(1, inputs, outputs, stride)
        inputs = outputs
    layers.append(dense(8, 2))
    found = load_keras(ours, write_keras2(tmp_path / "net.h5", layers), torch.zeros(1, 1, 8, 8))
    assert len(found.pairs) == 2 * 20 + 1
