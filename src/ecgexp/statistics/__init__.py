"""Uncertainty of scores: the bootstrap over patients, and the variance between seeds. Needs only numpy and scipy."""

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
    "compare",
    "resample_patients",
    "score_in_blocks",
    "variance_components",
]
