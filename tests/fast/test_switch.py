"""The config key `fast` chooses between the faster layers and plain PyTorch."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from ecgexp.config.build import build_net
from ecgexp.trials.identity import cell

MODEL = {"_target_": "ecgexp.models.Ribeiro", "leads": 2, "samples": 64, "width": 2, "depth": 1}


@pytest.mark.parametrize(("settings", "expected"), [({"fast": True}, True), ({"fast": False}, False), ({}, True)])
def test_a_net_is_sped_up_unless_the_configuration_forbids_it(settings, expected):
    net = build_net(OmegaConf.create({"model": MODEL, **settings}))
    kinds = {type(layer).__name__ for layer in net.modules()}
    assert ("FastSameConv" in kinds) is expected
    assert ("SameConv" in kinds) is not expected


def test_it_makes_another_trial_since_results_differ_in_rounding_and_dropout():
    config = {"dataset": {}, "trainer": {}, "lr": 0.1}
    assert cell({**config, "fast": True}) != cell({**config, "fast": False})
