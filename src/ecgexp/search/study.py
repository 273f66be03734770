"""An Optuna study that several processes share, also on several machines; it survives the death of any of them."""

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
    """Names a trial of a study, in plain data that can be sent to the process that trains it.

    Attributes
    ----------
    storage, study : str
        See `open_study`.
    number : int
        Number of the trial.
    pruner : dict
        Configuration of the pruner.
    """

    storage: str
    study: str
    number: int
    pruner: dict[str, Any]


def open_storage(place: str) -> BaseStorage:
    """Open the storage of studies.

    Parameters
    ----------
    place : str
        URL of a database, or path of a journal file, which is created if it is missing.

    Raises
    ------
    UserError
        If the storage cannot be used.
    """
    try:
        if "://" in place:
            return get_storage(place)
        path = Path(place)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        lock = _Lock(path)
        lock.acquire()  # this repairs the file
        try:
            return _Journal(path, lock)
        finally:
            lock.release()
    except (OSError, ImportError, ValueError, SQLAlchemyError, StorageInternalError) as error:
        reason = summarised(error)
        raise UserError(f"The study's storage {place} (hydra.sweeper.storage) cannot be used: {reason}") from error


def open_study(storage: BaseStorage, name: str, directions: Sequence[Literal["maximize", "minimize"]]) -> Study:
    """Create a study, or open the existing one of this name.

    Raises
    ------
    UserError
        If the existing study has other objectives.
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
    """Gives each trial its own sampler, seeded by the study's seed and the trial's place in the study.

    So each proposal can be reproduced, and a resumed study does not repeat its first proposals. Two processes never
    draw the same numbers, and two studies with different seeds share no trial.

    Parameters
    ----------
    build : callable
        Makes a sampler from a seed.
    seed : int
        Seed of the study.
    """

    def __init__(self, build: Callable[[int], BaseSampler], seed: int) -> None:
        self._build, self._seed = build, seed
        self._sampler = build(seed)
        # Each trial takes a point of one sequence, so the seed of these samplers must not change.
        self._one_sequence = isinstance(self._sampler, (GridSampler, QMCSampler))

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Record the process that asks, then make this trial's sampler.

        The process is recorded first, because sampling may take seconds.
        """
        storage_of(study).set_trial_user_attr(id_of(trial), Attribute.PROCESS, process_tags())
        self._place = place(study.get_trials(deepcopy=False), trial)
        if isinstance(self._sampler, QMCSampler):
            # The first trial takes no point of the sequence. Optuna itself would count draws, also those of retries.
            take_point(self._sampler, max(self._place - 1, 0))
        elif not self._one_sequence:
            self._sampler = self._build(stream(self._seed, self._place))
        self._sampler.before_trial(study, trial)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Call the trial's sampler."""
        return self._sampler.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Call the trial's sampler but hide this trial from it: a trial that was killed before already has settings."""
        return self._sampler.sample_relative(cast(Study, WithoutTrial(study, trial.number)), trial, search_space)

    def sample_independent(self, study: Study, trial: FrozenTrial, name: str, distribution: BaseDistribution) -> Any:
        """Call the trial's sampler with a seed for each key, so that draws before a kill change nothing."""
        seed = stream(self._seed, self._place, name)
        if isinstance(self._sampler, QMCSampler):  # this key is not part of the sequence
            draw_others_with(self._sampler, RandomSampler(seed))
        sampler = self._sampler if self._one_sequence else self._build(seed)
        return sampler.sample_independent(study, trial, name, distribution)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """Call the trial's sampler."""
        if isinstance(self._sampler, GridSampler):
            return  # Optuna would stop `study.optimize`, which is not used here
        self._sampler.after_trial(study, trial, state, values)


class Grid(GridSampler):
    """Gives each new trial the next cell; after retries, Optuna's own sampler would choose some cells at random."""

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Record the trial's cell, as Optuna does, unless its settings are given."""
        if not settings_are_given(trial):
            take_cell(self, study, trial, place(study.get_trials(deepcopy=False), trial) % grid_size(self))


def build_pruner(component: Mapping[str, Any]) -> BasePruner:
    """The pruner that a configuration names."""
    return instantiate(dict(component))


