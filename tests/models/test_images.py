"""Nets for images, and the net for any record."""

import copy
import math
from typing import get_type_hints

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from pydantic import TypeAdapter, ValidationError
from torch import nn

from ecgexp import CONF
from ecgexp.config.build import build_net
from ecgexp.config.resolvers import register_resolvers
from ecgexp.config.schema import check
from ecgexp.errors import UserError
from ecgexp.fast import speed_up
from ecgexp.models import CNN, MLP, AlexNet, DenseNetSmall, ResNet18
from ecgexp.training.network import check_layers


def mlp(channels, height, width, outputs, **options):
    return MLP(channels * height * width, outputs, **options)


SMALL = {
    "mlp": lambda *shape: mlp(*shape, hidden=[32, 16]),
    "mlp of sigmoids": lambda *shape: mlp(*shape, hidden=[16], activation="sigmoid"),
    "logistic regression": lambda *shape: mlp(*shape, hidden=[]),
    "cnn": lambda *shape: CNN(*shape, filters=8, kernel=4, pooling=3),
    "densenet_small": lambda *shape: DenseNetSmall(*shape, filters=8, depth=2, growth=4),
    "alexnet": lambda *shape: AlexNet(*shape, filters=12, hidden=16, dropout=0.0),
    "resnet18": lambda *shape: ResNet18(*shape, filters=4),
}
small = pytest.mark.parametrize("build", SMALL.values(), ids=SMALL.keys())
made = pytest.mark.parametrize("made", [lambda net: net, speed_up], ids=["plain", "fast"])


def images(batch, channels, height, width):
    """As training gives them: a view of (batch, height, width, channels) in memory."""
    return torch.randn(batch, height, width, channels).permute(0, 3, 1, 2)


def counts(net):
    """Trainable parameters and batch statistics, which Keras counts together."""
    running = (b for name, b in net.named_buffers() if "running" in name)
    return sum(p.numel() for p in net.parameters()), sum(b.numel() for b in running)


@pytest.mark.parametrize(
    ("build", "counted"),
    [
        # as the paper and its authors' code count them
        (lambda: MLP(28 * 28 * 3, 8, hidden=[4096]), 9_670_664),
        (lambda: CNN(3, 28, 28, 8, filters=64, kernel=9), 115_976),
        (lambda: CNN(3, 64, 64, 8), 15_616 + 524_296),
        (lambda: DenseNetSmall(3, 28, 28, 8), 351_048),
        # of one tower as it is commonly counted
        (lambda: AlexNet(3, 224, 224, 1000), 62_378_344),
        # of the net for CIFAR-10, 11,173,962 with 10 outputs, and a mean and a variance for each normalised channel
        (lambda: ResNet18(3, 28, 28, 8), 11_173_962 - 2 * 513 + 2 * (5 * 64 + 5 * 128 + 5 * 256 + 5 * 512)),
    ],
    ids=["mlp", "cnn", "cnn at 64", "densenet_small", "alexnet", "resnet18"],
)
def test_parameters_are_as_many_as_published(build, counted):
    with torch.device("meta"):
        net = build()
    assert sum(counts(net)) == counted


@pytest.mark.parametrize(("side", "kernel", "left"), [(28, 5, 2), (56, 7, 2), (64, 7, 3), (112, 11, 2), (144, 11, 3)])
def test_alexnet_leaves_positions_of_every_size_of_image(side, kernel, left):
    net = AlexNet(3, side, side, 2, filters=3, hidden=4)
    assert net.features[0].kernel_size == (kernel, kernel)
    assert net.features(torch.zeros(1, 3, side, side)).shape[2:] == (left, left)


def test_alexnet_has_the_papers_layers_at_224():
    net = AlexNet(3, 224, 224, 1000, filters=6, hidden=8)
    assert net.features[0].stride == (4, 4)
    assert net.dense[1].in_features == 6 * 6 * 16
    filters = [layer.out_channels / 6 for layer in net.features if isinstance(layer, nn.Conv2d)]
    assert filters == [96 / 96, 256 / 96, 384 / 96, 384 / 96, 256 / 96]


@small
@made
@pytest.mark.parametrize("shape", [(3, 28, 28, 8), (1, 29, 33, 2), (2, 64, 64, 71)])
def test_any_shape_of_image_gives_one_logit_per_class(build, made, shape):
    net = made(build(*shape))
    for batch in (1, 3):
        y = net(images(batch, *shape[:3]))
        assert y.shape == (batch, shape[3])
        assert y.isfinite().all()


