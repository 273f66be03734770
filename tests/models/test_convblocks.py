import copy
from typing import get_type_hints

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn

from ecgexp.errors import UserError
from ecgexp.models import ConvBlocks
from ecgexp.models.convblocks import ResidualAttention


def parameters(net):
    return sum(p.numel() for p in net.parameters() if p.requires_grad)


def conv(inputs, outputs):
    return 9 * inputs * outputs + outputs


@pytest.mark.parametrize(
    ("layers", "pools", "places"), [(1, 1, 8 * 6), (2, 1, 8 * 6), (3, 2, 4 * 3), (4, 2, 4 * 3), (5, 3, 2 * 2)]
)
@pytest.mark.parametrize("attention", [True, False])
def test_parameters_of_the_papers_net(layers, pools, places, attention):
    hidden = 64
    net = ConvBlocks(leads=1, samples=192, outputs=5, hidden=hidden, layers=layers, attention=attention)
    convolutions = conv(1, hidden) + conv(hidden, hidden) + layers * 2 * conv(hidden, hidden)
    attended = pools * (4 * (hidden * hidden + hidden) + 1) if attention else 0  # query, key, value, output; w
    dense = places * hidden * hidden + hidden + hidden * 5 + 5
    assert parameters(net) == convolutions + attended + dense
    assert sum(isinstance(m, nn.MaxPool2d) for m in net.modules()) == pools
    assert net(torch.randn(2, 1, 192)).shape == (2, 5)


def test_pooling_and_attention_follow_every_second_block():
    net = ConvBlocks(1, 192, 5, hidden=8, layers=3)
    kinds = [type(part).__name__ for part in net.blocks]
    second = ["Sequential", "Sequential", "MaxPool2d", "ResidualAttention"]
    assert kinds == 2 * second


@pytest.mark.parametrize(
    ("leads", "samples", "columns", "shape"),
    [(1, 192, 12, (1, 16, 12)), (12, 1000, 12, (12, 84, 12)), (2, 187, 17, (2, 11, 17)), (1, 5, 12, (1, 1, 12))],
)
def test_samples_become_lines_of_a_picture_and_leads_its_channels(leads, samples, columns, shape):
    net = ConvBlocks(leads, samples, 3, hidden=8, columns=columns)
    seen = []
    net.blocks.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    x = torch.randn(2, samples, leads).transpose(1, 2)
    net(x)
    assert tuple(seen[0].shape[1:]) == shape
    for lead in range(leads):
        for at in range(0, samples, 7):
            assert seen[0][1, lead, at // columns, at % columns] == x[1, lead, at]
    assert not seen[0].flatten(2)[..., samples:].any()


def relu(x):
    return np.maximum(x, 0)


def slow_conv(x, layer):
    """3 x 3 with a border of zeros, on (channels, rows, columns)."""
    weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1)))
    rows, columns = x.shape[1:]
    parts = [
        np.einsum("oi,irc->orc", weight[:, :, i, j], padded[:, i : i + rows, j : j + columns])
        for i in range(3)
        for j in range(3)
    ]
    return sum(parts) + bias[:, None, None]


