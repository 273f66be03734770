"""A search: its space and sampler, and the workers that run its trials."""

from __future__ import annotations

import inspect
import logging
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Annotated, Any, Literal

import optuna
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Override
from hydra.core.utils import JobReturn, run_job
from hydra.errors import HydraException
from hydra.types import HydraContext, TaskFunction
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict
from optuna.distributions import (
    FloatDistribution,
    check_distribution_compatibility,
)
from optuna.pruners import NopPruner
from optuna.samplers import BaseSampler, GridSampler
from optuna.study import Study, StudyDirection
from optuna.trial import Trial, TrialState
from pydantic import ConfigDict, Field

from ecgexp.config.schema import SPECIAL, Checked, find, locate, plain, validated
from ecgexp.errors import UserError, first_line
from ecgexp.foreign.hydra import outcome
from ecgexp.foreign.optuna import contains
from ecgexp.search.space import Axis, axes
from ecgexp.search.study import (
    Grid,
    SeededSampler,
    build_pruner,
    counted,
    first_number,
    open_storage,
    open_study,
    put_back,
    put_back_dead,
    retry_failed,
    tell,
)
from ecgexp.tracking.heartbeat import Heartbeat
from ecgexp.tracking.names import Attribute

logger = logging.getLogger(__name__)

# Overrides that may differ when a study is resumed, perhaps on another machine.
_MAY_DIFFER = ("tracking", "sweep.", "resume=", "trainer", "dataset.root=", "cache_dir=", "memory_budget=", "compile=")

# Limit of the combinations of a net's arguments that are checked before a search begins; they take about a second.
_COMBINATIONS = 10_000


class SweeperConfig(Checked):
    """``hydra.sweeper``; conf/hydra/sweeper/optuna.yaml explains each key."""

    model_config = ConfigDict(extra="ignore")  # Hydra adds keys of its own, and has refused unknown ones

    params: dict[str, Any] | None
    sampler: dict[str, Any]
    pruner: dict[str, Any]
    space: str | None
    enqueue: list[dict[str, Any]]
    n_trials: Annotated[int, Field(ge=1)]
    timeout: Annotated[float, Field(gt=0)] | None
    workers: Annotated[int, Field(ge=1)] | None
    storage: str | None
    study: str | None
    seed: Annotated[int, Field(ge=0)]
    directions: list[Literal["maximize", "minimize"]]
    max_retries: int
    max_failures: int | None


