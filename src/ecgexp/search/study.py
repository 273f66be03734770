"""An Optuna study that processes on several machines work on at once, and that survives the death of any."""

from __future__ import annotations

import json
import logging
import os
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from json import JSONDecodeError
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import optuna
from filelock import FileLock
from hydra.utils import instantiate
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning, StorageInternalError, UpdateFinishedTrialError
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler, GridSampler, QMCSampler, RandomSampler
from optuna.storages import BaseStorage, get_storage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from ecgexp.errors import UserError, summarised
from ecgexp.foreign.optuna import (
    WatchedJournal,
    WithoutTrial,
    draw_others_with,
    grid_size,
    id_of,
    settings_are_given,
    storage_of,
    take_cell,
    take_point,
)
from ecgexp.tracking.heartbeat import HEARTBEAT_TIMEOUT, is_alive, process_tags
from ecgexp.tracking.names import Attribute, Tag

logger = logging.getLogger(__name__)
optuna.logging.set_verbosity(optuna.logging.WARNING)
warnings.filterwarnings("ignore", category=ExperimentalWarning)


@dataclass(frozen=True)
class StudyTrial:
    """A trial of a study, plain enough to be sent to the process that trains it.

    Attributes
    ----------
    storage, study : str
        See `open_study`.
    number : int
        Of the trial.
    pruner : dict
        Configuration of the pruner.
    """

    storage: str
    study: str
    number: int
    pruner: dict[str, Any]


def open_storage(place: str) -> BaseStorage:
    """Open what keeps studies.

    Parameters
    ----------
    place : str
        URL of a database, or path of a journal file, which is made where there is none.

    Raises
    ------
    UserError
        Where it cannot be used.
    """
    try:
        if "://" in place:
            return get_storage(place)
        path = Path(place)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        lock = _Lock(path)
        lock.acquire()  # which mends it
        try:
            return _Journal(path, lock)
        finally:
            lock.release()
    except (OSError, ImportError, ValueError, SQLAlchemyError, StorageInternalError) as error:
        first = summarised(error)
        raise UserError(f"The study's storage {place} (hydra.sweeper.storage) cannot be used: {first}") from error


def open_study(storage: BaseStorage, name: str, directions: Sequence[Literal["maximize", "minimize"]]) -> Study:
    """Make a study, or open the one of this name.

    Raises
    ------
    UserError
        Where there is one with other objectives.
    """
    study = optuna.create_study(storage=storage, study_name=name, directions=list(directions), load_if_exists=True)
    found = [direction.name.lower() for direction in study.directions]
    if found != list(directions):
        raise UserError(
            f"The study {name} has the directions {', '.join(found)}, not {', '.join(directions)}: "
            "start another one with sweep.name=NAME."
        )
    return study


class SeededSampler(BaseSampler):
    """Gives each trial a sampler of its own, seeded by the study's seed and the trial's place in the study.

    So a study that goes on proposes neither what it proposed before, as a sampler with its first seed would,
    nor anything that cannot be reproduced; two processes never draw alike, and two studies have no trial in common.

    Parameters
    ----------
    build : callable
        A seed to a sampler.
    seed : int
        Of the study.
    """

    def __init__(self, build: Callable[[int], BaseSampler], seed: int) -> None:
        self._build, self._seed = build, seed
        self._sampler = build(seed)
        # Points of one sequence: another seed would be another sequence.
        self._one_sequence = isinstance(self._sampler, (GridSampler, QMCSampler))

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Note which process asks, before it samples, which may take seconds; take the sampler of this trial."""
        storage_of(study).set_trial_user_attr(id_of(trial), Attribute.PROCESS, process_tags())
        self._place = place(study.get_trials(deepcopy=False), trial)
        if isinstance(self._sampler, QMCSampler):
            # The first trial is no point of the sequence. Optuna counts its draws, also those of a trial tried again.
            take_point(self._sampler, max(self._place - 1, 0))
        elif not self._one_sequence:
            self._sampler = self._build(stream(self._seed, self._place))
        self._sampler.before_trial(study, trial)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """As the sampler does."""
        return self._sampler.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """As the sampler does, which is not shown this trial: one that was killed has left its settings there."""
        return self._sampler.sample_relative(cast(Study, WithoutTrial(study, trial.number)), trial, search_space)

    def sample_independent(self, study: Study, trial: FrozenTrial, name: str, distribution: BaseDistribution) -> Any:
        """As the sampler does, for each key from a stream of its own: what was drawn before a kill changes nothing."""
        seed = stream(self._seed, self._place, name)
        if isinstance(self._sampler, QMCSampler):  # this key is no part of the sequence
            draw_others_with(self._sampler, RandomSampler(seed))
        sampler = self._sampler if self._one_sequence else self._build(seed)
        return sampler.sample_independent(study, trial, name, distribution)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """As the sampler does."""
        if isinstance(self._sampler, GridSampler):
            return  # it would stop a `study.optimize`, which nobody runs
        self._sampler.after_trial(study, trial, state, values)


class Grid(GridSampler):
    """Gives each new trial the next cell: Optuna leaves to chance those that a trial tried again displaced."""

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Note the trial's cell, as Optuna does, unless its settings are given."""
        if not settings_are_given(trial):
            take_cell(self, study, trial, place(study.get_trials(deepcopy=False), trial) % grid_size(self))


