"""Stratified splits: each label has the same share in each part."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray


def stratified_split(
    targets: ArrayLike, patients: ArrayLike, fractions: Sequence[float], seed: int
) -> NDArray[np.int64]:
    """Divide records so that no patient is in two parts and each label has about its share in each part.

    This is the iterative stratification of Sechidis et al., with patients in place of examples. Labels are
    distributed from the rarest to the most frequent. For each label, the patients who have it follow one by one, those
    with most such records first. A patient goes to the part that lacks most records of the label; among equal parts,
    to the one that lacks most records of any kind; among equal ones again, to a random one.

    Parameters
    ----------
    targets : array, (records, classes)
        1 if the record has the label.
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
    # The last column counts all records, as a label that every record has: it places the patients without labels.
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
    """Divide records at random so that each class has its share in each part.

    Parameters
    ----------
    classes : array, (records,)
        The class of each record.
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
    """Choose a share of the patients so that their records have about the same share of each class.

    Among `draws` random choices, the best is the one whose shares of the classes have the smallest sum of absolute
    differences to `fraction`. If few patients have most records of a class, `stratified_split` would choose up to
    twice as many patients, to give each class its share.

    Parameters
    ----------
    classes : array, (records,)
        The class of each record.
    patients : array, (records,)
        Patient identifiers.
    fraction : float
        Wanted share of the patients and of each class.
    seed : int
        Same seed, same patients.
    draws : int
        Number of random choices to compare.

    Returns
    -------
    bool array, (records,)
        Whether the record's patient is chosen.
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
