"""The description of a trial's job, and the result of the trial."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

if TYPE_CHECKING:
    from ecgexp.search.study import StudyTrial

# Environment variable, set with hydra.job.env_set, that gives trials the id of their parent run.
PARENT_VARIABLE = "ECGEXP_PARENT_RUN_ID"
# Environment variable with the swept keys, separated by commas.
SWEPT_VARIABLE = "ECGEXP_SWEPT_KEYS"


class Interrupted(SystemExit):
    """A trial of a sweep was told to stop."""


@dataclass(frozen=True)
class Job:
    """One Hydra job, as plain data that can be sent to another process.

    Attributes
    ----------
    overrides : list of str
        Overrides of the job.
    choices : dict of str to str
        Option chosen for each configuration group.
    cwd, output_dir : str
        Folder in which the command was started, and Hydra's folder of the job.
    number : int
        Number of the job in its sweep, from 0; 0 for a single trial.
    parent : str, optional
        Id of the sweep's run; None for a single trial.
    parallel : bool
        Whether other jobs may run at the same time on the same cores.
    study : StudyTrial, optional
        The trial in the study of a search.
    swept : tuple of str
        Keys to which its sweep gives several values.
    """

    overrides: list[str]
    choices: dict[str, str]
    cwd: str
    output_dir: str
    number: int
    parent: str | None
    parallel: bool
    study: StudyTrial | None = None
    swept: tuple[str, ...] = ()

    @classmethod
    def of(cls, hydra: Any) -> Job:
        """The job that Hydra's own configuration describes."""
        return cls(
            overrides=[o for o in hydra.overrides.task if not o.lstrip("+~").startswith(("sweep.", "resume="))],
            choices=choices_of(hydra),
            cwd=hydra.runtime.cwd,
            output_dir=hydra.runtime.output_dir,
            number=hydra.job.num if "num" in hydra.job else 0,
            parent=os.environ.get(PARENT_VARIABLE),
            parallel=not str(hydra.launcher._target_).endswith("BasicLauncher"),
            study=_study_trial(hydra.sweeper),
            swept=tuple(filter(None, os.environ.get(SWEPT_VARIABLE, "").split(","))),
        )

    @property
    def name(self) -> str:
        """Name of the run: the overrides, except those of tracking; without overrides, the model and the dataset."""
        own = [override for override in self.overrides if not override.lstrip("+~").startswith("tracking")]
        return " ".join(own) or f"{self.choices['model']} on {self.choices['dataset']}"


def choices_of(hydra: Any) -> dict[str, str]:
    """Option chosen for each configuration group, of Hydra's own configuration."""
    named = {group: choice for group, choice in hydra.runtime.choices.items() if "/" not in group}
    return {group: str(choice) for group, choice in named.items() if choice is not None}


def _study_trial(sweeper: Any) -> StudyTrial | None:
    if sweeper.get("trial") is None:
        return None
    from ecgexp.search.study import StudyTrial

    pruner = OmegaConf.to_container(sweeper.pruner)
    assert isinstance(pruner, dict)
    return StudyTrial(sweeper.storage, sweeper.study, sweeper.trial, {str(key): pruner[key] for key in pruner})


@dataclass(frozen=True)
class Outcome:
    """The result of a trial.

    Attributes
    ----------
    run_id : str
        Id of its run.
    values : list of float
        Values of the objectives; empty if the trial was pruned.
    reused : bool
        Whether it was finished before, and not trained again.
    diverged : bool
        Whether its loss stopped being finite.
    seconds : float
        Duration of its training, even if that was earlier.
    pruned : bool
        Whether a search stopped it early.
    """

    run_id: str
    values: list[float]
    reused: bool
    diverged: bool
    seconds: float
    pruned: bool = False
