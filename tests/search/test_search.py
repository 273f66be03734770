"""The space and sampler of a search, and its workers."""

from __future__ import annotations

import math
import multiprocessing
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
from omegaconf import OmegaConf
from optuna.trial import TrialState
from searches import PRUNERS, SAMPLERS, SPACE, read, trials, worker
from trained import is_one_sentence

from ecgexp.errors import UserError
from ecgexp.search.study import counted, open_storage, open_study
from ecgexp.sweeps.session import _Plan
from ecgexp.tracking.heartbeat import process_tags
from ecgexp.tracking.names import Attribute

CHOICES = ("lr=0.1,0.01,0.001", "size=range(1,5)")


def refused(*overrides: str, **settings) -> str:
    with pytest.raises(UserError) as error:
        read(*overrides, **settings)
    assert is_one_sentence(str(error.value)), error.value
    return str(error.value)


def ends(folder: Path) -> list[str]:
    return [trial.state.name for trial in trials(folder)]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_finds_its_trials(tmp_path, sampler):
    search = read(*(CHOICES if sampler == "grid" else SPACE), sampler=sampler, n_trials=6)
    work = worker(search, tmp_path)
    work.prepare()
    assert work(None) == 0
    assert ends(tmp_path) == ["COMPLETE"] * 6


@pytest.mark.parametrize("pruner", PRUNERS)
def test_every_pruner_can_be_built(pruner):
    if pruner == "threshold":  # has no default
        assert "hydra.sweeper.pruner" in refused(*SPACE, pruner=pruner)
        return
    assert read(*SPACE, pruner=pruner).config.pruner["_target_"].startswith("optuna.pruners")


def test_what_the_command_line_sets_is_not_searched():
    search = read("lr=0.1", "size=1,2", params={"lr": "interval(0, 1)", "rate": "interval(0, 1)", "weight": None})
    assert sorted(search.axes) == ["rate", "size"]
    assert sorted(search.fixed) == ["lr=0.1", "weight=null"]


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"n_trials": 0}, "n_trials"),
        ({"timeout": -1.0}, "timeout"),
        ({"workers": 0}, "workers"),
        ({"directions": ["upwards"]}, "directions"),
        ({"space": "nowhere.space"}, "nowhere.space"),
        ({"sampler": {"_target_": "optuna.samplers.TPESampler", "nonsense": 1}}, "sampler"),
        ({"sampler": {"_target_": "nowhere.Sampler"}}, "sampler"),
        ({"sampler": {}}, "sampler"),
        ({"pruner": {"_target_": "optuna.pruners.MedianPruner", "nonsense": 1}}, "pruner"),
        ({"pruner": {"_target_": "nowhere.Pruner"}}, "pruner"),
        ({"pruner": {}}, "pruner"),
        ({"enqueue": [{"unknown": 1}]}, "unknown"),
        ({"enqueue": [{"lr": 5}]}, "lr=5"),
        ({"enqueue": [{"size": "large"}]}, "size=large"),
        ({"enqueue": [{"net": "other"}]}, "net=other"),
        ({"directions": ["maximize", "minimize"], "pruner": {"_target_": "optuna.pruners.MedianPruner"}}, "prune"),
    ],
)
def test_what_cannot_be_searched_is_refused_in_one_sentence(settings, named):
    assert named in refused(*SPACE, "net=a,b", **settings)


def test_the_error_of_a_class_about_its_arguments_is_shown():
    assert "lower" in refused(*SPACE, pruner="threshold")
    assert "nonsense" in refused(*SPACE, sampler={"_target_": "optuna.samplers.TPESampler", "nonsense": 1})
    assert "no_such_module" in refused(*SPACE, space="no_such_module.space")


def test_an_unknown_tag_is_refused():
    assert "'logg'" in refused("lr=tag(logg, interval(0.1, 1))")


