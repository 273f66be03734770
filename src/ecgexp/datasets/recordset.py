"""Base class of data sets of WFDB records: cache, checks and report."""

from __future__ import annotations

import hashlib
import logging
from abc import abstractmethod
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ecgexp.datasets.base import Dataset, Split, SplitName
from ecgexp.datasets.reading import Readings
from ecgexp.errors import UserError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Records:
    """Records without their labels and inputs; each attribute is a str array (records,).

    Attributes
    ----------
    ids : str array
        Identifiers, unique.
    patients : str array
        Patient identifiers.
    files : str array
        Relative to the data set's root; of WFDB records without extension.
    splits : str array
        'train', 'val', 'test', or '' for a record in no split.
    """

    ids: NDArray[np.str_]
    patients: NDArray[np.str_]
    files: NDArray[np.str_]
    splits: NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, rows: NDArray[Any]) -> Records:
        return Records(self.ids[rows], self.patients[rows], self.files[rows], self.splits[rows])


@dataclass(frozen=True)
class Labels:
    """Labels of records.

    Attributes
    ----------
    targets : uint8 array, (records, classes)
        1 if the record has the label.
    problems : dict of int to str
        What is wrong with the labels of a record, by its index.
    """

    targets: NDArray[np.uint8]
    problems: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Loaded:
    split: Split
    hashes: tuple[str, ...]
    bad: list[dict[str, str]]
    unlabelled: int
    adapted: dict[str, int]


