"""What there is to say of one net on one split: labels, calibration, groups of records."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import compress, pairwise

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ecgexp.metrics import classification_metrics, mlcm, mlcm_report, multiclass_metrics, predicted_classes
from ecgexp.reports.figures import plain

Floats = NDArray[np.float64]

AGES = (0, 40, 60, 80, np.inf)
"""Edges of the age bands, in years."""
SMALLEST_CLASS = 20
"""Records from which on a class enters macro averages, where each record has exactly one label."""
SMALLEST_GROUP = 10
"""Records from which on the scores of a group are worth a number."""
MOST_GROUPS = 12
"""Of a column; the rarest values beyond are taken together."""
BINS = 10
MOST_LINES = 8  # labels that a reliability plot shows one by one


def tuned_thresholds(probabilities: ArrayLike, targets: ArrayLike, default: float) -> Floats:
    """Threshold of each label that gives it the highest F1, taken by itself.

    Parameters
    ----------
    probabilities, targets : arrays, (records, classes)
        Of the validation split: thresholds tuned on a split say nothing about results on the same one.
    default : float
        For a label without positives, and to prefer among equally good thresholds.

    Returns
    -------
    float64 array, (classes,)
        Halfway between two probabilities; a label is predicted above it.
    """
    columns = zip(np.asarray(probabilities, dtype=np.float64).T, np.asarray(targets).T == 1, strict=True)
    return np.array([_best_threshold(values, true, default) for values, true in columns])


def _best_threshold(values: Floats, true: NDArray[np.bool_], default: float) -> float:
    if not true.any():
        return default
    levels = np.unique(values)
    candidates = np.concatenate([[default], (levels[:-1] + levels[1:]) / 2, [levels[0] / 2]])
    order = np.argsort(values)
    hits_below = np.concatenate([[0], np.cumsum(true[order])])
    below = np.searchsorted(values[order], candidates, side="right")
    hits, predicted = true.sum() - hits_below[below], len(values) - below
    f1 = 2 * hits / (predicted + true.sum())
    best = candidates[f1 >= f1.max() - 1e-12]
    return float(best[np.abs(best - default).argmin()])


def threshold_metrics(predicted: Tensor, targets: Tensor, label_names: Sequence[str]) -> dict[str, float]:
    """Those of `classification_metrics` that depend on the threshold, from predictions of 0 and 1."""
    metrics = classification_metrics(predicted.float(), targets, label_names).metrics
    return {name: value for name, value in metrics.items() if not name.startswith(("auroc", "ap_", "keras"))}


def label_table(
    probabilities: Tensor, targets: Tensor, label_names: Sequence[str], thresholds: ArrayLike | None
) -> pd.DataFrame:
    """One row per label.

    Parameters
    ----------
    probabilities, targets : tensors, (records, classes)
    label_names : sequence of str
    thresholds : array, (classes,), optional
        None where each record has exactly one label, of which the most probable one is predicted.

    Returns
    -------
    DataFrame
        Index: label. ``positives`` (records that have it), ``prevalence``, ``mean_probability``, ``auroc`` and
        ``ap`` (NaN where not defined), ``brier`` (mean squared difference of probability and label), and of what is
        predicted ``precision``, ``recall``, ``f1`` of the label by itself; with thresholds also ``threshold`` and
        ``mlcm_f1``.
    """
    true = targets == 1
    if thresholds is None:
        predicted = predicted_classes(probabilities)[:, None] == torch.arange(len(label_names))
    else:
        predicted = probabilities.double() > torch.as_tensor(np.asarray(thresholds, dtype=np.float64))
    rows = []
    for i, name in enumerate(label_names):
        ranking = classification_metrics(probabilities[:, [i]], targets[:, [i]], [name]).metrics
        hits = int((predicted[:, i] & true[:, i]).sum())
        claimed, positives = int(predicted[:, i].sum()), int(true[:, i].sum())
        rows.append(
            {
                "label": name,
                "positives": positives,
                "prevalence": positives / len(true),
                "mean_probability": float(probabilities[:, i].double().mean()),
                "auroc": ranking.get("auroc_macro", np.nan),
                "ap": ranking.get("ap_macro", np.nan),
                "brier": float((probabilities[:, i].double() - targets[:, i].double()).square().mean()),
                "precision": hits / claimed if claimed else 0.0,
                "recall": hits / positives if positives else 0.0,
                "f1": 2 * hits / (claimed + positives) if claimed + positives else 0.0,
            }
        )
    table = pd.DataFrame(rows).set_index("label")
    if thresholds is not None:
        place = list(table.columns).index("precision")
        table.insert(place, "threshold", np.asarray(thresholds, dtype=np.float64))
        table["mlcm_f1"] = mlcm_report(mlcm(predicted, targets, len(label_names))).f1[:-1]
    return table


def calibration_bins(probabilities: ArrayLike, targets: ArrayLike, label_names: Sequence[str]) -> pd.DataFrame:
    """How often labels hold where they get a probability: ten bins of equal width, per label and over all.

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


