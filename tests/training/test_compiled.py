"""Compiled training, on a CPU with other backends of torch: what is compiled, how often, and with which result."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

from ecgexp.datasets import SignalDataset, Split
from ecgexp.fast import speed_up
from ecgexp.models import Linear, Rajpurkar, Ribeiro
from ecgexp.targets import MultiLabel
from ecgexp.training import compiled
from ecgexp.training.compiled import can_compile, compiles
from ecgexp.training.data import TrainingData
from ecgexp.training.module import TrainingModule
from ecgexp.training.network import Network
from ecgexp.training.transfer import Start
from ecgexp.trials.identity import cell

LEADS, SAMPLES = 3, 40
NETS = {
    "ribeiro": lambda **how: speed_up(Ribeiro(LEADS, SAMPLES, 5, width=4, depth=2, kernel=4, **how)),
    "rajpurkar": lambda **how: speed_up(Rajpurkar(LEADS, SAMPLES, 5, width=4, depth=5, kernel=4, **how)),
    "plain ribeiro": partial(Ribeiro, LEADS, SAMPLES, 5, width=4, depth=2, kernel=4),
}


@pytest.fixture
def graphs(monkeypatch):
    """Counts what is compiled, without compiling it to machine code."""
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    function = torch.compile(compiled._forward, backend=counter)
    monkeypatch.setattr(compiled, "_compiled", lambda: function)
    yield counter
    torch._dynamo.reset()


class Noise(SignalDataset):
    label_names = tuple("abcde")
    lead_names = ("I", "II", "III")
    sampling_rate, samples = 10.0, SAMPLES

    def load(self, split):
        rng = np.random.default_rng(0)
        rows = np.arange(22)
        signals = rng.normal(size=(22, SAMPLES, LEADS)).astype(np.float32)
        return Split(
            {"signal": signals}, rows, rng.integers(0, 2, (22, 5)).astype(np.uint8), rows.astype(str), rows.astype(str)
        )


def train(
    net: nn.Module, batch_size: int, compile_for: int | None, precision: str = "32-true", start: Start | None = None
) -> TrainingModule:
    torch.manual_seed(1)
    start = start or Start()
    start.apply(net)
    optimizer = partial(torch.optim.SGD, lr=0.1)
    lossf, target = nn.BCEWithLogitsLoss(), MultiLabel(Noise.label_names)
    module = TrainingModule(
        Network(net, None), lossf, optimizer, None, "epoch", "val/loss", target, compile_for, start.still(net)
    )
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=2,
        precision=precision,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )
    trainer.fit(module, TrainingData(Noise(), batch_size, seed=0, memory_budget=1.0))
    return module


@pytest.mark.slow
@pytest.mark.parametrize("name", NETS)
def test_a_net_is_compiled_once_for_all_trials_and_batch_sizes_and_keeps_its_names(graphs, name):
    names = list(Network(NETS[name](), None).state_dict())
    for batch_size in (8, 4, 6):  # 22 records: each epoch ends with a smaller batch
        module = train(NETS[name](), batch_size, compile_for=batch_size)
        assert graphs.frame_count == 1
        assert list(module.net.state_dict()) == names


@pytest.mark.slow
def test_neither_evaluation_nor_a_smaller_batch_is_compiled(graphs):
    train(NETS["ribeiro"](), batch_size=30, compile_for=30)
    assert graphs.frame_count == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", NETS)
def test_compiled_training_is_training(graphs, name):
    torch.manual_seed(0)
    net, again = NETS[name](dropout=0.0), NETS[name](dropout=0.0)
    again.load_state_dict(net.state_dict())
    expected = train(net, 8, compile_for=None, precision="64-true").state_dict()
    actual = train(again, 8, compile_for=8, precision="64-true").state_dict()
    assert graphs.frame_count == 1
    for key, value in expected.items():
        torch.testing.assert_close(actual[key], value, rtol=1e-9, atol=1e-12, msg=key)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "precision"), [("ribeiro", "bf16-mixed"), ("plain ribeiro", "32-true")])
def test_frozen_weights_and_statistics_stay_in_a_compiled_net(graphs, name, precision):
    net = NETS[name]()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    frozen = tuple(key for key in before if key.startswith(("stem.", "blocks.0.")))
    train(net, 8, compile_for=8, precision=precision, start=Start(frozen=frozen))
    assert graphs.frame_count == 1
    assert {key for key, value in net.state_dict().items() if torch.equal(value, before[key])} == set(frozen)


@pytest.mark.slow
def test_what_torch_cannot_trace_whole_is_compiled_in_parts(graphs):
    state = train(Linear(LEADS, SAMPLES), 8, compile_for=8).state_dict()
    expected = train(Linear(LEADS, SAMPLES), 8, compile_for=None).state_dict()
    for key, value in expected.items():
        torch.testing.assert_close(state[key], value, msg=key)


@pytest.mark.slow
def test_machine_code_gives_the_same_gradients():
    if not can_compile("cpu"):
        pytest.skip("no C++ compiler that torch could use")
    torch.manual_seed(0)
    net = Network(NETS["ribeiro"](dropout=0.0), None).train()
    signals = torch.randn(8, SAMPLES, LEADS).transpose(1, 2)
    compiled.forward(net, signals).sum().backward()
    actual = [parameter.grad.clone() for parameter in net.parameters()]
    net.zero_grad()
    net(signals).sum().backward()
    for one, parameter in zip(actual, net.parameters(), strict=True):
        torch.testing.assert_close(one, parameter.grad, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("setting", "steps", "works", "expected"),
    [
        ("auto", 5_000, True, True),
        ("auto", 4_999, True, False),
        ("auto", 5_000, False, False),
        (True, 1, False, True),
        (False, 10**6, True, False),
    ],
)
def test_a_net_is_compiled_if_configured_or_if_it_saves_time_and_works(monkeypatch, setting, steps, works, expected):
    monkeypatch.setattr(compiled, "can_compile", lambda device: works)
    assert compiles(setting, steps, "cuda") is expected
    assert compiles(setting, steps, "cpu") is False


def test_compiled_or_not_it_is_the_same_trial():
    config = {"dataset": {}, "trainer": {}, "lr": 0.1}
    assert cell({**config, "compile": "auto"}) == cell({**config, "compile": False}) == cell(config)


def test_a_machine_that_cannot_compile_gives_one_warning(monkeypatch, caplog):
    def fail(function):
        raise RuntimeError("Failed to find C compiler.\nSet CC.")

    monkeypatch.setattr(torch, "compile", fail)
    can_compile.cache_clear()
    assert not can_compile("cpu")
    assert not can_compile("cpu")
    can_compile.cache_clear()
    assert [record.message.split(": ", 1)[1] for record in caplog.records] == [
        "RuntimeError: Failed to find C compiler."
    ]
