"""A study that several processes share, and that survives their death."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import threading
import time
from contextlib import suppress
from multiprocessing.synchronize import Barrier, Event
from pathlib import Path

import optuna
import pytest
from filelock import FileLock
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState
from searches import SAMPLERS, value
from trained import is_one_sentence

from ecgexp.errors import UserError
from ecgexp.search import study as module
from ecgexp.search.study import (
    SeededSampler,
    StudyTrial,
    counted,
    first_number,
    open_storage,
    open_study,
    pruning,
    put_back,
    put_back_dead,
    record_run,
    retry_failed,
    stream,
    tell,
)
from ecgexp.tracking.heartbeat import HEARTBEAT_TIMEOUT, process_tags
from ecgexp.tracking.names import Attribute

SPACE = {
    "lr": FloatDistribution(1e-4, 1e-1, log=True),
    "size": IntDistribution(1, 8),
    "rate": FloatDistribution(0.0, 0.5),
}
CELLS = {"lr": [0.1, 0.01], "size": [1, 2, 3], "rate": [0.0, 0.25, 0.5]}
BUILD = {
    "tpe": lambda seed: optuna.samplers.TPESampler(
        seed=seed, n_startup_trials=4, multivariate=True, group=True, constant_liar=True
    ),
    "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
    "gp": lambda seed: optuna.samplers.GPSampler(seed=seed, n_startup_trials=4),
    "cmaes": lambda seed: optuna.samplers.CmaEsSampler(seed=seed, popsize=4),
    "qmc": lambda seed: optuna.samplers.QMCSampler(seed=seed, scramble=True),
    "nsgaii": lambda seed: optuna.samplers.NSGAIISampler(seed=seed, population_size=4),
    "grid": lambda seed: module.Grid(CELLS, seed=0),
}
DEAD = {"host": "", "pid": 1, "process_started": 0.0, "heartbeat": 0.0}


def opened(path: Path, sampler: str = "random") -> optuna.Study:
    """The study with fresh objects, as another process opens it."""
    found = open_study(open_storage(str(path)), "study", ["maximize"])
    found.sampler = SeededSampler(BUILD[sampler], 0)
    return found


@pytest.fixture
def journal(tmp_path) -> Path:
    return tmp_path / "study.journal"


@pytest.fixture
def study(journal) -> optuna.Study:
    return opened(journal)


def run(study: optuna.Study, count: int) -> None:
    for _ in range(count):
        trial = study.ask(SPACE)
        study.tell(trial, value(trial.params))


def dead(study: optuna.Study) -> optuna.Trial:
    """A running trial whose process died on this machine."""
    trial = study.ask(SPACE)
    trial.set_user_attr(Attribute.PROCESS, {**process_tags(), "process_started": 0.0})
    return trial


def states(study: optuna.Study) -> list[str]:
    return [trial.state.name for trial in study.get_trials()]


def test_every_sampler_of_the_configuration_is_tried_here():
    assert sorted(BUILD) == SAMPLERS


@pytest.mark.slow
@pytest.mark.parametrize("sampler", sorted(BUILD))
def test_a_resumed_study_proposes_the_same_as_an_uninterrupted_one(tmp_path, sampler):
    run(opened(tmp_path / "whole", sampler), 14)
    for count in (1, 3, 1, 5, 4):
        run(opened(tmp_path / "parts", sampler), count)
    whole, parts = ([trial.params for trial in opened(tmp_path / name).get_trials()] for name in ("whole", "parts"))
    assert parts == whole
    if sampler != "nsgaii":  # which may cross two parents into one of them
        assert len({tuple(params.values()) for params in whole}) == 14, "none is proposed again"


@pytest.mark.parametrize("sampler", sorted(BUILD))
def test_a_proposal_depends_on_the_number_and_the_history_alone(tmp_path, sampler):
    proposals = []
    for name in ("one", "other"):
        run(opened(tmp_path / name, sampler), 9)
        later = opened(tmp_path / name, sampler)
        if name == "other":  # what this process did before does not matter
            run(opened(tmp_path / "else", sampler), 2)
            later.sampler._sampler.infer_relative_search_space(later, later.get_trials()[0])
        proposals.append(later.ask(SPACE).params)
    assert proposals[0] == proposals[1]


@pytest.mark.parametrize("sampler", sorted(BUILD))
def test_processes_that_ask_before_any_result_get_different_proposals(tmp_path, sampler):
    asked = [opened(tmp_path / "journal", sampler).ask(SPACE).params for _ in range(4)]
    assert len({tuple(params.values()) for params in asked}) == 4


def test_keys_of_one_trial_are_drawn_independently_of_each_other(journal):
    draws = [opened(journal, "qmc").ask({"a": SPACE["rate"], "b": SPACE["rate"]}).params for _ in range(3)]
    assert all(draw["a"] != draw["b"] for draw in draws)


def test_a_grid_gives_each_cell_once_besides_retries(journal):
    study = opened(journal, "grid")
    for _ in range(7):
        study.tell(study.ask(SPACE), 1.0)
    dead(study)
    put_back_dead(study)
    for _ in range(18 - 7):
        other = opened(journal, "grid")
        other.tell(other.ask(SPACE), 1.0)
    found = [tuple(trial.params[key] for key in CELLS) for trial in counted(study.get_trials())]
    assert len(found) == len(set(found)) == 18


@pytest.mark.parametrize("tail", [b'{"op_code":4,"worker', b'{"op_code":4}{"op', b"\xff\xfe"])
def test_a_journal_with_an_incomplete_last_line_continues_without_it(journal, tail):
    study = opened(journal)
    run(study, 2)
    whole = journal.read_bytes()
    journal.write_bytes(whole + tail)
    run(study, 1)  # by a process that has the file open
    journal.write_bytes(journal.read_bytes() + tail)
    assert states(opened(journal)) == ["COMPLETE"] * 3  # by a process that opens the file
    assert journal.read_bytes().startswith(whole)
    run(opened(journal), 1)
    assert states(study) == ["COMPLETE"] * 4


def test_a_journal_with_only_an_incomplete_line_is_empty(journal):
    journal.write_bytes(b'{"op_')
    assert states(opened(journal)) == []


def lines_of(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


DAMAGE = {
    "no JSON": lambda line: line[:5] + b"\xff" + line[6:],
    "zeros": lambda line: b"\0" * (len(line) - 1) + b"\n",
    "a list": lambda line: b"[1,2]\n",
    "nothing": lambda line: b"\n",
    "two in one": lambda line: line[:-1] + line,
    "no such operation": lambda line: re.sub(rb'"op_code":\d+', b'"op_code":77', line),
    "a key less": lambda line: re.sub(rb'"op_code":\d+,', b"", line),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("where", ["first", "middle", "last"])
def test_a_damaged_line_is_named_in_one_sentence_and_nothing_is_lost(journal, study, damage, where):
    run(study, 2)
    lines = lines_of(journal)
    number = {"first": 0, "middle": len(lines) // 2, "last": len(lines) - 1}[where]
    lines[number] = DAMAGE[damage](lines[number])
    journal.write_bytes(b"".join(lines))
    with pytest.raises(UserError) as refused:
        opened(journal)
    assert is_one_sentence(str(refused.value))
    assert f"{journal} is damaged in line {number + 1}" in str(refused.value)
    assert lines_of(journal) == lines


def test_a_line_that_is_damaged_while_the_study_is_open_is_named_too(journal, study):
    run(study, 1)
    count = len(lines_of(journal))
    with journal.open("ab") as file:
        file.write(b"nonsense\n" + lines_of(journal)[-1])
    with pytest.raises(UserError, match=f"damaged in line {count + 1}"):
        study.get_trials()


def test_an_incomplete_line_gives_a_warning(journal, study, caplog):
    run(study, 1)
    with journal.open("ab") as file:
        file.write(b'{"op_')
    opened(journal)
    assert "incomplete" in caplog.text


def _hold(path: Path, held: Event) -> None:
    with FileLock(path):
        held.set()
        threading.Event().wait()


@pytest.mark.slow
def test_a_process_that_dies_with_the_lock_does_not_block_others(journal, study):
    context = multiprocessing.get_context("spawn")
    held = context.Event()
    holder = context.Process(target=_hold, args=(journal.with_name("study.journal.lock"), held), daemon=True)
    holder.start()
    assert held.wait(60)
    asking = threading.Thread(target=run, args=(study, 1), daemon=True)
    asking.start()
    asking.join(0.3)
    assert asking.is_alive(), "the lock is held"
    os.kill(holder.pid, signal.SIGKILL)
    asking.join(10)
    assert not asking.is_alive()
    holder.join()
    assert states(study) == ["COMPLETE"]


def test_a_trial_records_its_process_before_it_is_sampled(study):
    seen = []

    class Looking(optuna.samplers.RandomSampler):
        def sample_independent(self, study, trial, name, distribution):
            seen.append(study.get_trials()[trial.number].user_attrs[Attribute.PROCESS]["pid"])
            return super().sample_independent(study, trial, name, distribution)

    study.sampler = SeededSampler(lambda seed: Looking(seed), 0)
    study.ask(SPACE)
    assert seen == [os.getpid()] * 3


def test_a_trial_of_a_living_process_is_not_put_back(study):
    study.ask(SPACE)
    put_back_dead(study)
    assert states(study) == ["RUNNING"]


@pytest.mark.parametrize("attribute", [Attribute.PROCESS, Attribute.HEARTBEAT])
def test_a_process_on_another_machine_is_judged_by_its_last_heartbeat(study, attribute):
    trials = []
    for silent in (HEARTBEAT_TIMEOUT - 30, HEARTBEAT_TIMEOUT + 30):
        trial = study.ask(SPACE)
        last = time.time() - silent
        elsewhere = {
            **process_tags(),
            "host": "elsewhere",
            "heartbeat": last if attribute == Attribute.PROCESS else 0.0,
        }
        trial.set_user_attr(Attribute.PROCESS, elsewhere)
        if attribute == Attribute.HEARTBEAT:
            trial.set_user_attr(Attribute.HEARTBEAT, last)
        trials.append(trial)
    put_back_dead(study)
    assert states(study) == ["RUNNING", "WAITING"]


def test_a_trial_without_a_process_is_dead_only_after_a_while(study, monkeypatch):
    study.sampler = optuna.samplers.RandomSampler()  # as a process that was killed before it was recorded
    study.ask(SPACE)
    put_back_dead(study)
    assert states(study) == ["RUNNING"]
    now = time.time()
    monkeypatch.setattr(module.time, "time", lambda: now + HEARTBEAT_TIMEOUT + 1)
    put_back_dead(study)
    assert states(study) == ["WAITING"]


def test_the_trial_of_a_dead_process_is_resumed_unchanged_before_any_new_trial(journal, study):
    lost = dead(study)
    lost.report(0.5, 1)
    put_back_dead(opened(journal))
    again = opened(journal).ask(SPACE)
    assert (again.number, again.params) == (lost.number, lost.params)
    (trial,) = study.get_trials()
    assert trial.intermediate_values == {1: 0.5}
    assert trial.user_attrs[Attribute.PROCESS]["pid"] == os.getpid()
    put_back_dead(opened(journal))
    assert states(study) == ["RUNNING"], "it is not considered dead"
    assert study.ask(SPACE).params != lost.params


@pytest.mark.slow
@pytest.mark.parametrize("sampler", sorted(BUILD))
@pytest.mark.parametrize("moment", ["asked", "half asked", "training"])
def test_a_study_whose_processes_die_proposes_the_same_as_an_uninterrupted_one(tmp_path, monkeypatch, sampler, moment):
    run(opened(tmp_path / "whole", sampler), 14)
    setting = optuna.storages.JournalStorage.set_trial_param
    for count in (1, 4, 3, 6):
        run(opened(tmp_path / "killed", sampler), count - 1)
        study = opened(tmp_path / "killed", sampler)
        with monkeypatch.context() as patched:
            if moment == "half asked":

                def die(storage, trial_id, name, *rest):
                    setting(storage, trial_id, name, *rest)
                    if name == "size":
                        raise KeyboardInterrupt

                patched.setattr(optuna.storages.JournalStorage, "set_trial_param", die)
            with suppress(KeyboardInterrupt):
                study.ask(SPACE)
        lost = study.get_trials()[-1]
        if moment == "training":
            study._storage.set_trial_intermediate_value(lost._trial_id, 1, 0.5)
        study._storage.set_trial_user_attr(
            lost._trial_id, Attribute.PROCESS, {**process_tags(), "process_started": 0.0}
        )
        later = opened(tmp_path / "killed", sampler)
        put_back_dead(later)
        run(later, 1)
    whole, killed = (opened(tmp_path / name).get_trials() for name in ("whole", "killed"))
    assert [trial.params for trial in killed] == [trial.params for trial in whole]
    assert [trial.values for trial in killed] == [trial.values for trial in whole]


# The other two learn nothing from retries.
@pytest.mark.parametrize("sampler", sorted(set(BUILD) - {"cmaes", "nsgaii"}))
def test_retries_and_surplus_trials_do_not_change_later_proposals(tmp_path, sampler):
    run(opened(tmp_path / "whole", sampler), 8)
    study = opened(tmp_path / "other", sampler)
    run(study, 3)
    surplus = study.ask(SPACE)
    surplus.set_user_attr(Attribute.SURPLUS, True)
    tell(study, surplus, state=TrialState.FAIL)
    failed = study.ask(SPACE)
    tell(study, failed, error="it failed")
    retry_failed(study, 1)
    run(opened(tmp_path / "other", sampler), 5)
    folders = (tmp_path / name for name in ("whole", "other"))
    whole, other = ([trial.params for trial in counted(opened(folder).get_trials())] for folder in folders)
    assert other == whole


@pytest.mark.parametrize("sampler", sorted(set(BUILD) - {"grid"}))
def test_searches_with_other_seeds_have_no_setting_in_common(tmp_path, sampler):
    found = set()
    for seed in range(3):
        study = opened(tmp_path / f"{seed}", sampler)
        study.sampler = SeededSampler(BUILD[sampler], seed)
        run(study, 4)  # before any sampler learns, and may converge to the same part of the space
        found |= {(trial.params["lr"], trial.params["rate"]) for trial in study.get_trials()}
    assert len(found) == 3 * 4


def test_no_two_trials_of_searches_with_other_seeds_are_seeded_alike():
    pairs = [(seed, number) for seed in (*range(20), 2**31, 2**40) for number in range(100)]
    assert len({stream(*pair) for pair in pairs}) == len(pairs)
    assert len({stream(1, 1, key) for key in ("", "lr", "size", "a", "b")}) == 5


def _race(path: Path, gate: Barrier, taken: multiprocessing.Queue) -> None:
    study = opened(path)
    for _ in range(20):
        gate.wait()
        put_back_dead(study)
        taken.put(study.ask(SPACE).number)
        gate.wait()


@pytest.mark.slow
def test_only_one_of_several_processes_resumes_a_dead_trial(journal, study):
    context = multiprocessing.get_context("spawn")
    gate, taken = context.Barrier(4), context.Queue()
    racers = [context.Process(target=_race, args=(journal, gate, taken), daemon=True) for _ in range(3)]
    for racer in racers:
        racer.start()
    for _ in range(20):
        dead(study)
        gate.wait()
        gate.wait()
    numbers = [taken.get(timeout=60) for _ in range(60)]
    for racer in racers:
        racer.join()
        assert racer.exitcode == 0
    assert len(set(numbers)) == 60
    assert len(study.get_trials()) == 60, (
        "20 dead ones, each resumed by one of three processes, and two new ones each time"
    )


def test_putting_back_a_finished_trial_does_nothing(study):
    run(study, 1)
    put_back(study, study.get_trials()[0], "it died.")
    assert states(study) == ["COMPLETE"]


def test_failed_trials_are_retried_at_most_max_retries_times(study):
    for expected in (["FAIL"], ["FAIL"] * 2, ["FAIL"] * 3):
        study.tell(study.ask(SPACE), state=TrialState.FAIL)
        assert states(study) == expected
        retry_failed(study, max_retries=2)
    assert states(study) == ["FAIL"] * 3
    assert len(counted(study.get_trials())) == 1
    assert len({tuple(trial.params.values()) for trial in study.get_trials()}) == 1
    assert [first_number(study.get_trials(), trial) for trial in study.get_trials()] == [0, 0, 0]


def test_which_trials_count(study):
    run(study, 2)
    study.ask(SPACE)
    surplus = study.ask(SPACE)
    surplus.set_user_attr(Attribute.SURPLUS, True)
    tell(study, surplus, state=TrialState.FAIL)
    study.enqueue_trial({"lr": 0.01})
    assert [trial.number for trial in counted(study.get_trials())] == [0, 1, 2]


def test_a_report_of_a_trial_that_was_put_back_changes_nothing(journal, study, caplog):
    trial = study.ask(SPACE)
    put_back(opened(journal), study.get_trials()[0], "its process died.")
    tell(study, trial, [1.0])
    assert states(study) == ["WAITING"]
    assert "considered trial 0 dead" in caplog.text


def judged(journal: Path, pruner: dict, number: int, sign: int = 1):
    return pruning(StudyTrial(str(journal), "study", number, pruner), "val/f1", sign)


MEDIAN = {"_target_": "optuna.pruners.MedianPruner", "n_startup_trials": 1, "n_warmup_steps": 2}


@pytest.mark.parametrize("sign", [1, -1])
def test_each_epoch_is_reported_to_the_study_once_and_the_study_decides_when_to_stop(journal, study, sign):
    for number, values in enumerate([(0.5, 0.6, 0.7), (0.4, 0.5, 0.8)]):
        trial = study.ask(SPACE)
        decide = judged(journal, MEDIAN, number, sign)
        epochs = [{"val/f1": sign * value} for value in values]
        decisions = [decide(epochs[: count + 1]) for count in range(3)]
        assert study.get_trials()[number].intermediate_values == {1: values[0], 2: values[1], 3: values[2]}
        tell(study, trial, [values[-1]])
    assert decisions == [False, True, False]  # 0.4 comes before the second epoch, 0.5 is worse than 0.6, 0.8 is best


def test_a_pruned_trial_has_its_reports_and_no_value(journal, study):
    trial = study.ask(SPACE)
    judged(journal, MEDIAN, 0, -1)([{"val/f1": 0.7}])
    tell(study, trial, state=TrialState.PRUNED)
    (found,) = opened(journal).get_trials()
    assert (found.state, found.value, found.intermediate_values) == (TrialState.PRUNED, None, {1: -0.7})
    assert found.user_attrs[Attribute.REPORTED] == "-val/f1"
    tell(study, trial, state=TrialState.PRUNED)  # too late, which only gives a warning


@pytest.mark.parametrize("pruner", ["median", "asha"])
def test_a_trial_that_is_killed_while_it_is_pruned_stays_pruned(journal, study, pruner):
    how = MEDIAN if pruner == "median" else {"_target_": "optuna.pruners.SuccessiveHalvingPruner", "min_resource": 2}
    for f1 in (0.9, 0.1):
        trial = study.ask(SPACE)
        stop = judged(journal, how, trial.number)([{"val/f1": f1}] * 2)
        if f1 == 0.9:
            assert not stop
            tell(study, trial, [f1])
    assert stop
    trial.set_user_attr(Attribute.PROCESS, {**process_tags(), "process_started": 0.0})
    put_back_dead(study)
    again = study.ask(SPACE)
    assert judged(journal, how, again.number)([{"val/f1": 0.1}] * 2)
    assert study.get_trials()[-1].intermediate_values == {1: 0.1, 2: 0.1}


def test_a_trial_records_its_run(journal, study, caplog):
    study.ask(SPACE)
    record_run(StudyTrial(str(journal), "study", 0, {}), "0123")
    assert opened(journal).get_trials()[0].user_attrs[Attribute.RUN] == "0123"
    record_run(StudyTrial("sqlite:////nowhere/at/all.db", "study", 0, {}), "0123")
    assert "cannot be recorded" in caplog.text


def test_a_resumed_training_reports_the_earlier_epochs(journal, study):
    study.ask(SPACE)
    decide = judged(journal, MEDIAN, 0)
    decide([{"val/f1": value} for value in (0.1, 0.2, 0.3)])
    assert study.get_trials()[0].intermediate_values == {1: 0.1, 2: 0.2, 3: 0.3}


def test_a_study_that_put_the_trial_back_or_is_unreachable_stops_no_training(journal, study, monkeypatch):
    study.ask(SPACE)
    decide = judged(journal, MEDIAN, 0)
    put_back(study, study.get_trials()[0], "its process died.")
    assert decide([{"val/f1": 0.1}]) is False

    def away(*_):
        raise StorageInternalError("no route")

    monkeypatch.setattr(optuna.storages.JournalStorage, "set_trial_intermediate_value", away)
    assert decide([{"val/f1": 0.1}]) is False


def test_other_objectives_are_refused(journal, study):
    with pytest.raises(UserError) as refused:
        open_study(open_storage(str(journal)), "study", ["minimize", "maximize"])
    assert is_one_sentence(str(refused.value))


@pytest.mark.parametrize(
    "place", ["nonsense://host/name", "sqlite:////nowhere/at/all.db", "/proc/nowhere/study.journal"]
)
def test_a_storage_that_cannot_be_used_is_named_in_one_sentence(place):
    with pytest.raises(UserError) as refused:
        open_storage(place)
    assert is_one_sentence(str(refused.value))
    assert place in str(refused.value)


def test_a_database_can_store_a_study(tmp_path):
    place = f"sqlite:///{tmp_path / 'study.db'}"
    study = open_study(open_storage(place), "study", ["maximize"])
    study.sampler = SeededSampler(BUILD["tpe"], 0)
    run(study, 2)
    dead(study)
    other = open_study(open_storage(place), "study", ["maximize"])
    put_back_dead(other)
    assert states(other) == ["COMPLETE", "COMPLETE", "WAITING"]
    run(other, 1)
    assert states(study) == ["COMPLETE"] * 3


def test_a_category_keeps_its_type(journal, study):
    choices = [True, None, 0.5, 3, "a b"]
    study.enqueue_trial({"k": None})
    assert study.ask({"k": CategoricalDistribution(choices)}).params == {"k": None}
    assert opened(journal).get_trials()[0].params == {"k": None}
