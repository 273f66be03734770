"""A folder of your own WFDB records, with a table of labels."""

from __future__ import annotations

import logging
import os
import posixpath
from collections import defaultdict
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from ecgexp.datasets.base import Normalization
from ecgexp.datasets.ecg.headers import record_name
from ecgexp.datasets.ecg.records import Uncalibrated
from ecgexp.datasets.ecg.recordset import RecordDataset
from ecgexp.datasets.labelled import Label, LabelledFolder, Share, check_names
from ecgexp.datasets.tables import plain_id
from ecgexp.errors import UserError

logger = logging.getLogger(__name__)


class WFDBFolder(LabelledFolder, RecordDataset):
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
        See `SignalDataset` and `RecordSet`.

    Raises
    ------
    UserError
        If a label or lead is named twice, or `fractions` are not three shares that sum to 1.
    """

    exact = False

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
        super().__init__(
            root,
            table=labels_csv,
            labels=labels,
            record_column=record_column,
            label_column=label_column,
            separator=separator,
            patient_column=patient_column,
            split_column=split_column,
            fractions=fractions,
            split_seed=split_seed,
            cache_dir=cache_dir,
            on_bad_record=on_bad_record,
            workers=workers,
        )
        self.normalize = normalize
        self.lead_names, self.sampling_rate = tuple(lead_names), sampling_rate
        self.samples, self.uncalibrated = samples, uncalibrated
        check_names("lead_names", self.lead_names, fold=True)

    def _name(self, text: str) -> str:
        return _record_name(text)

    def _locate(self, names: list[str]) -> list[str]:
        return _locate(self.root, names, self.table)


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
