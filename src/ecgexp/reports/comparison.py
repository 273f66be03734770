"""Which trials of a sweep differ for more than the choice of validation records: predictions in, columns out."""

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
        Runs that trained them.
    example : Predictions
        Of one of them.
    uncertainty : Uncertainty or str
        In the order of `runs`; a sentence where there is none.
    patients_known : bool
        Else each record was taken for a patient of its own.
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
    """Bootstrap the trials of a sweep, those of a validation set together.

    Parameters
    ----------
    predictions : mapping of str to Predictions
        By run.
    find_patients : callable
        Asked with a run and its record ids where the file does not have the patients; may give None.
    validation_sets : mapping of str to int
        By run, see `ecgexp.reports.tables.validation_sets`.
    """
    alike: dict[object, list[str]] = {}
    for run, found in predictions.items():
        alike.setdefault((validation_sets[run], found.target.kind), []).append(run)
    return [_compare([(run, predictions[run]) for run in runs], find_patients) for runs in alike.values()]


def uncertainty_columns(groups: Sequence[Group]) -> pd.DataFrame:
    """What the groups say of each run.

    Returns
    -------
    DataFrame
        Index: run. For the scores that have them, with prefix ``best/val/<score>``: ``_low``, ``_high`` (95 %
        interval), ``_difference``, ``_difference_low``, ``_difference_high``
        (by how much the winner of the group is better, with
        simultaneous limits), ``_maybe_best`` (it cannot be told from the winner), and ``_share_best`` (of the
        resamples).
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
    """Intervals for the scores that the target of the trials names; see `bootstrap`.

    Parameters
    ----------
    trials : sequence of pairs
        Target and probabilities, (records, names), of each.
    targets : array, (records, names)
        Those of all trials.
    patients : array, (records,)

    Raises
    ------
    UserError
        As `bootstrap`.
    """
    required, columns = trials[0][0].required(targets)
    # a trial without a metric of the user's own is measured by that of another one
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
    """A score of a trial under weights; NaN, and why in `failed`, where it raises, as a user's own metric may."""
    prepared: list[Callable[[Any], Any]] = []

    def weighted(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        try:
            if not prepared:
                prepared.append(score(given, targets))
            found = np.asarray(prepared[0](weights), dtype=np.float64)
            if found.shape == (len(weights),):
                return found
            why = f"returns the shape {found.shape} for weights of the shape {weights.shape}, not {(len(weights),)}"
        except UserError:
            raise
        except Exception as error:  # whatever a user's code may raise
            why = f"fails with {first_line(error).rstrip('.')}"
        failed.setdefault(name, f"There is no interval of {name}, whose 'resampled' {why}.")
        return np.full(len(weights), np.nan)

    return weighted
