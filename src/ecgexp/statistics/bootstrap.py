"""How sure the scores of trials are, and which trials cannot be told from the best: the bootstrap over patients.

The intervals cover which records happen to be in the validation split, for the nets as they were trained. They do
not cover what another seed would have trained: see `ecgexp.statistics.variance`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array

from ecgexp.errors import UserError
from ecgexp.metrics.confusion import mlcm_marginals
from ecgexp.metrics.multiclass import predicted_classes
from ecgexp.metrics.names import macro_f1_name

Bools = NDArray[np.bool_]
Counts = NDArray[np.uint16]
Floats = NDArray[np.float64]

AUROC, RECALL = "auroc_macro", "recall_macro"

# A label that a single patient has is absent from 37 % of the draws; ten such labels leave one draw in a hundred.
_DRAWS_PER_RESAMPLE = 200
_DRAWS_AT_ONCE = 250
# Weights of a block of resamples as float64, 4 MB: about what a processor's cache holds.
_WEIGHTS_AT_ONCE = 2**19
# So that the errors of 1,000 trials in a block of resamples, 0.5 MB, stay in a processor's cache.
_RESAMPLES_AT_ONCE = 64
# What is left of the variances of two trials in that of their difference, where they are the same but for rounding.
_ROUNDING = 1e-13
_LEAST_SHARE_LEFT_OUT = 0.1


@dataclass(frozen=True)
class Resamples:
    """Resamples of patients, the same for every trial.

    Attributes
    ----------
    weights : uint16 array, (resamples, records)
        How often a record is in a resample, which is how often its patient was drawn.
    redraws : int
        Draws thrown away because some label had no positive or no negative.
    """

    weights: Counts
    redraws: int


@dataclass(frozen=True)
class Comparison:
    """All trials against the winner, which is the trial of the highest value (of equal ones, the first).

    Attributes
    ----------
    winner : int
    difference, low, high : float64 array, (trials,)
        Value of the winner minus value of the trial, and its simultaneous limits; all 0 for the winner itself.
    indistinguishable : bool array, (trials,)
        Whether the limits include 0. With the confidence of the limits, every trial that is truly the best is
        among these, and each of the others is truly worse than the winner.
    share_best : float64 array, (trials,)
        Share of the resamples in which no trial scores higher; trials that score alike are the best together.
    critical_value : float
        Half the width of an interval in standard errors of its difference.
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
        The score on all records, and limits that hold for each trial by itself.
    draws : float64 array, (resamples, trials)
        The score in each resample.
    comparison : Comparison
    optimism : float or None
        By how much the winner's value is expected to exceed its true one, because it was chosen for being the
        highest; by chance the estimate may be below 0. None where fewer than a tenth of the resamples leave out
        positives and negatives of every label.
    """

    values: Floats
    low: Floats
    high: Floats
    draws: Floats
    comparison: Comparison
    optimism: float | None


@dataclass(frozen=True)
class Uncertainty:
    """What `bootstrap` returns.

    Attributes
    ----------
    scores : dict of str to ScoreUncertainty
        By 'mlcm_f1_macro', or 'f1_macro' and 'recall_macro' of records with exactly one label each, and 'auroc_macro';
        the latter is absent where no label has both positives and negatives.
    level : float
        Confidence of each trial's interval, and of all intervals of differences together.
    patients, records, resamples, redraws : int
    """

    scores: dict[str, ScoreUncertainty]
    level: float
    patients: int
    records: int
    resamples: int
    redraws: int


def bootstrap(
    probabilities: Sequence[ArrayLike],
    targets: ArrayLike,
    patients: ArrayLike,
    label_names: Sequence[str],
    threshold: float | Sequence[float] = 0.5,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    multiclass: bool = False,
    smallest_class: int = 1,
) -> Uncertainty:
    """Intervals for macro F1, recall and AUROC of each trial, and for how far each is from the best.

    The scores are those of `ecgexp.metrics.classification_metrics` or, where `multiclass`, `multiclass_metrics`, and
    so is what a NaN counts as. Patients are drawn with replacement and bring all their records; all trials are scored
    on the same resamples.

    A trial's limits are the percentiles of its resampled scores [1]_: they stay within 0 and 1, and there are some
    for a diverged trial, which scores alike in all resamples. The bias-corrected and accelerated interval has none
    there, costs one evaluation more for each patient, and covers no better here: in simulations with 100 and 250
    patients both hold within a point of each other. Limits of 95 % hold in 94 to 95 % of the cases from 200
    patients on, and in 92 to 93 % with 50, where an interval for macro F1 is a little too narrow.

    For the differences see `compare`.

    Of many noisy values the highest is likely a lucky one. The trial that is best in a resample was not chosen by
    the patients whom the resample leaves out, so its score on those is an honest one [2]_, and `optimism` is what
    the winner's value has above the mean of these. As fewer records change a macro F1 a little by themselves, each
    is taken as a deviation from the mean of the same trial's scores on left-out patients, added to its value on
    all. The estimate is right where all trials are equally good and where one stands out; in between it is rather
    too large, since a resample chooses less well than all patients do. (The plain bootstrap, what the best of a
    resample gains in it, falls short by a quarter to a third where all are equally good.) It covers the choice
    between trials only: that the epoch of each was chosen by the same records makes values too high as well.

    Parameters
    ----------
    probabilities : sequence of float arrays, each (records, labels)
        One for each trial, records in the same order.
    targets : array, (records, labels)
        0 and 1.
    patients : array, (records,)
        Whose record it is, by any identifier.
    label_names : sequence of str, (labels,)
        For messages.
    threshold : float or sequence of float, (trials,)
        From 0 to 1; a probability above it is a prediction.
    resamples : int
    seed : int
    level : float
        Confidence, between 0 and 1.
    multiclass : bool
        Each record has exactly one label, and the most probable one is predicted, whatever the threshold.
    smallest_class : int
        Where `multiclass`, records from which on a class enters the scores; resamples leave out the same ones.

    Returns
    -------
    Uncertainty

    Raises
    ------
    UserError
        Where an argument is not as above, and as for `resample_patients`.

    References
    ----------
    .. [1] B. Efron, R. J. Tibshirani, "An Introduction to the Bootstrap", Chapman & Hall, 1993, chapters 13 and 14
    .. [2] I. Tsamardinos, E. Greasidou, G. Borboudakis, "Bootstrapping the out-of-sample predictions for efficient
       and accurate cross-validation", Machine Learning 107, 2018, https://doi.org/10.1007/s10994-018-5714-4
    """
    if len(probabilities) == 0:
        raise UserError("There is no trial to score: pass the probabilities of at least one.")
    counted = np.asarray(targets).sum(axis=0) >= max(smallest_class, 1) if multiclass else None
    if counted is not None and not counted.any():
        raise UserError(f"No class has {smallest_class} records, so there is no macro average to find an interval of.")
    drawn = resample_patients(targets, patients, label_names, resamples, seed, counted)
    true = np.asarray(targets) == 1
    weights = np.concatenate([np.ones((1, len(true)), dtype=np.uint16), drawn.weights])
    thresholds = np.broadcast_to(np.asarray(threshold, dtype=np.float64), len(probabilities)).tolist()
    found = np.stack(
        [_score(*trial, true, counted, weights) for trial in zip(probabilities, thresholds, strict=True)], axis=1
    )
    values, draws = found[0], found[1:]
    names = (macro_f1_name(multiclass), *([RECALL] if multiclass else []), AUROC)
    defined = [i for i in range(len(names)) if not np.isnan(values[:, i]).any()]
    comparisons = {i: compare(values[:, i], draws[..., i], level) for i in defined}

    left_out = (drawn.weights == 0).astype(np.uint16)
    scored = _complete(left_out, true, counted)
    enough = scored.mean() >= _LEAST_SHARE_LEFT_OUT
    outside = np.full((int(scored.sum()), *values.shape), np.nan)
    if enough:
        # Only trials that some resample chooses need a score on what it leaves out.
        chosen = np.any([comparison.share_best > 0 for comparison in comparisons.values()], axis=0)
        for trial in np.flatnonzero(chosen).tolist():
            outside[:, trial] = _score(probabilities[trial], thresholds[trial], true, counted, left_out[scored])

    scores = {}
    for i, comparison in comparisons.items():
        low, high = np.quantile(draws[..., i], [(1 - level) / 2, (1 + level) / 2], axis=0)
        optimism = _optimism(values[:, i], draws[scored, :, i], outside[..., i]) if enough else None
        scores[names[i]] = ScoreUncertainty(values[:, i], low, high, draws[..., i], comparison, optimism)
    return Uncertainty(scores, level, len(np.unique(np.asarray(patients))), len(true), resamples, drawn.redraws)


def resample_patients(
    targets: ArrayLike,
    patients: ArrayLike,
    label_names: Sequence[str],
    resamples: int = 1000,
    seed: int = 0,
    counted: Bools | None = None,
) -> Resamples:
    """Draw as many patients as there are, with replacement, `resamples` times.

    A draw in which some label has no positive or no negative is thrown away and drawn again, as a score over other
    labels would be another score. Of the labels this asks those that have both among all records; and 'no label',
    which the macro F1 counts like one, where some records have none.

    Parameters
    ----------
    targets, patients, label_names, resamples, seed
        As for `bootstrap`.
    counted : bool array, (labels,), optional
        Labels that this asks; by default all, and 'no label'.

    Returns
    -------
    Resamples

    Raises
    ------
    UserError
        Where an argument is not as for `bootstrap`, where there is but one patient, or where labels are so rare
        that hardly any draw has them all.
    """
    true, patient = _validate(targets, patients, label_names, resamples)
    people = int(patient.max()) + 1
    asked = _varied(true, counted)
    labels = _with_no_label(true)[:, asked]
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
        # What the last block has after the last resample needed was never asked for.
        used = _DRAWS_AT_ONCE if missing > 0 else int(complete[-1]) + 1
        redraws += used - len(complete)
        if redraws > _DRAWS_PER_RESAMPLE * resamples:
            raise UserError(_too_rare(labels, patient, np.flatnonzero(asked), label_names))
    # Records first in memory: scores go through the records, of all resamples at once.
    return Resamples(np.concatenate(kept).T[patient].T, redraws)


def compare(values: ArrayLike, draws: ArrayLike, level: float = 0.95) -> Comparison:
    """Simultaneous intervals for what the winner is better than each other trial.

    An interval is the difference plus and minus its bootstrapped standard error times one critical value: the
    `level` quantile, over the resamples, of the largest studentised error of a difference between any candidate and
    any trial. Candidates are the trials that this rule, with every trial a candidate [1]_, does not tell from the
    winner. So the intervals hold for all trials at once, whichever candidate the data made the winner.

    The winner was chosen by the same data, so a critical value for a trial fixed beforehand would be too small. Nor
    is it enough to choose the best again in each resample and take the errors against that one: trials that are
    equally good in truth are spread out in `values`, and few of them are ever the best again. With normal errors
    and 90 equally good trials, intervals made so for 95 % hold in 86 % of the cases, and those around the highest
    of all minus each trial in 46 %. Taking the largest error over all candidates is choosing again in the worst
    way: it holds in 94 %, and is no wider than for a trial fixed beforehand where one trial stands out.

    That a truly best trial is told from the winner with a probability of at most 1 - `level` makes those that are
    not told a confidence set for the best, as in Hsu's multiple comparisons [2]_ and the model confidence set [3]_.

    Parameters
    ----------
    values : float array, (trials,)
        On all records; higher is better.
    draws : float array, (resamples, trials)
        On the resamples, each the same for all trials.
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
    """
    if not 0 < level < 1:
        raise UserError(f"level is a confidence between 0 and 1, such as 0.95, not {level!r}.")
    values, draws = np.asarray(values, dtype=np.float64), np.asarray(draws, dtype=np.float64)
    winner = int(values.argmax())
    share_best = (draws == draws.max(axis=1, keepdims=True)).mean(axis=0)
    scales = _standard_errors(draws)
    difference, scale = values[winner] - values, scales[winner]

    largest = _largest_errors(values, draws, scales)
    candidates = difference <= np.quantile(largest.max(axis=0), level) * scale
    critical_value = float(np.quantile(largest[candidates].max(axis=0), level))
    low, high = difference - critical_value * scale, difference + critical_value * scale
    return Comparison(winner, difference, low, high, low <= 0, share_best, critical_value)


def _largest_errors(values: Floats, draws: Floats, scales: Floats) -> Floats:
    """Of the studentised differences of each trial from all others, in each resample: (trials, resamples)."""
    trials, total = len(values), len(draws)
    inverse = np.divide(1, scales, out=np.zeros_like(scales), where=scales > 0)
    largest = np.empty((trials, total))
    # Some resamples at a time, and each pair of trials once.
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
    # A resample's own error is part of the standard error that it is divided by: as if that were from the others.
    return np.asarray(largest * np.sqrt((total - 1) / np.maximum(total - largest**2, 1)))


def _standard_errors(draws: Floats) -> Floats:
    """Bootstrapped, of the difference of each trial from each; 0 where it is the same in all resamples."""
    deviations = draws - draws.mean(axis=0)
    products = deviations.T @ deviations / (len(draws) - 1)
    both = products.diagonal()[:, None] + products.diagonal()
    variances = both - 2 * products
    return np.asarray(np.sqrt(np.where(variances > _ROUNDING * both, variances, 0.0)))


def _optimism(values: Floats, inside: Floats, outside: Floats) -> float:
    """See `bootstrap`; `inside` and `outside`: scores on what resamples have and leave out, (resamples, trials)."""
    chosen = inside.argmax(axis=1)
    deviation = (outside - outside.mean(axis=0))[np.arange(len(chosen)), chosen]
    return float(values.max() - (values[chosen] + deviation).mean())


def _score(probabilities: ArrayLike, threshold: float, true: Bools, counted: Bools | None, weights: Counts) -> Floats:
    """Macro F1, recall and AUROC of one trial with weighted records: (resamples, scores).

    `counted`: the classes that enter where each record has exactly one label, else None, and then there is no
    recall. AUROC is NaN where no label has one.
    """
    given = np.asarray(probabilities, dtype=np.float32)
    known = np.nan_to_num(given, nan=0.0)
    counts = _mlcm_f1_counts(known, true, threshold) if counted is None else _f1_counts(given, true, counted)
    curves = [_curve(known[:, label], true[:, label]) for label in np.flatnonzero(_varied(true, counted)[:-1])]
    blocks = []
    for block in _blocks(weights):
        areas = [_areas(*curve, block) for curve in curves]
        auroc = np.mean(areas, axis=0) if areas else np.full(block.shape[1], np.nan)
        blocks.append(np.column_stack([*_macro(counts @ block, 2 if counted is None else 3), auroc]))
    return np.concatenate(blocks)


def _blocks(weights: Counts) -> Iterator[Floats]:
    """Some resamples at a time: (records, some resamples)."""
    size = max(32, _WEIGHTS_AT_ONCE // weights.shape[1])
    for start in range(0, len(weights), size):
        yield np.ascontiguousarray(weights[start : start + size].T, dtype=np.float64)


def _mlcm_f1_counts(known: NDArray[np.float32], true: Bools, threshold: float) -> Floats:
    """What each record adds to the numerators, then to the denominators, of each label's F1: (2 * counted, records).

    NTL is counted where it has a record: resamples then have one too.
    """
    hits, rows, columns = mlcm_marginals(
        torch.from_numpy(known), torch.from_numpy(true), num_labels=true.shape[1], threshold=threshold
    )
    counted = true.shape[1] + int(not true.any(axis=1).all())
    counts = torch.cat([2 * hits[:, :counted], (rows + columns)[:, :counted]], dim=1)
    return np.ascontiguousarray(counts.numpy().T, dtype=np.float64)


def _f1_counts(given: NDArray[np.float32], true: Bools, counted: Bools) -> Floats:
    """As `_mlcm_f1_counts`, and the denominators of recall, of classes where each record has exactly one."""
    predicted = predicted_classes(torch.tensor(given)).numpy()[:, None] == np.arange(true.shape[1])
    hits, totals = (predicted & true)[:, counted], (predicted.astype(np.float64) + true)[:, counted]
    return np.ascontiguousarray(np.hstack([2 * hits, totals, 2 * true[:, counted]]).T, dtype=np.float64)


def _macro(sums: Floats, parts: int) -> list[Floats]:
    """Means over the labels of the numerators, which come first, over each of the denominators."""
    numerators, *denominators = np.split(sums, parts)
    return [(numerators / np.maximum(below, 1)).mean(axis=0) for below in denominators]


def _curve(known: NDArray[np.float32], true: Bools) -> tuple[csr_array, csr_array]:
    """One label's records sorted into the steps of its ROC curve, whatever their weights.

    Returns
    -------
    positives : sparse array, (steps, records)
        1 where a record is a positive of the step: the steps are the different scores of positives, ascending.
    negatives : sparse array, (2 * steps + 1, records)
        1 where a record is a negative that scores between the steps (even rows) or at one (odd rows).
    """
    positive, negative = np.flatnonzero(true), np.flatnonzero(~true)
    steps, step = np.unique(known[positive], return_inverse=True)
    place = np.searchsorted(steps, known[negative], "left") + np.searchsorted(steps, known[negative], "right")
    return _membership(step, positive, len(steps), len(true)), _membership(
        place, negative, 2 * len(steps) + 1, len(true)
    )


def _membership(rows: NDArray[np.intp], records: NDArray[np.intp], groups: int, total: int) -> csr_array:
    return csr_array((np.ones(len(records)), (rows, records)), shape=(groups, total))


def _areas(positives: csr_array, negatives: csr_array, weights: Floats) -> Floats:
    """Area under the weighted ROC curves, (resamples,): pairs in the right order, and half of the tied ones."""
    higher = positives @ weights
    up_to = np.cumsum(negatives @ weights, axis=0)
    # A step's negatives below it end one row before those that tie with it.
    ordered = np.einsum("sr,sr->r", higher, up_to[:-1:2] + up_to[1::2]) / 2
    return np.asarray(ordered / (higher.sum(axis=0) * up_to[-1]))


def _with_no_label(true: Bools) -> Bools:
    return np.column_stack([true, ~true.any(axis=1)])


def _varied(true: Bools, counted: Bools | None) -> Bools:
    """Which labels of those counted, and last 'no label', have both positives and negatives: (labels + 1,)."""
    labels = _with_no_label(true)
    varied = np.asarray(labels.any(axis=0) & ~labels.all(axis=0))
    return varied if counted is None else varied & np.append(counted, False)


def _complete(weights: Counts, true: Bools, counted: Bools | None) -> Bools:
    """In which resamples every counted label that has positives and negatives has them: (resamples,)."""
    labels = _with_no_label(true)[:, _varied(true, counted)]
    parts = np.hstack([labels, ~labels]).astype(np.float64)
    return np.concatenate([((parts.T @ block) > 0).all(axis=0) for block in _blocks(weights)])


def _validate(
    targets: ArrayLike, patients: ArrayLike, label_names: Sequence[str], resamples: int
) -> tuple[Bools, NDArray[np.intp]]:
    """Targets as booleans, and patients as numbers from 0."""
    given, who = np.asarray(targets), np.asarray(patients)
    if given.ndim != 2 or given.shape[1] != len(label_names):
        raise UserError(
            f"Targets have the shape (records, {len(label_names)}), one column per label, not {given.shape}."
        )
    if not np.isin(given, (0, 1)).all():
        raise UserError("Targets hold 0 and 1 only: give one column per label, 1 where the label holds.")
    if who.shape != given.shape[:1]:
        raise UserError(f"Patients have the shape {given.shape[:1]}, one for each record, not {who.shape}.")
    if resamples < 2:
        raise UserError(f"resamples is a whole number of at least 2, better 1000, not {resamples!r}.")
    names, first, patient = np.unique(who, return_index=True, return_inverse=True)
    patient = first.argsort().argsort()[patient]  # in the order of the records, however patients are called
    if len(names) < 2:
        raise UserError(f"The records are of {len(names)} patients: a bootstrap needs two at least.")
    return given == 1, patient


def _too_rare(labels: Bools, patient: NDArray[np.intp], columns: NDArray[np.intp], label_names: Sequence[str]) -> str:
    """`columns`: of which label each column of `labels` is."""
    fewest = [min(len(np.unique(patient[column])), len(np.unique(patient[~column]))) for column in labels.T]
    names = [*label_names, "no label"]
    rarest = ", ".join(f"{names[columns[i]]} ({fewest[i]})" for i in np.argsort(fewest, kind="stable")[:5])
    return (
        "Hardly any resample of the patients has positives and negatives of every label: leave out the labels that "
        f"fewest patients have, or lack, which are {rarest}."
    )
