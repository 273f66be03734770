"""The experiments of Toffanetto 2024 compose to what the paper trained."""

from __future__ import annotations

import pytest

from ecgexp import CONF
from ecgexp.commands.plan import plan
from ecgexp.config.build import build_net
from ecgexp.config.resolvers import register_resolvers
from ecgexp.config.schema import check, plain
from ecgexp.errors import UserError
from ecgexp.foreign.hydra import argument_parser


def planned(*words):
    register_resolvers()
    return plan(CONF, argument_parser().parse_args(list(words)))


def count(net):
    return sum(one.numel() for one in net.state_dict().values() if one.is_floating_point())


PROTOCOL = {
    "lr": 0.01,
    "batch_size": 32,
    "precision": 32,
    "monitor": "val/loss",
    "objective": "best/val/accuracy",
    "scheduler": {"interval": "epoch", "schedule": None},
    "early_stopping": {"patience": None, "min_delta": 0.0},
}


@pytest.mark.parametrize(
    ("name", "epochs", "weights"), [("mlp", 500, 604_424), ("cnn", 100, 115_976), ("deep", 200, 351_048)]
)
def test_a_single_training_is_the_papers(name, epochs, weights):
    grid = ["model.filters=64", "model.kernel=9"] if name == "cnn" else []
    (cfg,) = planned(f"experiment=toffanetto2024_{name}", *grid).configurations
    check(cfg)
    config = plain(cfg)
    assert PROTOCOL.items() <= {key: config[key] for key in PROTOCOL}.items()
    assert (config["max_epochs"], config["dataset"]["split"]) == (epochs, "toffanetto2024")
    assert config["optimizer"]["_target_"] == "torch.optim.SGD"
    assert config["optimizer"]["momentum"] == 0
    assert config["target"]["_target_"] == "ecgexp.targets.MultiClass"
    assert count(build_net(cfg)) == weights


@pytest.mark.slow
def test_the_stages_of_the_mlp_are_the_papers():
    found = planned("-m", "experiment=toffanetto2024_mlp")
    staged = found.staged
    assert staged is not None
    assert [len(stage.settings) for stage in staged.stages] == [5, 2, 3, 2]
    assert staged.trials == 9
    assert len(found.configurations) == 60, "all that the stages may come to is checked"
    for cfg in found.configurations:
        check(cfg)
    chosen = staged.cells([4, 0, 1], 0)[0]  # 4096, ReLU, dropout 0.25, SGD
    (cfg,) = planned(*chosen).configurations
    assert count(build_net(cfg)) == 9_670_664
    adam = [cfg for cfg in found.configurations if cfg.optimizer._target_ == "torch.optim.Adam"]
    assert len(adam) == 30
    assert {(cfg.lr, cfg.optimizer.lr) for cfg in adam} == {(0.001, 0.001)}


def test_of_too_many_combinations_each_setting_is_checked_alone_and_that_is_printed(monkeypatch, capsys):
    monkeypatch.setattr("ecgexp.commands.plan.MOST_COMBINATIONS", 59)
    found = planned("-m", "experiment=toffanetto2024_mlp").configurations
    assert len(found) == 1 + 4 + 1 + 2 + 1
    assert "can reach 60 configurations: each setting was checked alone" in capsys.readouterr().err


def test_the_grid_of_the_cnn_is_the_papers():
    cells = planned("-m", "experiment=toffanetto2024_cnn").cells
    assert cells is not None
    assert len(cells) == 20


def test_the_transfer_to_larger_images_needs_a_run():
    (cfg,) = planned("experiment=toffanetto2024_64").configurations
    with pytest.raises(UserError, match="name their run with init"):
        check(cfg)
    (cfg,) = planned("experiment=toffanetto2024_64", "init.run=some").configurations
    check(cfg)
    net = build_net(cfg)
    assert (count(net.conv), count(net.head)) == (15_616, 524_296)
