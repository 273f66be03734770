"""Images that a data set holds more than once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TypedDict

import numpy as np

from ecgexp.datasets.base import Split


class Identical(TypedDict):
    """Records that have one image: their ids, their splits, all labels that they have, and whether these differ."""

    records: list[str]
    splits: list[str]
    labels: list[str]
    differ: bool


def identical_images(
    splits: Mapping[str, Split], hashes: Mapping[str, Sequence[str]], label_names: Sequence[str]
) -> list[Identical]:
    """Groups of records that have the same image, within and across splits.

    Parameters
    ----------
    splits : mapping of str to Split
        Those to compare.
    hashes : mapping of str to sequence of str
        Hash of each record's image, by split.
    label_names : sequence of str
        Names of the target columns.

    Returns
    -------
    list of Identical
        In the order of the first record.
    """
    places: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for name, found in hashes.items():
        for row, digest in enumerate(found):
            places[digest].append((name, row))
    names = np.array(label_names)
    groups: list[Identical] = []
    for group in places.values():
        if len(group) < 2:
            continue
        targets = np.array([splits[name].targets[row] for name, row in group])
        groups.append(
            Identical(
                records=[str(splits[name].ids[row]) for name, row in group],
                splits=list(dict.fromkeys(name for name, _ in group)),
                labels=names[targets.any(axis=0)].tolist(),
                differ=bool((targets != targets[0]).any()),
            )
        )
    return groups


def described(groups: Sequence[Identical]) -> list[str]:
    """A sentence on groups of identical images; none where there are none."""
    if not groups:
        return []
    what = "1 image is" if len(groups) == 1 else f"{len(groups)} images are"
    across = [group for group in groups if len(group["splits"]) > 1]
    differ = [group for group in groups if group["differ"]]
    details = [
        f"{len(some)} of them {how} ({' and '.join(some[0]['records'])})"
        for some, how in ((across, "in both splits"), (differ, "under different labels"))
        if some
    ]
    where = "always in one split and with the same labels"
    return [f"{what} there more than once in training and validation: {', '.join(details) or where}."]
