"""A GPU works ahead of Python until a value is read from it; such reads can be counted on a CPU."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from ecgexp.datasets import SignalDataset, Split
from ecgexp.fast import speed_up
from ecgexp.fast.training import declare_contiguous, fused
from ecgexp.models import Rajpurkar, Ribeiro
from ecgexp.models.layers import SameConv
from ecgexp.targets import MultiLabel
from ecgexp.training.batches import GIGABYTE, Batches, Records
from ecgexp.training.callbacks import Faster, History
from ecgexp.training.data import TrainingData
from ecgexp.training.module import TrainingModule
from ecgexp.training.network import Network

LEADS, SAMPLES = 3, 40
RECORDS = 30


def split() -> Split:
    rng, rows = np.random.default_rng(0), np.arange(RECORDS)
    signals = rng.normal(size=(RECORDS, SAMPLES, LEADS)).astype(np.float32)
    return Split(
        {"signal": signals}, rows, rng.integers(0, 2, (RECORDS, 5)).astype(np.uint8), rows.astype(str), rows.astype(str)
    )


class Noise(SignalDataset):
    lead_names, sampling_rate, samples = tuple("xyz"), 10.0, SAMPLES
    label_names = tuple("abcde")

    def load(self, name):
        return split()


class Count(TorchDispatchMode):
    """Counts calls of an operation."""

    def __init__(self, operation):
        super().__init__()
        self.operation, self.calls = operation, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.calls += function is self.operation
        return function(*args, **kwargs or {})


class Reads(pl.Callback):
    """Values read in each step of training and of validation."""

    def __init__(self):
        self.train, self.val = [], []

    def on_train_batch_start(self, *_):
        self.count = Count(torch.ops.aten._local_scalar_dense.default)
        self.count.__enter__()

    def on_train_batch_end(self, *_):
        self.count.__exit__(None, None, None)
        self.train.append(self.count.calls)

    on_validation_batch_start = on_train_batch_start

    def on_validation_batch_end(self, *_):
        self.count.__exit__(None, None, None)
        self.val.append(self.count.calls)


@pytest.mark.parametrize("net", [partial(Ribeiro, width=4, depth=2), partial(Rajpurkar, width=4, depth=5)])
def test_a_step_reads_only_the_loss_and_on_a_gpu_not_even_that(net):
    reads = Reads()
    optimizer = partial(torch.optim.Adam, fused=True)
    network = Network(speed_up(net(LEADS, SAMPLES, 5)), None)
    module = TrainingModule(
        network, nn.BCEWithLogitsLoss(), optimizer, None, "epoch", "val/loss", MultiLabel(Noise.label_names)
    )
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=3,
        logger=False,
        callbacks=[History(lambda epochs: None), Faster(), reads],
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )
    trainer.fit(module, TrainingData(Noise(), 8, seed=0, memory_budget=1.0))
    assert reads.train == [1] * 12
    assert reads.val == [0] * 3


def test_the_order_of_an_epoch_is_copied_to_the_device_once():
    batches = Batches(Records(split(), Noise().inputs, GIGABYTE, torch.device("meta")), 8, seed=0)
    with Count(torch.ops.aten._to_copy.default) as copies:
        drawn = list(batches)
    assert {tensor.device.type for batch in drawn for tensor in batch} == {"meta"}
    assert copies.calls == 1


@pytest.mark.parametrize(
    ("optimizer", "expected"),
    [
        (partial(torch.optim.Adam, lr=0.1), True),
        (partial(torch.optim.AdamW, lr=0.1), True),
        (partial(torch.optim.SGD, lr=0.1), True),
        (partial(torch.optim.RMSprop, lr=0.1), False),  # torch has none
        (partial(torch.optim.Adam, fused=False), False),
        (partial(torch.optim.Adam, foreach=True), False),
        (lambda parameters: torch.optim.Adam(parameters), False),
    ],
    ids=["adam", "adamw", "sgd", "rmsprop", "refused", "foreach", "function"],
)
def test_an_update_is_fused_where_the_optimizer_can_and_nothing_else_is_asked(optimizer, expected):
    (group,) = fused(optimizer, "cuda")([nn.Parameter(torch.zeros(3))]).param_groups
    assert bool(group.get("fused")) is expected
    assert expected or fused(optimizer, "cuda") is optimizer


def test_on_a_cpu_an_update_is_fused_where_that_is_faster():
    for kind, expected in ((torch.optim.AdamW, True), (torch.optim.SGD, False)):
        (group,) = fused(partial(kind, lr=0.1), "cpu")([nn.Parameter(torch.zeros(3))]).param_groups
        assert bool(group["fused"]) is expected
    asked = partial(torch.optim.Adam, foreach=True)
    assert fused(asked, "cpu") is asked


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
def test_a_fused_update_of_channels_last_weights_is_the_plain_one_without_a_copy(kind):
    torch.manual_seed(0)
    conv, linear = speed_up(SameConv(6, 8, 5)), nn.Linear(4, 3)
    ours = [*conv.parameters(), *linear.parameters(), nn.Parameter(torch.zeros(2, 2))]  # the last has no gradient
    plain = [nn.Parameter(parameter.detach().clone()) for parameter in ours]
    update, expected = kind(ours, lr=0.1, fused=True), kind(plain, lr=0.1, fused=False)
    for _ in range(3):
        for mine, other in zip(ours[:-1], plain, strict=False):
            other.grad = torch.randn_like(other)
            mine.grad = torch.empty_like(mine).copy_(other.grad)
        declare_contiguous(ours)
        with torch.profiler.profile() as seen:
            update.step()
        assert "aten::_fused" in " ".join(names := [event.name for event in seen.events()])
        assert "aten::clone" not in names
        expected.step()
    for mine, other in zip(ours, plain, strict=True):
        torch.testing.assert_close(mine, other)
