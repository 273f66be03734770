"""A statistic over the results of a sweep."""

import pandas as pd


def spread(results: pd.DataFrame, objective: str, digits: int = 4) -> str:
    """How far the trials lie apart, in a sentence."""
    values = results[objective].dropna()
    low, high = (f"{value:.{digits}f}" for value in (values.min(), values.max()))
    return f"{objective} is from {low} to {high} over {len(values)} trials."