@dataclass(frozen=True)
class Search:
    """The space that is searched, and the configuration of the search.

    Attributes
    ----------
    axes : dict of str to Axis
        The searched keys.
    fixed : list of str
        The other overrides.
    config : SweeperConfig
        ``hydra.sweeper``.
    """

    axes: dict[str, Axis]
    fixed: list[str]
    config: SweeperConfig

    @classmethod
    def read(cls, sweeper: DictConfig, overrides: Sequence[Override]) -> Search:
        """Read and check the search that a configuration and a command line describe.

        Parameters
        ----------
        sweeper : DictConfig
            ``hydra.sweeper``.
        overrides : sequence of Override
            Those of ``params``, then those of the command line, which take precedence.

        Raises
        ------
        UserError
            If such a search cannot be run.
        """
        values = OmegaConf.to_container(sweeper, resolve=True)
        assert isinstance(values, dict)
        config = validated(SweeperConfig, {str(key): value for key, value in values.items()}, "hydra.sweeper")
        task = [o for o in overrides if not o.get_key_element().lstrip("+~").startswith("hydra")]
        merged = {o.get_key_element(): o for o in task}.values()
        search = cls(axes(merged), [str(o.input_line) for o in merged if not o.is_sweep_override()], config)
        search._check()
        return search

    def build_sampler(self, seed: int) -> BaseSampler:
        """The sampler with a seed.

        Raises
        ------
        UserError
            If its configuration cannot be used.
        """
        if self._is_grid:
            return Grid({name: _grid(name, axis) for name, axis in self.axes.items()}, seed=self.config.seed)
        try:
            return instantiate(self.config.sampler, seed=seed)
        except Exception as error:  # a sampler's constructor may raise any error
            message = first_line(error.__cause__ or error).rstrip(".")
            raise UserError(f"Config key 'hydra.sweeper.sampler' cannot be used: {message}.") from error

    def open(self, storage: optuna.storages.BaseStorage, name: str) -> Study:
        """Open the study, with its sampler and pruner."""
        study = open_study(storage, name, self.config.directions)
        study.sampler = SeededSampler(self.build_sampler, self.config.seed)
        study.pruner = build_pruner(self.config.pruner)
        self._check_same_space(study)
        self._check_same_settings(study)
        return study

    @property
    def n_trials(self) -> int:
        """Number of trials of the study; for a grid, at most its number of cells."""
        if not self._is_grid:
            return self.config.n_trials
        return min(self.config.n_trials, math.prod(len(_grid(name, axis)) for name, axis in self.axes.items()))

    @property
    def _is_grid(self) -> bool:
        return locate("hydra.sweeper.sampler", self.config.sampler) is GridSampler

    def first_overrides(self) -> list[str]:
        """Overrides of one possible trial of the search."""
        return [*self.fixed, *(axis.override(axis.values()[0]) for axis in self.axes.values())]

    def check_together(self, cfg: DictConfig) -> None:
        """Refuse a space in which values of a net's arguments contradict each other.

        Parameters
        ----------
        cfg : DictConfig
            Configuration of one trial, with the arguments that are not searched.

        Raises
        ------
        UserError
            For the first such combination, which the message names.
        """
        net = locate("model", cfg.model)
        if not hasattr(net, "check_arguments"):
            return
        names = [f"model.{name}" for name in inspect.signature(net.check_arguments).parameters]
        searched = {name.removeprefix("model."): self.axes[name].values() for name in names if name in self.axes}
        arguments = {key: value for key, value in plain(cfg)["model"].items() if key not in SPECIAL}
        for values in _combinations(list(searched.values())):
            try:
                net.check_arguments(**{**arguments, **dict(zip(searched, values, strict=True))})
            except UserError as error:
                raise UserError(f"The search space contains settings that cannot be trained. {error}") from error

    def function(self) -> Callable[[Trial], Mapping[str, Any] | None] | None:
        """The function that ``space`` names."""
        if self.config.space is None:
            return None
        function: Callable[[Trial], Mapping[str, Any] | None] = find("hydra.sweeper.space", self.config.space)
        return function

    def _check(self) -> None:
        function = self.function()
        if not self.axes and function is None:
            raise UserError(
                "The sweeper hydra/sweeper=optuna has nothing to search: give keys several values, such as "
                "'lr=tag(log, interval(1e-4, 1e-1))', or hydra.sweeper.space."
            )
        for settings in self.config.enqueue:
            for key, value in settings.items():
                self._check_enqueued(key, value, function is not None)
        pruner = locate("hydra.sweeper.pruner", self.config.pruner)
        if len(self.config.directions) > 1 and pruner is not NopPruner:
            raise UserError("A search with several objectives cannot prune: use hydra/sweeper/pruner=none.")
        for key in ("space", "enqueue"):
            if self._is_grid and getattr(self.config, key):
                raise UserError(f"The grid sampler tries all values of the space: leave out hydra.sweeper.{key}.")
        self.build_sampler(self.config.seed)
        try:
            build_pruner(self.config.pruner)
        except Exception as error:  # a pruner's constructor may raise any error
            message = first_line(error.__cause__ or error).rstrip(".")
            raise UserError(f"Config key 'hydra.sweeper.pruner' cannot be used: {message}.") from error

    def _check_same_space(self, study: Study) -> None:
        for trial in study.get_trials(deepcopy=False):
            for name in self.axes.keys() & trial.distributions.keys():
                try:
                    check_distribution_compatibility(trial.distributions[name], self.axes[name].distribution)
                except ValueError as error:
                    raise UserError(
                        f"The study {study.study_name} searched other values of '{name}' before: "
                        "start another one with sweep.name=NAME."
                    ) from error

    def _check_same_settings(self, study: Study) -> None:
        current = sorted(override for override in self.fixed if not override.lstrip("+~").startswith(_MAY_DIFFER))
        earlier = study.user_attrs.get(Attribute.FIXED)
        if earlier is None:
            study.set_user_attr(Attribute.FIXED, current)
        elif earlier != current:
            before, now = (" ".join(overrides) or "no other settings" for overrides in (earlier, current))
            raise UserError(
                f"The study {study.study_name} trains with {before}, not with {now}, so that their values could not be "
                "compared: start another study with sweep.name=NAME."
            )

    def _check_enqueued(self, key: str, value: Any, has_function: bool) -> None:
        if key not in self.axes:
            if has_function:  # which may add the key
                return
            raise UserError(
                f"Config key 'hydra.sweeper.enqueue' sets '{key}', which is not searched. "
                f"Searched keys: {', '.join(self.axes)}."
            )
        distribution = self.axes[key].distribution
        if not contains(distribution, value):
            raise UserError(
                f"Config key 'hydra.sweeper.enqueue' sets {key}={value}, which is outside the search space."
            )


