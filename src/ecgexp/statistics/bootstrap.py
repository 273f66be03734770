"""The bootstrap over patients: intervals of scores, and the trials that cannot be distinguished from the best.

The intervals describe how the scores of the trained nets vary with the records of the validation split. They do not
include the variance between seeds: see `ecgexp.statistics.variance`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ecgexp.errors import UserError

Bools = NDArray[np.bool_]
Counts = NDArray[np.uint16]
Floats = NDArray[np.float64]

Scorer = Callable[[Counts], ArrayLike]
"""Takes weights of the records, (resamples, records), and returns scores of one trial, (resamples, scores)."""

# A label of a single patient is absent from 37 % of the draws. With ten such labels, one draw in a hundred is complete.
_DRAWS_PER_RESAMPLE = 200
_DRAWS_AT_ONCE = 250
# Weights in a block of resamples: 4 MB as float64, about the size of a processor's cache.
_WEIGHTS_AT_ONCE = 2**19
# With this block, the errors of 1,000 trials (0.5 MB) fit into a processor's cache.
_RESAMPLES_AT_ONCE = 64
# A variance of a difference below this share of both variances is a rounding error: the two trials are equal.
_ROUNDING = 1e-13
_LEAST_SHARE_LEFT_OUT = 0.1


@dataclass(frozen=True)
class Resamples:
    """Resamples of patients, the same for every trial.

    Attributes
    ----------
    weights : uint16 array, (resamples, records)
        How often a record is in a resample: as often as its patient was drawn.
    redraws : int
        Number of discarded draws: those in which a required column was all true or all false.
    """

    weights: Counts
    redraws: int


@dataclass(frozen=True)
class Comparison:
    """All trials compared with the winner, which is the trial with the best value (among equal ones, the first).

    Attributes
    ----------
    winner : int
    difference, low, high : float64 array, (trials,)
        Difference by which the winner is better than the trial, and its simultaneous limits; all 0 for the winner.
    indistinguishable : bool array, (trials,)
        Whether the limits include 0. With the confidence of the limits, every truly best trial is among these trials,
        and each other trial is truly worse than the winner.
    share_best : float64 array, (trials,)
        Share of the resamples in which no other trial scores better; trials with equal scores are all the best.
    critical_value : float
        Half the width of an interval, in standard errors of its difference.
    """

    winner: int
    difference: Floats
    low: Floats
    high: Floats
    indistinguishable: Bools
    share_best: Floats
    critical_value: float


@dataclass(frozen=True)
class ScoreUncertainty:
    """One score of all trials.

    Attributes
    ----------
    values, low, high : float64 array, (trials,)
        The score on all records, and the limits of each trial's own interval.
    draws : float64 array, (resamples, trials)
        The score in each resample.
    comparison : Comparison
    optimism : float or None
        Estimate of how much the winner's value is better than its true value because the winner was selected as the
        best. It may be below 0 by chance. None if fewer than a tenth of the resamples leave out both positives and
        negatives of every label, or if the score is not a number on the records that they leave out.
    higher_is_better : bool
    """

    values: Floats
    low: Floats
    high: Floats
    draws: Floats
    comparison: Comparison
    optimism: float | None
    higher_is_better: bool = True


@dataclass(frozen=True)
class Uncertainty:
    """Result of `bootstrap`.

    Attributes
    ----------
    scores : dict of str to ScoreUncertainty
        By name.
    undefined : dict of str to str
        A sentence with the reason, for each score without an interval.
    level : float
        Confidence of each trial's interval, and of all intervals of differences together.
    patients, records, resamples, redraws : int
    """

    scores: dict[str, ScoreUncertainty]
    undefined: dict[str, str]
    level: float
    patients: int
    records: int
    resamples: int
    redraws: int


def bootstrap(
    scorers: Sequence[Scorer],
    required: ArrayLike,
    patients: ArrayLike,
    names: Sequence[str],
    columns: Sequence[str] | None = None,
    higher_is_better: Sequence[bool] | None = None,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Uncertainty:
    """Intervals for the scores of each trial, and for its difference to the best trial.

    Patients are drawn with replacement, with all their records. All trials are scored on the same resamples.

    A trial's limits are the percentiles of its resampled scores [1]_. They stay within 0 and 1, and exist also for a
    diverged trial, whose score is the same in all resamples. The bias-corrected and accelerated interval does not exist
    there and costs one more evaluation for each patient. Its coverage is not better here: in simulations with 100 and
    250 patients, both differ by at most one percentage point. Limits of 95 % hold in 94 to 95 % of the cases with at
    least 200 patients, and in 92 to 93 % with 50 patients, where an interval of macro F1 is slightly too narrow.

    For the differences see `compare`.

    The highest of many noisy values is probably too high. The patients left out by a resample had no part in the
    selection of the best trial of this resample, so this trial's score on them is not biased by the selection [2]_.
    `optimism` is the winner's value minus the mean of such scores. Because macro F1 also depends slightly on the number
    of records, each such score is the trial's value on all records, plus its score on the left-out patients, minus the
    mean of all its scores on left-out patients. The estimate is correct if all trials are equally good, and if one
    trial is clearly the best. In between it is slightly too large, because a resample selects less well than all
    patients do. (The plain bootstrap estimate, the gain of a resample's best trial in this resample, is too small by a
    quarter to a third if all trials are equally good.) `optimism` covers only the selection between trials. Values are
    also too high because the epoch of each trial was selected on the same records.

    Parameters
    ----------
    scorers : sequence of callable
        One for each trial. It takes weights, a uint16 array (resamples, records) of how often a record is in a
        resample, and returns scores, (resamples, scores). Sums of the weights may exceed 16 bits: use
        `score_in_blocks`, or convert them to float64 first.
    required : bool array, (records, columns)
        In each column, a resample must have at least one true and one false record, because a score over other
        labels would be a different score. A column with one value in all records is ignored.
    patients : array, (records,)
        Identifier of each record's patient, of any type.
    names : sequence of str, (scores,)
        Names of the scores.
    columns : sequence of str, (columns,), optional
        Names of the columns, for messages; by default '0', '1', ...
    higher_is_better : sequence of bool, (scores,), optional
        Whether a higher score is better; by default true for all.
    resamples : int
    seed : int
    level : float
        Confidence, between 0 and 1.

    Returns
    -------
    Uncertainty

    Raises
    ------
    UserError
        If an argument is not as described above, and as in `resample_patients`.

    References
    ----------
    .. [1] B. Efron, R. J. Tibshirani, "An Introduction to the Bootstrap", Chapman & Hall, 1993, chapters 13 and 14
    .. [2] I. Tsamardinos, E. Greasidou, G. Borboudakis, "Bootstrapping the out-of-sample predictions for efficient
       and accurate cross-validation", Machine Learning 107, 2018, https://doi.org/10.1007/s10994-018-5714-4

    Examples
    --------
    Share of hits among the records of 50 patients:

    >>> import numpy as np
    >>> hits = np.arange(100) % 4 > 0
    >>> def scorer(weights):
    ...     return score_in_blocks([lambda block: block @ hits / block.sum(axis=1)], weights)
    >>> found = bootstrap([scorer], np.ones((100, 0)), np.arange(100) // 2, ["accuracy"])
    >>> accuracy = found.scores["accuracy"]
    >>> accuracy.values, accuracy.low.round(2), accuracy.high.round(2)
    (array([0.75]), array([0.68]), array([0.82]))
    """
    if len(scorers) == 0:
        raise UserError("There is no trial to score: pass at least one scorer.")
    better = [True] * len(names) if higher_is_better is None else [bool(higher) for higher in higher_is_better]
    drawn = resample_patients(required, patients, columns, resamples, seed)
    true = np.asarray(required) == 1
    weights = np.concatenate([np.ones((1, len(true)), dtype=np.uint16), drawn.weights])
    found = np.stack([_scores(scorer, weights, len(names)) for scorer in scorers], axis=1)
    values, draws = found[0], found[1:]
    undefined = {name: why for i, name in enumerate(names) if (why := _undefined(name, found[..., i]))}
    defined = [i for i, name in enumerate(names) if name not in undefined]
    signs = np.where(better, 1.0, -1.0)
    comparisons = {i: compare(signs[i] * values[:, i], signs[i] * draws[..., i], level) for i in defined}

    left_out = (drawn.weights == 0).astype(np.uint16)
    scored = _complete(left_out, true)
    enough = scored.mean() >= _LEAST_SHARE_LEFT_OUT
    outside = np.full((int(scored.sum()), *values.shape), np.nan)
    if enough:
        # Only trials that are the best in some resample need scores on left-out records.
        chosen = np.any([comparison.share_best > 0 for comparison in comparisons.values()], axis=0)
        for trial in np.flatnonzero(chosen).tolist():
            outside[:, trial] = _scores(scorers[trial], left_out[scored], len(names))

    scores = {}
    for i, comparison in comparisons.items():
        low, high = np.quantile(draws[..., i], [(1 - level) / 2, (1 + level) / 2], axis=0)
        parts = (signs[i] * part for part in (values[:, i], draws[scored, :, i], outside[..., i]))
        optimism = _optimism(*parts) if enough else None
        scores[names[i]] = ScoreUncertainty(
            values[:, i], low, high, draws[..., i], comparison, optimism, higher_is_better=better[i]
        )
    people = len(np.unique(np.asarray(patients)))
    return Uncertainty(scores, undefined, level, people, len(true), resamples, drawn.redraws)


def resample_patients(
    required: ArrayLike,
    patients: ArrayLike,
    columns: Sequence[str] | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> Resamples:
    """Draw `resamples` times, with replacement, as many patients as there are.

    A draw in which a required column is all true or all false is discarded and drawn again.

    Parameters
    ----------
    required, patients, columns, resamples, seed
        As in `bootstrap`.

    Returns
    -------
    Resamples

    Raises
    ------
    UserError
        If an argument is not as in `bootstrap`, there is only one patient, or labels are so rare that almost no draw
        has all of them.

    Examples
    --------
    >>> drawn = resample_patients([[1, 0], [0, 1], [1, 1], [0, 0]], ["a", "a", "b", "c"], resamples=100)
    >>> drawn.weights.shape
    (100, 4)
    """
    true, patient, names = _validate(required, patients, columns, resamples)
    people = int(patient.max()) + 1
    asked = _varied(true)
    labels = true[:, asked]
    has = np.zeros((people, 2 * labels.shape[1]))
    np.maximum.at(has, patient, np.hstack([labels, ~labels]).astype(np.float64))

    rng = np.random.default_rng(seed)
    kept: list[Counts] = []
    missing, redraws = resamples, 0
    while missing > 0:
        drawn = rng.integers(people, size=(_DRAWS_AT_ONCE, people)) + people * np.arange(_DRAWS_AT_ONCE)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=_DRAWS_AT_ONCE * people).reshape(_DRAWS_AT_ONCE, people)
        complete = np.flatnonzero(((counts @ has) > 0).all(axis=1))[:missing]
        kept.append(counts[complete].astype(np.uint16))
        missing -= len(complete)
        # Draws of the last block after the last needed resample do not count.
        used = _DRAWS_AT_ONCE if missing > 0 else int(complete[-1]) + 1
        redraws += used - len(complete)
        if redraws > _DRAWS_PER_RESAMPLE * resamples:
            raise UserError(_too_rare(labels, patient, [names[i] for i in np.flatnonzero(asked).tolist()]))
    # Records come first in memory, because scoring loops over records with all resamples at once.
    return Resamples(np.concatenate(kept).T[patient].T, redraws)


def score_in_blocks(scores: Sequence[Callable[[Floats], ArrayLike]], weights: Counts) -> Floats:
    """Call functions with a few resamples at a time, to limit the memory; for the scorers of `bootstrap`.

    Parameters
    ----------
    scores : sequence of callable
        Each takes weights, a float64 array (some resamples, records), and returns an array (some resamples,).
    weights : uint16 array, (resamples, records)

    Returns
    -------
    float64 array, (resamples, scores)

    Examples
    --------
    >>> import numpy as np
    >>> hits = np.array([1, 0, 1])
    >>> score_in_blocks([lambda weights: weights @ hits / weights.sum(axis=1)], np.array([[1, 1, 1], [0, 2, 1]]))
    array([[0.66666667],
           [0.33333333]])
    """
    blocks = [np.column_stack([score(block.T) for score in scores]) for block in _blocks(weights)]
    return np.concatenate(blocks, dtype=np.float64)


def compare(values: ArrayLike, draws: ArrayLike, level: float = 0.95) -> Comparison:
    """Simultaneous intervals for the difference between the winner and each other trial.

    An interval is the difference plus and minus its bootstrapped standard error times a critical value. The critical
    value is the same for all trials: the `level` quantile, over the resamples, of the largest studentised error of a
    difference between any candidate and any trial. The candidates come from a first pass of the same rule, in which
    every trial is a candidate [1]_: they are the trials that it does not distinguish from the winner. So the intervals
    hold for all trials at once, whichever candidate is the winner in the data.

    The winner was selected with the same data, so the critical value for a trial fixed beforehand would be too small.
    It is also not enough to select the best trial again in each resample and to use the errors against this one:
    equally good trials differ by chance in `values`, and few of them are ever the best again. With normal errors and 90
    equally good trials, 95 % intervals of this kind hold in 86 % of the cases, and intervals around the difference to
    the highest score of each resample in 46 %. The largest error over all candidates corresponds to the worst possible
    selection: its intervals hold in 94 %. If one trial is clearly the best, they are no wider than for a trial fixed
    beforehand.

    A truly best trial is distinguished from the winner with a probability of at most 1 - `level`. So the trials that
    are not distinguished are a confidence set for the best, as in Hsu's multiple comparisons [2]_ and the model
    confidence set [3]_.

    Parameters
    ----------
    values : float array, (trials,)
        Scores on all records; higher is better.
    draws : float array, (resamples, trials)
        Scores on the resamples, which are the same for all trials.
    level : float
        Confidence, between 0 and 1.

    Returns
    -------
    Comparison

    Raises
    ------
    UserError
        Where `level` is not between 0 and 1.

    References
    ----------
    .. [1] J. P. Romano, M. Wolf, "Exact and approximate stepdown methods for multiple hypothesis testing", Journal
       of the American Statistical Association 100, 2005, https://doi.org/10.1198/016214504000000539
    .. [2] J. C. Hsu, "Multiple Comparisons: Theory and Methods", Chapman & Hall, 1996, chapter 4
    .. [3] P. R. Hansen, A. Lunde, J. M. Nason, "The model confidence set", Econometrica 79, 2011,
       https://doi.org/10.3982/ECTA5771

    Examples
    --------
    >>> comparison = compare([0.7, 0.5], [[0.72, 0.52], [0.69, 0.47], [0.71, 0.50]])
    >>> comparison.winner, comparison.indistinguishable.tolist()
    (0, [True, False])
    """
    if not 0 < level < 1:
        raise UserError(f"The argument level must be a confidence between 0 and 1, such as 0.95, not {level!r}.")
    values, draws = np.asarray(values, dtype=np.float64), np.asarray(draws, dtype=np.float64)
    winner = int(values.argmax())
    share_best = (draws == draws.max(axis=1, keepdims=True)).mean(axis=0)
    scales = standard_errors(draws)
    difference, scale = values[winner] - values, scales[winner]

    largest = _largest_errors(values, draws, scales)
    candidates = difference <= np.quantile(largest.max(axis=0), level) * scale
    critical_value = float(np.quantile(largest[candidates].max(axis=0), level))
    low, high = difference - critical_value * scale, difference + critical_value * scale
    return Comparison(winner, difference, low, high, low <= 0, share_best, critical_value)


def _largest_errors(values: Floats, draws: Floats, scales: Floats) -> Floats:
    """The largest studentised error of each trial's differences to all others, by resample: (trials, resamples)."""
    trials, total = len(values), len(draws)
    inverse = np.divide(1, scales, out=np.zeros_like(scales), where=scales > 0)
    largest = np.empty((trials, total))
    # A few resamples at a time, and each pair of trials once.
    for start in range(0, total, _RESAMPLES_AT_ONCE):
        errors = np.ascontiguousarray((draws[start : start + _RESAMPLES_AT_ONCE] - values).T)
        found, pairs = np.zeros_like(errors), np.empty_like(errors)
        for trial in range(trials):
            studentised = np.subtract(errors[trial:], errors[trial], out=pairs[trial:])
            studentised *= inverse[trial, trial:, None]
            np.abs(studentised, out=studentised)
            np.maximum(found[trial:], studentised, out=found[trial:])
            np.maximum(found[trial], studentised.max(axis=0), out=found[trial])
        largest[:, start : start + _RESAMPLES_AT_ONCE] = found
    # The standard error includes the resample's own error; this factor gives the value without it.
    return np.asarray(largest * np.sqrt((total - 1) / np.maximum(total - largest**2, 1)))


def standard_errors(draws: Floats) -> Floats:
    """Bootstrapped standard errors of the difference of each pair of trials.

    Parameters
    ----------
    draws : float array, (resamples, trials)
        Scores on the resamples, which are the same for all trials.

    Returns
    -------
    float64 array, (trials, trials)
        0 if the difference is the same in all resamples.
    """
    deviations = draws - draws.mean(axis=0)
    products = deviations.T @ deviations / (len(draws) - 1)
    both = products.diagonal()[:, None] + products.diagonal()
    variances = both - 2 * products
    return np.asarray(np.sqrt(np.where(variances > _ROUNDING * both, variances, 0.0)))


def _optimism(values: Floats, inside: Floats, outside: Floats) -> float | None:
    """See `bootstrap`. `inside`: scores on the resamples, (resamples, trials); `outside`: on the left-out records."""
    chosen = inside.argmax(axis=1)
    deviation = (outside - outside.mean(axis=0))[np.arange(len(chosen)), chosen]
    optimism = float(values.max() - (values[chosen] + deviation).mean())
    return optimism if np.isfinite(optimism) else None


def _scores(scorer: Scorer, weights: Counts, number: int) -> Floats:
    """Scores of one trial, (resamples, scores)."""
    found = np.asarray(scorer(weights), dtype=np.float64)
    if found.shape != (len(weights), number):
        raise UserError(
            f"A scorer returned an array of the shape {found.shape}: it must return (resamples, scores), here "
            f"{(len(weights), number)}."
        )
    return found


def _undefined(name: str, found: Floats) -> str:
    """Why a score has no interval; '' if it has one. `found`: scores on all records, then on the resamples."""
    if not np.isfinite(found[0]).all():
        return f"There is no interval of {name}, because it is not a finite number for every trial."
    missing = int((~np.isfinite(found[1:])).any(axis=1).sum())
    if missing:
        return (
            f"There is no interval of {name}, because it is not a finite number in {missing} of the {len(found) - 1} "
            "resamples."
        )
    return ""


def _blocks(weights: Counts) -> Iterator[Floats]:
    """Weights of a few resamples at a time: (records, some resamples)."""
    size = max(32, _WEIGHTS_AT_ONCE // weights.shape[1])
    for start in range(0, len(weights), size):
        yield np.ascontiguousarray(weights[start : start + size].T, dtype=np.float64)


def _varied(true: Bools) -> Bools:
    """Which columns have both positives and negatives: (columns,)."""
    return np.asarray(true.any(axis=0) & ~true.all(axis=0))


def _complete(weights: Counts, true: Bools) -> Bools:
    """Whether a resample has positives and negatives of every column that has them in all records: (resamples,)."""
    labels = true[:, _varied(true)]
    parts = np.hstack([labels, ~labels]).astype(np.float64)
    return np.concatenate([((parts.T @ block) > 0).all(axis=0) for block in _blocks(weights)])


def _validate(
    required: ArrayLike, patients: ArrayLike, columns: Sequence[str] | None, resamples: int
) -> tuple[Bools, NDArray[np.intp], Sequence[str]]:
    """Check the arguments; return `required` as booleans, patients as numbers from 0, and the names of the columns."""
    given, who = np.asarray(required), np.asarray(patients)
    if given.ndim != 2:
        raise UserError(f"The argument required must have the shape (records, columns), not {given.shape}.")
    names = [str(column) for column in range(given.shape[1])] if columns is None else list(columns)
    if len(names) != given.shape[1]:
        raise UserError(f"The argument required has {given.shape[1]} columns, but there are {len(names)} names.")
    if not np.isin(given, (0, 1)).all():
        raise UserError("The argument required must have only true and false: give one column per label.")
    if who.shape != given.shape[:1]:
        raise UserError(f"Patients must have the shape {given.shape[:1]}, one for each record, not {who.shape}.")
    if resamples < 2:
        raise UserError(f"The argument resamples must be a whole number of at least 2, better 1000, not {resamples!r}.")
    known, first, patient = np.unique(who, return_index=True, return_inverse=True)
    patient = first.argsort().argsort()[
        patient
    ]  # numbered by the order of the records, so that their names do not matter
    if len(known) < 2:
        raise UserError(f"The records are from {len(known)} patients: a bootstrap needs at least two.")
    return given == 1, patient, names


def _too_rare(labels: Bools, patient: NDArray[np.intp], names: Sequence[str]) -> str:
    fewest = [min(len(np.unique(patient[column])), len(np.unique(patient[~column]))) for column in labels.T]
    rarest = ", ".join(f"{names[i]} ({fewest[i]})" for i in np.argsort(fewest, kind="stable")[:5])
    return (
        "Almost no resample of the patients has positives and negatives of every label: leave out the labels that "
        f"the fewest patients have or lack, which are {rarest}."
    )
