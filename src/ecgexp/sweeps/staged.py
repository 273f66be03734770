"""Where a search by stages stands: chooses from what the store has, so that a search that was killed is resumed."""

from __future__ import annotations

import math
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from mlflow.entities import Run as MlflowRun
from numpy.typing import NDArray
from omegaconf import DictConfig

from ecgexp.config.components import build_target, make_target
from ecgexp.config.schema import objectives, plain
from ecgexp.errors import UserError
from ecgexp.metrics.names import PARAMETERS
from ecgexp.reports.comparison import compare_trials
from ecgexp.reports.stages import (
    Candidate,
    StageChoice,
    StagedPath,
    about_choice,
    choose,
    stage_draws,
    stage_errors,
    write_path,
)
from ecgexp.reports.tables import validation_sets
from ecgexp.search.stages import Staged
from ecgexp.sweeps.status import Board
from ecgexp.sweeps.supervisor import TrialFailed
from ecgexp.tracking.artifacts import RunFiles
from ecgexp.tracking.names import File, Status, Tag, metric_of, predictions_file
from ecgexp.tracking.runs import INFINITE, source_of, status_of, sweep_runs
from ecgexp.tracking.store import open_store
from ecgexp.training.predictions import Predictions, read_predictions
from ecgexp.trials.identity import slot

Cell = list[str]


