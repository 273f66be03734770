import copy
import itertools
from typing import get_type_hints

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn

from ecgexp.errors import UserError
from ecgexp.fast import speed_up
from ecgexp.models import (
    Constant,
    ConvBlocks,
    Linear,
    Rajpurkar,
    RajpurkarOriginal,
    Recurrent,
    Ribeiro,
    RibeiroOriginal,
)
from ecgexp.models.convblocks import ResidualAttention
from ecgexp.training.network import check_layers

NETS = [Rajpurkar, RajpurkarOriginal, Ribeiro, RibeiroOriginal]
ALL = [*NETS, Linear, Constant]
SMALL = [
    lambda **shape: speed_up(Rajpurkar(**shape, width=4, depth=6, kernel=5)),
    lambda **shape: speed_up(Ribeiro(**shape, width=4, depth=2, kernel=5)),
    pytest.param(RajpurkarOriginal, marks=pytest.mark.slow),
    RibeiroOriginal,
    Linear,
    lambda **shape: ConvBlocks(**shape, hidden=8, layers=4),
    lambda **shape: ConvBlocks(**shape, hidden=6, layers=2, attention=False, columns=7),
    lambda **shape: Recurrent(**shape, hidden=8, layers=1),
    lambda **shape: Recurrent(**shape, cell="lstm", hidden=8),
    Constant,
]


def parameters(net):
    return sum(p.numel() for p in net.parameters() if p.requires_grad)


def statistics(net):
    return sum(b.numel() for name, b in net.named_buffers() if "running" in name)


def signals(batch, leads, samples):
    """As training gives them: a transposed view of samples-major storage."""
    return torch.randn(batch, samples, leads).transpose(1, 2)


def conv(inputs, outputs, kernel, bias=True):
    return inputs * outputs * kernel + (outputs if bias else 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("net", "trainable", "running"),
    [(Rajpurkar, 16_510_917, 10_368), (Ribeiro, 6_349_381, 3_712)],
)
def test_adapted_nets_have_the_papers_parameters(net, trainable, running):
    built = net()
    assert parameters(built) == trainable
    assert statistics(built) == running
    assert built(signals(2, 12, 1000)).shape == (2, 5)


@pytest.mark.slow
def test_original_rajpurkar_has_33_convolutions_and_one_dense_layer():
    net = RajpurkarOriginal()
    assert sum(isinstance(m, nn.Conv1d) for m in net.modules()) == 33
    assert sum(isinstance(m, nn.Linear) for m in net.modules()) == 1
    widths = [64] * 4 + [128] * 4 + [192] * 4 + [256] * 4
    inputs = [64, *widths[:-1]]
    convolutions = conv(1, 64, 16) + sum(conv(i, w, 16) + conv(w, w, 16) for i, w in zip(inputs, widths, strict=True))
    # one normalisation after the first convolution, two a block but for the first with one, one at the end
    normalised = 64 + sum(inputs[1:]) + sum(widths) + 256
    assert statistics(net) == 2 * normalised
    assert parameters(net) == convolutions + 2 * normalised + 256 * 14 + 14


@pytest.mark.slow
def test_original_rajpurkar_averages_one_prediction_per_256_samples():
    net = RajpurkarOriginal(leads=1, samples=2560, outputs=14).eval()
    x = torch.randn(2, 1, 2560)
    steps = net.step_logits(x)
    assert steps.shape == (2, 10, 14)
    torch.testing.assert_close(net(x), steps.mean(dim=1))
    assert net.step_logits(torch.randn(1, 1, 257)).shape == (1, 2, 14)


