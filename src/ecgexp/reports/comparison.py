"""Compares the trials of a sweep: which of them differ by more than the choice of validation records explains."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from ecgexp.errors import UserError, first_line
from ecgexp.metrics.base import Resampled
from ecgexp.statistics import Scorer, Uncertainty, bootstrap, score_in_blocks
from ecgexp.targets import Target
from ecgexp.tracking.names import best_metric
from ecgexp.training.predictions import Predictions

RESAMPLES = 1000


@dataclass(frozen=True)
class Group:
    """Trials that were validated on the same data, and so can be compared.

    Attributes
    ----------
    runs : list of str
        Runs that trained these trials.
    example : Predictions
        The predictions of one of them.
    uncertainty : Uncertainty or str
        Intervals and comparisons, in the order of `runs`. A sentence with the reason where there are none.
    patients_known : bool
        Whether the patients are known. If not, each record counts as a separate patient.
    """

    runs: list[str]
    example: Predictions
    uncertainty: Uncertainty | str
    patients_known: bool


def compare_trials(
    predictions: Mapping[str, Predictions],
    find_patients: Callable[[str, NDArray[np.str_]], NDArray[np.str_] | None],
    validation_sets: Mapping[str, int],
) -> list[Group]:
    """Bootstrap the trials of a sweep, together for each validation set.

    Parameters
    ----------
    predictions : mapping of str to Predictions
        By run.
    find_patients : callable
        Called with a run and its record ids where the predictions do not have the patients. It may return None.
    validation_sets : mapping of str to int
        By run, see `ecgexp.reports.tables.validation_sets`.
    """
    alike: dict[object, list[str]] = {}
    for run, found in predictions.items():
        alike.setdefault((validation_sets[run], found.target.kind), []).append(run)
    return [_compare([(run, predictions[run]) for run in runs], find_patients) for runs in alike.values()]


def uncertainty_columns(groups: Sequence[Group]) -> pd.DataFrame:
    """Intervals and comparisons of each run.

    Returns
    -------
    DataFrame
        Index: run. Columns for each score that has them, with prefix ``best/val/<score>``: ``_low``, ``_high`` (95 %
        interval), ``_difference``, ``_difference_low``, ``_difference_high`` (by how much the winner of the group is
        better, with simultaneous limits), ``_maybe_best`` (whether it cannot be distinguished from the winner), and
        ``_share_best`` (share of the resamples in which it is the best).
    """
    frames = []
    for group in groups:
        columns: dict[str, object] = {}
        if not isinstance(group.uncertainty, str):
            for name, score in group.uncertainty.scores.items():
                against, column = score.comparison, best_metric("val", name)
                columns |= {
                    f"{column}_low": score.low,
                    f"{column}_high": score.high,
                    f"{column}_difference": against.difference,
                    f"{column}_difference_low": against.low,
                    f"{column}_difference_high": against.high,
                    f"{column}_maybe_best": against.indistinguishable,
                    f"{column}_share_best": against.share_best,
                }
        frames.append(pd.DataFrame(columns, index=group.runs))
    return pd.concat(frames) if frames else pd.DataFrame()


def _compare(
    trials: Sequence[tuple[str, Predictions]],
    find_patients: Callable[[str, NDArray[np.str_]], NDArray[np.str_] | None],
) -> Group:
    runs = [run for run, _ in trials]
    patients = next((one.patients for _, one in trials if one.patients is not None), None)
    example = trials[0][1]
    if patients is None:
        patients = find_patients(runs[0], example.ids)
    try:
        uncertainty: Uncertainty | str = intervals(
            [(one.target, one.probabilities) for _, one in trials],
            example.targets,
            example.ids if patients is None else patients,
        )
    except UserError as error:  # too few records or patients
        uncertainty = str(error)
    return Group(runs, example, uncertainty, patients is not None)


def intervals(
    trials: Sequence[tuple[Target, NDArray[np.float32]]], targets: NDArray[Any], patients: ArrayLike
) -> Uncertainty:
    """Intervals of the scores that the targets of the trials have; see `bootstrap`.

    Parameters
    ----------
    trials : sequence of pairs
        Target and probabilities, (records, names), of each.
    targets : array, (records, names)
        The targets of all trials.
    patients : array, (records,)

    Raises
    ------
    UserError
        As `bootstrap`.
    """
    required, columns = trials[0][0].required(targets)
    # a trial that lacks a user's own metric is measured with the metric of another trial
    known, better = dict[str, Resampled](), dict[str, bool]()
    for target, _ in trials:
        for name, score in target.scorers().items():
            known.setdefault(name, score)
            better.setdefault(name, target.higher_is_better(name))
    names = list(known)
    failed: dict[str, str] = {}
    scorers = [_scorer(known | one.scorers(), given, targets, failed) for one, given in trials]
    found = bootstrap(scorers, required, patients, names, columns, list(better.values()), resamples=RESAMPLES)
    return replace(found, undefined=found.undefined | failed)


def _scorer(
    scores: Mapping[str, Resampled], given: NDArray[np.float32], targets: NDArray[Any], failed: dict[str, str]
) -> Scorer:
    def scorer(weights: NDArray[np.uint16]) -> NDArray[np.float64]:
        functions = [_guarded(name, score, given, targets, failed) for name, score in scores.items()]
        return score_in_blocks(functions, weights)

    return scorer


def _guarded(
    name: str, score: Resampled, given: NDArray[np.float32], targets: NDArray[Any], failed: dict[str, str]
) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    """The score of a trial as a function of weights.

    Where the score raises, as a user's own metric may, the function returns NaN, and `failed` gets the reason.
    """
    prepared: list[Callable[[Any], Any]] = []

    def weighted(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        try:
            if not prepared:
                prepared.append(score(given, targets))
            found = np.asarray(prepared[0](weights), dtype=np.float64)
            if found.shape == (len(weights),):
                return found
            problem = f"returns the shape {found.shape} for weights of the shape {weights.shape}, not {(len(weights),)}"
        except UserError:
            raise
        except Exception as error:  # a user's code may raise anything
            problem = f"fails with {first_line(error).rstrip('.')}"
        failed.setdefault(name, f"There is no interval of {name}, because its 'resampled' {problem}.")
        return np.full(len(weights), np.nan)

    return weighted
