"""How the faster layers save time; test_agreement and test_layers compare their results with the plain ones."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from ecgexp.fast import speed_up
from ecgexp.models import Ribeiro
from ecgexp.models.layers import BatchNorm, Decimate, SameConv, SameMaxPool


def test_outside_training_a_convolution_has_second_derivatives():
    conv = speed_up(SameConv(2, 3, 4)).double().eval()
    assert torch.autograd.gradgradcheck(conv, torch.randn(1, 2, 6, dtype=torch.float64, requires_grad=True))


KINDS = {
    torch.ops.aten.convolution.default: "input",
    torch.ops.aten.convolution_backward.default: "weight",
    torch.ops.aten.mm.default: "product",
}


class Calls(TorchDispatchMode):
    """The shapes of what each gradient of a convolution, and each product of matrices, is computed of."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function in KINDS:
            self.seen.append((KINDS[function], tuple(args[0].shape)))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("batch", "samples", "precision", "expected"),
    [
        (4, 512, torch.bfloat16, ("product", (8, 4 * 512))),
        (5, 512, torch.bfloat16, ("weight", (5, 8, 1, 512))),
        (4, 512, torch.float32, ("weight", (4, 8, 1, 512))),
        (4, 1000, torch.float32, ("weight", (4 * 2, 8, 1, 500))),
        (4, 1000, torch.bfloat16, ("weight", (4 * 2, 8, 1, 500))),
    ],
)
def test_each_gradient_is_computed_once_in_the_fastest_way_and_only_where_it_is_wanted(
    batch, samples, precision, expected
):
    conv, x = speed_up(SameConv(4, 8, 16)), torch.randn(batch, 4, samples, requires_grad=True)
    by_input = ("input", (batch, 8, 1, samples))
    for wanted, frozen in (([by_input, expected], False), ([by_input], True)):
        conv.weight.requires_grad_(not frozen)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
            y = conv(x)
        with Calls() as calls:
            y.sum().backward()
        assert calls.seen == wanted


@pytest.mark.parametrize(
    "layer", [SameConv(2, 4, 16), SameConv(2, 4, 16, 4), SameMaxPool(4), BatchNorm(2), Decimate(2)]
)
def test_signals_stay_in_the_layout_of_the_data(layer):
    x = torch.randn(3, 250, 2).transpose(1, 2).requires_grad_()
    y = speed_up(layer)(x)
    assert y.stride(1) == 1
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert gradient.stride(1) == 1


def test_only_our_own_layers_are_sped_up_wherever_they_are():
    class Own(SameConv):
        pass

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = nn.ModuleList([nn.Sequential(SameConv(2, 3, 4), nn.Conv1d(3, 3, 4)), Own(3, 3, 4)])

    net = Net()
    net.parts[0][0].weight.requires_grad_(False)
    before = list(net.parameters())
    assert speed_up(net) is net
    assert [type(layer).__name__ for layer in (*net.parts[0], net.parts[1])] == ["FastSameConv", "Conv1d", "Own"]
    assert all(one is other for one, other in zip(before, net.parameters(), strict=True))
    assert not net.parts[0][0].weight.requires_grad
    assert speed_up(net) is net


def test_weights_of_either_side_fit_the_other():
    torch.manual_seed(0)
    plain, fast = Ribeiro(2, 64, 3, width=4, depth=2), speed_up(Ribeiro(2, 64, 3, width=4, depth=2))
    assert list(plain.state_dict()) == list(fast.state_dict())
    fast.load_state_dict(plain.state_dict())
    stride = fast.stem[0].weight.stride()
    plain.load_state_dict(fast.state_dict())
    assert stride[1] == 1 and plain.stem[0].weight.is_contiguous()
    torch.testing.assert_close(fast.state_dict(), plain.state_dict(), rtol=0, atol=0, check_stride=False)