@pytest.mark.parametrize(
    "space",
    [
        ["model.hidden=int(interval(32,40))"],
        ["model.hidden=range(32,48,4)", "model.heads=4,8"],
        ["model.hidden=32,42"],
    ],
)
def test_a_space_with_hidden_sizes_that_the_heads_do_not_divide_is_refused(space):
    net = {"_target_": "ecgexp.models.Recurrent", "hidden": 32, "heads": 4}
    with pytest.raises(UserError, match="cannot share equally") as error:
        read(*space).check_together(OmegaConf.create({"model": net}))
    assert is_one_sentence(str(error.value).replace(". ", "; ", 1))
    fine = read("model.hidden=range(32,49,8)", "model.heads=4,8", "lr=interval(0.1,1)")
    fine.check_together(OmegaConf.create({"model": net}))
    read(*space).check_together(OmegaConf.create({"model": {"_target_": "ecgexp.models.Linear"}}))


def test_a_space_of_any_size_is_checked_in_a_moment(caplog, monkeypatch):
    net = OmegaConf.create({"model": {"_target_": "ecgexp.models.Recurrent", "hidden": 32, "heads": 4}})
    asked = []
    monkeypatch.setattr("ecgexp.models.Recurrent.check_arguments", lambda hidden, heads: asked.append((hidden, heads)))
    read("model.hidden=range(8,1025,8)", "model.heads=1,2,4,8").check_together(net)
    assert len(set(asked)) == 512
    assert not caplog.text
    asked.clear()
    read("model.hidden=int(interval(1,1000000000))", "model.heads=1,2,4,8").check_together(net)
    assert 512 < len(asked) <= 10_000
    assert "more than 10000 combinations" in caplog.text
    assert len({hidden for hidden, _ in asked}) > 9_000


def test_of_a_large_space_most_that_does_not_fit_is_found():
    net = OmegaConf.create({"model": {"_target_": "ecgexp.models.Recurrent", "hidden": 32, "heads": 4}})
    with pytest.raises(UserError, match="cannot share equally"):
        read("model.hidden=int(interval(1,1000000000))").check_together(net)


def test_a_study_that_an_earlier_version_began_is_resumed_with_a_warning(tmp_path, caplog):
    place = str(tmp_path / "study.journal")
    earlier = open_study(open_storage(place), "study", ["maximize"])
    earlier.tell(earlier.ask(), 1.0)
    for n_trials in (2, 3):
        work = worker(read(*SPACE, n_trials=n_trials), tmp_path)
        work.prepare()
        work(None)
    assert ends(tmp_path) == ["COMPLETE"] * 3
    assert caplog.text.count("was begun by an earlier version") == 1
    fresh = worker(read(*SPACE, n_trials=1), tmp_path / "other")
    fresh.prepare()
    assert caplog.text.count("was begun by an earlier version") == 1


def test_a_search_without_anything_to_search_is_refused():
    assert "nothing to search" in refused("lr=0.1")


def test_settings_to_begin_with_come_first_and_once_and_keep_their_types(tmp_path):
    known = [{"lr": 0.01, "bias": True, "net": "a b"}, {"lr": 1, "bias": None, "net": "c"}]
    search = read("lr=interval(0,1)", "bias=true,null,3", "net='a b',c", enqueue=known, n_trials=3)
    for _ in range(2):
        work = worker(search, tmp_path)
        work.prepare()
        work(None)
    found = [trial.params for trial in trials(tmp_path)]
    assert found[:2] == known
    assert len(found) == 3
    assert search.axes["net"].override("a b") == "net='a b'"


def test_a_setting_that_is_known_in_part_is_completed(tmp_path):
    work = worker(read(*SPACE, enqueue=[{"size": 3}], n_trials=1), tmp_path)
    work.prepare()
    work(None)
    (trial,) = trials(tmp_path)
    assert trial.params["size"] == 3
    assert trial.params.keys() == {"lr", "size", "rate"}


