"""A net that takes two inputs by name, from its configuration to its logits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from torch import nn

from ecgexp import CONF
from ecgexp.config.build import build
from ecgexp.config.resolvers import register_resolvers
from ecgexp.config.schema import check
from ecgexp.datasets import Input, SignalDataset, Split
from ecgexp.errors import UserError
from ecgexp.training.batches import GIGABYTE, Batches, Records
from ecgexp.training.fit import fit, load, predict
from ecgexp.training.network import Network, check_takes, restored

CPU = torch.device("cpu")


class SignalAndTabular(SignalDataset):
    """Two labels: one is in the size of the signal, the other in the first of three features, bytes from 0 to 255."""

    label_names, lead_names = ("loud", "old"), ("I", "II")
    sampling_rate, samples = 50.0, 100

    @property
    def inputs(self):
        return (*super().inputs, Input("tabular", ("feature",), (3,), normalize_over=()))

    def load(self, split):
        rng, count = np.random.default_rng(("train", "val", "test").index(split)), 64
        targets = rng.integers(0, 2, (count, 2)).astype(np.uint8)
        signals = (rng.normal(size=(count, 100, 2)) * (1 + 3 * targets[:, :1, None])).astype(np.float32)
        tabular = rng.integers(0, 100, (count, 3)).astype(np.uint8)
        tabular[:, 0] += 100 * targets[:, 1]
        ids = np.array([f"{split}-{number}" for number in range(count)])
        return Split({"signal": signals, "tabular": tabular}, np.arange(count), targets, ids, ids)


class Fusion(nn.Module):
    """Logistic regression on the deviation of each lead and on the features."""

    def __init__(self, leads: int, samples: int, features: int, outputs: int) -> None:
        super().__init__()
        self.samples, self.head = samples, nn.Linear(leads + features, outputs)

    def forward(self, tabular, signal):
        assert signal.shape[2] == self.samples and tabular.dtype == signal.dtype == torch.float32
        return self.head(torch.cat([signal.std(dim=2), tabular], dim=1))


class Misnamed(Fusion):
    def forward(self, signal, features):
        return super().forward(features, signal)


def config(**dataset) -> DictConfig:
    register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        settings = ["max_epochs=10", "batch_size=8", "lr=0.1", "trainer=cpu", "trainer.threads=1", "monitor=val/loss"]
        cfg = compose("config", settings)
    own = {"_target_": f"{__name__}.SignalAndTabular", "leads": 2, "samples": 100, "features": 3}
    own["label_names"] = list(SignalAndTabular.label_names)
    net = {key: f"${{dataset.{key}}}" for key in ("leads", "samples", "features")}
    OmegaConf.set_struct(cfg, False)
    cfg.dataset, cfg.model = {**own, **dataset}, {"_target_": f"{__name__}.Fusion", **net, "outputs": 2}
    return cfg


@pytest.fixture
def trained(tmp_path):
    cfg = config()
    check(cfg)
    parts = build(cfg)
    return fit(cfg, parts, load(cfg, parts), scratch=tmp_path)


def test_a_net_that_takes_two_inputs_by_name_learns_from_both(trained):
    found = predict(trained, "val")
    assert ((found.probabilities > 0.5) == found.targets).mean(axis=0).min() > 0.9
    assert trained.history[-1]["val/loss"] < trained.history[0]["val/loss"]


def test_its_logits_are_those_of_the_formula_on_normalised_inputs(trained):
    train, val = trained.data.splits["train"], trained.data.splits["val"]
    mean, std = (getattr(train.inputs["tabular"].astype(float), what)(axis=0) for what in ("mean", "std"))
    features = [val.inputs["signal"].std(axis=1, ddof=1), (val.inputs["tabular"] - mean) / std]
    weight, bias = (parameter.detach().double().numpy() for parameter in trained.network.net.head.parameters())
    expected = np.concatenate(features, axis=1) @ weight.T + bias
    np.testing.assert_allclose(predict(trained, "val").logits, expected, rtol=1e-3, atol=1e-3)


def test_its_weights_carry_the_normalisation_of_each_input(trained):
    state = trained.network.state_dict()
    assert {key for key in state if not key.startswith("net.")} == {"mean_tabular", "std_tabular"}
    again = restored(Fusion(2, 100, 3, 2), state)
    inputs = {"signal": torch.randn(5, 2, 100), "tabular": torch.randint(0, 256, (5, 3), dtype=torch.uint8)}
    torch.testing.assert_close(again(inputs), trained.network(inputs), rtol=0, atol=0)


def test_weights_of_versions_that_had_signals_alone_are_read():
    linear = nn.Linear(4, 2)
    old = {f"net.{key}": value for key, value in linear.state_dict().items()}
    old |= {"mean": torch.tensor([[1.0], [2.0]]), "std": torch.tensor([[3.0], [4.0]])}
    signals = torch.randn(5, 2, 4)
    expected = linear((signals - old["mean"]) / old["std"])
    torch.testing.assert_close(restored(nn.Linear(4, 2), old)(signals), expected, rtol=0, atol=0)
    plain = restored(nn.Linear(4, 2), {key: value for key, value in old.items() if key.startswith("net.")})
    torch.testing.assert_close(plain(signals), linear(signals), rtol=0, atol=0)
    with pytest.raises(RuntimeError):
        restored(nn.Linear(4, 2), {key: value for key, value in old.items() if key != "std"})


@pytest.mark.parametrize("held", ["all", "the small one", "none"])
@pytest.mark.parametrize("kind", [np.float32, np.float16, np.uint8])
def test_inputs_are_the_same_wherever_they_lie(tmp_path, held, kind):
    split = SignalAndTabular().load("train")
    arrays = {name: array.astype(kind) for name, array in split.inputs.items()}
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array)
    mapped = {name: np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in arrays}
    rows = np.random.default_rng(0).permutation(64)[:30]
    part = replace(split, inputs=mapped, rows=rows, targets=split.targets[rows])
    budget = {"all": GIGABYTE, "the small one": 30 * arrays["tabular"][:1].nbytes, "none": 0}[held]
    records = Records(part, SignalAndTabular().inputs, budget, CPU)
    assert len(records._mapped) == {"all": 0, "the small one": 1, "none": 2}[held]
    seen = 0
    for inputs, targets, index in Batches(records, 8, seed=0):
        assert list(inputs) == ["signal", "tabular"]
        np.testing.assert_array_equal(inputs["signal"], arrays["signal"][rows[index]].transpose(0, 2, 1))
        np.testing.assert_array_equal(inputs["tabular"], arrays["tabular"][rows[index]])
        assert inputs["signal"].numpy().dtype == kind  # converted by the network, on its device
        np.testing.assert_array_equal(targets, part.targets[index])
        seen += len(index)
    assert seen == 30


def test_a_view_of_signals_reaches_the_net_in_the_order_in_which_it_is_stored():
    class Strides(nn.Module):
        def forward(self, x):
            assert x.dtype == torch.float32
            return torch.tensor(x.stride())

    for kind in (torch.float32, torch.uint8):
        stored = torch.zeros(4, 10, 3, dtype=kind)
        assert Network(Strides())(stored.transpose(1, 2)).tolist() == [30, 1, 3]


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("features", 4, r"'dataset\.features' is 4, but the data have 3\."),
        ("samples", 99, r"'dataset\.samples' is 99, but the data have 100\."),
        ("features", None, r"'dataset\.features' is missing, but the data have 3\."),
        ("height", 5, r"'dataset\.height' is 5, but the data have none\."),
        ("samples", {"signal": 100}, r"'dataset\.samples' is {'signal': 100}, but the data have 100\."),
    ],
)
def test_a_size_that_is_not_that_of_the_data_is_refused_before_training(key, value, named):
    cfg = config()
    parts = build(cfg)
    if value is None:
        del cfg.dataset[key]
    else:
        cfg.dataset[key] = value
    with pytest.raises(UserError, match=named):
        load(cfg, parts)


@pytest.mark.parametrize("value", [0, "3", 2.0, True, {"signal": 0}])
def test_a_size_that_is_none_is_refused_before_anything_is_read(value):
    with pytest.raises(UserError, match=r"Config key 'dataset\.features(\.signal)?' must be a positive whole number"):
        check(config(features=value))


def test_a_net_that_lacks_an_input_is_refused_before_training():
    cfg = config()
    cfg.model._target_ = f"{__name__}.Misnamed"
    named = "The dataset gives signal, tabular, but the forward of Misnamed takes signal, features: "
    with pytest.raises(UserError, match=named):
        load(cfg, build(cfg))


@pytest.mark.parametrize(
    ("names", "fits"), [(["signal"], False), (["signal", "tabular"], True), (["signal", "x"], False)]
)
def test_a_net_is_called_with_one_input_or_with_several_by_their_names(names, fits):
    net = Fusion(2, 100, 3, 2)
    if fits:
        check_takes(net, names)
    else:
        with pytest.raises(UserError, match="the forward of Fusion takes tabular, signal: "):
            check_takes(net, names)
    check_takes(nn.Sequential(net), ["signal"])
