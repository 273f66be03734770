import math

import numpy as np
import pytest
import torch
from torch import nn

from ecgexp.models import Constant, Linear
from ecgexp.targets import MultiClass, MultiLabel


def test_constant_answers_the_prevalences():
    targets = torch.tensor([[1, 0, 1, 0], [0, 0, 1, 1], [0, 0, 1, 1], [1, 0, 1, 1]], dtype=torch.uint8)
    net = Constant(leads=2, samples=10, outputs=4)
    net.fit_prior(MultiLabel("abcd").prior(targets))
    logits = net(torch.randn(3, 2, 10))
    assert logits.shape == (3, 4)
    assert logits.isfinite().all()
    expected = [0.5, 0.0, 1.0, 0.75]
    for row in torch.sigmoid(logits):
        assert row.tolist() == pytest.approx(expected, abs=2e-6)
    assert logits[0, 3].item() == pytest.approx(math.log(3), rel=1e-6)
    assert list(net.parameters()) == []


def test_constant_answers_one_half_before_it_has_seen_labels():
    assert torch.sigmoid(Constant()(torch.zeros(1, 12, 1000))).tolist() == [[0.5] * 5]


def test_linear_starts_from_the_prevalences():
    targets = torch.tensor([[1, 0], [0, 0], [0, 1], [0, 0]])
    constant, linear = Constant(3, 40, 2), Linear(3, 40, 2)
    constant.fit_prior(MultiLabel("ab").prior(targets))
    linear.fit_prior(MultiLabel("ab").prior(targets))
    x = torch.randn(4, 3, 40)
    torch.testing.assert_close(linear(x), constant(x))


@pytest.mark.parametrize("net", [Constant, Linear])
def test_the_prevalences_of_classes_are_those_of_a_softmax(net):
    targets = torch.eye(3, dtype=torch.uint8)[[0, 0, 0, 0, 0, 2, 2, 2]]
    model = net(leads=2, samples=10, outputs=3)
    model.fit_prior(MultiClass("abc").prior(targets))
    for row in model(torch.randn(4, 2, 10)).softmax(dim=1):
        assert row.tolist() == pytest.approx([5 / 8, 0, 3 / 8], abs=2e-6)


def test_linear_sees_means_and_deviations_only():
    torch.manual_seed(0)
    net = Linear(leads=2, samples=50, outputs=3)
    nn.init.normal_(net.head.weight)
    x = torch.randn(6, 2, 50) * torch.rand(6, 2, 1) + torch.rand(6, 2, 1)
    net(x)
    net.eval()
    features = np.concatenate([x.numpy().mean(-1), x.numpy().std(-1)], axis=1)
    standard = (features - features.mean(0)) / np.sqrt(features.var(0) + 1e-3)
    expected = standard @ net.head.weight.detach().numpy().T + net.head.bias.detach().numpy()
    np.testing.assert_allclose(net(x).detach().numpy(), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(net(x.flip(-1)), net(x))


def test_linear_learns_what_the_deviation_of_a_lead_shows():
    torch.manual_seed(0)
    scale = torch.rand(400, 3, 1) * 0.3 + 0.05
    x = torch.randn(400, 3, 100) * scale
    y = (scale[:, 1] > 0.2).float()
    net = Linear(leads=3, samples=100, outputs=1)
    net.fit_prior(MultiLabel("a").prior(y))
    optimizer = torch.optim.Adam(net.parameters(), lr=0.03)
    for _ in range(100):
        optimizer.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(net(x), y).backward()
        optimizer.step()
    agreement = ((net.eval()(x) > 0) == (y > 0.5)).float().mean()
    assert agreement > 0.95
