"""A folder of your own WFDB records, with a table of labels."""

from __future__ import annotations

import logging
import math
import os
import posixpath
from collections import defaultdict
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field

from ecgexp.datasets.base import Normalization, SplitName
from ecgexp.datasets.ecg.headers import record_name
from ecgexp.datasets.ecg.records import Uncalibrated
from ecgexp.datasets.ecg.recordset import Labels, RecordDataset, Records
from ecgexp.datasets.paths import absent
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


class WFDBFolder(RecordDataset):
    """WFDB records of any rate, length and format, converted to one rate, length and set of leads.

    Parameters
    ----------
    root : path
        The folder of the records; they may be in sub-folders.
    cache_dir : path
        Folder for the cache of signals.
    labels_csv : path
        Table with one row per record; relative to `root` unless absolute.
    labels : list of str or int
        The labels, in order; a number is read as text. A record is bad (see `on_bad_record`) if the target does not
        allow its labels, for example two labels with a multi-class target.
    lead_names : list of str
        The leads, in order, matched by name in any letter case.
    sampling_rate : float
        In Hz; records of another rate are resampled.
    samples : int
        Length; longer records are cropped to their beginning, shorter ones padded with zeros at their end.
    record_column : str
        Column with the record: its path in `root`, or its name if that is unique in all sub-folders.
    label_column : str, optional
        Column with the record's labels, as text. By default each label has a column of 0 and 1 with its
        name.
    separator : str
        Text between two labels in `label_column`.
    patient_column : str, optional
        Column with the patient. By default each record counts as a separate patient.
    split_column : str, optional
        Column with train, val or test. By default patients are split at random so that each label has
        its share in each split (see `stratified_split`).
    fractions : three floats
        Shares of the train, validation and test splits, if there is no `split_column`.
    split_seed : int
        Same seed, same splits.
    uncalibrated : {'refuse', 'assume'}
        How to treat a lead whose header gives no gain. 'refuse': its record is bad (see `on_bad_record`). 'assume': it
        has 200 steps per mV, and its record is counted as adapted in `summary`.
    normalize, on_bad_record, workers
        See `RecordDataset`.

    Raises
    ------
    UserError
        If a label or lead is named twice, or `fractions` are not three shares that sum to 1.
    """

    exact = False
    keep_unlabelled = True  # "none of the labels" is a valid target

    def __init__(
        self,
        root: str | Path,
        *,
        cache_dir: str | Path,
        labels_csv: str | Path,
        labels: Annotated[list[Label], Field(min_length=1)],
        lead_names: Annotated[list[str], Field(min_length=1)],
        sampling_rate: Annotated[float, Field(gt=0)],
        samples: Annotated[int, Field(ge=1)],
        record_column: str = "record",
        label_column: str | None = None,
        separator: Annotated[str, Field(min_length=1)] = ";",
        patient_column: str | None = None,
        split_column: str | None = None,
        fractions: list[Share] = [0.8, 0.1, 0.1],  # noqa: B006 - only read
        split_seed: Annotated[int, Field(ge=0)] = 0,
        uncalibrated: Uncalibrated = "refuse",
        normalize: Normalization = "none",
        on_bad_record: Literal["raise", "skip"] = "raise",
        workers: Annotated[int, Field(ge=1)] | None = None,
    ) -> None:
        super().__init__(root, cache_dir=cache_dir, normalize=normalize, on_bad_record=on_bad_record, workers=workers)
        self.table = self.root / labels_csv
        self.label_names, self.lead_names = tuple(str(label).strip() for label in labels), tuple(lead_names)
        self.sampling_rate, self.samples, self.uncalibrated = sampling_rate, samples, uncalibrated
        self.record_column, self.label_column, self.separator = record_column, label_column, separator
        self.patient_column, self.split_column = patient_column, split_column
        self.fractions, self.split_seed = tuple(fractions), split_seed
        for key, names in (("labels", self.label_names), ("lead_names", self.lead_names)):
            folded = [name.casefold() if key == "lead_names" else name for name in names]
            twice = [name for name, fold in zip(names, folded, strict=True) if folded.count(fold) > 1]
            if twice:
                raise UserError(f"Config key 'dataset.{key}' names {twice[0]} twice: name each once.")
            if "" in names:
                raise UserError(f"Config key 'dataset.{key}' has an empty name: remove it.")
        if len(self.fractions) != len(SPLITS):
            raise UserError(
                f"Config key 'dataset.fractions' is {list(fractions)}, which are {len(fractions)} shares: give "
                "three, for train, val and test, such as [0.8,0.2,0] for no test records."
            )
        if not all(isinstance(share, Real) and 0 <= share <= 1 for share in self.fractions):
            raise UserError(
                f"Config key 'dataset.fractions' is {list(fractions)}: give each share as a number from 0 to 1."
            )
        if not math.isclose(sum(self.fractions), 1, abs_tol=1e-6):
            raise UserError(
                f"Config key 'dataset.fractions' is {list(fractions)}, which sum to {sum(fractions):g}: give shares "
                "that sum to 1."
            )

    def _read_records(self) -> Records:
        if not self.root.is_dir():
            raise UserError(f"The folder {absent(self.root)}: set dataset.root to the folder of your records.")
        columns = [self.record_column, self.patient_column, self.split_column]
        table = read_table(self.table, [column for column in columns if column])
        ids = self._read_names(table[self.record_column])
        patients = (
            read_patients(self.table, self.patient_column, table[self.patient_column]) if self.patient_column else ids
        )
        files = _locate(self.root, ids, self.table)
        splits = self._read_splits(table[self.split_column]) if self.split_column else ids
        records = Records(np.array(ids), np.array(patients), np.array(files), np.array(splits))
        return records if self.split_column else self._split(records)

    def _read_names(self, cells: pd.Series) -> list[str]:
        check_exact(self.table, self.record_column, cells)
        lines: dict[str, int] = {}
        for line, text in zip(cells.index.tolist(), cells, strict=True):
            name = _record_name(text)
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
        return read_metadata(self.table, self.record_column, self.load(split).ids, _record_name)

    def _split(self, records: Records) -> Records:
        if not self.patient_column:
            logger.warning(
                "%s: each record counts as a separate patient. If a patient may have several records, set "
                "dataset.patient_column.",
                self.table,
            )
        targets = self._read_labels(records).targets
        part = stratified_split(targets, records.patients, self.fractions, self.split_seed)
        return Records(records.ids, records.patients, records.files, np.array(SPLITS)[part])

    def _read_labels(self, records: Records) -> Labels:
        columns = [self.label_column] if self.label_column else self.label_names
        table = read_table(self.table, [self.record_column, *columns])
        rows = dict(
            zip(
                map(_record_name, table[self.record_column]),
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


def _record_name(text: str) -> str:
    """Path of a record in WFDB's form: ``./a/100.HEA`` and ``a//100.0`` become ``a/100``."""
    path = record_name(text.replace("\\", "/").strip())
    return posixpath.normpath(plain_id(path)) if path else ""


def _locate(root: Path, names: list[str], table: Path) -> list[str]:
    """Find records in `root` by their paths or bare names; return their paths."""
    targets = _find_headers(root)
    by_name = defaultdict(list)
    for path in sorted(targets):
        by_name[posixpath.basename(path)].append(path)
    without_zeros = {name.lstrip("0"): name for name in by_name if name.isdecimal()}
    names_of: dict[str, str] = {}
    files = []
    for name in names:
        candidates = [name] if name in targets else by_name.get(name, [name])
        if len({targets.get(path) for path in candidates}) > 1:
            raise UserError(
                f"Record {name} is in several folders of {root} ({', '.join(candidates)}): give its path in the table."
            )
        file = candidates[0]
        if file not in targets and file.lstrip("0") in without_zeros and file.isdecimal():
            raise UserError(
                f"{table} has record {name} where {root} has {without_zeros[file.lstrip('0')]}: spreadsheets drop "
                "leading zeros, so write the column as text."
            )
        other = names_of.setdefault(targets.get(file) or os.path.realpath(root / f"{file}.hea"), name)
        if other != name:
            raise UserError(f"{table} has one record twice, as {other} and as {name}: keep one of the rows.")
        files.append(file)
    return files


def _find_headers(root: Path) -> dict[str, str]:
    """Find the records in a folder, also through links: the header's real path, by path without extension."""
    found: dict[str, str] = {}
    _walk(str(root), (os.path.realpath(root),), found)
    start = len(str(root)) + 1
    return {path[start : -len(".hea")]: target for path, target in found.items()}


def _walk(folder: str, chain: tuple[str, ...], found: dict[str, str]) -> None:
    """Add the headers below a folder to `found`; `chain` has the real paths of its parent folders and itself."""
    try:
        entries = list(os.scandir(folder))
    except OSError as error:
        logger.warning("The folder %s cannot be read (%s): its records are not found.", folder, error.strerror)
        return
    for entry in entries:
        link = entry.is_symlink()
        target = os.path.realpath(entry.path) if link else f"{chain[-1]}/{entry.name}"
        if Path(entry).is_dir() if link else entry.is_dir():
            if target in chain:
                logger.warning("%s is a link back to its parent folder %s and is not followed.", entry.path, target)
            else:
                _walk(entry.path, (*chain, target), found)
        elif entry.name.endswith(".hea"):
            found[entry.path] = target