def slow_pool(x):
    rows, columns = (-(-side // 2) for side in x.shape[1:])
    out = np.empty((len(x), rows, columns))
    for i in range(rows):
        for j in range(columns):
            out[:, i, j] = x[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].max(axis=(1, 2))
    return out


def slow_attention(x, block):
    """Scaled dot products of each head's share of the channels, one place of the picture after another."""
    attention, heads = block.attention, block.attention.num_heads
    channels, places = x.shape[0], x.reshape(len(x), -1).T
    weight, bias = attention.in_proj_weight.detach().numpy(), attention.in_proj_bias.detach().numpy()
    query, key, value = (
        places @ matrix.T + offset for matrix, offset in zip(np.split(weight, 3), np.split(bias, 3), strict=True)
    )
    size, out = channels // heads, np.empty_like(places)
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        for place in range(len(places)):
            scores = key[:, part] @ query[place, part] / np.sqrt(size)
            share = np.exp(scores - scores.max())
            out[place, part] = share @ value[:, part] / share.sum()
    out = out @ attention.out_proj.weight.detach().numpy().T + attention.out_proj.bias.detach().numpy()
    return x + block.weight.item() * out.T.reshape(x.shape)


@pytest.mark.parametrize("samples", [192, 100])
def test_it_computes_what_is_written_out_with_numpy(samples):
    torch.manual_seed(0)
    net = ConvBlocks(2, samples, 3, hidden=8, layers=3, heads=4, activation="leaky_relu").double().eval()
    for part in net.modules():
        if isinstance(part, ResidualAttention):
            nn.init.constant_(part.weight, 0.7)
            nn.init.normal_(part.attention.in_proj_bias)
            nn.init.normal_(part.attention.out_proj.bias)
    x = torch.randn(2, samples, 2, dtype=torch.float64).transpose(1, 2)
    expected = []
    for record in x.numpy():
        rows = -(-samples // 12)
        picture = np.pad(record, ((0, 0), (0, rows * 12 - samples))).reshape(2, rows, 12)
        for part in net.blocks:
            if isinstance(part, ResidualAttention):
                picture = slow_attention(picture, part)
            elif isinstance(part, nn.MaxPool2d):
                picture = slow_pool(picture)
            else:
                picture = relu(slow_conv(relu(slow_conv(picture, part[0])), part[2]))
        dense = net.hidden.weight.detach().numpy() @ picture.reshape(-1) + net.hidden.bias.detach().numpy()
        dense = np.where(dense > 0, dense, 0.01 * dense)
        expected.append(net.head.weight.detach().numpy() @ dense + net.head.bias.detach().numpy())
    np.testing.assert_allclose(net(x).detach().numpy(), expected, atol=1e-10)


def test_attention_begins_as_nothing_and_is_learned():
    torch.manual_seed(0)
    net = ConvBlocks(1, 192, 5, hidden=16)
    (attention,) = (part for part in net.modules() if isinstance(part, ResidualAttention))
    picture = torch.randn(2, 16, 4, 3)
    assert torch.equal(attention(picture), picture)
    net(torch.randn(4, 1, 192)).square().sum().backward()
    assert attention.weight.grad.abs() > 0
    nn.init.ones_(attention.weight)
    net(torch.randn(4, 1, 192)).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for name, p in net.named_parameters() if p.dim() > 1)


@pytest.mark.parametrize(("name", "kind"), [("relu", nn.ReLU), ("gelu", nn.GELU), ("leaky_relu", nn.LeakyReLU)])
def test_the_activation_is_that_of_the_dense_layers(name, kind):
    net = ConvBlocks(1, 48, 2, hidden=8, activation=name)
    assert isinstance(net.activation, kind)
    assert sum(isinstance(part, nn.ReLU) for part in net.blocks.modules()) == 4


def test_the_seed_decides():
    def net():
        torch.manual_seed(3)
        return ConvBlocks(1, 192, 5, hidden=16)

    x = torch.randn(3, 1, 192)
    assert torch.equal(net()(x), net()(x))


def test_hidden_sizes_that_the_heads_do_not_divide_are_refused():
    message = r"'model\.hidden' is 60, which model\.heads=8 cannot share equally: take 56 or 64\.$"
    with pytest.raises(UserError, match=message):
        ConvBlocks(hidden=60)
    with pytest.raises(UserError, match=r"take 8\.$"):
        ConvBlocks(hidden=5)
    ConvBlocks(1, 48, hidden=60, attention=False)
    ConvBlocks(1, 48, hidden=60, heads=6)


def test_annotations_refuse_impossible_arguments():
    hints = get_type_hints(ConvBlocks.__init__, include_extras=True)
    assert list(hints)[:3] == ["leads", "samples", "outputs"]
    for name in ("hidden", "layers", "heads", "columns"):
        for value in (0, -1, 2.5, "2", True):
            with pytest.raises(ValidationError):
                TypeAdapter(hints[name]).validate_python(value)
    with pytest.raises(ValidationError):
        TypeAdapter(hints["activation"]).validate_python("swish")


@pytest.mark.slow
def test_a_handful_of_beats_can_be_overfitted():
    torch.manual_seed(0)
    net = ConvBlocks(1, 192, 5, hidden=16, activation="gelu")
    x, y = torch.rand(10, 1, 192), torch.arange(10) % 5
    before = copy.deepcopy(net.state_dict())
    optimizer = torch.optim.Adam(net.parameters(), lr=0.003)
    for _ in range(150):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05
    assert all(not torch.equal(before[name], value) for name, value in net.state_dict().items())