@small
@made
def test_an_image_does_not_depend_on_its_batch_or_memory_layout(build, made):
    torch.manual_seed(0)
    net, x = made(build(3, 28, 28, 2)).eval(), images(4, 3, 28, 28)
    torch.testing.assert_close(net(x)[1:2], net(x[1:2].contiguous()), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(3, 20), (40,), (2, 4, 5)])
def test_logistic_regression_takes_any_record(shape):
    torch.manual_seed(0)
    net, x = MLP(math.prod(shape), 3, hidden=[]), torch.randn(5, *shape)
    flat = np.stack([np.moveaxis(record, 0, -1).ravel() for record in x.numpy()])
    weight, bias = (value.detach().numpy() for value in (net.head.weight, net.head.bias))
    np.testing.assert_allclose(net(x).detach().numpy(), flat @ weight.T + bias, rtol=1e-4, atol=1e-5)


def test_hidden_layers_have_their_widths_activation_and_dropout():
    torch.manual_seed(0)
    net, x = MLP(10, 3, hidden=[7, 5], activation="tanh", dropout=0.5), torch.randn(4, 10)
    first, second = net.hidden[0], net.hidden[2]
    assert (first.out_features, second.in_features, second.out_features) == (7, 7, 5)
    assert not torch.equal(net(x), net(x))
    expected = net.head(torch.tanh(second(torch.tanh(first(x)))))
    torch.testing.assert_close(net.eval()(x), expected)


@small
@made
def test_gradients_reach_every_parameter(build, made):
    torch.manual_seed(0)
    net = made(build(3, 28, 28, 4))
    nn.functional.cross_entropy(net(images(8, 3, 28, 28)), torch.arange(8) % 4).backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or (p.dim() > 1 and not p.grad.any())] == []


@small
def test_the_fast_net_computes_and_learns_what_the_plain_one_does(build):
    torch.manual_seed(0)
    plain = build(3, 30, 28, 4).double()
    fast = speed_up(copy.deepcopy(plain))
    x, y = images(16, 3, 30, 28).double(), torch.arange(16) % 4
    losses = []
    for net in (plain, fast):
        optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
        losses.append([])
        for _ in range(4):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(net(x), y)
            loss.backward()
            optimizer.step()
            losses[-1].append(loss.item())
    assert losses[0][-1] != losses[0][0]
    assert losses[1] == pytest.approx(losses[0], rel=1e-9)
    torch.testing.assert_close(fast.state_dict(), plain.state_dict(), check_stride=False)


@small
@made
@pytest.mark.parametrize("channels", [1, 3, 8])
def test_no_layer_is_computed_wrongly_in_bfloat16(build, made, channels):
    torch.manual_seed(0)
    net = made(build(channels, 28, 28, 4))
    check_layers(net, images(2, channels, 28, 28), torch.autocast("cpu", torch.bfloat16))


