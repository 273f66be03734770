"""Tables of records, as spreadsheets and pandas write them: what is ambiguous in them is refused."""

from __future__ import annotations

import csv
import io
import re
import textwrap
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ecgexp.datasets.paths import absent
from ecgexp.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

METADATA = ("age", "sex", "site", "device")
"""Columns by which an evaluation groups records, where a table has them."""
SEPARATORS = (",", ";", "\t")
ENCODINGS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
WORKBOOKS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")
"""First bytes of Excel's own files."""
MISSING = {"", "nan", "na", "n/a", "#n/a", "#na", "<na>", "nat", "null", "none", "-", "?"}
"""What programs write where there is nothing, in lower case."""
LONGEST_HEADER = 1 << 16
"""Characters in which the names of the columns are looked for."""
EXACT = 2**53
"""From here on not every whole number is a float."""


def read_table(path: Path, columns: Iterable[str], optional: Iterable[str] = ()) -> pd.DataFrame:
    """Columns of a CSV as text.

    The separator is the comma, semicolon or tab with which the header has the columns; the encoding is UTF-8, or
    UTF-16 where the file says so. Blanks around a cell and rows without any text are dropped, and ``="007"``, as
    which spreadsheets write a text of digits, is ``007``.

    Parameters
    ----------
    path : Path
        The table.
    columns : iterable of str
        Those that it must have.
    optional : iterable of str
        Those that are read where it has them.

    Returns
    -------
    DataFrame of str
        One row per row of the table; the index is the line where it ends, of which the header has the first.

    Raises
    ------
    UserError
        Where file, column or rows are missing, a column occurs twice, or a row has not as many cells as the header.
    """
    import pandas as pd

    text = _read_text(path)
    columns = list(dict.fromkeys(columns))
    start, separator, header = _header(path, text, columns)
    wanted = [*columns, *(name for name in dict.fromkeys(optional) if name in header and name not in columns)]
    for name in wanted:
        if header.count(name) > 1:
            raise UserError(f"{path} has {header.count(name)} columns {name!r}: keep one.")
    places = [header.index(name) for name in wanted]
    lines: list[int] = []
    cells: list[list[str]] = []
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
        for row in reader:
            if reader.line_num <= start:
                continue
            if len(row) != len(header) or not row[0].strip():
                if not any(map(str.strip, row)):
                    continue
                if len(row) < len(header) or any(row[len(header) :]):
                    raise UserError(
                        f"{path} has {len(row)} cells in line {reader.line_num} where its header has {len(header)}: "
                        f"mend the line, and put a text with {separator!r} in it in quotes."
                    )
            lines.append(reader.line_num)
            cells.append([row[place] for place in places])
    except csv.Error as error:
        raise UserError(
            f"{path} cannot be read as a CSV table (line {reader.line_num}: {error}): mend or restore it."
        ) from error
    if not cells:
        raise UserError(f"{path} has no rows: restore it.")
    clean = _clean if '="' in text else str.strip
    columns_of_text = {
        name: list(map(clean, column)) for name, column in zip(wanted, zip(*cells, strict=True), strict=True)
    }
    return pd.DataFrame(columns_of_text, index=lines, dtype=object)


def read_metadata(path: Path, id_column: str, ids: NDArray[np.str_], name: Callable[[str], str]) -> pd.DataFrame | None:
    """Columns of `METADATA` that a CSV has, as text, for records by their ids; None where it has none.

    Parameters
    ----------
    path : Path
        The table.
    id_column : str
        Column that names the records.
    ids : str array, (records,)
        The wanted ones, in order.
    name : callable
        Text in `id_column` to an id.
    """
    table = read_table(path, [id_column], METADATA)
    there = [column for column in METADATA if column in table]
    return table.set_index(table[id_column].map(name))[there].loc[ids.tolist()] if there else None


def plain_id(text: str) -> str:
    """An identifier as it was before pandas wrote it as a float: '15709.0' is '15709'."""
    whole = text.strip().removesuffix(".0")
    return whole if whole.isdecimal() else text.strip()