def test_original_ribeiro_has_the_published_layers():
    net = RibeiroOriginal()
    filters = [64, 128, 196, 256, 320]
    blocks = itertools.pairwise(filters)
    convolutions = conv(12, 64, 16, bias=False) + sum(
        conv(i, o, 16, bias=False) + conv(o, o, 16, bias=False) + conv(i, o, 1, bias=False) for i, o in blocks
    )
    normalised = 64 + 2 * sum(filters[1:])
    assert parameters(net) == convolutions + 2 * normalised + 16 * 320 * 6 + 6
    assert statistics(net) == 2 * normalised
    lengths = []
    for block in net.blocks:
        block.register_forward_hook(lambda _, __, output: lengths.append(tuple(output[0].shape[1:])))
    assert net.eval()(signals(1, 12, 4096)).shape == (1, 6)
    assert lengths == [(128, 1024), (196, 256), (256, 64), (320, 16)]


@pytest.mark.parametrize("build", SMALL)
@pytest.mark.parametrize(("leads", "samples", "outputs"), [(12, 1000, 5), (1, 997, 1), (3, 17, 4), (2, 1, 71)])
def test_any_shape_of_record_gives_one_logit_per_class(build, leads, samples, outputs):
    net = build(leads=leads, samples=samples, outputs=outputs)
    for batch in (1, 3):
        y = net(signals(batch, leads, samples))
        assert y.shape == (batch, outputs)
        assert y.isfinite().all()