class StagedSweep:
    """The stages of a sweep: what to train next, and what was chosen so far.

    Parameters
    ----------
    staged : Staged
        What is tried, and how it is chosen.
    compose : callable
        Gives the configuration of a trial from its overrides.
    parent : str
        Run of the sweep.
    """

    def __init__(self, staged: Staged, compose: Callable[[Cell], DictConfig], parent: str) -> None:
        self._staged, self._compose = staged, compose
        self._cfg = compose(staged.cells([], staged.stages[0].start)[0])
        self._store = open_store(self._cfg.tracking, known=True)
        self._board = Board(self._store.root, parent)
        self._parent = parent
        self._chosen: list[int] = []
        self._slots: dict[tuple[str, ...], str] = {}
        repeated = [override.partition("=")[0] for override in staged.repetitions[0]]
        planned = [list(stage.keys) for stage in staged.stages]
        self._path = StagedPath(objectives(self._cfg)[0], staged.rule, planned, repeated, [])

    def cells(self) -> list[Cell]:
        """Trials of the next stage, those of its first stages' choice left out, which are trained already."""
        stage = self._staged.stages[len(self._chosen)]
        trained = {stage.start} if self._chosen else set()
        return [
            cell
            for choice in range(len(stage.settings))
            if choice not in trained
            for cell in self._staged.cells(self._chosen, choice)
        ]

    def choose(self) -> None:
        """Choose a setting of the next stage, whose trials have ended.

        Raises
        ------
        TrialFailed
            Where too many trials failed, or all of the stage.
        UserError
            Where its trials cannot be compared.
        """
        number = len(self._chosen) + 1
        limit = self._cfg.sweep.max_failures
        if limit is not None and sum(one.state == "failed" for one in self._board.read().values()) >= limit:
            raise TrialFailed(f"sweep.max_failures={limit} ended the search in stage {number}.")
        runs = sweep_runs(self._store, self._parent)
        candidates = self._candidates(runs)
        if all(candidate.left_out for candidate in candidates):
            raise TrialFailed(
                f"Stage {number} ended the search, since none of its settings has a result: "
                f"{candidates[0].words or 'its trial'} {candidates[0].left_out}. The same command tries them again."
            )
        self._check_comparable(candidates, runs)
        better = build_target(self._cfg).higher_is_better(metric_of(self._path.objective))
        stage = choose(candidates, better)
        if self._staged.rule == "one_se" and len(stage.compared) > 1:
            stage = choose(candidates, better, stage_errors(stage, self._draws(stage, runs)))
        self._chosen.append(stage.chosen)
        self._path.done.append(stage)
        write_path(self._board.folder / File.STAGES, self._path)
        clear = "\r\x1b[K" if sys.stderr.isatty() else ""  # of the status line
        print(f"{clear}{about_choice(self._path, number)}", file=sys.stderr)

    def _candidates(self, runs: Sequence[MlflowRun]) -> list[Candidate]:
        by_slot = {run.data.tags[Tag.SLOT]: run for run in runs if Tag.SLOT in run.data.tags}
        found = []
        stage = self._staged.stages[len(self._chosen)]
        for choice, setting in enumerate(stage.settings):
            cells = self._staged.cells(self._chosen, choice)
            trials = [by_slot.get(self._slot(cell)) for cell in cells]
            why = next((reason for trial in trials if (reason := self._missing(trial))), "")
            if why:
                found.append(Candidate(dict(setting), [], [], left_out=why))
                continue
            known = [trial for trial in trials if trial is not None]
            scores = [trial.data.metrics[self._path.objective] for trial in known]
            weights = known[0].data.metrics.get(PARAMETERS)
            found.append(Candidate(dict(setting), [trial.info.run_id for trial in known], scores, weights))
        return found

    def _slot(self, cell: Cell) -> str:
        """What a trial is within the sweep."""
        if tuple(cell) not in self._slots:  # composing takes 0.1 s
            self._slots[tuple(cell)] = slot(plain(self._compose(cell)), cell, self._staged.swept)
        return self._slots[tuple(cell)]

    def _missing(self, trial: MlflowRun | None) -> str:
        """Why a trial has no result, as part of a sentence; empty where it has one."""
        if trial is None:
            return "has a trial that was not started"
        status = status_of(trial)
        if status == Status.FAILED:
            return f"failed: {trial.data.tags.get(Tag.ERROR, 'no reason was noted').rstrip('.')}"
        if status != Status.FINISHED:
            return f"has a trial that is {status.lower()}"
        if not abs(trial.data.metrics.get(self._path.objective, math.nan)) < INFINITE:
            return f"has no finite {self._path.objective}"
        return ""

    def _check_comparable(self, candidates: Sequence[Candidate], runs: Sequence[MlflowRun]) -> None:
        """Refuse to choose between settings that were validated on different records."""
        sets = dict(zip([run.info.run_id for run in runs], validation_sets(runs), strict=True))
        seen: dict[tuple[int, ...], str] = {}
        for candidate in candidates:
            if not candidate.left_out:
                seen.setdefault(tuple(sets[run] for run in candidate.runs), candidate.words)
        if len(seen) > 1:
            first, second, *_ = seen.values()
            raise UserError(
                f"Stage {len(self._chosen) + 1} of hydra.sweeper.stages compares {first} and {second}, which were "
                "validated on different records: leave keys out that change these."
            )

    def _draws(self, stage: StageChoice, runs: Sequence[MlflowRun]) -> NDArray[np.float64]:
        """Scores of the compared settings in resamples of the validation records, (resamples, compared)."""
        by_id = {run.info.run_id: run for run in runs}
        compared = [by_id[run] for at in stage.compared for run in stage.candidates[at].runs]
        sources = {run.info.run_id: source_of(run) for run in compared}
        sets = dict(zip(map(source_of, runs), validation_sets(runs), strict=True))
        predictions: dict[str, Predictions] = {}
        with tempfile.TemporaryDirectory() as scratch:
            files = RunFiles(self._store, {}, Path(scratch))
            for source in sources.values():
                path = files.find(source, predictions_file("val"))
                if path is not None:
                    predictions[source] = read_predictions(
                        path, lambda names: make_target(self._cfg.target, names, self._cfg.metrics)
                    )
        groups = compare_trials(predictions, lambda run, ids: None, sets)
        draws = stage_draws(stage, groups, sources, self._path.objective)
        if draws is None:
            reason = next((group.uncertainty for group in groups if isinstance(group.uncertainty, str)), None)
            why = (reason or "validation predictions of its trials are missing").rstrip(".")
            raise UserError(
                f"Stage {len(self._chosen) + 1} of hydra.sweeper.stages has no standard errors ({why}): choose "
                "hydra.sweeper.rule=best."
            )
        return draws
