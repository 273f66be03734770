import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ecgexp.fast import speed_up
from ecgexp.models.layers import (
    BatchNorm,
    Decimate,
    DecimatedConv,
    DecimatedConv2d,
    ReLUDropout,
    SameConv,
    SameConv2d,
    SameMaxPool,
    flatten,
    he_normal_,
    initialize,
)


@pytest.fixture(params=["plain", "fast"])
def made(request):
    """A plain layer, or its faster version: the tests hold for both."""
    return speed_up if request.param == "fast" else lambda layer: layer


SHAPES = [
    (samples, kernel, stride)
    for samples in (1, 2, 3, 7, 16, 63, 97, 250)
    for kernel, stride in ((1, 1), (1, 2), (2, 2), (3, 5), (4, 4), (16, 1), (16, 2), (16, 4), (17, 4))
]


def windows(signal, kernel, stride, fill):
    """Windows of one channel by TensorFlow's rule for 'same', one index at a time."""
    samples = len(signal)
    outputs = math.ceil(samples / stride)
    total = max((outputs - 1) * stride + kernel - samples, 0)
    left = total // 2
    for output in range(outputs):
        start = output * stride - left
        yield [signal[i] if 0 <= i < samples else fill for i in range(start, start + kernel)]


def slow_conv(x, weight, bias, stride):
    return np.array(
        [
            [
                sum(np.dot(w, channel) for w, channel in zip(filter_, channels, strict=True)) + b
                for channels in zip(*(windows(c, weight.shape[2], stride, 0.0) for c in record), strict=True)
            ]
            for record in x
            for filter_, b in zip(weight, bias, strict=True)
        ]
    ).reshape(len(x), len(weight), -1)


@pytest.mark.parametrize(("samples", "kernel", "stride"), SHAPES)
def test_convolution_is_tensorflows_same(made, samples, kernel, stride):
    torch.manual_seed(samples)
    conv = made(SameConv(2, 3, kernel, stride)).double()
    nn.init.normal_(conv.bias)
    x = torch.randn(2, 2, samples, dtype=torch.float64)
    expected = slow_conv(x.numpy(), conv.weight.detach().numpy(), conv.bias.detach().numpy(), stride)
    np.testing.assert_allclose(conv(x).detach().numpy(), expected, atol=1e-12)


def slow_conv2d(x, weight, bias, stride):
    """As `slow_conv`: each line of an image by the rule for its rows, and what is left by the rule for its columns."""
    kernel = weight.shape[2]
    lines = np.array([[list(windows(channel, kernel, stride, np.zeros(x.shape[3]))) for channel in r] for r in x])
    squares = np.array(
        [
            [[list(windows(np.transpose(line), kernel, stride, np.zeros(kernel))) for line in c] for c in r]
            for r in lines
        ]
    )
    return np.einsum("bcnmji,ocij->bonm", squares, weight) + bias[:, None, None]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("rows", "columns", "kernel", "stride"),
    [
        (1, 1, 3, 1),
        (5, 8, 3, 1),
        (8, 5, 4, 1),
        (9, 9, 9, 1),
        (4, 4, 7, 1),
        (28, 28, 7, 2),
        (29, 28, 4, 3),
        (6, 7, 1, 2),
    ],
)
def test_convolution_of_images_is_tensorflows_same(made, channels, rows, columns, kernel, stride):
    torch.manual_seed(rows)
    conv = made(SameConv2d(channels, 3, kernel, stride)).double()
    nn.init.normal_(conv.bias)
    x = torch.randn(2, channels, rows, columns, dtype=torch.float64)
    expected = slow_conv2d(x.numpy(), conv.weight.detach().numpy(), conv.bias.detach().numpy(), stride)
    np.testing.assert_allclose(conv(x).detach().numpy(), expected, atol=1e-12)