@pytest.mark.slow
@small
@made
def test_export_with_any_batch_size(build, made, tmp_path):
    torch.manual_seed(0)
    net = made(build(3, 28, 28, 4))
    net(images(8, 3, 28, 28))
    net.eval()
    program = torch.export.export(net, (images(4, 3, 28, 28),), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.export.save(program, tmp_path / "net.pt2")
    loaded = torch.export.load(tmp_path / "net.pt2").module()
    for batch in (1, 4, 7):
        x = images(batch, 3, 28, 28)
        torch.testing.assert_close(loaded(x), net(x), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@small
def test_a_handful_of_images_can_be_overfitted(build):
    torch.manual_seed(0)
    net, x, y = speed_up(build(3, 28, 28, 4)), images(8, 3, 28, 28), torch.arange(8) % 4
    optimizer = torch.optim.Adam(net.parameters(), lr=0.003)
    for _ in range(300):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(x), y)
        if loss.item() < 0.1:
            return
        loss.backward()
        optimizer.step()
    pytest.fail(f"The loss is {loss.item():.3f} after 300 steps.")


@small
@pytest.mark.parametrize("shape", [(2, 1, 28, 28), (2, 3, 28, 29), (2, 3, 28), (2, 28 * 28)])
def test_records_of_another_shape_are_refused(build, shape):
    net = build(3, 28, 28, 2)
    with pytest.raises(UserError, match=r"but was given (a batch of shape )?\("):
        net(torch.zeros(shape))


@pytest.mark.parametrize(
    ("build", "least"),
    [
        (lambda side: CNN(3, side, 40, 2, pooling=5), 5),
        (lambda side: DenseNetSmall(3, 40, side, 2), 2),
        (lambda side: AlexNet(3, side, 40, 2, filters=3, hidden=2), 15),
    ],
    ids=["cnn", "densenet_small", "alexnet"],
)
def test_images_that_are_too_small_are_refused(build, least):
    build(least)
    with pytest.raises(UserError, match=f"too small for this net, which takes at least {least} x {least}"):
        build(least - 1)


@pytest.mark.parametrize("net", [MLP, CNN, DenseNetSmall, AlexNet, ResNet18])
def test_annotations_refuse_impossible_arguments(net):
    hints = get_type_hints(net.__init__, include_extras=True)
    hints.pop("return")
    for name, hint in hints.items():
        adapter = TypeAdapter(hint)
        impossible = {"dropout": [-0.1, 1.0, "much"], "activation": ["swish", 1], "hidden": [0, [0], [2.5], "2"]}
        for value in impossible.get(name, [0, -1, 2.5, "2", True]):
            with pytest.raises(ValidationError):
                adapter.validate_python(value)
    with pytest.raises(ValidationError):
        TypeAdapter(get_type_hints(AlexNet.__init__, include_extras=True)["filters"]).validate_python(32)


CONFIGURED = {
    "mlp": (),
    "cnn": (),
    "densenet_small": (),
    "alexnet": ("model.filters=12", "model.hidden=16"),
    "resnet18": ("model.filters=4",),
}


def composed(*overrides):
    register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", list(overrides))


def sized(channels=3, height=28, width=28):
    """A dataset of images, as its config says it."""
    sizes = (f"+dataset.{key}={value}" for key, value in (("channels", channels), ("height", height), ("width", width)))
    return ("~dataset.leads", "~dataset.samples", *sizes)


@pytest.mark.parametrize("target", ["multilabel", "multiclass"])
@pytest.mark.parametrize("fast", ["true", "false"])
@pytest.mark.parametrize("name", CONFIGURED)
def test_each_configuration_takes_its_sizes_from_the_dataset(name, fast, target):
    loss = {"multilabel": "bce", "multiclass": "cross_entropy"}[target]
    chosen = (f"fast={fast}", f"target={target}", f"loss={loss}")
    cfg = composed(f"model={name}", *CONFIGURED[name], *chosen, *sized(1, 28, 30))
    check(cfg)
    assert build_net(cfg)(images(2, 1, 28, 30)).shape == (2, 5)


@pytest.mark.parametrize(("dataset", "values"), [("synthetic", 12 * 1000), ("mitbih", 192)])
def test_the_mlp_takes_signals_of_any_dataset(dataset, values):
    cfg = composed("model=mlp", f"dataset={dataset}")
    check(cfg)
    assert cfg.model["values"] == values


def test_the_mlp_takes_tables():
    assert composed("model=mlp", "~dataset.leads", "~dataset.samples", "+dataset.features=7").model["values"] == 7


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (("model=cnn",), "Config key 'model.channels' is that of 'dataset.channels', which this dataset does not have"),
        (("model=ribeiro", *sized()), "Config key 'model.leads' is that of 'dataset.leads', which this dataset does"),
        (("model=alexnet", *sized(3, 14, 28)), "Images of 14 x 28 pixels are too small for this net"),
        (("model=cnn", *sized(3, 4, 4), "model.pooling=5"), "Images of 4 x 4 pixels are too small for this net"),
        (("model=cnn", *sized(), "model.kernel=0"), "Config key 'model.kernel' is 0: input should be greater than 0."),
        (("model=cnn", *sized(3, 0)), "Config key 'dataset.height' must be a positive whole number, but is 0."),
        (("model=mlp", "model.hidden=[64,0]"), "Config key 'model.hidden' is 0: input should be greater than 0."),
    ],
)
def test_what_cannot_be_trained_is_told_before(overrides, sentence):
    with pytest.raises(UserError) as caught:
        check(composed(*overrides))
    assert str(caught.value).startswith(sentence)
    assert "\n" not in str(caught.value)
