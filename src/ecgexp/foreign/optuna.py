"""Private API of Optuna, checked with 5.0.0 (pyproject: <5.1)."""

from __future__ import annotations

from typing import Any

from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, GridSampler, QMCSampler
from optuna.storages import BaseStorage, JournalStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial


def storage_of(study: Study) -> BaseStorage:
    """Storage of a study: unlike `Study`, it can set states and attributes of other processes' trials."""
    return study._storage


def id_of(trial: Trial | FrozenTrial) -> int:
    """Id of a trial in its storage; `number` is its number within the study."""
    return trial._trial_id


def contains(distribution: BaseDistribution, value: Any) -> bool:
    """Whether a parameter may have a value."""
    try:
        return distribution._contains(distribution.to_internal_repr(value))
    except ValueError:
        return False


def settings_are_given(trial: FrozenTrial) -> bool:
    """Whether a trial was enqueued with values, which a sampler does not change."""
    return "fixed_params" in trial.system_attrs


def grid_size(sampler: GridSampler) -> int:
    """Number of cells of a grid."""
    return len(sampler._all_grids)


def take_cell(sampler: GridSampler, study: Study, trial: FrozenTrial, cell: int) -> None:
    """Give a trial a cell of a grid, as `GridSampler.before_trial` does with a cell that it draws."""
    for key, value in (("search_space", sampler._search_space), ("grid_id", cell)):
        study._storage.set_trial_system_attr(trial._trial_id, key, value)


def take_point(sampler: QMCSampler, point: int) -> None:
    """Make a sampler use a given point of its sequence; it would use the next one even for a retried trial."""
    sampler._find_sample_id = lambda study, search_space: point  # type: ignore[method-assign]


def draw_others_with(sampler: QMCSampler, other: BaseSampler) -> None:
    """Set the sampler of the parameters outside the sequence; only the constructor has a public argument for it."""
    sampler._independent_sampler = other


class WithoutTrial:
    """A study that hides one of its trials from samplers."""

    def __init__(self, study: Study, number: int) -> None:
        self._study, self._number = study, number

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)

    def _get_trials(self, *args: Any, **options: Any) -> list[FrozenTrial]:
        return [trial for trial in self._study._get_trials(*args, **options) if trial.number != self._number]


class WatchedJournal(JournalStorage):
    """A journal that knows how many lines it has read; a subclass can override `read`."""

    @property
    def lines_read(self) -> int:
        """Lines of the journal that were read and applied."""
        return self._replay_result.log_number_read

    def read(self) -> None:
        """Read the new lines."""
        super()._sync_with_backend()

    def _sync_with_backend(self) -> None:
        self.read()