@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (1, 2), (5, 3)])
@pytest.mark.parametrize("side", [4, 7, 28])
def test_decimated_convolution_of_images_has_the_padding_of_torch(made, side, kernel, stride):
    torch.manual_seed(side)
    ours, theirs = made(DecimatedConv2d(2, 3, kernel, stride)), nn.Conv2d(2, 3, kernel, stride, padding=kernel // 2)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 2, side, side)
    torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize("channels", [2, 8, 12])
def test_convolution_of_images_in_bfloat16_is_off_by_rounding_alone(made, channels):
    torch.manual_seed(0)
    conv, x = made(SameConv2d(channels, 8, 4)), torch.randn(3, channels, 16, 16)
    exact = F.conv2d(F.pad(x, (1, 2, 1, 2)), conv.weight, conv.bias)
    with torch.autocast("cpu", torch.bfloat16):
        y = conv(x)
    assert y.dtype == torch.bfloat16
    assert (y - exact).norm() < 0.01 * exact.norm()


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("leads", "kernel", "stride", "bias"),
    [
        *((leads, 16, stride, True) for leads in (1, 2, 3, 8, 12, 16, 32) for stride in (1, 4)),
        (8, 8, 1, True),
        (12, 8, 1, False),
        (2, 32, 1, False),
    ],
)
# few outputs, fewer than taps, as many as oneDNN takes, and more than it takes of one record
@pytest.mark.parametrize(("batch", "samples"), [(3, 200), (1, 200), (3, 4), (1, 1), (12, 200), (3, 900), (1, 2900)])
def test_convolution_and_gradients_are_off_by_rounding_alone(
    made, leads, kernel, stride, bias, batch, samples, precision
):
    torch.manual_seed(0)
    conv = SameConv(leads, 8, kernel, stride, bias)
    x = torch.randn(batch, leads, samples).bfloat16().float().requires_grad_()
    conv.weight.data = conv.weight.data.bfloat16().float()
    exact, conv = copy.deepcopy(conv).double(), made(conv)
    exact_x = x.detach().double().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
        y = conv(x)
    assert y.dtype == precision
    upstream = torch.randn(y.shape).bfloat16()
    y.backward(upstream.to(precision))
    exact(exact_x).backward(upstream.double())
    gradients = [(parameter.grad, exact.get_parameter(name).grad) for name, parameter in conv.named_parameters()]
    for computed, expected in [(y, exact(exact_x)), (x.grad, exact_x.grad), *gradients]:
        assert (computed.double() - expected).norm() < (0.01 if precision == torch.bfloat16 else 1e-5) * expected.norm()


def test_autocast_leaves_64_bits_alone(made):
    with torch.autocast("cpu", torch.bfloat16):
        assert made(SameConv(2, 3, 4)).double()(torch.randn(1, 2, 6).double()).dtype == torch.float64


@pytest.mark.parametrize("shape", [(50, 40, 30), (3, 5, 7), (1, 1), (4, 0)])
@pytest.mark.parametrize("transposed", [False, True])
def test_dropout_zeroes_its_share_and_keeps_the_mean(made, shape, transposed):
    torch.manual_seed(0)
    x = torch.rand(shape).add(1).requires_grad_()
    y = made(ReLUDropout(0.2))(x.transpose(0, 1) if transposed else x)
    y = y.transpose(0, 1) if transposed else y
    kept = y != 0
    torch.testing.assert_close(y[kept], (x / 0.8)[kept], rtol=1e-4, atol=0)
    y.sum().backward()
    torch.testing.assert_close(x.grad, kept / 0.8, rtol=1e-4, atol=0)
    if x.numel() > 10_000:
        deviation = math.sqrt(0.2 * 0.8 / x.numel())
        assert kept.float().mean().item() == pytest.approx(0.8, abs=4 * deviation)
        # neighbours share a random number but not their fate
        fates = kept.flatten().double()
        for lag in (1, 2, 3, 4):
            assert abs(np.corrcoef(fates[lag:], fates[:-lag])[0, 1]) < 4 / math.sqrt(x.numel())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_follows_relu_and_its_gradient_what_came_through(made, dtype):
    torch.manual_seed(0)
    x = torch.randn(20, 30, 10).to(dtype).transpose(1, 2).requires_grad_()
    y = made(ReLUDropout(0.25))(x)
    through = (y != 0).to(dtype)
    assert not through[x <= 0].any() and 0.70 < through[x > 0].float().mean() < 0.80
    torch.testing.assert_close(y, F.relu(x) * through / 0.75)
    assert y.stride() == x.stride()
    upstream = torch.randn_like(y)
    (gradient,) = torch.autograd.grad(y, x, upstream)
    torch.testing.assert_close(gradient, upstream * through / 0.75)
    silent = torch.full((4,), math.nan)
    assert made(ReLUDropout(0.25))(silent).isnan().all()


def test_dropout_follows_the_seed_and_is_silent_outside_training(made):
    drop, x = made(ReLUDropout(0.5)), torch.ones(100)
    torch.manual_seed(1)
    first = drop(x)
    torch.manual_seed(1)
    assert torch.equal(drop(x), first)
    assert not torch.equal(drop(x), first)
    assert torch.equal(drop.eval()(x), x)


@pytest.mark.parametrize(("samples", "size"), [(s, k) for s in (1, 2, 5, 63, 97, 250) for k in (1, 2, 3, 4, 7)])
def test_pooling_is_tensorflows_same(made, samples, size):
    torch.manual_seed(size)
    # all below zero: padding that counted as zero would win
    x = -torch.rand(2, 3, samples) - 1
    expected = [[[max(w) for w in windows(c, size, size, -np.inf)] for c in r] for r in x.numpy()]
    np.testing.assert_array_equal(made(SameMaxPool(size))(x).numpy(), np.array(expected))


