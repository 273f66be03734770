"""Which trials of a sweep differ for more than the choice of validation records: predictions in, columns out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from ecgexp.errors import UserError
from ecgexp.metrics.names import macro_f1_name
from ecgexp.statistics import Scorer, Uncertainty, bootstrap, score_in_blocks
from ecgexp.targets import Target
from ecgexp.tracking.names import best_metric, metric_of
from ecgexp.training.predictions import Predictions

AUROC, RECALL = "auroc_macro", "recall_macro"
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
        interval), ``_behind``, ``_behind_low``, ``_behind_high`` (winner of the group minus this, simultaneous),
        ``_maybe_best`` (it cannot be told from the winner), and ``_share_best`` (of the resamples).
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
                    f"{column}_behind": against.difference,
                    f"{column}_behind_low": against.low,
                    f"{column}_behind_high": against.high,
                    f"{column}_maybe_best": against.indistinguishable,
                    f"{column}_share_best": against.share_best,
                }
        frames.append(pd.DataFrame(columns, index=group.runs))
    return pd.concat(frames) if frames else pd.DataFrame()


def score_name(objective: str, macro_f1: str) -> str:
    """The bootstrapped score that stands for an objective: itself, or macro F1, which is called `macro_f1`."""
    name = metric_of(objective)
    if macro_f1 == macro_f1_name(True) and name in (RECALL, "balanced_accuracy"):  # the same by its other name
        return RECALL
    return name if name == AUROC else macro_f1


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
    target = trials[0][0]
    required, columns = target.required(targets)
    names = list(target.scorers())
    better = [target.higher_is_better(name) for name in names]
    scorers = [_scorer(one, given, targets) for one, given in trials]
    return bootstrap(scorers, required, patients, names, columns, better, resamples=RESAMPLES)


def _scorer(target: Target, given: NDArray[np.float32], targets: NDArray[Any]) -> Scorer:
    return lambda weights: score_in_blocks([score(given, targets) for score in target.scorers().values()], weights)
