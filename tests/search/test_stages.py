"""What a search by stages tries, as a configuration and a command line say it."""

from __future__ import annotations

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from trained import is_one_sentence

from ecgexp import CONF
from ecgexp.commands.plan import parameters
from ecgexp.errors import UserError
from ecgexp.search.stages import Staged
from ecgexp.targets import MultiLabel

PAPER = [
    {"model.hidden": [[256], [512], [1024]]},
    {"model.activation": ["relu", "sigmoid"], "model.dropout": [0, 0.5]},
    [{"optimizer": "sgd", "lr": 0.01}, {"optimizer": "adam", "lr": 0.001}],
]


def read(*overrides: str, stages: object = PAPER, **settings: object) -> Staged:
    default = OmegaConf.load(CONF / "hydra/sweeper/staged.yaml")
    config = OmegaConf.create({**default, "stages": stages, **settings})
    parser = OverridesParser.create()
    return Staged.read(config, [*parameters(config, parser), *parser.parse_overrides(list(overrides))])


def refused(*overrides: str, **settings: object) -> str:
    with pytest.raises(UserError) as error:
        read(*overrides, **settings)
    assert is_one_sentence(str(error.value)), error.value
    return str(error.value)


def test_each_stage_varies_its_keys_with_the_choices_before_and_the_starts_after():
    staged = read("max_epochs=2")
    assert staged.cells([], 2) == [
        ["max_epochs=2", "model.hidden=[1024]", "model.activation=relu", "model.dropout=0", "optimizer=sgd", "lr=0.01"]
    ]
    assert staged.cells([1], 3) == [
        ["max_epochs=2", "model.hidden=[512]", "model.activation=sigmoid", "model.dropout=0.5", "optimizer=sgd",
         "lr=0.01"]
    ]  # fmt: skip
    assert staged.cells([1, 3], 1)[0][-2:] == ["optimizer=adam", "lr=0.001"]
    assert (staged.trials, staged.combinations) == (3 + 3 + 1, 3 * 4 * 2)
    assert staged.swept == ["model.hidden", "model.activation", "model.dropout", "optimizer", "lr"]


def test_seeds_and_folds_repeat_each_setting():
    staged = read("seed=0,1,2", params={"dataset.val_fold": "8,9"})
    cells = staged.cells([], 0)
    assert [cell[-2:] for cell in cells] == [
        [f"dataset.val_fold={fold}", f"seed={seed}"] for fold in (8, 9) for seed in (0, 1, 2)
    ]
    assert len({tuple(cell[:-2]) for cell in cells}) == 1
    assert staged.trials == 6 * 7


def test_a_key_may_begin_with_another_value_than_its_first():
    staged = read(start={"model.hidden": [512], "optimizer": "adam"})
    assert [stage.start for stage in staged.stages] == [1, 0, 1]
    assert staged.cells([], 0)[0][-2:] == ["optimizer=adam", "lr=0.001"]
    assert staged.trials == 7, "what a stage begins with is trained by the one before, wherever it stands"


@pytest.mark.parametrize(
    "value", ["relu", "1", "a,b", "", "null", "a b", "it's", "${x}", "[1]", None, True, 0.001, 3, [1, "a", None], "x=1"]
)
def test_hydra_reads_each_value_as_the_configuration_has_it(value):
    config = OmegaConf.create({"params": None, "start": {}, "rule": "best", "stages": []})
    config.stages = [{"key": ["other"]}]
    stages = OmegaConf.to_container(config)
    stages["stages"] = [{"key": ["other", value]}]
    if value == "${x}":  # which is another key's value in a configuration
        return
    staged = Staged.read(OmegaConf.create(stages), [])
    (override,) = OverridesParser.create().parse_overrides([staged.cells([], 1)[0][0]])
    found = override.value()
    assert getattr(found, "text", found) == value


def test_without_stages_the_keys_with_several_values_are_one():
    staged = read("lr=0.1,0.2", "optimizer=sgd,adam", "seed=1,2", stages=[])
    assert [dict(setting) for setting in staged.stages[0].settings] == [
        {"lr": lr, "optimizer": optimizer} for lr in ("0.1", "0.2") for optimizer in ("sgd", "adam")
    ]
    alone = read("seed=1,2", "lr=0.1", stages=[])
    assert [alone.cells([], 0), alone.trials] == [[["lr=0.1", "seed=1"], ["lr=0.1", "seed=2"]], 2]


@pytest.mark.parametrize(
    ("stages", "named"),
    [
        ([], "nothing to choose"),
        (["lr"], "Stage 1"),
        ([{}], "Stage 1"),
        ([[]], "Stage 1"),
        ([PAPER[0], {"lr": 0.1}], "Stage 2 of hydra.sweeper.stages gives 'lr' 0.1"),
        ([{"lr": []}], "gives 'lr' no value"),
        ([[{"lr": 0.1}, {"batch_size": 3}]], "all of lr, batch_size"),
        ([{"lr": [0.1, 0.1]}], "has lr=0.1 twice"),
        ([{"lr": [0.1, 0.2]}, {"batch_size": [1], "lr": [1]}], "chooses 'lr', and so does stage 1"),
        ([{"seed": [0, 1]}], "seed=VALUE,VALUE"),
        ([{"hydra.launcher.n_jobs": [1, 2]}], "no setting of a training"),
        ([{"hydra/launcher": ["basic"]}], "no setting of a training"),
        ([{"objective": ["best/val/loss"]}], "no setting of a training"),
    ],
)
def test_stages_that_cannot_be_run_are_refused(stages, named):
    assert named in refused(stages=stages)


@pytest.mark.parametrize(
    ("overrides", "settings", "named"),
    [
        (["optimizer=sgd"], {}, "leave optimizer=VALUE out"),
        (["+lr=0.1"], {}, "leave +lr=VALUE out"),
        (["batch_size=16,32"], {}, "'batch_size' has several values, but no stage"),
        (["lr=0.1,0.2"], {}, "'lr' has several values, but no stage"),
        ([], {"start": {"batch_size": 3}}, "'batch_size', which no stage"),
        ([], {"start": {"optimizer": "rmsprop"}}, "optimizer=rmsprop"),
        ([], {"rule": "cheapest"}, "hydra.sweeper.rule"),
        ([], {"stages": {"lr": [1]}}, "hydra.sweeper.stages"),
    ],
)
def test_what_contradicts_the_stages_is_refused(overrides, settings, named):
    assert named in refused(*overrides, **settings)


def test_an_objective_that_nothing_can_be_chosen_by_is_refused():
    target = MultiLabel(("A", "B"))
    one, several = (OmegaConf.create({"objective": name}) for name in ("best/val/loss", ["best/val/loss", "latency"]))
    read().check(one, target)
    for staged, cfg, named in ((read(), several, "one objective"), (read(rule="one_se"), one, "has no bootstrap")):
        with pytest.raises(UserError, match=named) as error:
            staged.check(cfg, target)
        assert is_one_sentence(str(error.value))
    read(rule="one_se").check(OmegaConf.create({"objective": "best/val/mlcm_f1_macro"}), target)
    with pytest.raises(UserError, match="has no bootstrap"):
        read(rule="one_se").check(OmegaConf.create({"objective": "best/train/mlcm_f1_macro"}), target)