def check_exact(path: Path, column: str, cells: pd.Series) -> None:
    """Refuse identifiers that a program has rounded: ``1.23457E+12``, or a float beyond 2**53.

    Raises
    ------
    UserError
        Where there is one.
    """
    for line, text in zip(cells.index.tolist(), cells.tolist(), strict=True):
        if "+" not in text and len(text) < len(f"{EXACT}.0"):
            continue
        whole = text.removesuffix(".0")
        beyond = whole != text and whole.isdecimal() and int(whole[-20:]) >= EXACT
        if beyond or re.fullmatch(r"\d+([.,]\d+)?[eE]\+\d+", text):
            raise UserError(
                f"{path} has {text!r} in line {line}, column {column!r}, which a program has rounded: several "
                "identifiers may have become this one, so write the column as text."
            )


def read_patients(path: Path, column: str, cells: pd.Series) -> list[str]:
    """Patient identifiers of a column.

    Raises
    ------
    UserError
        Where one is missing or rounded, or two are, but for case, blanks and leading zeros, the same.
    """
    check_exact(path, column, cells)
    patients = [plain_id(text) for text in cells]
    known: set[str] = set()
    spellings: dict[str, str] = {}
    for line, patient in zip(cells.index.tolist(), patients, strict=True):
        if patient in known:
            continue
        known.add(patient)
        if patient.casefold() in MISSING:
            raise UserError(f"{path} names no patient in line {line}, column {column!r} ({patient!r}): fill it in.")
        other = spellings.setdefault(_spelling(patient), patient)
        if other != patient:
            raise UserError(
                f"{path} has {other!r} and {patient!r} (line {line}) in column {column!r}, which may be one patient: "
                "write each patient in one way."
            )
    return patients


def _spelling(text: str) -> str:
    """The same for all ways to write an identifier."""
    if text.isascii() and text.isdecimal():
        return text.lstrip("0")
    folded = "".join(unicodedata.normalize("NFKC", text).casefold().split())
    return folded.lstrip("0") if folded.isdecimal() else folded


def _read_text(path: Path) -> str:
    if not path.parent.is_dir():
        raise UserError(f"The folder {absent(path.parent)}: set dataset.root to one that is there.")
    if not path.is_file():
        raise UserError(f"{absent(path)}: restore it, or set dataset.root to a folder that has it.")
    try:
        content = path.read_bytes()
        if content.startswith(WORKBOOKS):
            raise UserError(f"{path} is a workbook, not a CSV table: save it as CSV UTF-8.")
        encoding = next((name for mark, name in ENCODINGS.items() if content.startswith(mark)), "utf-8")
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} cannot be read as a CSV table ({error}): save it as CSV UTF-8, or restore it."
        ) from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): make it readable.") from error


def _header(path: Path, text: str, columns: Sequence[str]) -> tuple[int, str, list[str]]:
    """Last line of the header, separator, and names of all columns."""
    hint = re.match(r'"?sep=(.)"?\r?\n?', text)  # which Excel writes and reads
    found = []
    for separator in hint[1] if hint else SEPARATORS:
        reader = csv.reader(io.StringIO(text[:LONGEST_HEADER], newline=""), delimiter=separator)
        try:
            row = next((row for row in reader if any(map(str.strip, row)) and not (hint and reader.line_num == 1)), [])
        except csv.Error:  # told when the rows are read
            row = []
        found.append((reader.line_num, separator, [_clean(name) for name in row]))
    fitting = [one for one in found if set(columns) <= set(one[2])]
    if fitting:
        return fitting[0]
    names = max((header for _, _, header in found), key=len)
    if not names:
        raise UserError(f"{path} is empty: restore it.")
    lacking = next(column for column in columns if column not in names)
    there = textwrap.shorten(", ".join(names), 500, placeholder=" ...")
    raise UserError(f"{path} has no column {lacking!r}, only {there}: add it or name another.")


def _clean(cell: str) -> str:
    cell = cell.strip()
    return cell[2:-1] if cell.startswith('="') and cell.endswith('"') and len(cell) > 2 else cell
