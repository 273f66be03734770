from typing import get_type_hints

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn

from ecgexp.errors import UserError
from ecgexp.models import Recurrent

CELLS = ("gru", "lstm")


def parameters(net):
    return sum(p.numel() for p in net.parameters() if p.requires_grad)


@pytest.mark.parametrize(("cell", "gates"), [("gru", 3), ("lstm", 4)])
@pytest.mark.parametrize(("leads", "hidden", "layers"), [(1, 168, 2), (12, 64, 1), (1, 8, 2)])
def test_parameters(cell, gates, leads, hidden, layers):
    net = Recurrent(leads, 192, 5, cell=cell, hidden=hidden, layers=layers)
    inputs = [leads] + [hidden] * (layers - 1)
    recurrent = sum(gates * (hidden * size + hidden * hidden + 2 * hidden) for size in inputs)
    assert parameters(net) == recurrent + 4 * (hidden * hidden + hidden) + hidden * 5 + 5


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def weights(net, layer):
    return (
        getattr(net.recurrent, f"{name}_l{layer}").detach().numpy()
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )


def slow_gru(steps, net, layer):
    w_in, w_state, b_in, b_state = weights(net, layer)
    state, out = np.zeros(w_state.shape[1]), []
    for step in steps:
        reset_i, update_i, new_i = np.split(w_in @ step + b_in, 3)
        reset_s, update_s, new_s = np.split(w_state @ state + b_state, 3)
        update = sigmoid(update_i + update_s)
        state = (1 - update) * np.tanh(new_i + sigmoid(reset_i + reset_s) * new_s) + update * state
        out.append(state)
    return np.array(out)


def slow_lstm(steps, net, layer):
    w_in, w_state, b_in, b_state = weights(net, layer)
    state = memory = np.zeros(w_state.shape[1])
    out = []
    for step in steps:
        enter, forget, new, leave = np.split(w_in @ step + b_in + w_state @ state + b_state, 4)
        memory = sigmoid(forget) * memory + sigmoid(enter) * np.tanh(new)
        state = sigmoid(leave) * np.tanh(memory)
        out.append(state)
    return np.array(out)


def slow_attention(steps, attention):
    """Of every step to all, one head after another."""
    size, heads = steps.shape[1], attention.num_heads
    weight, bias = attention.in_proj_weight.detach().numpy(), attention.in_proj_bias.detach().numpy()
    query, key, value = (
        (steps @ matrix.T + offset).reshape(-1, heads, size // heads)
        for matrix, offset in zip(np.split(weight, 3), np.split(bias, 3), strict=True)
    )
    scores = np.einsum("qhd,khd->hqk", query, key) / np.sqrt(size // heads)
    shares = np.exp(scores) / np.exp(scores).sum(axis=2, keepdims=True)
    mixed = np.einsum("hqk,khd->qhd", shares, value).reshape(steps.shape)
    return mixed @ attention.out_proj.weight.detach().numpy().T + attention.out_proj.bias.detach().numpy()


@pytest.mark.parametrize(("cell", "slow"), [("gru", slow_gru), ("lstm", slow_lstm)])
@pytest.mark.parametrize("layers", [1, 2])
def test_it_computes_what_is_written_out_with_numpy(cell, slow, layers):
    torch.manual_seed(0)
    net = Recurrent(3, 20, 4, cell=cell, hidden=8, layers=layers, heads=2).double().eval()
    nn.init.normal_(net.attention.in_proj_bias)
    nn.init.normal_(net.attention.out_proj.bias)
    x = torch.randn(2, 20, 3, dtype=torch.float64).transpose(1, 2)
    expected = []
    for record in x.numpy():
        steps = record.T
        for layer in range(layers):
            steps = slow(steps, net, layer)
        last = slow_attention(steps, net.attention)[-1]
        expected.append(net.head.weight.detach().numpy() @ last + net.head.bias.detach().numpy())
    np.testing.assert_allclose(net(x).detach().numpy(), expected, atol=1e-10)


@pytest.mark.parametrize("cell", CELLS)
def test_dropout_and_attention_dropout_act_in_training_only(cell):
    x = torch.randn(4, 1, 50)
    for rates in ({"dropout": 0.5, "attention_dropout": 0.0}, {"dropout": 0.0, "attention_dropout": 0.5}):
        net = Recurrent(1, 50, 3, cell=cell, hidden=16, **rates)
        assert not torch.equal(net(x), net(x))
        net.eval()
        assert torch.equal(net(x), net(x))
    silent = Recurrent(1, 50, 3, cell=cell, hidden=16, dropout=0.0, attention_dropout=0.0)
    assert torch.equal(silent(x), silent(x))


@pytest.mark.filterwarnings("error")
def test_a_net_of_one_layer_has_nothing_to_drop_between_layers():
    net = Recurrent(1, 50, 3, hidden=16, layers=1, dropout=0.5, attention_dropout=0.0)
    x = torch.randn(2, 1, 50)
    assert torch.equal(net(x), net(x))


def test_every_step_matters():
    torch.manual_seed(0)
    net = Recurrent(1, 100, 2, hidden=16).eval()
    x = torch.randn(1, 1, 100, requires_grad=True)
    net(x).sum().backward()
    assert (x.grad != 0).all()


def test_hidden_sizes_that_the_heads_do_not_divide_are_refused():
    message = r"'model\.hidden' is 30, which model\.heads=4 cannot share equally: take 28 or 32\.$"
    with pytest.raises(UserError, match=message):
        Recurrent(hidden=30)
    Recurrent(hidden=30, heads=5)


def test_annotations_refuse_impossible_arguments():
    hints = get_type_hints(Recurrent.__init__, include_extras=True)
    assert list(hints)[:3] == ["leads", "samples", "outputs"]
    impossible = dict.fromkeys(("hidden", "layers", "heads"), (0, -1, 2.5, "2", True))
    impossible |= dict.fromkeys(("dropout", "attention_dropout"), (-0.1, 1.0, "much")) | {"cell": ("rnn", None)}
    for name, values in impossible.items():
        for value in values:
            with pytest.raises(ValidationError):
                TypeAdapter(hints[name]).validate_python(value)


@pytest.mark.slow
@pytest.mark.parametrize("cell", CELLS)
def test_a_handful_of_beats_can_be_overfitted(cell):
    torch.manual_seed(0)
    net = Recurrent(1, 64, 5, cell=cell, hidden=32, dropout=0.0, attention_dropout=0.0)
    y = torch.arange(10) % 5
    x = torch.sin(torch.arange(64) * (1 + y[:, None]) / 20)[:, None] + 0.1 * torch.randn(10, 1, 64)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(150):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1
