"""What a net takes of trained weights, and what training leaves as it is."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from ecgexp.errors import UserError
from ecgexp.models import CNN, Ribeiro
from ecgexp.targets import MultiLabel
from ecgexp.training.module import TrainingModule
from ecgexp.training.transfer import Start, fit_weights, matches, weights_hash


class Net(nn.Module):
    """A convolution with batch normalisation, of any length; a dense layer that has one; and weights of its own."""

    def __init__(self, leads: int = 2, samples: int = 10, outputs: int = 3) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv1d(leads, 4, 3, padding=1), nn.BatchNorm1d(4), nn.Dropout(0.5))
        self.scale = nn.Parameter(torch.ones(4, 1))
        self.head = nn.Linear(4 * samples, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head((self.scale * self.stem(x)).flatten(1))


def trained(**shape: int) -> dict[str, Tensor]:
    """Weights unlike those that any net begins with."""
    torch.manual_seed(1)
    return {
        name: torch.randn_like(value) if value.is_floating_point() else value + 7
        for name, value in Net(**shape).state_dict().items()
    }


CONV = ("stem.0.weight", "stem.0.bias")
NORM = tuple(f"stem.1.{name}" for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"))
HEAD = ("head.weight", "head.bias")


@pytest.mark.parametrize(
    ("here", "reset", "anew"),
    [
        ({}, [], ()),
        ({"outputs": 5}, [], HEAD),
        ({"samples": 20}, [], HEAD),  # its bias alone would fit
        ({"leads": 3}, [], CONV),  # and so would this one's
        ({"leads": 1, "samples": 7}, [], (*CONV, *HEAD)),
        ({}, ["head"], HEAD),
        ({}, ["stem.1.running_mean", "scale"], (*NORM, "scale")),
        ({"outputs": 5}, ["stem"], (*CONV, *NORM, *HEAD)),
    ],
)
def test_layers_that_fit_are_loaded_whole_and_others_keep_what_they_began_with(here, reset, anew):
    net, weights = Net(**here), trained()
    before = copy.deepcopy(net.state_dict())
    fit_weights(net, weights, reset=reset).start.apply(net)
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name] if name in anew else weights[name]), name


def test_what_is_not_loaded_is_listed_with_the_reason():
    weights = {**trained(outputs=71), "attention.query": torch.zeros(2)}
    del weights["scale"], weights["stem.1.bias"]
    fit = fit_weights(Net(), weights)
    assert fit.loaded == ("stem.0",)
    assert fit.anew == {
        "the net itself": "the source has no such layer",
        "stem.1": "the source has no stem.1.bias",
        "head": "head.weight is 3 x 40 here and 71 x 40 in the source",
    }
    assert fit.unused == ("stem.1", "head", "attention")
    assert fit_weights(Net(), weights, reset=["head"]).anew["head"] == "init.reset names it"


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("stem", (*CONV, *NORM)),
        ("stem.1", NORM),
        ("ste", ()),
        ("ste*", (*CONV, *NORM)),
        ("*.bias", ("stem.0.bias", "stem.1.bias", "head.bias")),
        ("head.weight", ("head.weight",)),
        ("stem.?", (*CONV, *NORM)),
        ("*", (*CONV, *NORM, *HEAD, "scale")),
    ],
)
def test_a_pattern_stands_for_all_below_what_it_names(pattern, names):
    assert {name for name in Net().state_dict() if matches(pattern, name)} == set(names)


def steps(net: nn.Module, start: Start, count: int = 5) -> TrainingModule:
    """Train as Lightning does, which goes into evaluation and back between epochs."""
    start.apply(net)
    module = TrainingModule(
        net, binary_cross_entropy_with_logits, lambda weights: torch.optim.AdamW(weights, lr=0.1, weight_decay=0.5),
        None, "epoch", "val/loss", MultiLabel("ABC"), None, start.still(net),
    )  # fmt: skip
    optimizer = module.configure_optimizers()
    assert optimizer is not None
    generator = torch.Generator().manual_seed(0)
    for _ in range(count):
        loss = module.loss(module(torch.randn(8, 2, 10, generator=generator)), torch.ones(8, 3))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        module.eval()
        module.train()
    return module


@pytest.mark.parametrize(
    ("freeze", "frozen"),
    [
        ([], ()),
        (["stem"], (*CONV, *NORM)),
        (["stem.1"], NORM),
        (["*.weight", "*.bias"], (*CONV, *NORM, *HEAD)),  # all weights of the normalisation, and so its statistics
        (["*.weight"], ("stem.0.weight", "stem.1.weight", "head.weight")),
        (["stem.1.running_*"], ("stem.1.running_mean", "stem.1.running_var", "stem.1.num_batches_tracked")),
    ],
)
def test_what_is_frozen_stays_equal_to_the_bit_with_its_statistics_and_all_else_is_trained(freeze, frozen):
    net, weights = Net(), trained()
    weights["stem.1.running_var"].abs_()
    start = fit_weights(net, weights, freeze).start
    steps(net, start)
    unchanged = {name for name, value in net.state_dict().items() if torch.equal(value, weights[name])}
    assert unchanged == set(frozen)


def test_dropout_in_a_frozen_part_stays_on_and_batch_normalisation_does_not():
    net = Net()
    module = steps(net, fit_weights(net, trained(), ["stem"]).start)
    assert [layer.training for layer in net.stem] == [True, False, True]
    module.eval()
    assert not any(layer.training for layer in net.modules())
    module.train()
    assert [layer.training for layer in net.stem] == [True, False, True]


def test_the_optimizer_has_what_is_trained_and_nothing_else_and_the_count_is_its():
    net = Net()
    fit = fit_weights(net, trained(), ["stem", "scale"])
    optimizer = steps(net, fit.start).configure_optimizers()
    assert optimizer is not None
    held = [weight for group in optimizer.param_groups for weight in group["params"]]
    assert held == [net.head.weight, net.head.bias]
    assert (fit.trained, fit.parameters) == (40 * 3 + 3, 2 * 4 * 3 + 4 + 2 * 4 + 4 + 40 * 3 + 3)
    assert net.stem[0].weight.grad is None


def test_only_what_is_loaded_is_frozen():
    net = Net(outputs=5)
    fit = fit_weights(net, trained(), ["*"])
    assert set(fit.frozen) == {*CONV, *NORM, "scale"}
    assert fit.frozen_layers == ("the net itself", "stem.0", "stem.1")
    assert fit.trained == 40 * 5 + 5


@pytest.mark.parametrize(
    ("here", "keys", "words"),
    [
        ({}, {"freeze": ["conv"]}, "'init.freeze' names 'conv', .* its parts are scale, stem, head, stem.0, stem.1."),
        ({}, {"reset": ["stem", "tail"]}, "'init.reset' names 'tail', which is no part"),
        ({}, {"freeze": ["*"]}, r"'init.freeze' is \[\*\], which leaves nothing to train"),
        ({"outputs": 5}, {"freeze": ["stem", "head"]}, "'head', of which nothing is loaded.*head starts anew, since"),
        ({}, {"freeze": ["stem"], "reset": ["stem"]}, "'stem', of which nothing is loaded.*init.reset names it"),
        ({}, {"reset": ["*"]}, "Nothing of these weights can be loaded"),
    ],
)
def test_what_would_have_no_effect_or_leave_random_weights_is_refused(here, keys, words):
    with pytest.raises(UserError, match=words):
        fit_weights(Net(**here), trained(), **keys)


def test_images_of_another_size_have_the_same_convolution_and_another_dense_layer():
    small, large = CNN(3, 28, 28, 8, filters=4), CNN(3, 64, 64, 8, filters=4)
    fit = fit_weights(large, small.state_dict(), ["conv"])
    fit.start.apply(large)
    assert torch.equal(large.conv.weight, small.conv.weight)
    assert fit.anew == {"head": "head.weight is 8 x 4096 here and 8 x 784 in the source"}
    assert fit.trained == 8 * 4 * 32 * 32 + 8


def test_weights_of_another_net_are_refused_with_the_layers_of_both():
    with pytest.raises(UserError, match=r"anew in stem.0, stem.1.*, blocks.*source are the net itself, stem.0, stem.1"):
        fit_weights(Ribeiro(leads=3, samples=64, width=8, depth=1), {**trained()})


def test_the_hash_is_of_names_types_shapes_and_values_alone():
    weights = trained()
    known = weights_hash(weights)
    turned = {name: weights[name] for name in reversed(weights)}
    turned["stem.0.weight"] = turned["stem.0.weight"].transpose(0, 2).contiguous().transpose(0, 2)
    assert weights_hash(turned) == known
    changes = [
        {"scale": weights["scale"] + 1e-7 + 1},
        {"scale": weights["scale"].double()},
        {"scale": weights["scale"].flatten()},
        {"other": weights["scale"]},
    ]
    assert len({known, *(weights_hash({**weights, **change}) for change in changes)}) == 5
    assert len(known) == 16
    assert weights_hash({"bfloat": weights["scale"].bfloat16()})
