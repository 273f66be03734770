"""Splits in which each label has its share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray


def stratified_split(
    targets: ArrayLike, patients: ArrayLike, fractions: Sequence[float], seed: int
) -> NDArray[np.int64]:
    """Divide records so that no patient is in two parts and each label has its share in each part.

    The iterative stratification of Sechidis et al., with patients in place of examples: labels are dealt
    with from the rarest to the most frequent, and each patient who has it, those with most such records
    first, goes to the part that lacks most records of the label, then to the one that lacks most records
    at all, then to a random one.

    Parameters
    ----------
    targets : array, (records, classes)
        1 where a label holds.
    patients : array, (records,)
        Patient identifiers.
    fractions : sequence of float
        Wanted share of the records in each part.
    seed : int
        Same seed, same parts.

    Returns
    -------
    int array, (records,)
        Index of each record's part.

    References
    ----------
    Sechidis, Tsoumakas, Vlahavas 2011, On the stratification of multi-label data, ECML PKDD,
    doi 10.1007/978-3-642-23808-6_10.
    """
    rng = np.random.default_rng(seed)
    labels = np.asarray(targets, dtype=np.int64)
    _, group = np.unique(np.asarray(patients), return_inverse=True)
    sizes = np.bincount(group)
    # A last column of ones is the label that every record has: it places the patients without labels.
    held = np.zeros((len(sizes), labels.shape[1] + 1), dtype=np.int64)
    np.add.at(held, group, np.column_stack([labels, np.ones(len(labels), dtype=np.int64)]))
    lacking = np.outer(fractions, held.sum(axis=0)).astype(float)
    part = np.full(len(sizes), -1)
    while (part < 0).any():
        open_ = np.flatnonzero(part < 0)
        totals = held[open_].sum(axis=0)
        label = int(np.where(totals[:-1] > 0, totals[:-1], np.inf).argmin()) if totals[:-1].any() else -1
        having = rng.permutation(open_[held[open_, label] > 0])
        for patient in having[np.argsort(-held[having, label], kind="stable")]:
            ties = rng.random(len(lacking))
            part[patient] = np.lexsort((ties, lacking[:, -1], lacking[:, label]))[-1]
            lacking[part[patient]] -= held[patient]
    return part[group]


def stratified_classes(classes: ArrayLike, fractions: Sequence[float], seed: int) -> NDArray[np.int64]:
    """Divide records of one class each at random so that each class has its share in each part.

    Parameters
    ----------
    classes : array, (records,)
        The class of each.
    fractions : sequence of float
        Wanted share of the records in each part; they sum to 1.
    seed : int
        Same seed, same parts.

    Returns
    -------
    int array, (records,)
        Index of each record's part.
    """
    rng = np.random.default_rng(seed)
    classes = np.asarray(classes)
    part = np.zeros(len(classes), dtype=np.int64)
    for label in np.unique(classes):
        rows = rng.permutation(np.flatnonzero(classes == label))
        ends = np.rint(np.cumsum(fractions)[:-1] * len(rows)).astype(np.int64)
        part[rows] = np.searchsorted(ends, np.arange(len(rows)), side="right")
    return part


def choose_patients(
    classes: ArrayLike, patients: ArrayLike, fraction: float, seed: int, draws: int = 1000
) -> NDArray[np.bool_]:
    """Choose a share of the patients whose records have about that share of each class.

    Of `draws` random choices the one is taken whose shares of the classes differ least, in all, from
    `fraction`. Where few patients have most of a class, `stratified_split`, which wants each class to have its
    share, would rather choose twice as many patients.

    Parameters
    ----------
    classes : array, (records,)
        The class of each record.
    patients : array, (records,)
        Patient identifiers.
    fraction : float
        Share of the patients, and of each class.
    seed : int
        Same seed, same patients.
    draws : int
        Choices to compare.

    Returns
    -------
    bool array, (records,)
        Whether a record is of a chosen patient.
    """
    _, label = np.unique(np.asarray(classes), return_inverse=True)
    _, group = np.unique(np.asarray(patients), return_inverse=True)
    held = np.zeros((group.max() + 1, label.max() + 1))
    np.add.at(held, (group, label), 1)
    order = np.random.default_rng(seed).random((draws, len(held))).argsort(axis=1)
    choices = order[:, : round(fraction * len(held))]
    shares = (held / held.sum(axis=0))[choices].sum(axis=1)
    best = choices[np.abs(shares - fraction).sum(axis=1).argmin()]
    return np.isin(group, best)