@pytest.mark.parametrize("build", SMALL)
def test_a_record_does_not_depend_on_its_batch_or_memory_layout(build):
    net = build(leads=3, samples=101, outputs=2).eval()
    x = signals(4, 3, 101)
    torch.testing.assert_close(net(x)[1:2], net(x[1:2].contiguous()), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("width", [2, 3])
def test_width_depth_kernel_and_dropout_vary_the_nets(width):
    narrow = Ribeiro(width=width, depth=3, kernel=7, downsample=2, dropout=0.0)
    filters = [width, 2 * width, 3 * width, 4 * width]
    assert [block.main[0].weight.shape for block in narrow.blocks] == [
        (o, i, 7) for i, o in itertools.pairwise(filters)
    ]
    assert narrow.head.in_features == 125 * 4 * width
    deep = Rajpurkar(width=width, depth=9, kernel=3, hidden=8, dropout=0.5)
    assert [block.main[3].weight.shape[0] for block in deep.blocks] == [width] * 4 + [2 * width] * 4 + [3 * width]
    assert deep.hidden.in_features == 32 * 3 * width
    for net, rate in ((narrow, 0.0), (deep, 0.5)):
        rates = {m.p for m in net.blocks.modules() if isinstance(m, nn.Dropout)}
        assert rates == {rate}


@pytest.mark.slow
@pytest.mark.parametrize("net", [*NETS, ConvBlocks])
@pytest.mark.parametrize("leads", [2, 8, 12])
def test_no_layer_is_computed_wrongly_in_bfloat16(net, leads):
    torch.manual_seed(0)
    plain = net(leads=leads, samples=1000)
    for built in (plain, speed_up(plain)):
        check_layers(built, signals(2, leads, 1000), torch.autocast("cpu", torch.bfloat16))


@pytest.mark.slow
@pytest.mark.parametrize("net", NETS)
def test_dropout_acts_in_training_only(net):
    built = net(leads=2, samples=64, outputs=3)
    x = signals(2, 2, 64)
    assert not torch.equal(built(x), built(x))
    built.eval()
    assert torch.equal(built(x), built(x))


@pytest.mark.parametrize("build", SMALL[:-1])
def test_gradients_reach_every_parameter(build):
    torch.manual_seed(0)
    net = build(leads=3, samples=300, outputs=4)
    for attention in (m for m in net.modules() if isinstance(m, ResidualAttention)):
        nn.init.ones_(attention.weight)  # which begins at zero
    loss = nn.functional.binary_cross_entropy_with_logits(net(signals(4, 3, 300)), torch.eye(4))
    loss.backward()
    assert [name for name, p in net.named_parameters() if p.grad is None] == []
    # a bias just before batch normalisation is the one thing that changes nothing
    without = [name for name, p in net.named_parameters() if p.dim() > 1 and not p.grad.any()]
    assert without == []


@pytest.mark.parametrize("build", SMALL)
def test_state_dict_round_trip_through_a_file(build, tmp_path):
    shape = {"leads": 2, "samples": 100, "outputs": 3}
    net = build(**shape)
    net(signals(4, 2, 100))
    torch.save(net.state_dict(), tmp_path / "weights.pt")
    other = build(**shape)
    other.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    x = signals(3, 2, 100)
    assert torch.equal(net.eval()(x), other.eval()(x))


@pytest.mark.slow
@pytest.mark.parametrize("build", SMALL)
def test_export_with_any_batch_size(build, tmp_path):
    torch.manual_seed(0)
    net = build(leads=2, samples=60, outputs=3)
    if hasattr(net, "fit_prior"):
        net.fit_prior(torch.tensor([-0.7, 0.7, -0.7]))
    net(signals(8, 2, 60))
    net.eval()
    program = torch.export.export(net, (signals(4, 2, 60),), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.export.save(program, tmp_path / "net.pt2")
    loaded = torch.export.load(tmp_path / "net.pt2").module()
    for batch in (1, 4, 7):
        x = signals(batch, 2, 60)
        torch.testing.assert_close(loaded(x), net(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("build", SMALL)
def test_copies_are_independent(build):
    net = build(leads=2, samples=50, outputs=3)
    before = copy.deepcopy(net)
    net(signals(4, 2, 50))
    for name, value in before.state_dict().items():
        if "running" in name:
            assert not torch.equal(value, net.state_dict()[name])


@pytest.mark.parametrize("build", [*SMALL[:2], *SMALL[3:]])
@pytest.mark.parametrize("shape", [(2, 3, 100), (2, 2, 101), (2, 100)])
def test_signals_of_another_shape_are_refused(build, shape):
    net = build(leads=2, samples=100, outputs=3)
    with pytest.raises(UserError, match=r"\(batch, 2, 100\) but was given"):
        net(torch.zeros(shape))


@pytest.mark.slow
def test_original_rajpurkar_refuses_other_leads_only():
    net = RajpurkarOriginal(leads=2, samples=100, outputs=3).eval()
    assert net(torch.zeros(1, 2, 333)).shape == (1, 3)
    with pytest.raises(UserError, match=r"\(batch, 2, samples\) but was given \(1, 3, 333\)"):
        net(torch.zeros(1, 3, 333))


@pytest.mark.parametrize("net", ALL)
def test_annotations_refuse_impossible_arguments(net):
    hints = get_type_hints(net.__init__, include_extras=True)
    hints.pop("return")
    assert list(hints)[:3] == ["leads", "samples", "outputs"]
    for name, hint in hints.items():
        if hint is bool:
            continue
        adapter = TypeAdapter(hint)
        impossible = [-0.1, 1.0, "much"] if name == "dropout" else [0, -1, 2.5, "2", True]
        for value in impossible:
            with pytest.raises(ValidationError):
                adapter.validate_python(value)
        adapter.validate_python(0 if name == "dropout" else 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("net", "steps"),
    [
        (lambda **shape: Rajpurkar(**shape, width=8, dropout=0.0), 60),
        (lambda **shape: Ribeiro(**shape, width=8, dropout=0.0), 60),
        (RajpurkarOriginal, 25),
        (RibeiroOriginal, 25),
    ],
    ids=["rajpurkar", "ribeiro", "rajpurkar_original", "ribeiro_original"],
)
def test_a_handful_of_records_can_be_overfitted(net, steps):
    torch.manual_seed(0)
    built = net(leads=2, samples=256, outputs=3)
    x = signals(8, 2, 256)
    y = torch.tensor([[i & 1, (i >> 1) & 1, (i >> 2) & 1] for i in range(8)], dtype=torch.float32)
    optimizer = torch.optim.Adam(built.parameters(), lr=0.003)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = nn.functional.binary_cross_entropy_with_logits(built(x), y)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1