def build_pruner(component: Mapping[str, Any]) -> BasePruner:
    """The pruner that a configuration names."""
    return instantiate(dict(component))


def counted(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Trials that are neither waiting, nor surplus, nor tried again by another one."""
    replaced = {trial.user_attrs.get(Attribute.RETRY_OF) for trial in trials}
    return [
        trial
        for trial in trials
        if trial.state != TrialState.WAITING
        and Attribute.SURPLUS not in trial.user_attrs
        and trial.number not in replaced
    ]


def first_number(trials: Sequence[FrozenTrial], trial: FrozenTrial) -> int:
    """Number of the trial that this one tries again, perhaps after others did; else its own."""
    while Attribute.RETRY_OF in trial.user_attrs:
        trial = trials[trial.user_attrs[Attribute.RETRY_OF]]
    return trial.number


def place(trials: Sequence[FrozenTrial], trial: FrozenTrial) -> int:
    """Number that a trial would have, had none been tried again and none been surplus."""
    before = trials[: first_number(trials, trial)]
    return sum(not {Attribute.RETRY_OF, Attribute.SURPLUS} & other.user_attrs.keys() for other in before)


def stream(seed: int, number: int, key: str = "") -> int:
    """Seed of a trial of a study, or of one of its keys, that shares nothing with that of any other one."""
    return int(np.random.SeedSequence(seed, spawn_key=(number, *key.encode())).generate_state(1)[0])


def tell(
    study: Study,
    trial: Trial,
    values: Sequence[float] | None = None,
    state: TrialState | None = None,
    error: str | None = None,
) -> None:
    """Tell how a trial of this process ended: with values, in a state, or failed with an error.

    Where another process took this one for dead it is too late: the trial is tried again, and its run found then.
    """
    try:
        if error is not None:
            trial.set_user_attr(Attribute.ERROR, error)
            state = TrialState.FAIL
        if state == TrialState.PRUNED:
            # Optuna's own way makes the last report, which may be of another metric, the trial's value.
            study.sampler.after_trial(study, study.get_trials(deepcopy=False)[trial.number], state, None)
            storage_of(study).set_trial_state_values(id_of(trial), state)
        else:
            study.tell(trial, values, state)
    except (UpdateFinishedTrialError, ValueError):
        logger.warning("Trial %d was taken for dead, and is tried again.", trial.number)


def put_back(study: Study, trial: FrozenTrial, reason: str) -> None:
    """Have a trial whose process stopped taken up again, before any new one.

    It keeps its number, its settings and what it reported: the study goes on as if nothing had stopped.
    Of several processes that put it back at once, one does (of a study in a database, unless they meet within
    milliseconds: then the trial may be taken up twice, and counts once).
    """
    storage = storage_of(study)
    with _alone(storage):
        now = storage.get_trial(id_of(trial))
        if now.state != TrialState.RUNNING or _run_of(now) != _run_of(trial):  # another process was faster
            return
        storage.set_trial_user_attr(id_of(trial), Attribute.PROCESS, None)  # whoever takes it up is not the dead one
        storage.set_trial_state_values(id_of(trial), TrialState.WAITING)
    logger.info("Trial %d of the study: %s It is taken up again.", trial.number, reason)


def try_again(study: Study, trial: FrozenTrial) -> None:
    """Have the settings of a failed trial tried again, before any new ones."""
    attempt = trial.user_attrs.get(Attribute.ATTEMPT, 1) + 1
    study.enqueue_trial(trial.params, user_attrs={Attribute.RETRY_OF: trial.number, Attribute.ATTEMPT: attempt})


def end_dead(study: Study) -> None:
    """Put back the trials that dead processes left behind as running."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if not _lives(trial):
            put_back(study, trial, "its process died.")


def revive(study: Study, max_retries: int) -> None:
    """Have failed trials tried again, but those that failed more than `max_retries` times."""
    for trial in counted(study.get_trials(deepcopy=False)):
        if trial.state == TrialState.FAIL and trial.user_attrs.get(Attribute.ATTEMPT, 1) <= max_retries:
            try_again(study, trial)


def judge(trial: StudyTrial, monitor: str, sign: int) -> Callable[[Sequence[Mapping[str, float]]], bool]:
    """What tells a study how a trial is doing, and whether to prune it.

    Parameters
    ----------
    trial : StudyTrial
        The trial.
    monitor : str
        Metric that is reported, with the number of epochs trained as its step.
    sign : int
        -1 where it is better the other way than the study's objective: then its negative is reported.

    Returns
    -------
    callable
        Told of the metrics of all epochs so far; whether to stop. A storage that is away, or that has the trial
        as dead, stops nothing.
    """
    study = optuna.load_study(
        study_name=trial.study,
        storage=open_storage(trial.storage),
        sampler=RandomSampler(),  # nothing is sampled here, but Optuna would go about it
        pruner=build_pruner(trial.pruner),
    )
    frozen = study.get_trials(deepcopy=False)[trial.number]
    handle = Trial(study, id_of(frozen))
    handle.set_user_attr(Attribute.REPORTED, monitor if sign > 0 else f"-{monitor}")
    reported, was_to_stop = frozen.last_step or 0, Attribute.PRUNED_AFTER in frozen.user_attrs

    def decide(epochs: Sequence[Mapping[str, float]]) -> bool:
        nonlocal reported
        if was_to_stop:  # and was killed before it did: asked again, a pruner may say otherwise
            return True
        try:
            for number in range(reported, len(epochs)):
                handle.report(sign * epochs[number][monitor], number + 1)
                reported = number + 1
            stop = handle.should_prune()
            if stop:
                handle.set_user_attr(Attribute.PRUNED_AFTER, reported)
            return stop
        except (OSError, StorageInternalError, UpdateFinishedTrialError, UserError) as error:
            logger.warning("The study cannot be told of this epoch: %s", error)
            return False

    return decide


def note_run(trial: StudyTrial, run_id: str) -> None:
    """Note in a study which run of MLflow's a trial is."""
    try:
        storage = open_storage(trial.storage)
        known = storage.get_all_trials(storage.get_study_id_from_name(trial.study), deepcopy=False)
        storage.set_trial_user_attr(id_of(known[trial.number]), Attribute.RUN, run_id)
    except (OSError, StorageInternalError, UpdateFinishedTrialError, UserError) as error:
        logger.warning("The study cannot be told of this run: %s", error)


def _lives(trial: FrozenTrial) -> bool:
    process = trial.user_attrs.get(Attribute.PROCESS)
    if process is None:  # asked for, and killed before it could be noted, unless that happens now
        begun = trial.datetime_start
        return begun is not None and time.time() - begun.timestamp() < HEARTBEAT_TIMEOUT
    # a trial that was put back has the last heartbeat of the process that died
    last = max(trial.user_attrs.get(Attribute.HEARTBEAT, 0.0), process[Tag.HEARTBEAT])
    return is_alive({**process, Tag.HEARTBEAT: last})


def _run_of(trial: FrozenTrial) -> tuple[Any, Any]:
    """What changes whenever a process takes a trial up."""
    return trial.user_attrs.get(Attribute.PROCESS), trial.datetime_start


def _alone(storage: BaseStorage) -> AbstractContextManager[Any]:
    """Keep other processes that put trials back from a study in a file."""
    return FileLock(f"{storage.path}.dead.lock") if isinstance(storage, _Journal) else nullcontext()


class _Journal(WatchedJournal):
    """A journal in a file whose damage is said.

    A line cannot be left out: trials are counted by the lines that begin them, and what is left would count others.
    """

    def __init__(self, path: Path, lock: _Lock) -> None:
        self.path = path
        try:
            super().__init__(JournalFileBackend(str(path), lock))
        except UserError:
            raise
        except Exception as error:  # whatever replaying a damaged line comes to
            raise self._damage() from error
        # Optuna passes over a last line that it cannot read.
        if self.lines_read < path.read_bytes().count(b"\n"):
            raise self._damage()

    def read(self) -> None:
        try:
            super().read()
        except (JSONDecodeError, UnicodeDecodeError) as error:
            raise self._damage() from error

    def _damage(self) -> UserError:
        *lines, _ = self.path.read_bytes().split(b"\n")
        number = self.lines_read
        try:
            json.loads(lines[number])
        except IndexError:  # the last one was read, and means nothing
            pass
        except ValueError:
            number += 1
        return UserError(
            f"The study's file {self.path} is damaged in line {number}: put a copy in its place, or move it away and "
            "start another search with sweep.name=NAME, which reuses what is trained."
        )


class _Lock(JournalFileOpenLock):
    """A lock that the system releases when its holder dies: Optuna's own would be waited for 30 seconds.

    What its holder was just writing when it died is cut off: a line appended to it could not be read.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, FileLock(path.with_name(f"{path.name}.lock"))

    def acquire(self) -> bool:
        self._lock.acquire()
        _mend(self._path)
        return True

    def release(self) -> None:
        self._lock.release()


def _mend(path: Path) -> None:
    """Cut off a last line that was not written to its end."""
    with path.open("rb+") as file:
        size = file.seek(0, os.SEEK_END)
        if size == 0:
            return
        file.seek(-1, os.SEEK_END)
        if file.read() != b"\n":
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)
            os.fsync(file.fileno())
            logger.warning("The last line of the study's file %s was not written to its end, and is left out.", path)
