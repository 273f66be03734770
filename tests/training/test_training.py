"""Checks of the data before a trial trains."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from ecgexp.config.build import Parts, check_device, resolve_precision
from ecgexp.datasets import SignalDataset, Split
from ecgexp.errors import UserError
from ecgexp.targets import MultiClass, MultiLabel
from ecgexp.training.fit import load
from ecgexp.trials.identity import identity


class Beats(SignalDataset):
    """Four records with one of three labels each."""

    label_names = ("N", "V", "S")
    lead_names, sampling_rate, samples = ("I", "II"), 100.0, 10

    def __init__(self, kind=MultiLabel, classes=(0, 1, 2, 0)):
        self.target = kind(self.label_names)
        self.targets = np.eye(3, dtype=np.uint8)[list(classes)]

    def load(self, split):
        ids = np.array([f"{split}-{number}" for number in range(4)])
        return Split({"signal": np.zeros((4, 10, 2), np.float32)}, np.arange(4), self.targets, ids, ids)


def loaded(dataset, monitor="val/loss", objective="best/val/loss", **keys):
    shape = {"leads": 2, "samples": 10, "label_names": list(dataset.label_names), **keys}
    judged = {"monitor": monitor, "objective": objective}
    cfg = OmegaConf.create({"dataset": shape, "batch_size": 2, "seed": 0, "memory_budget": 1.0, **judged})
    return load(cfg, Parts(dataset, nn.Identity(), nn.Identity(), torch.optim.SGD, None))


@pytest.mark.parametrize("kind", [MultiLabel, MultiClass])
def test_data_that_agree_with_the_configuration_are_loaded(kind):
    assert len(loaded(Beats(kind)).splits["train"]) == 4


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"leads": 12}, r"'dataset\.leads' is 12, but the data have 2"),
        ({"label_names": ["N", "S", "V"]}, r"is \[N, S, V\], but the labels of the data are \[N, V, S\]"),
        ({"label_names": ["N", "V"]}, r"is \[N, V\], but the labels of the data are \[N, V, S\]"),
    ],
)
def test_data_that_are_not_are_refused(keys, named):
    with pytest.raises(UserError, match=named):
        loaded(Beats(), **keys)


@pytest.mark.parametrize("kind", [MultiLabel, MultiClass])
@pytest.mark.parametrize("split", ["train", "val"])
def test_a_metric_that_the_labels_do_not_allow_is_refused_before_training(kind, split):
    metric = "auroc_macro"  # which needs records with and without a label
    one = Beats(kind, classes=(0, 0, 0, 0))
    with pytest.raises(UserError, match=f"'monitor' is '{split}/{metric}', which cannot be computed on these data"):
        loaded(one, monitor=f"{split}/{metric}")
    objectives = ["parameters", "best/val/loss", f"best/{split}/{metric}"]
    with pytest.raises(UserError, match=f"'objective' is 'best/{split}/{metric}', which cannot be computed"):
        loaded(one, objective=objectives)
    loaded(one, monitor="train/loss", objective=["best/val/loss", "latency"])
    loaded(Beats(kind), monitor=f"{split}/{metric}", objective=objectives)


@pytest.mark.parametrize(("row", "held"), [((0, 0, 0), "no label"), ((1, 0, 1), "N and S")])
def test_a_record_that_has_none_or_several_labels_is_named_where_each_has_exactly_one(row, held):
    dataset = Beats(MultiClass)
    dataset.targets[2] = row
    with pytest.raises(UserError, match=f"Record train-2 cannot be used: it has {held}, but must have exactly one"):
        loaded(dataset)


@pytest.mark.parametrize(
    ("asked", "device", "native", "meant"),
    [
        ("auto", "cuda", True, "bf16-mixed"),
        ("auto", "cuda", False, 32),
        ("auto", "cpu", True, "bf16-mixed"),
        ("auto", "cpu", False, 32),
        (32, "cuda", True, 32),
        ("bf16-mixed", "cpu", False, "bf16-mixed"),
    ],
)
def test_automatic_precision_is_bfloat16_where_the_chip_computes_with_it(monkeypatch, asked, device, native, meant):
    monkeypatch.setattr("ecgexp.config.build.device_kind", lambda cfg: device)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": native})
    assert resolve_precision(OmegaConf.create({"precision": asked})) == meant


def test_float16_is_refused_on_a_cpu_where_lightning_would_compute_in_bfloat16(monkeypatch):
    cfg = OmegaConf.create({"precision": "16-mixed", "trainer": {"accelerator": "auto"}})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="'16-mixed', which only a GPU computes: use bf16-mixed"):
        check_device(cfg)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    check_device(cfg)


def test_the_precision_that_is_meant_makes_another_trial():
    def of(asked, meant):
        config = {"dataset": {}, "trainer": {}, "precision": asked}
        return identity(config, fingerprint="f", device="cpu", threads=1, precision=meant, code="")

    assert of("auto", "bf16-mixed") == of("bf16-mixed", "bf16-mixed")
    assert of("auto", 32) == of(32, 32) != of("auto", "bf16-mixed")
