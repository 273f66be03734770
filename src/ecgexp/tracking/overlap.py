"""Which records and patients of a split a run was trained on; a run stores them only as keyed hashes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecgexp.datasets.base import Split, SplitName
from ecgexp.errors import UserError, first_line
from ecgexp.saved import check_sum
from ecgexp.tracking.names import File
from ecgexp.tracking.privacy import KEY, hashed_patients
from ecgexp.tracking.store import Store

_SEEN: tuple[SplitName, ...] = ("train", "val")
_KINDS = ("records", "patients")


@dataclass(frozen=True)
class Overlap:
    """Overlap between a split and another split of a run.

    Attributes
    ----------
    records, patients : int
        Number of records and patients that are in both splits.
    of_records, of_patients : int
        Number of all records and patients of the split.
    """

    records: int
    patients: int
    of_records: int
    of_patients: int


Seen = Mapping[str, NDArray[np.uint64]]
"""Hashes of what a run has seen, by name, as `write_trained_on` says."""


def write_trained_on(path: Path, store: Store, splits: Mapping[SplitName, Split], earlier: Seen | None = None) -> None:
    """Write hashes of the training and validation records and of their patients, 8 bytes each.

    Parameters
    ----------
    path : Path
        The file, an archive of NumPy arrays: ``train_records``, ``train_patients``, ``val_records`` and
        ``val_patients``, ascending, and ``key``, a hash that identifies the key.
    store : Store
        Store with the key.
    splits : mapping
        The records of 'train' and 'val'.
    earlier : mapping, optional
        What the weights that the run started from have seen; the run has seen it, too.
    """
    hashes: dict[str, Any] = {"key": _hashes(store, "key", np.array([""]))}
    for name in _SEEN:
        for what, names in _named(splits[name]).items():
            hashes[f"{name}_{what}"] = _hashes(store, what, names)
    for entry, found in (earlier or {}).items():
        hashes[entry] = np.union1d(hashes[entry], found)
    np.savez(path, **hashes)


def read_trained_on(path: Path, store: Store) -> Seen | str:
    """Read what `write_trained_on` wrote.

    Returns
    -------
    mapping of str to array, or str
        The hashes; a reason if they cannot be compared with names of records.

    Raises
    ------
    UserError
        If the file is damaged.
    """
    if not path.is_file():
        return f"the run is of an earlier version and has no {File.TRAINED_ON}"
    check_sum(path)
    try:
        with np.load(path, allow_pickle=False) as file:
            seen = {
                name: file[name].astype(np.uint64) for name in ("key", *(f"{a}_{b}" for a in _SEEN for b in _KINDS))
            }
    except Exception as error:  # parsing a damaged archive may raise any error
        raise UserError(f"{path} is damaged: {first_line(error)}") from error
    if not np.array_equal(seen["key"], _hashes(store, "key", np.array([""]))):
        return f"{File.TRAINED_ON} was made with another key than {store.root / KEY}: copy that of the training"
    return seen


def find_overlap(path: Path, store: Store, split: Split) -> dict[str, Overlap] | str:
    """Compare a split with what `write_trained_on` wrote.

    Returns
    -------
    dict of str to Overlap, or str
        Overlap with the run's 'train' and with its 'val'; a reason if it is not known.

    Raises
    ------
    UserError
        If the file is damaged.
    """
    seen = read_trained_on(path, store)
    return seen if isinstance(seen, str) else overlap_of(seen, store, split)


def overlap_of(seen: Seen, store: Store, split: Split) -> dict[str, Overlap]:
    """Overlap of a split with the 'train' and the 'val' that were seen."""
    own = {what: _hashes(store, what, names) for what, names in _named(split).items()}
    total = [len(hashes) for hashes in own.values()]
    return {
        name: Overlap(*(int(np.isin(own[what], seen[f"{name}_{what}"]).sum()) for what in _KINDS), *total)
        for name in _SEEN
    }


def _named(split: Split) -> dict[str, NDArray[np.str_]]:
    return dict(zip(_KINDS, (split.ids, split.patients), strict=True))


def _hashes(store: Store, what: str, names: NDArray[np.str_]) -> NDArray[np.uint64]:
    """A 64-bit hash of each different name, ascending, so that their order reveals nothing."""
    # The hashed text contains the kind, so that a record does not reveal a patient of the same name.
    found = hashed_patients(store, np.char.add(f"{what} ", np.unique(names.astype(str))))
    return np.sort(np.array([int(digits, 16) for digits in found.tolist()], dtype=np.uint64))