def test_pooling_250_by_4_pads_one_sample_on_the_left(made):
    x = torch.arange(250.0).reshape(1, 1, 250)
    pooled = made(SameMaxPool(4))(x)[0, 0]
    assert pooled[:2].tolist() == [2, 6]
    assert pooled[-1] == 249
    assert len(pooled) == 63


@pytest.mark.parametrize(("samples", "kernel", "stride"), SHAPES)
def test_decimated_convolution_is_every_other_output_of_the_full_one(made, samples, kernel, stride):
    torch.manual_seed(samples)
    decimated = made(DecimatedConv(2, 3, kernel, stride)).double()
    literal = SameConv(2, 3, kernel).double()
    literal.load_state_dict(decimated.state_dict())
    x = torch.randn(2, 2, samples, dtype=torch.float64)
    torch.testing.assert_close(decimated(x), literal(x)[..., ::stride], rtol=0, atol=1e-12)


def test_decimation_keeps_the_first_sample(made):
    assert made(Decimate(2))(torch.arange(5.0).reshape(1, 1, 5)).flatten().tolist() == [0, 2, 4]


def test_flatten_is_position_major():
    x = torch.tensor([[[1.0, 2.0, 3.0], [10.0, 20.0, 30.0]]])
    assert flatten(x).tolist() == [[1, 10, 2, 20, 3, 30]]
    image = torch.arange(8.0).reshape(1, 2, 2, 2)  # channel, row, column
    assert flatten(image).tolist() == [[0, 4, 1, 5, 2, 6, 3, 7]]
    assert flatten(x[:, 0]).tolist() == [[1, 2, 3]]


def test_batch_norm_follows_keras_rule_over_several_batches(made):
    rng = np.random.default_rng(0)
    norm = made(BatchNorm(4))
    mean, variance = np.zeros(4), np.ones(4)
    for _ in range(3):
        x = rng.normal(2, 3, size=(2, 4, 3))
        batch_mean, batch_variance = x.mean(axis=(0, 2)), x.var(axis=(0, 2))
        expected = (x - batch_mean[:, None]) / np.sqrt(batch_variance + 1e-3)[:, None]
        np.testing.assert_allclose(norm(torch.tensor(x).float()).detach(), expected, atol=1e-5)
        mean = 0.99 * mean + 0.01 * batch_mean
        variance = 0.99 * variance + 0.01 * batch_variance
    np.testing.assert_allclose(norm.running_mean, mean, rtol=1e-5)
    np.testing.assert_allclose(norm.running_var, variance, rtol=1e-5)
    x = rng.normal(size=(5, 4, 3))
    expected = (x - mean[:, None]) / np.sqrt(variance + 1e-3)[:, None]
    np.testing.assert_allclose(norm.eval()(torch.tensor(x).float()).detach(), expected, atol=1e-5)
    np.testing.assert_allclose(norm.running_var, variance, rtol=1e-5)


def test_batch_norm_without_momentum_averages_all_batches(made):
    rng = np.random.default_rng(1)
    batches = rng.normal(5, 2, size=(4, 8, 3))
    norm = made(BatchNorm(3, momentum=None, affine=False))
    for x in batches:
        norm(torch.tensor(x).float())
    np.testing.assert_allclose(norm.running_mean, batches.mean(axis=(0, 1)), rtol=1e-5)
    np.testing.assert_allclose(norm.running_var, batches.var(axis=1).mean(axis=0), rtol=1e-5)


def test_batch_norm_gradient_is_that_of_torch(made):
    x = torch.randn(4, 3, 5, dtype=torch.float64)
    ours = made(BatchNorm(3)).double()
    theirs = nn.BatchNorm1d(3, eps=1e-3, momentum=0.01).double()
    gradients = []
    for norm in (ours, theirs):
        inputs = x.clone().requires_grad_()
        norm(inputs).pow(3).sum().backward()
        gradients.append((inputs.grad, norm.weight.grad, norm.bias.grad))
    torch.testing.assert_close(gradients[0], gradients[1])


def test_batch_norm_takes_a_single_value(made):
    norm = made(BatchNorm(3))
    y = norm(torch.full((1, 3, 1), 2.0))
    torch.testing.assert_close(y, torch.full((1, 3, 1), 2 / math.sqrt(1.001)))
    assert norm.running_var.tolist() == [1, 1, 1]


@pytest.mark.parametrize("layer", [nn.Conv1d(64, 128, 16), nn.Linear(1280, 200)], ids=["conv", "dense"])
def test_he_normal_is_cut_at_two_deviations_and_has_variance_two_over_fan_in(layer):
    torch.manual_seed(0)
    weight = initialize(layer, he_normal_).weight.detach()
    fan_in = weight[0].numel()
    assert weight.std().item() == pytest.approx(math.sqrt(2 / fan_in), rel=0.01)
    assert weight.abs().max().item() == pytest.approx(2 * math.sqrt(2 / fan_in) / 0.8796256610, rel=0.01)
    assert not layer.bias.any()
