"""A folder of records with a table of their labels."""

from __future__ import annotations

import logging
import math
from abc import abstractmethod
from collections.abc import Sequence
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field

from ecgexp.datasets.base import SplitName
from ecgexp.datasets.paths import absent
from ecgexp.datasets.recordset import Labels, Records, RecordSet
from ecgexp.datasets.splits import stratified_split
from ecgexp.datasets.tables import check_exact, plain_id, read_metadata, read_patients, read_table
from ecgexp.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

Share = Annotated[float, Field(ge=0, le=1)]
Label = Annotated[str, BeforeValidator(lambda label: str(label) if type(label) is int else label)]
"""A text, or a whole number, which becomes its text."""
SPLITS = ("train", "val", "test")
TRUTH = {"0": 0, "0.0": 0, "false": 0, "1": 1, "1.0": 1, "true": 1}


class LabelledFolder(RecordSet):
    """Records whose labels, patients and splits are in a CSV table.

    A subclass implements `_name`, `_locate` and what `RecordSet` still needs.

    Parameters
    ----------
    root : path
        The folder of the records; they may be in sub-folders.
    table : path
        Table with one row per record; relative to `root` unless absolute.
    labels : sequence of str
        The labels, in order. A record is bad (see `on_bad_record`) if the target does not allow its labels.
    record_column, label_column, separator, patient_column, split_column, fractions, split_seed
        See `ecgexp.datasets.WFDBFolder`.
    cache_dir, on_bad_record, workers
        See `RecordSet`.

    Raises
    ------
    UserError
        If a label is named twice, or `fractions` are not three shares that sum to 1.
    """

    keep_unlabelled = True  # "none of the labels" is a valid target
    patient_key = "patient_column"
    """Config key of the dataset for the column with the patient."""

    def __init__(
        self,
        root: str | Path,
        *,
        table: str | Path,
        labels: Sequence[str],
        record_column: str,
        label_column: str | None,
        separator: str,
        patient_column: str | None,
        split_column: str | None,
        fractions: Sequence[float],
        split_seed: int,
        cache_dir: str | Path,
        on_bad_record: Literal["raise", "skip"],
        workers: int | None,
    ) -> None:
        super().__init__(root, cache_dir=cache_dir, on_bad_record=on_bad_record, workers=workers)
        self.table = self.root / table
        self.label_names = tuple(str(label).strip() for label in labels)
        self.record_column, self.label_column, self.separator = record_column, label_column, separator
        self.patient_column, self.split_column = patient_column, split_column
        self.fractions, self.split_seed = tuple(fractions), split_seed
        self.patients_known = patient_column is not None
        check_names("labels", self.label_names)
        self._check_fractions()

    def _check_fractions(self) -> None:
        given = list(self.fractions)
        if len(given) != len(SPLITS):
            raise UserError(
                f"Config key 'dataset.fractions' is {given}, which are {len(given)} shares: give "
                "three, for train, val and test, such as [0.8,0.2,0] for no test records."
            )
        if not all(isinstance(share, Real) and 0 <= share <= 1 for share in given):
            raise UserError(f"Config key 'dataset.fractions' is {given}: give each share as a number from 0 to 1.")
        if not math.isclose(sum(given), 1, abs_tol=1e-6):
            raise UserError(
                f"Config key 'dataset.fractions' is {given}, which sum to {sum(given):g}: give shares that sum to 1."
            )

    @abstractmethod
    def _name(self, text: str) -> str:
        """The record that a cell names, '' for none."""

    @abstractmethod
    def _locate(self, names: list[str]) -> list[str]:
        """Find records in `root`; return their files.

        Raises
        ------
        UserError
            If a name is ambiguous.
        """

    def _read_records(self) -> Records:
        if not self.root.is_dir():
            raise UserError(f"The folder {absent(self.root)}: set dataset.root to the folder of your records.")
        columns = [self.record_column, self.patient_column, self.split_column]
        table = read_table(self.table, [column for column in columns if column])
        ids = self._read_names(table[self.record_column])
        patients = (
            read_patients(self.table, self.patient_column, table[self.patient_column]) if self.patient_column else ids
        )
        files = self._locate(ids)
        splits = self._read_splits(table[self.split_column]) if self.split_column else ids
        records = Records(np.array(ids), np.array(patients), np.array(files), np.array(splits))
        return records if self.split_column else self._split(records)

    def _read_names(self, cells: pd.Series) -> list[str]:
        check_exact(self.table, self.record_column, cells)
        lines: dict[str, int] = {}
        for line, text in zip(cells.index.tolist(), cells, strict=True):
            name = self._name(text)
            if not name:
                raise UserError(
                    f"{self.table} names no record in line {line}, column {self.record_column!r}: fill it in."
                )
            if not name.isprintable():
                raise UserError(f"{self.table} has {text!r} as a record in line {line}: write its path there.")
            if name in lines:
                raise UserError(
                    f"{self.table} has record {name} in line {lines[name]} ({cells[lines[name]]!r}) and in line {line} "
                    f"({text!r}): keep one."
                )
            lines[name] = line
        return list(lines)

    def _read_splits(self, cells: pd.Series) -> list[str]:
        for line, text in cells.items():
            if text.casefold() not in SPLITS:
                raise UserError(
                    f"{self.table} has the split {text!r} in line {line}: write train, val or test into column "
                    f"{self.split_column!r}."
                )
        return [text.casefold() for text in cells]

    def metadata(self, split: SplitName) -> pd.DataFrame | None:
        """Columns ``age``, ``sex``, ``site`` and ``device`` of the table of labels, as far as it has them."""
        return read_metadata(self.table, self.record_column, self.load(split).ids, self._name)

    def _split(self, records: Records) -> Records:
        if not self.patient_column:
            logger.warning(
                "%s: each record counts as a separate patient. If a patient may have several records, set dataset.%s.",
                self.table,
                self.patient_key,
            )
        targets = self._read_labels(records).targets
        part = stratified_split(targets, self._together(records), self.fractions, self.split_seed)
        return Records(records.ids, records.patients, records.files, np.array(SPLITS)[part])

    def _together(self, records: Records) -> NDArray[np.str_]:
        """Names of what must be in one split, (records,)."""
        return records.patients

    def _read_labels(self, records: Records) -> Labels:
        columns = [self.label_column] if self.label_column else self.label_names
        table = read_table(self.table, [self.record_column, *columns])
        rows = dict(
            zip(
                map(self._name, table[self.record_column]),
                table[list(columns)].itertuples(index=False, name=None),
                strict=True,
            )
        )
        targets = np.zeros((len(records), len(self.label_names)), dtype=np.uint8)
        problems = {}
        for i, record in enumerate(records.ids.tolist()):
            try:
                targets[i] = self._text(rows[record][0]) if self.label_column else self._flags(rows[record])
            except _LabelError as error:
                problems[i] = str(error)
        if hasattr(self, "target"):
            found = self.target.problems(targets)
            problems = {i: f"{text} ({self.table.name})" for i, text in found.items()} | problems
        return Labels(targets, problems)

    def _flags(self, cells: tuple[str, ...]) -> list[int]:
        for label, cell in zip(self.label_names, cells, strict=True):
            if cell.casefold() not in TRUTH:
                cause = ", for its decimal comma" if cell.replace(",", ".").casefold() in TRUTH else ""
                raise _LabelError(f"its column {label!r} in {self.table.name} is {cell!r}, not 0 or 1{cause}")
        return [TRUTH[cell.casefold()] for cell in cells]

    def _text(self, cell: str) -> NDArray[np.bool_]:
        labels = {label.strip() for label in cell.split(self.separator)} - {""}
        labels = {label if label in self.label_names else plain_id(label) for label in labels}
        unknown = sorted(labels - set(self.label_names))
        if unknown:
            raise _LabelError(f"its label {unknown[0]!r} in {self.table.name} is not in dataset.labels")
        return np.isin(self.label_names, list(labels))

    def _empty_split_advice(self, name: str) -> str:
        if self.split_column:
            return f"write {name} into column {self.split_column!r} of {self.table} for some records"
        return f"it needs more patients in {self.table} or a larger share in dataset.fractions"


class _LabelError(Exception):
    """What is wrong with the labels of a record."""


def check_names(key: str, names: Sequence[str], fold: bool = False) -> None:
    """Refuse names of a config key of the dataset that are empty or there twice; `fold` ignores their case.

    Raises
    ------
    UserError
        With the first such name.
    """
    folded = [name.casefold() if fold else name for name in names]
    twice = [name for name, one in zip(names, folded, strict=True) if folded.count(one) > 1]
    if twice:
        raise UserError(f"Config key 'dataset.{key}' names {twice[0]} twice: name each once.")
    if "" in names:
        raise UserError(f"Config key 'dataset.{key}' has an empty name: remove it.")