def test_a_grid_is_tried_once_each_and_is_then_complete(tmp_path):
    search = read("lr=0.1,0.2", "size=range(1,4)", "rate=range(0.1,0.35,0.1)", sampler="grid", n_trials=100)
    assert search.n_trials == 18
    work = worker(search, tmp_path)
    work.prepare()
    work(None)
    cells = {tuple(trial.params[key] for key in ("lr", "size", "rate")) for trial in trials(tmp_path)}
    assert len(trials(tmp_path)) == len(cells) == 18
    assert {rate for *_, rate in cells} == {0.1, 0.2, 0.3}, "as a user writes them"
    assert read(*CHOICES, sampler="grid", n_trials=5).n_trials == 5


@pytest.mark.parametrize("settings", [{"enqueue": [{"size": 1}]}, {"space": "searches.read"}])
def test_a_grid_takes_nothing_but_values(settings):
    assert "grid" in refused(*CHOICES, sampler="grid", **settings)
    assert "lr a choice or a range" in refused(*SPACE, sampler="grid")


@pytest.mark.parametrize(("error", "state"), [(optuna.TrialPruned(), "PRUNED"), (ValueError("no\nsuch thing"), "FAIL")])
def test_the_end_of_a_trial_is_reported_to_the_study(tmp_path, error, state):
    def formula(params):
        raise error

    work = worker(read(*SPACE, n_trials=2), tmp_path, formula)
    work.prepare()
    assert work(None) == (2 if state == "FAIL" else 0)
    assert ends(tmp_path) == [state] * 2
    if state == "FAIL":
        assert trials(tmp_path)[0].user_attrs[Attribute.ERROR] == "ValueError: no"


@pytest.mark.parametrize("told", [None, "much", [1.0, 2.0], {}])
def test_what_is_no_number_fails_the_trial(tmp_path, told):
    work = worker(read(*SPACE, n_trials=1), tmp_path, lambda params: told)
    work.prepare()
    assert work(None) == 1
    assert is_one_sentence(trials(tmp_path)[0].user_attrs[Attribute.ERROR])


@pytest.mark.parametrize(("direction", "worst"), [("minimize", math.inf), ("maximize", -math.inf)])
def test_a_trial_that_diverged_to_nothing_measurable_is_the_worst(tmp_path, direction, worst):
    values = iter([1.0, math.nan, 2.0])
    work = worker(read(*SPACE, n_trials=3, directions=[direction]), tmp_path, lambda params: next(values))
    work.prepare()
    assert work(None) == 0
    assert [trial.value for trial in trials(tmp_path)] == [1.0, worst, 2.0]


def test_several_objectives_make_a_front(tmp_path):
    search = read(*SPACE, n_trials=6, directions=["maximize", "minimize"])
    work = worker(search, tmp_path, lambda params: [params["size"], params["size"] * params["rate"]])
    study = work.prepare()
    work(None)
    best = {trial.number for trial in study.best_trials}
    for trial in trials(tmp_path):
        beaten = [
            other
            for other in trials(tmp_path)
            if other.values[0] >= trial.values[0]
            and other.values[1] <= trial.values[1]
            and other.values != trial.values
        ]
        assert (trial.number in best) == (not beaten)


@pytest.mark.parametrize("limits", [{"max_failures": 2}, {"timeout": 1.0}])
def test_limits_end_a_search_before_its_last_trial(tmp_path, limits):
    def formula(params):
        raise ValueError("no")

    work = worker(read(*SPACE, n_trials=9, **limits), tmp_path, formula)
    if "timeout" in limits:
        work.deadline = time.time() - 1
    work.prepare()
    assert work(None) == limits.get("max_failures", 0)


def test_failed_trials_are_tried_again_by_the_next_start_and_count_once(tmp_path):
    broken = {"now": True}

    def formula(params):
        if broken["now"] and params["size"] > 4:
            raise ValueError("no")
        return 1.0

    search = read(*SPACE, n_trials=8, sampler="random")
    work = worker(search, tmp_path, formula)
    work.prepare()
    failed = work(None)
    assert 0 < failed < 8
    before = [trial.params for trial in trials(tmp_path)]
    broken["now"] = False
    again = worker(search, tmp_path, formula)
    again.prepare()
    assert again(None) == 0
    found = counted(trials(tmp_path))
    assert [trial.state for trial in found] == [TrialState.COMPLETE] * 8
    assert {tuple(trial.params.values()) for trial in found} == {tuple(params.values()) for params in before}
    assert ends(tmp_path)[:8].count("FAIL") == failed, "what was told stays"


