"""Tables and pictures of one net on one split: calibration, and scores of groups of records."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ecgexp.reports.comparison import RESAMPLES
from ecgexp.reports.figures import plain
from ecgexp.statistics import resample_patients, score_in_blocks
from ecgexp.targets import Target

AGES = (0, 40, 60, 80, np.inf)
"""Edges of the age bands, in years."""
SMALLEST_GROUP = 10
"""Scores are shown of groups with at least so many records."""
MOST_GROUPS = 12
"""A column makes at most so many groups; its rarest values share one group."""
BINS = 10
MOST_LINES = 8  # a reliability plot shows single labels where there are at most so many


def calibration_bins(probabilities: ArrayLike, targets: ArrayLike, label_names: Sequence[str]) -> pd.DataFrame:
    """Predicted probabilities and observed shares of labels, in ten bins of equal width, per label and over all.

    Returns
    -------
    DataFrame
        ``label`` ('all': every label's pairs of probability and target together), ``low`` and ``high`` (of the
        bin), ``records``, ``mean_probability``, ``observed`` (share of the records that have the label). Empty bins
        are left out.
    """
    values, true = np.asarray(probabilities, dtype=np.float64), np.asarray(targets, dtype=np.float64)
    columns = [(name, values[:, i], true[:, i]) for i, name in enumerate(label_names)]
    rows = []
    for name, p, y in [("all", values.ravel(), true.ravel()), *columns]:
        place = np.minimum((p * BINS).astype(int), BINS - 1)
        for i in np.unique(place):
            here = place == i
            rows.append(
                {
                    "label": name,
                    "low": i / BINS,
                    "high": (i + 1) / BINS,
                    "records": int(here.sum()),
                    "mean_probability": p[here].mean(),
                    "observed": y[here].mean(),
                }
            )
    return pd.DataFrame(rows)


def reliability_figure(bins: pd.DataFrame, brier: float, title: str) -> Figure:
    """Observed share over mean probability, with the number of pairs in each bin below.

    Parameters
    ----------
    bins : DataFrame
        From `calibration_bins`.
    brier : float
        Mean Brier score, shown.
    title : str
    """
    figure = Figure(figsize=(5.2, 6.4), layout="constrained")
    above, below = figure.subplots(2, 1, height_ratios=(4, 1), sharex=True)
    above.plot([0, 1], [0, 1], color="grey", linestyle=":", label="perfect")
    groups = {str(name): group for name, group in bins.groupby("label", sort=False)}
    everything = groups.pop("all")
    if len(groups) <= MOST_LINES:
        for name, group in groups.items():
            above.plot(
                group["mean_probability"], group["observed"], marker=".", linewidth=1, alpha=0.6, label=plain(name)
            )
    above.plot(everything["mean_probability"], everything["observed"], marker="o", color="black", label="all labels")
    above.set(ylabel="share of records with the label", ylim=(-0.02, 1.02), xlim=(-0.02, 1.02))
    above.set_title(f"{title}\nmean Brier score {brier:.4f}", fontsize=10)
    above.legend(fontsize=8)
    below.bar(everything["low"] + 0.5 / BINS, everything["records"], width=0.9 / BINS, color="grey")
    below.set(xlabel="probability", ylabel="pairs")
    for axes in (above, below):
        axes.grid(alpha=0.3)
    return figure


def label_intervals(target: Target, probabilities: Tensor, targets: Tensor, patients: ArrayLike) -> pd.DataFrame:
    """Limits of 95 % of each label's precision and recall, from the bootstrap over patients.

    Parameters
    ----------
    target : Target
        A kind with one column of 0 and 1 for each label.
    probabilities, targets : tensors, (records, labels)
    patients : array, (records,)

    Returns
    -------
    DataFrame
        The index is the label. Columns: ``precision_low``, ``precision_high``, ``recall_low``, ``recall_high``. NaN
        where the label is predicted (or true) in no record. Resamples without such a record are left out.

    Raises
    ------
    UserError
        As `ecgexp.statistics.resample_patients`.
    """
    true, predicted = (targets == 1).numpy(), target.decide(probabilities).numpy()
    drawn = resample_patients(np.zeros((len(true), 0)), patients, resamples=RESAMPLES)
    hits = _sums(drawn.weights, true & predicted)
    limits = {}
    for name, of in (("precision", predicted), ("recall", true)):
        count = _sums(drawn.weights, of)
        shares = np.divide(hits, count, out=np.full(hits.shape, np.nan), where=count > 0)
        known = np.asarray(of.any(axis=0))
        for end, level in (("low", 0.025), ("high", 0.975)):
            column = np.full(len(known), np.nan)
            column[known] = np.nanquantile(shares[:, known], level, axis=0)
            limits[f"{name}_{end}"] = column
    return pd.DataFrame(limits, index=pd.Index(target.names, name="label"))


def _sums(weights: NDArray[np.uint16], flags: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Weights of the records with each flag, (resamples, labels)."""
    return score_in_blocks([partial(_sum, flag) for flag in flags.T], weights)


def _sum(flag: NDArray[np.bool_], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    return weights @ flag


def subgroup_table(
    target: Target, probabilities: Tensor, targets: Tensor, patients: ArrayLike, metadata: pd.DataFrame
) -> pd.DataFrame:
    """Scores of groups of records by age, sex, site and device, as far as `metadata` has these columns.

    Parameters
    ----------
    target : Target
        What is predicted.
    probabilities, targets : tensors, (records, names)
    patients : array, (records,)
    metadata : DataFrame
        One row per record, in their order.

    Returns
    -------
    DataFrame
        ``by``, ``group`` ('unknown' where the value is missing), ``records``, ``patients``, the scores of
        `Target.group_scores`, and in a column that the target's ``group_note`` names, the labels that the scores
        leave out. All scores of a group with fewer than `SMALLEST_GROUP` records are NaN.
    """
    rows = []
    for column in ("age", "sex", "site", "device"):
        if column not in metadata:
            continue
        groups = _bands(metadata[column]) if column == "age" else _named(metadata[column])
        for group, here in groups:
            at = torch.from_numpy(np.flatnonzero(here))
            scores, without = target.group_scores(probabilities[at], targets[at])
            rows.append(
                {
                    "by": column,
                    "group": group,
                    "records": len(at),
                    "patients": len(np.unique(np.asarray(patients)[here])),
                    **(scores if len(at) >= SMALLEST_GROUP else dict.fromkeys(scores, np.nan)),
                    target.group_note: ", ".join(without),
                }
            )
    return pd.DataFrame(rows)


def _bands(ages: pd.Series) -> list[tuple[str, NDArray[np.bool_]]]:
    years = pd.to_numeric(ages, errors="coerce").to_numpy(dtype=float)
    groups = []
    for low, high in pairwise(AGES):
        name = f"under {high:g}" if low == 0 else f"{low:g} and over" if np.isinf(high) else f"{low:g} to {high - 1:g}"
        groups.append((name, (years >= low) & (years < high)))
    groups.append(("unknown", ~(years >= 0)))
    return [(name, here) for name, here in groups if here.any()]


def _named(values: pd.Series) -> list[tuple[str, NDArray[np.bool_]]]:
    texts = values.fillna("").astype(str).str.split().str.join(" ").replace("", "unknown")
    counts = texts.value_counts()
    if len(counts) > MOST_GROUPS:
        texts = texts.where(texts.isin(counts.index[: MOST_GROUPS - 1]), "others")
    names = sorted(texts.unique(), key=lambda name: (name in ("others", "unknown"), name))
    return [(name, (texts == name).to_numpy()) for name in names]
