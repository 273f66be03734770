from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from ecgexp.datasets import SignalDataset, Split
from ecgexp.errors import UserError
from ecgexp.training.network import Network, check_layers, restored


class Echo(nn.Module):
    def forward(self, x):
        return x


class Few(SignalDataset):
    """Training records in rows 0, 2, 4 of the store; the others would move the statistics far away."""

    label_names = ("a",)
    lead_names = ("I", "II")
    sampling_rate, samples = 10.0, 40

    def __init__(self, normalize):
        self.normalize = normalize
        rng = np.random.default_rng(0)
        self.signals = rng.normal([0.5, -2], [1, 3], size=(6, 40, 2)).astype(np.float32)
        self.signals[1::2] += 1000

    def load(self, split):
        rows = np.array([0, 2, 4] if split == "train" else [1, 3, 5])
        ids = rows.astype(str)
        return Split({"signal": self.signals}, rows, np.ones((3, 1), np.uint8), ids, ids)

    def training(self):
        return torch.from_numpy(self.signals[::2]).transpose(1, 2)


def test_without_normalisation_signals_enter_the_net_as_they_are():
    dataset = Few("none")
    assert dataset.normalization() == {}
    signals = dataset.training()
    torch.testing.assert_close(Network(Echo(), None)(signals), signals, rtol=0, atol=0)


def test_per_lead_each_lead_of_the_training_split_gets_mean_0_and_deviation_1():
    dataset = Few("per_lead")
    out = Network(Echo(), dataset.normalization())(dataset.training())
    torch.testing.assert_close(out.mean(dim=(0, 2)), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(out.std(dim=(0, 2), correction=0), torch.ones(2), atol=1e-4, rtol=0)


def test_scalar_normalisation_moves_all_leads_alike():
    dataset = Few("scalar")
    signals = dataset.training()
    out = Network(Echo(), dataset.normalization())(signals)
    assert out.mean().item() == pytest.approx(0, abs=1e-5)
    assert out.std(correction=0).item() == pytest.approx(1, abs=1e-4)
    expected = (signals - signals.mean()) / signals.std(correction=0)
    torch.testing.assert_close(out, expected, atol=1e-4, rtol=1e-4)


def test_the_statistics_are_saved_with_the_weights():
    statistics = (np.array([[1.0], [2.0]], np.float32), np.array([[3.0], [4.0]], np.float32))
    state = Network(nn.Identity(), {"signal": statistics}).state_dict()
    again = restored(nn.Identity(), state)
    out = again(torch.tensor([[[4.0], [10.0]]]))
    torch.testing.assert_close(out, torch.tensor([[[1.0], [2.0]]]))


class WrongInBfloat16(nn.Linear):
    def forward(self, x, *, scale=None):
        y = super().forward(x if scale is None else x * scale)
        return y.roll(1, -1) if torch.is_autocast_enabled("cpu") else y


class WrongGRU(nn.GRU):
    def forward(self, x):
        outputs, state = super().forward(x)
        return (outputs.flip(-1) if torch.is_autocast_enabled("cpu") else outputs), state


class Scaled(nn.Sequential):
    def forward(self, x):
        return self[1](self[0](x), scale=torch.tensor(2.0))


def test_a_layer_that_is_computed_wrongly_in_reduced_precision_is_named():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 8), nn.SiLU(inplace=True), Scaled(nn.Linear(8, 8), WrongInBfloat16(8, 8)))
    with pytest.raises(UserError, match=r"Layer '2\.1' \(WrongInBfloat16\) .* 1\d\d% off .* Take precision=32\."):
        check_layers(net, torch.randn(4, 8), torch.autocast("cpu", torch.bfloat16))
    net[2] = nn.GRU(8, 8)
    check_layers(net, torch.randn(4, 8), torch.autocast("cpu", torch.bfloat16))
    net[2] = WrongGRU(8, 8)
    with pytest.raises(UserError, match=r"Layer '2' \(WrongGRU\)"):
        check_layers(net, torch.randn(4, 8), torch.autocast("cpu", torch.bfloat16))
    assert all(layer.training and not layer._forward_hooks for layer in net.modules())
