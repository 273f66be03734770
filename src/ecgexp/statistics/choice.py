"""Choosing the best of several candidates, or a cheaper one that cannot be distinguished from it."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ecgexp.errors import UserError
from ecgexp.statistics.bootstrap import standard_errors


def choices(scores: ArrayLike, costs: ArrayLike, errors: ArrayLike | None = None) -> NDArray[np.intp]:
    """Choose one of the candidates by their scores, once for each row of scores.

    Of the candidates that are as good as the best one, the cheapest is chosen, and of equally cheap ones the first.
    Without `errors`, only a candidate with the same score is as good as the best one. With `errors`, it is each
    candidate whose difference to the best one is at most one standard error of this difference. This is the rule of
    one standard error [1]_, with the error of the paired difference instead of that of the best score: candidates are
    scored on the same records, so that their difference varies less than either score.

    Parameters
    ----------
    scores : float array, (rows, candidates)
        Higher is better. A candidate without a score (NaN) is chosen only if no other one has a score.
    costs : float array, (candidates,)
        For example numbers of weights.
    errors : float array, (candidates, candidates), optional
        Standard errors of the differences of each pair, see `noise`.

    Returns
    -------
    int array, (rows,)
        Indices of candidates.

    Raises
    ------
    UserError
        If the shapes do not match, or there is no candidate.

    References
    ----------
    .. [1] L. Breiman, J. H. Friedman, R. A. Olshen, C. J. Stone, "Classification and Regression Trees", Wadsworth,
       1984, section 3.4.3

    Examples
    --------
    Three nets of 10, 20 and 30 weights. The second is the best; the first cannot be distinguished from it:

    >>> choices([[0.80, 0.81, 0.70]], costs=[10, 20, 30]).tolist()
    [1]
    >>> choices([[0.80, 0.81, 0.70]], costs=[10, 20, 30], errors=np.full((3, 3), 0.02)).tolist()
    [0]
    """
    given, cost = np.asarray(scores, dtype=np.float64), np.asarray(costs, dtype=np.float64)
    candidates = len(cost)
    error = np.zeros((candidates, candidates)) if errors is None else np.asarray(errors, dtype=np.float64)
    if given.ndim != 2 or not candidates or given.shape[1] != candidates or error.shape != (candidates, candidates):
        raise UserError(
            f"The shapes of scores {given.shape}, costs {cost.shape} and errors {error.shape} do not match: they must "
            "be (rows, candidates), (candidates,) and (candidates, candidates)."
        )
    # In this order the first of several equally good candidates is the one to choose.
    order = np.argsort(cost, kind="stable")
    known = np.where(np.isnan(given), -np.inf, given)[:, order]
    best = known.argmax(axis=1)
    with np.errstate(invalid="ignore"):  # where no candidate has a score
        differences = np.where(np.isneginf(known), np.inf, known.max(axis=1, keepdims=True) - known)
    return np.asarray(order[(differences <= error[np.ix_(order, order)][best]).argmax(axis=1)])


def noise(draws: ArrayLike, repetitions: ArrayLike) -> NDArray[np.float64]:
    """Standard errors of the differences between the scores of each pair of candidates.

    Two sources add up: which records happened to be there, by the bootstrap, and which seeds. With one repetition the
    second source is unknown, and left out. The variance between repetitions is taken as equal for all candidates, and
    estimated from all of them together, since a single candidate has too few.

    Parameters
    ----------
    draws : float array, (resamples, candidates)
        Score of each candidate, as the mean over its repetitions, in the same resamples of the records.
    repetitions : float array, (candidates, repetitions)
        Scores of the repetitions on all records.

    Returns
    -------
    float64 array, (candidates, candidates)

    Raises
    ------
    UserError
        If the shapes do not match.

    Examples
    --------
    The difference is 0.1 in one half of the resamples and 0.3 in the other:

    >>> noise([[0.1, 0.2], [0.1, 0.4]] * 50, [[0.1], [0.3]]).round(4).tolist()
    [[0.0, 0.1005], [0.1005, 0.0]]
    """
    drawn, repeated = np.asarray(draws, dtype=np.float64), np.asarray(repetitions, dtype=np.float64)
    if drawn.ndim != 2 or repeated.ndim != 2 or drawn.shape[1] != len(repeated):
        raise UserError(
            f"The shapes of draws {drawn.shape} and repetitions {repeated.shape} do not match: they must be "
            "(resamples, candidates) and (candidates, repetitions)."
        )
    variances = standard_errors(drawn) ** 2
    times = repeated.shape[1]
    if times > 1:
        between = 2 * float(repeated.var(axis=1, ddof=1).mean()) / times
        variances += between * (1 - np.eye(len(repeated)))
    return np.asarray(np.sqrt(variances))
