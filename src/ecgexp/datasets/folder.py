"""A folder of WFDB records of one's own, with a table of labels."""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ecgexp.datasets.base import Normalization, SplitName
from ecgexp.datasets.recordset import Labels, RecordDataset, Records, plain_id, read_metadata, read_table
from ecgexp.datasets.splits import stratified_split
from ecgexp.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

Share = Annotated[float, Field(ge=0, le=1)]
SPLITS = ("train", "val", "test")
TRUTH = {"0": 0, "0.0": 0, "false": 0, "1": 1, "1.0": 1, "true": 1}


class WFDBFolder(RecordDataset):
    """WFDB records of any rate, length and format, brought to one rate, length and set of leads.

    Parameters
    ----------
    root : path
        The folder of the records, which may lie in sub-folders.
    cache_dir : path
        Where signals are kept once read.
    labels_csv : path
        Table with one row per record; relative to `root` unless absolute.
    labels : list of str
        The classes, in order.
    lead_names : list of str
        The leads, in order, matched by name whatever their case.
    sampling_rate : float
        In Hz; records of another rate are resampled.
    samples : int
        Length; longer records are cropped to their beginning, shorter ones padded with zeros at their end.
    record_column : str
        Column with the record: its path in `root`, or its name where that is unique in all sub-folders.
    label_column : str, optional
        Column with the labels that hold, as text. By default each label has a column of 0 and 1 with its
        name.
    separator : str
        What stands between two labels in `label_column`.
    patient_column : str, optional
        Column with the patient. By default each record is taken for a patient of its own.
    split_column : str, optional
        Column with train, val or test. By default patients are split at random such that each label has
        its share in each split (see `stratified_split`).
    fractions : three floats
        Shares of the train, validation and test splits, where there is no `split_column`.
    split_seed : int
        Same seed, same splits.
    multiclass : bool
        Each record has exactly one label; one with none or several is bad, see `on_bad_record`.
    normalize, on_bad_record, workers
        See `RecordDataset`.

    Raises
    ------
    UserError
        Where labels or leads are named twice or `fractions` do not sum to 1.
    """

    exact = False
    keep_unlabelled = True  # none of the labels is an answer too

    def __init__(
        self,
        root: str | Path,
        *,
        cache_dir: str | Path,
        labels_csv: str | Path,
        labels: Annotated[list[str], Field(min_length=1)],
        lead_names: Annotated[list[str], Field(min_length=1)],
        sampling_rate: Annotated[float, Field(gt=0)],
        samples: Annotated[int, Field(ge=1)],
        record_column: str = "record",
        label_column: str | None = None,
        separator: Annotated[str, Field(min_length=1)] = ";",
        patient_column: str | None = None,
        split_column: str | None = None,
        fractions: tuple[Share, Share, Share] = (0.8, 0.1, 0.1),
        split_seed: Annotated[int, Field(ge=0)] = 0,
        multiclass: bool = False,
        normalize: Normalization = "none",
        on_bad_record: Literal["raise", "skip"] = "raise",
        workers: Annotated[int, Field(ge=1)] | None = None,
    ) -> None:
        super().__init__(root, cache_dir=cache_dir, normalize=normalize, on_bad_record=on_bad_record, workers=workers)
        self.table = self.root / labels_csv
        self.label_names, self.lead_names = tuple(labels), tuple(lead_names)
        self.sampling_rate, self.samples = sampling_rate, samples
        self.record_column, self.label_column, self.separator = record_column, label_column, separator
        self.patient_column, self.split_column = patient_column, split_column
        self.fractions, self.split_seed = tuple(fractions), split_seed
        self.multiclass = multiclass
        for key, names in (("labels", self.label_names), ("lead_names", self.lead_names)):
            folded = [name.casefold() if key == "lead_names" else name for name in names]
            twice = [name for name, fold in zip(names, folded, strict=True) if folded.count(fold) > 1]
            if twice:
                raise UserError(f"dataset.{key} names {twice[0]} twice: name each once")
        if not math.isclose(sum(self.fractions), 1, abs_tol=1e-6):
            raise UserError(f"dataset.fractions {list(fractions)} sum to {sum(fractions):g}: give shares that sum to 1")

    def _read_records(self) -> Records:
        if not self.root.is_dir():
            raise UserError(f"the folder {self.root} does not exist: set dataset.root to the folder of your records")
        columns = [self.record_column, self.patient_column, self.split_column]
        table = read_table(self.table, [column for column in columns if column])
        ids = [_record_name(text) for text in table[self.record_column]]
        for i, text in enumerate(ids):
            if not text:
                raise UserError(
                    f"{self.table} names no record in row {i + 1}, column {self.record_column!r}: fill it in"
                )
        records = Records(
            ids=np.array(ids),
            patients=np.array([plain_id(text) for text in table[self.patient_column]])
            if self.patient_column
            else np.array(ids),
            files=np.array(_locate(self.root, ids)),
            splits=np.array([text.strip() for text in table[self.split_column]])
            if self.split_column
            else np.array(ids),
        )
        self._check(records)
        return records if self.split_column else self._split(records)

    def _check(self, records: Records) -> None:
        if (records.patients == "").any():
            record = records.ids[records.patients == ""][0]
            raise UserError(
                f"{self.table} names no patient for record {record}: fill in column {self.patient_column!r}"
            )
        if self.split_column:
            other = ~np.isin(records.splits, SPLITS)
            if other.any():
                raise UserError(
                    f"{self.table} puts record {records.ids[other][0]} into split "
                    f"{str(records.splits[other][0])!r}: write train, val or test into column "
                    f"{self.split_column!r}"
                )

    def metadata(self, split: SplitName) -> pd.DataFrame | None:
        """Columns ``age``, ``sex``, ``site`` and ``device`` of the table of labels, those that it has."""
        return read_metadata(self.table, self.record_column, self.load(split).ids, _record_name)

    def _split(self, records: Records) -> Records:
        if not self.patient_column:
            logger.warning(
                "%s: each record is taken for a patient of its own; name dataset.patient_column where a "
                "patient may have several",
                self.table,
            )
        targets = self._read_labels(records).targets
        part = stratified_split(targets, records.patients, self.fractions, self.split_seed)
        return Records(records.ids, records.patients, records.files, np.array(SPLITS)[part])

    def _read_labels(self, records: Records) -> Labels:
        columns = [self.label_column] if self.label_column else list(self.label_names)
        table = read_table(self.table, [self.record_column, *columns])
        rows = dict(
            zip(
                map(_record_name, table[self.record_column]),
                table[columns].itertuples(index=False, name=None),
                strict=True,
            )
        )
        targets = np.zeros((len(records), len(self.label_names)), dtype=np.uint8)
        problems = {}
        for i, record in enumerate(records.ids.tolist()):
            try:
                targets[i] = self._text(rows[record][0]) if self.label_column else self._flags(rows[record])
                self._check_count(targets[i])
            except _LabelError as error:
                problems[i] = str(error)
        return Labels(targets, problems)

    def _flags(self, cells: tuple[str, ...]) -> list[int]:
        for label, cell in zip(self.label_names, cells, strict=True):
            if cell.strip().casefold() not in TRUTH:
                raise _LabelError(f"its column {label!r} in {self.table.name} is {cell!r}, not 0 or 1")
        return [TRUTH[cell.strip().casefold()] for cell in cells]

    def _text(self, cell: str) -> NDArray[np.bool_]:
        labels = {label.strip() for label in cell.split(self.separator)} - {""}
        unknown = sorted(labels - set(self.label_names))
        if unknown:
            raise _LabelError(f"its label {unknown[0]!r} in {self.table.name} is not in dataset.labels")
        return np.isin(self.label_names, list(labels))

    def _check_count(self, flags: NDArray[np.uint8]) -> None:
        if self.multiclass and flags.sum() != 1:
            held = " and ".join(compress(self.label_names, flags)) or "no label"
            raise _LabelError(f"it has {held} in {self.table.name}, where dataset.multiclass takes exactly one label")

    def _empty_split_advice(self, name: str) -> str:
        if self.split_column:
            return f"write {name} into column {self.split_column!r} of {self.table} for some records"
        return f"it needs more patients in {self.table} or a larger share in dataset.fractions"


class _LabelError(Exception):
    """What is wrong with the labels of a record."""


def _record_name(text: str) -> str:
    return text.strip().removesuffix(".hea").removesuffix(".dat")


def _locate(root: Path, names: list[str]) -> list[str]:
    """Paths of records in `root`, which `names` gives as paths or as bare names."""
    paths = {path.relative_to(root).with_suffix("").as_posix() for path in root.rglob("*.hea")}
    by_name = defaultdict(list)
    for path in sorted(paths):
        by_name[Path(path).name].append(path)
    files = []
    for name in names:
        candidates = [name] if name in paths else by_name.get(name, [name])
        if len(candidates) > 1:
            raise UserError(
                f"record {name} is in several folders of {root} ({', '.join(candidates)}): give its path in the table"
            )
        files.append(candidates[0])
    return files
