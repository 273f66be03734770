"""Uncertainty of scores: the bootstrap over patients, the variance between seeds, and choices that allow for both.

Needs only numpy and scipy.
"""

from ecgexp.statistics.bootstrap import (
    Comparison,
    Resamples,
    Scorer,
    ScoreUncertainty,
    Uncertainty,
    bootstrap,
    compare,
    resample_patients,
    score_in_blocks,
)
from ecgexp.statistics.choice import choices, noise
from ecgexp.statistics.variance import Cell, VarianceComponents, variance_components

__all__ = [
    "Cell",
    "Comparison",
    "Resamples",
    "ScoreUncertainty",
    "Scorer",
    "Uncertainty",
    "VarianceComponents",
    "bootstrap",
    "choices",
    "compare",
    "noise",
    "resample_patients",
    "score_in_blocks",
    "variance_components",
]
