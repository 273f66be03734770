"""The faster layers, nets and trainings agree with plain PyTorch, except for rounding."""

from __future__ import annotations

import copy
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from ecgexp.fast import speed_up
from ecgexp.fast.training import declare_contiguous, fused
from ecgexp.models import Rajpurkar, RajpurkarOriginal, Ribeiro, RibeiroOriginal
from ecgexp.models.layers import BatchNorm, Decimate, DecimatedConv, ReLUDropout, SameConv, SameMaxPool

ROUNDING = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2}
DRAWS = 150


def draw(number: int) -> tuple[nn.Module, torch.Tensor]:
    """A layer and a signal for it; each layer is drawn as often as the others."""
    rng = np.random.default_rng(number)
    batch, channels, outputs = (int(rng.integers(1, high)) for high in (9, 40, 40))
    samples = int(rng.choice([rng.integers(1, 40), rng.integers(40, 700), rng.integers(700, 1500)]))
    kernel, stride = int(rng.integers(1, 24)), int(rng.integers(1, 6))
    conv = {"inputs": channels, "outputs": outputs, "kernel": kernel, "bias": bool(rng.integers(2))}
    layers = [
        partial(SameConv, **conv),
        partial(SameConv, **conv, stride=stride),
        partial(DecimatedConv, **conv, stride=stride),
        partial(SameMaxPool, stride),
        partial(Decimate, stride),
        partial(BatchNorm, channels),
        partial(ReLUDropout, 0.0),
    ]
    torch.manual_seed(number)
    layer = layers[number % len(layers)]()
    x = torch.randn(batch, samples, channels).transpose(1, 2)
    return layer, x if rng.integers(2) else x.contiguous()


def off(one: torch.Tensor, other: torch.Tensor) -> float:
    """Distance as a share of the length of `other`."""
    return float(
        (one.detach().double() - other.detach().double()).norm() / other.detach().double().norm().clamp(min=1e-3)
    )


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ROUNDING)
def test_each_layer_and_its_gradients_are_the_plain_ones_for_any_shape(dtype):
    for number in range(DRAWS):
        plain, x = draw(number)
        reduced = dtype == torch.bfloat16
        plain, x = (plain, x) if reduced else (plain.to(dtype), x.to(dtype))
        fast = speed_up(copy.deepcopy(plain))
        results = []
        for layer in (plain, fast):
            signal = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
            with torch.autocast("cpu", torch.bfloat16, enabled=reduced):
                y = layer(signal)
            upstream = torch.randn(y.shape, generator=torch.Generator().manual_seed(0))
            y.backward(upstream.to(y.dtype))
            results.append({"output": y, "input": signal.grad, **dict(layer.named_buffers())})
            results[-1] |= {f"{name} gradient": parameter.grad for name, parameter in layer.named_parameters()}
        expected, found = results
        assert list(found) == list(expected)
        for name, value in expected.items():
            assert found[name].dtype == value.dtype
            assert off(found[name], value) < ROUNDING[dtype], f"{name} of {plain}, {tuple(x.shape)}, draw {number}"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rate", [0.05, 0.2, 0.5, 0.9])
def test_dropout_drops_as_often_as_the_plain_one_and_scales_alike(rate, dtype):
    torch.manual_seed(0)
    x = torch.rand(100, 60, 50).add(1).to(dtype)
    count = x.numel()
    plain, fast = ReLUDropout(rate), speed_up(ReLUDropout(rate))
    for layer in (plain, fast):
        y = layer(x)
        dropped = (y == 0).sum().item()
        # five deviations of a binomial count
        assert abs(dropped - rate * count) < 5 * (rate * (1 - rate) * count) ** 0.5
        kept = y != 0
        torch.testing.assert_close(y[kept], (x.float() / (1 - rate)).to(dtype)[kept], rtol=1e-2, atol=0)
        # of a column as of all: no channel and no sample is favoured
        for axis in ((0, 1), (0, 2), (1, 2)):
            shares = (y == 0).double().mean(axis)
            spread = (rate * (1 - rate) * len(shares) / count) ** 0.5
            assert (shares - rate).abs().max() < 5 * spread


NETS = {
    "ribeiro": partial(Ribeiro, width=8, depth=3, kernel=7, dropout=0.0),
    "rajpurkar": partial(Rajpurkar, width=8, depth=6, kernel=7, dropout=0.0),
    "rajpurkar_original": RajpurkarOriginal,
    "ribeiro_original": RibeiroOriginal,
}


@pytest.mark.parametrize("name", NETS)
def test_a_net_gives_the_same_logits(name):
    torch.manual_seed(0)
    plain = NETS[name](12, 300, 4)
    fast = speed_up(copy.deepcopy(plain))
    x = torch.randn(4, 300, 12).transpose(1, 2)
    assert off(fast.eval()(x), plain.eval()(x)) < 1e-5
    with torch.autocast("cpu", torch.bfloat16):
        assert off(fast(x), plain(x)) < 0.1


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD])
@pytest.mark.parametrize("name", ["ribeiro", "rajpurkar"])
def test_a_training_without_dropout_has_the_same_losses(name, optimizer):
    torch.manual_seed(0)
    plain = NETS[name](3, 200, 4).double()
    fast = speed_up(copy.deepcopy(plain))
    x, targets = torch.randn(24, 200, 3).double().transpose(1, 2), torch.rand(24, 4).gt(0.5).double()
    build = partial(optimizer, lr=0.01)
    losses = []
    for net, update in ((plain, build(plain.parameters())), (fast, fused(build, "cpu")(fast.parameters()))):
        losses.append([])
        for step in range(12):
            rows = torch.arange(8) + 8 * (step % 3)
            update.zero_grad()
            loss = nn.functional.binary_cross_entropy_with_logits(net(x[rows]), targets[rows])
            loss.backward()
            if update.defaults.get("fused"):
                declare_contiguous(net.parameters())
            update.step()
            losses[-1].append(loss.item())
    expected, found = losses
    assert expected[-1] != pytest.approx(expected[0], rel=0.1)
    assert found == pytest.approx(expected, rel=1e-6)