def subgroup_table(
    probabilities: Tensor,
    targets: Tensor,
    patients: ArrayLike,
    metadata: pd.DataFrame,
    label_names: Sequence[str],
    threshold: float,
    multiclass: bool = False,
) -> pd.DataFrame:
    """Scores of groups of records by age, sex, site and device, those columns that `metadata` has.

    Parameters
    ----------
    probabilities, targets : tensors, (records, classes)
    patients : array, (records,)
    metadata : DataFrame
        One row per record, in their order.
    label_names : sequence of str
    threshold : float
    multiclass : bool
        Each record has exactly one label.

    Returns
    -------
    DataFrame
        ``by``, ``group`` ('unknown' where the value is missing), ``records``, ``patients``, ``mlcm_f1_micro``,
        ``mlcm_f1_macro`` (NaN where a label is `absent`, which would count as 0), ``auroc_macro`` (over the labels
        that have positives and negatives), ``brier``, and ``absent``: labels that no record of the group has. Where
        `multiclass`, ``accuracy`` and ``f1_macro`` stand for the first two scores, and macro averages are without
        the classes of ``left_out``, which have fewer than `SMALLEST_CLASS` records in the group. Of a group with
        fewer than `SMALLEST_GROUP` records all scores are NaN.
    """
    rows = []
    for column in ("age", "sex", "site", "device"):
        if column not in metadata:
            continue
        groups = _bands(metadata[column]) if column == "age" else _named(metadata[column])
        for group, here in groups:
            at = torch.from_numpy(np.flatnonzero(here))
            score = _multiclass_scores if multiclass else partial(_multilabel_scores, threshold=threshold)
            scores, without = score(probabilities[at], targets[at], label_names)
            scores["brier"] = float((probabilities[at].double() - targets[at].double()).square().mean())
            rows.append(
                {
                    "by": column,
                    "group": group,
                    "records": len(at),
                    "patients": len(np.unique(np.asarray(patients)[here])),
                    **(scores if len(at) >= SMALLEST_GROUP else dict.fromkeys(scores, np.nan)),
                    "left_out" if multiclass else "absent": ", ".join(without),
                }
            )
    return pd.DataFrame(rows)


def _multilabel_scores(
    probabilities: Tensor, targets: Tensor, label_names: Sequence[str], threshold: float
) -> tuple[dict[str, float], list[str]]:
    """Scores of a group, and the labels that it does not have."""
    metrics = classification_metrics(probabilities, targets, label_names, threshold).metrics
    absent = list(compress(label_names, (targets != 1).all(dim=0)))
    return {
        "mlcm_f1_micro": metrics["mlcm_f1_micro"],
        "mlcm_f1_macro": np.nan if absent else metrics["mlcm_f1_macro"],
        "auroc_macro": metrics.get("auroc_macro", np.nan),
    }, absent


def _multiclass_scores(
    probabilities: Tensor, targets: Tensor, label_names: Sequence[str]
) -> tuple[dict[str, float], tuple[str, ...]]:
    """Scores of a group, and the classes that its macro averages are without."""
    metrics, left_out = multiclass_metrics(probabilities, targets, label_names, SMALLEST_CLASS)
    names = ("accuracy", "f1_macro", "auroc_macro")
    return {name: metrics.get(name, np.nan) for name in names}, left_out.get("f1_macro", ())


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
