"""Variance components of a sweep: between its cells, and between the repetitions (seeds or folds) of a cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import chdtri, fdtri

from ecgexp.errors import UserError

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Cell:
    """Summary of a cell of a sweep over its repetitions.

    Attributes
    ----------
    repetitions : int
    mean : float
    sd : float or None
        Standard deviation with the divisor repetitions - 1; None for a single repetition.
    low, high : float
        Smallest and largest value.
    """

    repetitions: int
    mean: float
    sd: float | None
    low: float
    high: float


@dataclass(frozen=True)
class VarianceComponents:
    """Result of `variance_components`; a value is None if the repetitions do not determine it.

    Attributes
    ----------
    cells : dict of str to Cell
    between_sd : float or None
        Standard deviation of the cells' true means.
    within_sd : float or None
        Standard deviation of the repetitions of a cell.
    within_sd_interval : tuple of float or None
    within_share : float or None
        Share of the variance of single runs that is due to the repetitions, from 0 to 1: one minus the intraclass
        correlation.
    within_share_interval : tuple of float or None
    level : float
        Confidence of each interval.
    remark : str
        A sentence about cells with a single repetition, or about the reason for missing values; may be empty.
    """

    cells: dict[str, Cell]
    between_sd: float | None
    within_sd: float | None
    within_sd_interval: tuple[float, float] | None
    within_share: float | None
    within_share_interval: tuple[float, float] | None
    level: float
    remark: str


def variance_components(values: Mapping[str, Sequence[float]], level: float = 0.95) -> VarianceComponents:
    """Split the variance of a score into the parts between cells and between repetitions of a cell.

    The model is one-way with random effects: a value is the mean of its cell, drawn from a normal distribution, plus a
    normal deviation with the same variance in all cells. The components are estimated by the analysis of variance; a
    negative estimate of the variance between cells becomes 0. The interval of the share is Wald's [1]_. It is exact in
    this model for any numbers of repetitions; for equal numbers it is the usual interval from the F distribution. The
    interval of the standard deviation is from the chi-squared distribution.

    A cell that was run once does not contribute to the variance between repetitions, only to that between cells. Cells
    that diverge, or vary more than others, violate the model. Then the interval is only approximate, and the standard
    deviations of the single cells are more informative. If the repetitions are folds, the differences in difficulty
    between folds count as variance between repetitions.

    Parameters
    ----------
    values : mapping of str to sequence of float
        For each cell, the values of its repetitions (seeds or folds), in any number and order.
    level : float
        Confidence of the intervals, between 0 and 1.

    Returns
    -------
    VarianceComponents

    Raises
    ------
    UserError
        If `level` is not between 0 and 1, or a cell has no value or a value that is not finite.

    References
    ----------
    .. [1] A. Wald, "A note on the analysis of variance with unequal class frequencies", Annals of Mathematical
       Statistics 11, 1940, https://doi.org/10.1214/aoms/1177731946

    Examples
    --------
    >>> components = variance_components({"adam": [0.70, 0.72], "sgd": [0.60, 0.61], "rmsprop": [0.68, 0.65]})
    >>> components.cells["adam"].mean
    0.71
    >>> round(components.within_share, 2)
    0.08
    """
    if not 0 < level < 1:
        raise UserError(f"The argument level must be a confidence between 0 and 1, such as 0.95, not {level!r}.")
    groups = {name: np.asarray(cell, dtype=np.float64) for name, cell in values.items()}
    for name, group in groups.items():
        if group.ndim != 1 or len(group) == 0 or not np.isfinite(group).all():
            raise UserError(f"The cell {name!r} needs a finite value for each repetition, and at least one.")

    cells = {name: _summary(group) for name, group in groups.items()}
    single = sum(cell.repetitions == 1 for cell in cells.values())
    if len(cells) < 2:
        return _unknown(cells, level, "Variance components need at least two cells.")
    if single == len(cells):
        return _unknown(cells, level, "Every cell was run once: the variance between repetitions is not known.")
    remark = f"{single} of {len(cells)} cells were run once: they count only for the variance between cells."

    counts, means = np.array([len(group) for group in groups.values()]), np.array([c.mean for c in cells.values()])
    freedom = int(counts.sum() - len(counts))
    within = sum(float(((group - group.mean()) ** 2).sum()) for group in groups.values()) / freedom
    between = _between(counts, means, within)
    if between + within == 0:
        return _unknown(cells, level, "All values are equal: there is no variance to split.")
    tails = (1 - level) / 2, (1 + level) / 2
    low, high = (float(np.sqrt(freedom * within / chdtri(freedom, tail))) for tail in tails)
    return VarianceComponents(
        cells=cells,
        between_sd=float(np.sqrt(between)),
        within_sd=float(np.sqrt(within)),
        within_sd_interval=(low, high),
        within_share=within / (within + between),
        within_share_interval=_share_interval(counts, means, within, tails),
        level=level,
        remark=remark if single else "",
    )


def _summary(group: Floats) -> Cell:
    sd = float(group.std(ddof=1)) if len(group) > 1 else None
    return Cell(len(group), float(group.mean()), sd, float(group.min()), float(group.max()))


def _unknown(cells: dict[str, Cell], level: float, remark: str) -> VarianceComponents:
    return VarianceComponents(cells, None, None, None, None, None, level, remark)


def _between(counts: NDArray[np.int_], means: Floats, within: float) -> float:
    """Variance of the cells' true means, by the analysis of variance."""
    grand_mean = np.average(means, weights=counts)
    mean_square = float((counts * (means - grand_mean) ** 2).sum() / (len(counts) - 1))
    repetitions = (counts.sum() - (counts**2).sum() / counts.sum()) / (len(counts) - 1)
    return max(0.0, (mean_square - within) / float(repetitions))


def _share_interval(
    counts: NDArray[np.int_], means: Floats, within: float, tails: tuple[float, float]
) -> tuple[float, float]:
    """Limits of the share of the variance between repetitions.

    The pivot is the weighted variance of the means divided by `within`. At the true ratio of the variances (between to
    within) it has an F distribution. It falls as the ratio grows, so each quantile gives one limit.
    """
    if within == 0:
        return 0.0, 0.0

    def pivot(ratio: float) -> float:
        weights = counts / (1 + counts * ratio)
        mean = np.average(means, weights=weights)
        return float((weights * (means - mean) ** 2).sum() / (len(counts) - 1) / within)

    def share(quantile: float) -> float:
        if pivot(0) <= quantile:
            return 1.0
        beyond = 1.0
        while pivot(beyond) > quantile:
            beyond *= 2
        return float(1 / (1 + brentq(lambda ratio: pivot(ratio) - quantile, 0, beyond)))

    degrees = len(counts) - 1, int(counts.sum() - len(counts))
    low, high = (share(float(fdtri(*degrees, tail))) for tail in tails)
    return low, high