class RecordSet(Dataset):
    """A folder of records with labels, each of which gives one array.

    A subclass implements `_read_records`, `_read_labels` and `_read_arrays`, and sets `label_names`, `inputs` and
    `keep_unlabelled`. One cached array holds the records outside the test split, whatever their labels. Another holds
    those of the test split; only ``load("test")`` makes and opens it.

    Parameters
    ----------
    root : path
        The folder of the records.
    cache_dir : path
        Folder for the cache of arrays.
    on_bad_record : {'raise', 'skip'}
        What happens to a record that cannot be used. 'raise': loading stops with an error. 'skip': it is left out and
        listed in `summary`.
    workers : int, optional
        Processes that read; by default one per core.
    """

    keep_unlabelled = False

    def __init__(
        self,
        root: str | Path,
        *,
        cache_dir: str | Path,
        on_bad_record: Literal["raise", "skip"],
        workers: int | None,
    ) -> None:
        self.root = Path(root).expanduser()
        self.cache_dir = Path(cache_dir).expanduser()
        self.on_bad_record = on_bad_record
        self.workers = workers
        self._loaded: dict[str, _Loaded] = {}
        self._labels: dict[bool, Labels] = {}
        self._arrays: dict[bool, Readings] = {}

    @abstractmethod
    def _read_records(self) -> Records:
        """All records, without their labels."""

    @abstractmethod
    def _read_labels(self, records: Records) -> Labels:
        """Labels of `records`, in their order."""

    @abstractmethod
    def _read_arrays(self, files: list[str]) -> Readings:
        """Arrays of the records in these files, from the cache."""

    def _conflicts(self, records: Records, labels: Labels) -> dict[int, str]:
        """What is wrong with records beside others, by their index."""
        return {}

    def prepare(self) -> None:
        """Read the records of the train and validation splits into the cache and check them."""
        self.load("train")
        self.load("val")

    def load(self, split: SplitName) -> Split:
        """Records of one split, in the order of the table that names them.

        Raises
        ------
        UserError
            If a file or column is missing, a patient is in two splits, a record is bad and
            `on_bad_record` is 'raise', or no record is left.
        """
        return self._load(split).split

    def summary(self) -> dict[str, Any]:
        """What a run records about its data, JSON-able.

        Returns
        -------
        dict
            ``train`` and ``val``: ``records``, ``patients``, ``labels`` (records per label),
            ``unlabelled`` (records left out because they have no label), ``bad`` (records left out because they
            cannot be used: ``record`` and ``problem``) and ``adapted`` (how many were resampled, cropped
            and so on). ``test``: only ``records``, counted in the table. ``identical``: see `identical`. ``remarks``
            and ``patients_known``, if needed: see `Dataset`.
        """
        summary: dict[str, Any] = {}
        for name in ("train", "val"):
            loaded = self._load(name)
            counts = self._counts(loaded.split)
            summary[name] = counts | {
                "unlabelled": loaded.unlabelled,
                "bad": loaded.bad,
                "adapted": loaded.adapted,
            }
        summary["test"] = {"records": int((self._records.splits == "test").sum())}
        summary["identical"] = self.identical()
        return summary | self._noted()

    def identical(self) -> list[Any]:
        """Groups of records that have the same array and are in different splits; only loaded splits are compared.

        Returns
        -------
        list of list of str
            Each record as ``"split/record"``.
        """
        groups: dict[str, list[tuple[str, str]]] = defaultdict(list)
        for name in ("train", "val", "test"):
            if name in self._loaded:
                loaded = self._loaded[name]
                for record, digest in zip(loaded.split.ids, loaded.hashes, strict=True):
                    groups[digest].append((name, str(record)))
        across = [group for group in groups.values() if len({name for name, _ in group}) > 1]
        return [[f"{name}/{record}" for name, record in group] for group in across]

    def fingerprint(self) -> str:
        """Hash of the data that training uses: ids, targets and arrays of the train and validation splits."""
        digest = hashlib.sha256()
        for name in ("train", "val"):
            loaded = self._load(name)
            digest.update(repr((name, self.label_names, *self._facts())).encode())
            for lines in (loaded.split.ids, loaded.hashes):
                digest.update("\n".join(lines).encode() + b"\0")
            digest.update(np.ascontiguousarray(loaded.split.targets).tobytes())
        return digest.hexdigest()[:16]

    @cached_property
    def _records(self) -> Records:
        records = self._read_records()
        _check_unique(records, self.root)
        _check_patients(records)
        return records

    def _part(self, test: bool) -> Records:
        return self._records[(self._records.splits == "test") == test]

    def _labels_of_part(self, test: bool) -> Labels:
        if test not in self._labels:
            records = self._part(test)
            labels = self._read_labels(records)
            problems = self._conflicts(records, labels) | labels.problems
            self._labels[test] = Labels(labels.targets, problems)
        return self._labels[test]

    def _arrays_of_part(self, test: bool) -> Readings:
        if test not in self._arrays:
            self._arrays[test] = self._read_arrays(self._part(test).files.tolist())
        return self._arrays[test]

    def _load(self, name: SplitName | str) -> _Loaded:
        if name not in self._loaded:
            self._loaded[name] = self._select(name)
        return self._loaded[name]

    def _select(self, name: str) -> _Loaded:
        test = name == "test"
        records = self._part(test)
        rows = np.flatnonzero(records.splits == name)
        if not rows.size:
            raise UserError(f"The {name} split of {self.root} is empty: {self._empty_split_advice(name)}.")
        labels = self._labels_of_part(test)
        bad = self._bad(records, rows, labels.problems)
        rows = _without(rows, labels.problems)
        unlabelled = 0 if self.keep_unlabelled else int((~labels.targets[rows].any(axis=1)).sum())
        if not self.keep_unlabelled:
            rows = rows[labels.targets[rows].any(axis=1)]
        arrays = self._arrays_of_part(test)
        bad += self._bad(records, rows, arrays.problems)
        rows = _without(rows, arrays.problems)
        if not rows.size:
            raise UserError(
                f"The {name} split of {self.root} is empty, because {len(bad)} of its records are bad and {unlabelled} "
                f"have no label: {self._empty_split_advice(name)}."
            )
        split = Split(
            inputs={self.inputs[0].name: arrays.array},
            rows=rows,
            targets=labels.targets[rows],
            ids=records.ids[rows],
            patients=records.patients[rows],
        )
        notes = [note for row in rows.tolist() for note in arrays.notes.get(row, ())]
        loaded = _Loaded(
            split=split,
            hashes=tuple(arrays.hashes[row] for row in rows),
            bad=bad,
            unlabelled=unlabelled,
            adapted=dict(Counter(note.split()[0] for note in notes)),
        )
        self._report(name, loaded)
        return loaded

    def _empty_split_advice(self, name: str) -> str:
        return f"give it records in the table of {self.root}"

    def _bad(self, records: Records, rows: NDArray[np.int64], problems: dict[int, str]) -> list[dict[str, str]]:
        bad = [
            {"record": str(records.ids[row]), "problem": f"{records.files[row]}: {problems[row]}"}
            for row in rows.tolist()
            if row in problems
        ]
        if bad and self.on_bad_record == "raise":
            more = f" ({len(bad) - 1} more are bad)" if len(bad) > 1 else ""
            raise UserError(
                f"Record {bad[0]['record']} of {self.root} is bad: {bad[0]['problem']}{more}. Repair it, or leave bad "
                "records out with dataset.on_bad_record=skip."
            )
        return bad

    def _report(self, name: str, loaded: _Loaded) -> None:
        counts = self._counts(loaded.split)
        labels = ", ".join(f"{label} {count}" for label, count in counts["labels"].items())
        of_patients = f" of {counts['patients']} patients" if self.patients_known else ""
        logger.info("%s: %d records%s: %s", name, counts["records"], of_patients, labels)
        if loaded.unlabelled:
            logger.info("%s: %d records without any of the labels are left out.", name, loaded.unlabelled)
        if loaded.adapted:
            adapted = ", ".join(f"{count} {what}" for what, count in loaded.adapted.items())
            logger.info("%s: records adapted: %s.", name, adapted)
        if loaded.bad:
            first = loaded.bad[0]
            logger.warning(
                "The %s split leaves out %d bad records. The first is record %s: %s.",
                name,
                len(loaded.bad),
                first["record"],
                first["problem"],
            )
        absent = [label for label, count in counts["labels"].items() if not count]
        if absent:
            logger.warning(
                "The %s split of %s has no record with label %s: results for it have no meaning. Choose labels or "
                "splits so that each label occurs.",
                name,
                self.root,
                ", ".join(absent),
            )


def _without(rows: NDArray[np.int64], problems: Iterable[int]) -> NDArray[np.int64]:
    return rows[~np.isin(rows, list(problems))]


def _check_unique(records: Records, root: Path) -> None:
    for what, values in (("id", records.ids), ("file", records.files)):
        names, counts = np.unique(values, return_counts=True)
        if (counts > 1).any():
            raise UserError(
                f"The record {what} {names[counts > 1][0]} occurs {counts[counts > 1][0]} times in the table of "
                f"{root}: keep one row of each record."
            )


def _check_patients(records: Records) -> None:
    used = records.splits != ""
    pairs = np.unique(np.stack([records.patients[used], records.splits[used]]), axis=1)
    patients, counts = np.unique(pairs[0], return_counts=True)
    if (counts > 1).any():
        patient = patients[counts > 1][0]
        rows = np.flatnonzero(used & (records.patients == patient))
        where = ", ".join(f"{records.ids[row]} in {records.splits[row]}" for row in rows)
        raise UserError(
            f"A patient is in more than one split (records {where}): put all records of a patient into one split."
        )