def counted(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Trials that count: those that are neither waiting, nor surplus, nor retried by another trial."""
    replaced = {trial.user_attrs.get(Attribute.RETRY_OF) for trial in trials}
    return [
        trial
        for trial in trials
        if trial.state != TrialState.WAITING
        and Attribute.SURPLUS not in trial.user_attrs
        and trial.number not in replaced
    ]


def first_number(trials: Sequence[FrozenTrial], trial: FrozenTrial) -> int:
    """Number of the first trial in a chain of retries; without retries, the trial's own number."""
    while Attribute.RETRY_OF in trial.user_attrs:
        trial = trials[trial.user_attrs[Attribute.RETRY_OF]]
    return trial.number


def place(trials: Sequence[FrozenTrial], trial: FrozenTrial) -> int:
    """Number that a trial would have without retries and surplus trials."""
    before = trials[: first_number(trials, trial)]
    return sum(not {Attribute.RETRY_OF, Attribute.SURPLUS} & other.user_attrs.keys() for other in before)


def stream(seed: int, number: int, key: str = "") -> int:
    """Seed of a trial, or of one of its keys, independent of all other seeds of the study."""
    return int(np.random.SeedSequence(seed, spawn_key=(number, *key.encode())).generate_state(1)[0])


def tell(
    study: Study,
    trial: Trial,
    values: Sequence[float] | None = None,
    state: TrialState | None = None,
    error: str | None = None,
) -> None:
    """Report how a trial of this process ended: with values, in a state, or with an error.

    If another process considered this one dead, the report comes too late. The trial is then retried, and the retry
    finds the run of this trial.
    """
    try:
        if error is not None:
            trial.set_user_attr(Attribute.ERROR, error)
            state = TrialState.FAIL
        if state == TrialState.PRUNED:
            # `study.tell` would make the last report the trial's value; the report may be of another metric.
            study.sampler.after_trial(study, study.get_trials(deepcopy=False)[trial.number], state, None)
            storage_of(study).set_trial_state_values(id_of(trial), state)
        else:
            study.tell(trial, values, state)
    except (UpdateFinishedTrialError, ValueError):
        logger.warning("Another process considered trial %d dead and retries it.", trial.number)


def put_back(study: Study, trial: FrozenTrial, reason: str) -> None:
    """Put a trial whose process stopped back into the queue, before any new trial.

    It keeps its number, settings and reports, so the study is the same as without the stop. If several processes do
    this at once, one succeeds. In a database, two processes may both succeed within milliseconds; then the trial runs
    twice and counts once.
    """
    storage = storage_of(study)
    with _locked(storage):
        current = storage.get_trial(id_of(trial))
        if current.state != TrialState.RUNNING or _start(current) != _start(trial):  # another process has put it back
            return
        storage.set_trial_user_attr(id_of(trial), Attribute.PROCESS, None)  # else the next process seems dead
        storage.set_trial_state_values(id_of(trial), TrialState.WAITING)
    logger.info("Trial %d of the study: %s It is resumed.", trial.number, reason)


def try_again(study: Study, trial: FrozenTrial) -> None:
    """Queue the settings of a failed trial again, before any new trial."""
    attempt = trial.user_attrs.get(Attribute.ATTEMPT, 1) + 1
    study.enqueue_trial(trial.params, user_attrs={Attribute.RETRY_OF: trial.number, Attribute.ATTEMPT: attempt})


def put_back_dead(study: Study) -> None:
    """Put back the trials that dead processes left in the state RUNNING."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if not _process_is_alive(trial):
            put_back(study, trial, "its process died.")


def retry_failed(study: Study, max_retries: int) -> None:
    """Retry failed trials, except those that failed more than `max_retries` times."""
    for trial in counted(study.get_trials(deepcopy=False)):
        if trial.state == TrialState.FAIL and trial.user_attrs.get(Attribute.ATTEMPT, 1) <= max_retries:
            try_again(study, trial)


def pruning(trial: StudyTrial, monitor: str, sign: int) -> Callable[[Sequence[Mapping[str, float]]], bool]:
    """A function that reports a trial's epochs to its study, and decides whether to prune the trial.

    Parameters
    ----------
    trial : StudyTrial
        The trial.
    monitor : str
        Metric to report; its step is the number of trained epochs.
    sign : int
        1, or -1 if `monitor` and the objective are optimised in opposite directions; it multiplies the reports.

    Returns
    -------
    callable
        Takes the metrics of all epochs so far; returns whether to stop. If the storage does not answer, or another
        process considered this one dead, training continues.
    """
    study = optuna.load_study(
        study_name=trial.study,
        storage=open_storage(trial.storage),
        sampler=RandomSampler(),  # nothing is sampled here
        pruner=build_pruner(trial.pruner),
    )
    frozen = study.get_trials(deepcopy=False)[trial.number]
    handle = Trial(study, id_of(frozen))
    handle.set_user_attr(Attribute.REPORTED, monitor if sign > 0 else f"-{monitor}")
    reported, was_pruned = frozen.last_step or 0, Attribute.PRUNED_AFTER in frozen.user_attrs

    def should_stop(epochs: Sequence[Mapping[str, float]]) -> bool:
        nonlocal reported
        if was_pruned:  # the process was killed before it stopped; now the pruner could decide otherwise
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
            logger.warning("This epoch cannot be reported to the study: %s", error)
            return False

    return should_stop


def record_run(trial: StudyTrial, run_id: str) -> None:
    """Record the MLflow run of a trial in its study."""
    try:
        storage = open_storage(trial.storage)
        trials = storage.get_all_trials(storage.get_study_id_from_name(trial.study), deepcopy=False)
        storage.set_trial_user_attr(id_of(trials[trial.number]), Attribute.RUN, run_id)
    except (OSError, StorageInternalError, UpdateFinishedTrialError, UserError) as error:
        logger.warning("The run cannot be recorded in the study: %s", error)


def _process_is_alive(trial: FrozenTrial) -> bool:
    process = trial.user_attrs.get(Attribute.PROCESS)
    if process is None:  # the process was killed before it was recorded, or is being recorded
        start = trial.datetime_start
        return start is not None and time.time() - start.timestamp() < HEARTBEAT_TIMEOUT
    # A trial that was put back still has the heartbeat of the process that died.
    last = max(trial.user_attrs.get(Attribute.HEARTBEAT, 0.0), process[Tag.HEARTBEAT])
    return is_alive({**process, Tag.HEARTBEAT: last})


def _start(trial: FrozenTrial) -> tuple[Any, Any]:
    """Process and time of a trial's start; they change whenever a process begins the trial."""
    return trial.user_attrs.get(Attribute.PROCESS), trial.datetime_start


def _locked(storage: BaseStorage) -> AbstractContextManager[Any]:
    """Prevent that two processes put trials back at once, if the study is in a file."""
    return FileLock(f"{storage.path}.dead.lock") if isinstance(storage, _Journal) else nullcontext()


class _Journal(WatchedJournal):
    """A journal in a file; a damaged line is an error.

    It cannot be skipped: trials are numbered in the order of their lines, so later trials would get other numbers.
    """

    def __init__(self, path: Path, lock: _Lock) -> None:
        self.path = path
        try:
            super().__init__(JournalFileBackend(str(path), lock))
        except UserError:
            raise
        except Exception as error:  # a damaged line may raise any error
            raise self._damage() from error
        # Optuna skips a last line that it cannot read.
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
        except IndexError:  # the last line is valid JSON, but no entry
            pass
        except ValueError:
            number += 1
        return UserError(
            f"The study's file {self.path} is damaged in line {number}: restore a copy, or move it away and "
            "start another search with sweep.name=NAME, which reuses the finished trials."
        )


class _Lock(JournalFileOpenLock):
    """A lock that the operating system releases when its holder dies.

    Optuna's own lock would block the others for 30 seconds. The next holder removes an incomplete last line, since
    text appended to it could not be read.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, FileLock(path.with_name(f"{path.name}.lock"))

    def acquire(self) -> bool:
        self._lock.acquire()
        _remove_incomplete_line(self._path)
        return True

    def release(self) -> None:
        self._lock.release()


def _remove_incomplete_line(path: Path) -> None:
    """Remove the last line if it is incomplete."""
    with path.open("rb+") as file:
        size = file.seek(0, os.SEEK_END)
        if size == 0:
            return
        file.seek(-1, os.SEEK_END)
        if file.read() != b"\n":
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)
            os.fsync(file.fileno())
            logger.warning("The last line of the study's file %s was incomplete and was removed.", path)
