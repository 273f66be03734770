"""PTB-XL: 12-lead ECGs of 10 s with SCP-ECG statements."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from posixpath import normpath
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field

from ecgexp.datasets.base import Normalization, SplitName
from ecgexp.datasets.ecg.recordset import RecordDataset
from ecgexp.datasets.ecg.statements import statement_labels
from ecgexp.datasets.paths import absent
from ecgexp.datasets.recordset import Labels, Records
from ecgexp.datasets.tables import check_exact, plain_id, read_metadata, read_patients, read_table
from ecgexp.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

DATABASE, STATEMENTS = "ptbxl_database.csv", "scp_statements.csv"
LEADS = ("I", "II", "III", "AVR", "AVL", "AVF", "V1", "V2", "V3", "V4", "V5", "V6")
SEXES = {"0": "male", "1": "female"}

LabelSet = Literal["superclass", "subclass", "diagnostic", "form", "rhythm", "all"]


class PTBXL(RecordDataset):
    """PTB-XL in its official layout.

    Parameters
    ----------
    root : path
        The folder with ``ptbxl_database.csv``, ``scp_statements.csv`` and ``records100`` or ``records500``.
    cache_dir : path
        Folder for the cache of signals.
    sampling_rate : {100, 500}
        In Hz; a record then has 1000 or 5000 samples.
    labels : {'superclass', 'subclass', 'diagnostic', 'form', 'rhythm', 'all'} or list of str
        A set of labels of the PTB-XL benchmark, or a list of statements such as ['AFIB', 'SR']. The superclasses have
        the order NORM, STTC, CD, MI, HYP; all other sets are in alphabetical order; a list keeps its order. A record
        with none of the labels is left out.
    min_likelihood : float
        A diagnostic statement counts if its likelihood is at least this, in percent: 50 is the protocol of Leandro et
        al., 0 that of the benchmark. Form and rhythm statements always count, because the data do not give their
        likelihood.
    val_fold, test_fold : int or list of int
        Values of ``strat_fold`` of the validation and test splits.
    train_folds : list of int, optional
        Values of ``strat_fold`` of the training split; by default all others.
    normalize, on_bad_record, workers
        See `SignalDataset` and `RecordSet`.

    Raises
    ------
    UserError
        If a fold is in two splits.

    References
    ----------
    Wagner et al. 2020, PTB-XL, a large publicly available electrocardiography dataset, Scientific Data
    7:154. Strodthoff et al. 2021, Deep learning for ECG analysis: benchmarks and insights from PTB-XL, IEEE
    JBHI 25(5).
    """

    def __init__(
        self,
        root: str | Path,
        *,
        cache_dir: str | Path,
        sampling_rate: Literal[100, 500] = 100,
        labels: LabelSet | list[str] = "superclass",
        min_likelihood: Annotated[float, Field(ge=0, le=100)] = 50,
        val_fold: int | list[int] = 9,
        test_fold: int | list[int] = 10,
        train_folds: list[int] | None = None,
        normalize: Normalization = "none",
        on_bad_record: Literal["raise", "skip"] = "raise",
        workers: Annotated[int, Field(ge=1)] | None = None,
    ) -> None:
        super().__init__(root, cache_dir=cache_dir, on_bad_record=on_bad_record, workers=workers)
        self.normalize = normalize
        self.lead_names = LEADS
        self.sampling_rate = sampling_rate
        self.samples = 10 * sampling_rate
        self.labels = labels
        self._expected = statement_labels(labels)
        self.min_likelihood = min_likelihood
        self.folds = {"val": _folds(val_fold), "test": _folds(test_fold)}
        if train_folds is not None:
            self.folds["train"] = _folds(train_folds)
        every = [fold for folds in self.folds.values() for fold in folds]
        twice = sorted({fold for fold in every if every.count(fold) > 1})
        if twice:
            raise UserError(
                f"Fold {twice[0]} is named twice: dataset.train_folds, dataset.val_fold and dataset.test_fold must "
                "have no fold in common."
            )

    @staticmethod
    def check_arguments(labels: LabelSet | list[str] = "superclass", **_: Any) -> None:
        """Refuse labels that PTB-XL does not have."""
        statement_labels(labels)

    @cached_property
    def label_names(self) -> tuple[str, ...]:  # type: ignore[override]
        """The labels, in order; checks that ``scp_statements.csv`` has them."""
        found = {statement.label for statement in self._statements.values() if statement.label}
        if len(found) != len(self._expected):
            raise UserError(
                f"{self.root / STATEMENTS} gives {len(found)} labels for dataset.labels={self.labels}, but "
                f"PTB-XL has {len(self._expected)}: restore the file of the release."
            )
        others = sorted(found - set(self._expected))
        if others:
            raise UserError(f"{self.root / STATEMENTS} has the label {others[0]!r}: restore the file of the release.")
        return self._expected

    def metadata(self, split: SplitName) -> pd.DataFrame | None:
        """Age, sex, site and device of the records of a split, from ``ptbxl_database.csv``.

        The table has 300 for an age above 89 years; it is returned unchanged.
        """
        table = read_metadata(self.root / DATABASE, "ecg_id", self.load(split).ids, plain_id)
        if table is not None and "sex" in table:
            table["sex"] = table["sex"].map(lambda text: SEXES.get(plain_id(text), text))
        if table is not None and "site" in table:
            table["site"] = table["site"].map(plain_id)
        return table

    @cached_property
    def _statements(self) -> dict[str, _Statement]:
        """The label that each SCP-ECG statement gives."""
        kinds = ("diagnostic", "form", "rhythm")
        table = read_table(self.root / STATEMENTS, ("", *kinds, "diagnostic_class", "diagnostic_subclass"))
        statements: dict[str, _Statement] = {}
        mixed = isinstance(self.labels, list) or self.labels == "all"
        for row in table.to_dict("records"):
            code = row[""]
            if code in statements:
                raise UserError(f"{self.root / STATEMENTS} has the statement {code!r} twice: restore the file.")
            wrong = [kind for kind in kinds if row[kind] not in ("", "0", "0.0", "1", "1.0")]
            if wrong:
                raise UserError(
                    f"{self.root / STATEMENTS} has {row[wrong[0]]!r} in column {wrong[0]!r} of the statement {code!r}, "
                    "not 1 or nothing: restore the file."
                )
            diagnostic, form, rhythm = (row[kind] in ("1", "1.0") for kind in kinds)
            if isinstance(self.labels, list):
                label = code if code in self._expected else ""
            else:
                label = {
                    "superclass": row["diagnostic_class"] if diagnostic else "",
                    "subclass": row["diagnostic_subclass"] if diagnostic else "",
                    "diagnostic": code if diagnostic else "",
                    "form": code if form else "",
                    "rhythm": code if rhythm else "",
                    "all": code,
                }[self.labels]
            certain = self.labels in ("form", "rhythm") or (mixed and (form or rhythm))
            statements[code] = _Statement(label, 0.0 if certain else self.min_likelihood)
        return statements

    def _read_records(self) -> Records:
        if not self.root.is_dir():
            raise UserError(
                f"The folder {absent(self.root)}: download PTB-XL with `make data`, or set dataset.root to your copy."
            )
        filename = "filename_lr" if self.sampling_rate == 100 else "filename_hr"
        table = read_table(self.root / DATABASE, ("ecg_id", "patient_id", "strat_fold", filename))
        for column in table:
            empty = np.flatnonzero(table[column] == "")
            if empty.size:
                line = table.index[empty[0]]
                raise UserError(f"{self.root / DATABASE} has no {column} in line {line}: restore the file.")
        folds = [plain_id(text) for text in table["strat_fold"]]
        for text, record in zip(folds, table["ecg_id"], strict=True):
            if not text.isdecimal():
                raise UserError(
                    f"{self.root / DATABASE} puts record {record} into strat_fold {text!r}: write a whole number."
                )
        folders = sorted({file.partition("/")[0] for file in table[filename]})
        if not any((self.root / folder).is_dir() for folder in folders):
            raise UserError(
                f"{self.root} has no folder {folders[0]} with the {self.sampling_rate} Hz records: download "
                f"them, or set dataset.sampling_rate={600 - self.sampling_rate}."
            )
        use = {str(fold): name for name, folds in self.folds.items() for fold in folds}
        rest = "" if "train" in self.folds else "train"
        check_exact(self.root / DATABASE, "ecg_id", table["ecg_id"])
        return Records(
            ids=np.array([plain_id(text) for text in table["ecg_id"]]),
            patients=np.array(read_patients(self.root / DATABASE, "patient_id", table["patient_id"])),
            files=np.array([normpath(file) for file in table[filename]]),
            splits=np.array([use.get(fold.lstrip("0") or "0", rest) for fold in folds]),
        )

    def _read_labels(self, records: Records) -> Labels:
        table = read_table(self.root / DATABASE, ("ecg_id", "scp_codes"))
        codes = dict(zip(map(plain_id, table["ecg_id"]), table["scp_codes"], strict=True))
        column = {label: i for i, label in enumerate(self.label_names)}
        targets = np.zeros((len(records), len(column)), dtype=np.uint8)
        problems = {}
        labels_of = cache(self._labels_of)  # many records share the same text
        for i, record in enumerate(records.ids.tolist()):
            try:
                targets[i, [column[label] for label in labels_of(codes[record])]] = 1
            except _CodesError as error:
                problems[i] = str(error)
        return Labels(targets, problems)

    def _labels_of(self, codes: str) -> set[str]:
        """Labels of a record from its ``scp_codes``, a Python dict of statement to likelihood."""
        try:
            written = ast.parse(codes, mode="eval").body
            likelihoods = {str(code): float(value) for code, value in ast.literal_eval(written).items()}
            if len(likelihoods) != len(written.keys):  # type: ignore[attr-defined]
                raise _CodesError(f"its scp_codes {codes!r} name a statement twice")
        except (ValueError, SyntaxError, TypeError, AttributeError, MemoryError, RecursionError):
            raise _CodesError(f"its scp_codes {codes!r} cannot be read as {{statement: likelihood}}") from None
        if not all(0 <= value <= 100 for value in likelihoods.values()):
            raise _CodesError(f"its scp_codes {codes!r} have a likelihood that is not from 0 to 100")
        unknown = [code for code in likelihoods if code not in self._statements]
        if unknown:
            raise _CodesError(f"its scp_codes name the statement {unknown[0]!r}, which {STATEMENTS} does not have")
        meanings = ((self._statements[code], value) for code, value in likelihoods.items())
        return {meaning.label for meaning, value in meanings if meaning.label and value >= meaning.from_likelihood}

    def _empty_split_advice(self, name: str) -> str:
        key = "train_folds" if name == "train" else f"{name}_fold"
        return f"set dataset.{key} to folds (strat_fold in {DATABASE}) that have records with labels"


@dataclass(frozen=True)
class _Statement:
    """The label that a statement gives ('' for none of the chosen ones), and the lowest likelihood that counts."""

    label: str
    from_likelihood: float


class _CodesError(Exception):
    """What is wrong with the scp_codes of a record."""


def _folds(value: int | list[int]) -> list[int]:
    return [value] if isinstance(value, int) else list(value)