@dataclass
class Worker:
    """Asks the study for a trial, runs it, reports its result, and repeats; Hydra calls it as a job.

    Attributes
    ----------
    search : Search
        The search.
    storage, study : str
        See `open_study`.
    config : DictConfig
        Configuration of the whole multirun.
    hydra_context : HydraContext
        Composes a trial's configuration.
    task_function : callable
        Runs a trial: takes its configuration, returns the values of the objectives.
    deadline : float
        Unix time after which no trial begins.
    """

    search: Search
    storage: str
    study: str
    config: DictConfig
    hydra_context: HydraContext
    task_function: TaskFunction
    deadline: float = field(default=float("inf"))

    def __call__(self, cfg: DictConfig) -> int:
        """Run trials until the study is complete; return how many of them failed."""
        study = self.search.open(open_storage(self.storage), self.study)
        failed = 0
        while (trial := self._ask(study)) is not None:
            failed += not self._run(study, trial)
        return failed

    def prepare(self) -> Study:
        """Begin or resume the study, once, before any worker starts."""
        study = self.search.open(open_storage(self.storage), self.study)
        self._describe(study)
        put_back_dead(study)
        retry_failed(study, self.search.config.max_retries)
        for settings in self.search.config.enqueue:
            study.enqueue_trial(settings, skip_if_exists=True)
        return study

    def _describe(self, study: Study) -> None:
        """Record in the study the names of its objectives, and how its trials are seeded."""
        objective = None if self.config is None else OmegaConf.select(self.config, "objective")
        names = [objective] if isinstance(objective, str) else list(objective or ())
        if len(names) == len(study.directions):
            study.set_metric_names(names)
        if Attribute.STREAMS not in study.user_attrs:
            if study.get_trials(deepcopy=False):
                logger.warning(
                    "The study %s was begun by an earlier version with other random numbers: its trials stay, "
                    "and new trials differ from those that version would have proposed.", study.study_name,
                )  # fmt: skip
            study.set_user_attr(Attribute.STREAMS, "SeedSequence(seed, spawn_key=(number, *key))")

    def _ask(self, study: Study) -> Trial | None:
        put_back_dead(study)
        trials = counted(study.get_trials(deepcopy=False))
        failures = sum(trial.state == TrialState.FAIL for trial in trials)
        limit = self.search.config.max_failures
        if time.time() > self.deadline or (limit is not None and failures >= limit):
            return None
        if len(trials) >= self.search.n_trials:
            return None
        trial = study.ask({name: axis.distribution for name, axis in self.search.axes.items()})
        # Other workers may have asked since this one counted.
        before = [other for other in counted(study.get_trials(deepcopy=False)) if other.number < trial.number]
        if len(before) >= self.search.n_trials:
            trial.set_user_attr(Attribute.SURPLUS, True)
            study.tell(trial, state=TrialState.FAIL)
            return None
        return trial

    def _run(self, study: Study, trial: Trial) -> bool:
        """Run a trial and report it to the study; True if it did not fail."""
        try:
            with Heartbeat(lambda now: trial.set_user_attr(Attribute.HEARTBEAT, now)):
                result = self._launch(study, trial)
        except (UserError, HydraException) as error:  # no failed training: every trial would fail in this way
            self._fail(study, trial, error)
            source = f" (hydra.sweeper.space={self.search.config.space})" if self.search.config.space else ""
            raise UserError(f"A trial of the search cannot be composed{source}: {first_line(error)}") from error
        except BaseException:  # Ctrl-C, SIGTERM, or an exception from a launcher's signal handler
            put_back(study, study.get_trials(deepcopy=False)[trial.number], "it was interrupted.")
            raise
        returned = outcome(result)
        if isinstance(returned, optuna.TrialPruned):
            tell(study, trial, state=TrialState.PRUNED)
            return True
        if isinstance(returned, Exception):
            return self._fail(study, trial, returned)
        try:
            values = [float(value) for value in (returned if isinstance(returned, Sequence) else [returned])]
        except (TypeError, ValueError):
            return self._fail(study, trial, UserError(f"It returned {returned!r} instead of a number."))
        if len(values) != len(study.directions):
            count = len(study.directions)
            return self._fail(study, trial, UserError(f"It returned {len(values)} values for {count} objectives."))
        tell(
            study,
            trial,
            [_accepted(value, direction) for value, direction in zip(values, study.directions, strict=True)],
        )
        return True

    def _fail(self, study: Study, trial: Trial, error: Exception) -> bool:
        tell(study, trial, error=first_line(error))
        logger.error("Trial %d failed: %s", trial.number, first_line(error))
        return False

    def _launch(self, study: Study, trial: Trial) -> JobReturn:
        """Run a trial as a Hydra job, as a grid does."""
        config = self.hydra_context.config_loader.load_sweep_config(self.config, self._overrides(trial))
        trials = study.get_trials(deepcopy=False)
        number = first_number(trials, trials[trial.number])
        with open_dict(config):
            config.hydra.job.num = number
            config.hydra.job.id = f"{config.hydra.job.name}_{number}"
            config.hydra.sweeper.update(
                storage=self.storage, study=self.study, trial=trial.number, pruner=self.search.config.pruner
            )
        HydraConfig.instance().set_config(config)
        return run_job(
            self.task_function,
            config,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
            hydra_context=self.hydra_context,
            configure_logging=False,
        )

    def _overrides(self, trial: Trial) -> list[str]:
        function = self.search.function()
        added = None
        if function is not None:
            try:
                returned = function(trial)
                added = None if returned is None else dict(returned)
            except Exception as error:  # a user's function may raise any error
                message = first_line(error).rstrip(".")
                raise UserError(
                    f"The space {self.search.config.space} (hydra.sweeper.space) failed: {message}."
                ) from error
        if added is None:
            added = {name: value for name, value in trial.params.items() if name not in self.search.axes}
        chosen = [axis.override(trial.params[name]) for name, axis in self.search.axes.items()]
        return [*self.search.fixed, *chosen, *(f"{key}={_text(value)}" for key, value in added.items())]


def _accepted(value: float, direction: StudyDirection) -> float:
    """An objective that Optuna accepts: NaN, such as the loss of a diverged trial, becomes the worst value."""
    if not math.isnan(value):
        return value
    return math.inf if direction == StudyDirection.MINIMIZE else -math.inf


def _text(value: Any) -> str:
    return "null" if value is None else str(value)


def _combinations(axes: Sequence[Sequence[Any]]) -> Iterator[tuple[Any, ...]]:
    """All combinations of values; a random sample of them, if they are too many to check."""
    if math.prod(map(len, axes)) <= _COMBINATIONS:
        yield from product(*axes)
        return
    logger.warning("The space has more than %d combinations: a random sample of this size was checked.", _COMBINATIONS)
    generator = random.Random(0)
    for _ in range(_COMBINATIONS):
        yield tuple(values[generator.randrange(len(values))] for values in axes)


def _grid(name: str, axis: Axis) -> list[Any]:
    if isinstance(axis.distribution, FloatDistribution) and axis.distribution.step is None:
        raise UserError(
            f"The grid sampler needs single values: give {name} a choice or a range instead of an interval."
        )
    return list(axis.values())