def test_a_larger_search_resumes_a_smaller_one(tmp_path):
    for n_trials, known in ((3, 3), (5, 5), (4, 5)):
        work = worker(read(*SPACE, n_trials=n_trials), tmp_path)
        work.prepare()
        work(None)
        assert ends(tmp_path) == ["COMPLETE"] * known


def test_what_died_is_tried_again_within_the_number_of_trials(tmp_path):
    work = worker(read(*SPACE, n_trials=4), tmp_path)
    study = work.prepare()
    trial = study.ask({name: axis.distribution for name, axis in work.search.axes.items()})
    trial.set_user_attr(Attribute.PROCESS, {**process_tags(), "process_started": 0.0})
    work(None)
    assert ends(tmp_path) == ["COMPLETE"] * 4


@pytest.mark.parametrize("change", ["size=1,2", "size=interval(0,1)"])
def test_a_study_with_another_space_is_refused(tmp_path, change):
    work = worker(read(*SPACE, n_trials=1), tmp_path)
    work.prepare()
    work(None)
    other = worker(read(*SPACE[:1], change, n_trials=2), tmp_path)
    with pytest.raises(UserError) as error:
        other.prepare()
    assert is_one_sentence(str(error.value))
    assert "size" in str(error.value)


def test_a_study_is_resumed_only_with_the_same_settings_apart_from_places(tmp_path):
    worker(read(*SPACE, "max_epochs=2", "dataset.root=here", n_trials=1), tmp_path).prepare()
    worker(read(*SPACE, "dataset.root=there", "max_epochs=2", "trainer=gpu", n_trials=2), tmp_path).prepare()
    with pytest.raises(UserError, match="max_epochs=2, not with max_epochs=3") as error:
        worker(read(*SPACE, "max_epochs=3", n_trials=2), tmp_path).prepare()
    assert is_one_sentence(str(error.value))


def _race(folder: Path, n_trials: int, gate: Barrier) -> None:
    work = worker(read(*SPACE, sampler="random", n_trials=n_trials), folder)
    gate.wait()
    work(None)


@pytest.mark.slow
def test_several_processes_together_run_as_many_trials_as_asked(tmp_path):
    context = multiprocessing.get_context("spawn")
    gate = context.Barrier(4)
    racers = [context.Process(target=_race, args=(tmp_path, 25, gate), daemon=True) for _ in range(4)]
    worker(read(*SPACE, sampler="random", n_trials=25), tmp_path).prepare()
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join(300)
        assert racer.exitcode == 0
    found = trials(tmp_path)
    assert len(counted(found)) == 25
    assert {trial.state for trial in counted(found)} == {TrialState.COMPLETE}
    assert len({tuple(trial.params.values()) for trial in counted(found)}) == 25
    assert {trial.user_attrs[Attribute.PROCESS]["pid"] for trial in found} <= {racer.pid for racer in racers}
    surplus = [trial for trial in found if Attribute.SURPLUS in trial.user_attrs]
    assert len(found) == 25 + len(surplus)
    assert all(trial.state == TrialState.FAIL for trial in surplus)


def test_a_study_in_a_file_of_another_folder_is_not_begun_here(tmp_path):
    plan = _Plan(OmegaConf.create(), "sweep", None, read(*SPACE))
    elsewhere = SimpleNamespace(info=SimpleNamespace(run_id="1234567890"))
    plan.check_resumable(SimpleNamespace(root=tmp_path), elsewhere)
    assert not list(tmp_path.iterdir())


def test_a_new_search_refuses_an_existing_study(tmp_path):
    place = str(tmp_path / "study.journal")
    plan = _Plan(OmegaConf.create(), "sweep", None, read(*SPACE, storage=place, study="mine"))
    plan.check_new()
    open_study(open_storage(place), "mine", ["maximize"])
    with pytest.raises(UserError, match=r"study mine exists already.*another name"):
        plan.check_new()
