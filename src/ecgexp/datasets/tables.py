"""Tables of records, as spreadsheets and pandas write them. Ambiguous tables are refused."""

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
"""Columns by which an evaluation groups records, if a table has them."""
SEPARATORS = (",", ";", "\t")
ENCODINGS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
WORKBOOKS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")
"""First bytes of Excel's own files."""
MISSING = {
    "", "nan", "-nan", "1.#ind", "-1.#ind", "1.#qnan", "-1.#qnan", "na", "n.a.", "n.a", "n/a", "#n/a", "#n/an/a", "#na",
    "#nv", "<na>", "nat", "null", "nil", "none", "unknown", "undefined", "missing", "notavailable", "notapplicable",
}  # fmt: skip
"""How programs and people write a missing value, in lower case and without blanks."""
SPREADSHEET_ERROR = re.compile(r"#.*[!?]|err:\d+")
"""``#REF!`` and similar errors in any language, in lower case."""
LONGEST_HEADER = 1 << 16
"""The names of the columns must be within so many characters."""
EXACT = 2**53
"""Above this, a float cannot hold every whole number."""
DIGITS = 15
"""Digits of a number that a spreadsheet keeps; it replaces the others by zeros."""
UNLIKELY = 3
"""So many zeros where any digit was possible are not a coincidence."""
_ROUNDED = re.compile(r"[+-]?\d+(?:[.,]\d+[eE]\+?|[eE]\+)\d+")
_THOUSANDS = re.compile(r"[+-]?\d{1,3}([.,'])\d{3}(?:\1\d{3})*")
_NUMBER = re.compile(r"([+-]?)(\d+)(?:[.,](\d+))?(?:e([+-]?\d{1,2}))?")
_HEXADECIMAL = re.compile(r"[\da-f]+")


def read_table(path: Path, columns: Iterable[str], optional: Iterable[str] = ()) -> pd.DataFrame:
    """Read columns of a CSV table as text.

    The separator is the comma, semicolon or tab that divides the header into the named columns. The encoding is
    UTF-8, or UTF-16 if the file begins with its mark. Blanks around a cell and empty rows are dropped. Spreadsheets
    write a text of digits as ``="007"``; it becomes ``007``.

    Parameters
    ----------
    path : Path
        The table.
    columns : iterable of str
        Required columns.
    optional : iterable of str
        Columns to read if the table has them.

    Returns
    -------
    DataFrame of str
        One row per row of the table; the index is the number of the line where it ends, counted from 1.

    Raises
    ------
    UserError
        If the file, a column or all rows are missing, a column occurs twice, or a row has more or fewer cells than the
        header.
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
                        f"{path} has {len(row)} cells in line {reader.line_num}, but its header has {len(header)}: "
                        f"correct the line, and put a text that contains {separator!r} in quotes."
                    )
            lines.append(reader.line_num)
            cells.append([row[place] for place in places])
    except csv.Error as error:
        raise UserError(
            f"{path} cannot be read as a CSV table (line {reader.line_num}: {error}): correct or restore it."
        ) from error
    if not cells:
        raise UserError(f"{path} has no rows: restore it.")
    clean = _clean if '="' in text else str.strip
    columns_of_text = {
        name: list(map(clean, column)) for name, column in zip(wanted, zip(*cells, strict=True), strict=True)
    }
    return pd.DataFrame(columns_of_text, index=lines, dtype=object)


def read_metadata(path: Path, id_column: str, ids: NDArray[np.str_], name: Callable[[str], str]) -> pd.DataFrame | None:
    """Read the columns of `METADATA` that a CSV table has, as text; None if it has none.

    Parameters
    ----------
    path : Path
        The table.
    id_column : str
        Column that names the records.
    ids : str array, (records,)
        The wanted records, in order.
    name : callable
        Turns the text in `id_column` into an id.
    """
    table = read_table(path, [id_column], METADATA)
    there = [column for column in METADATA if column in table]
    return table.set_index(table[id_column].map(name))[there].loc[ids.tolist()] if there else None


def plain_id(text: str) -> str:
    """Undo that pandas wrote an identifier as a float: '15709.0' becomes '15709'."""
    whole = text.strip().removesuffix(".0")
    return whole if whole.isdecimal() else text.strip()


def check_exact(path: Path, column: str, cells: pd.Series) -> None:
    """Refuse identifiers that a program has rounded: ``1.23457E+12``, or a float of at least 2**53.

    Raises
    ------
    UserError
        If there is such an identifier.
    """
    for line, text in zip(cells.index.tolist(), cells.tolist(), strict=True):
        if text.isdecimal():
            continue
        whole = text.removesuffix(".0")
        beyond = whole != text and whole.isdecimal() and int(whole[-20:]) >= EXACT
        if beyond or _ROUNDED.fullmatch(text):
            raise UserError(
                f"{path} has {text!r} in line {line}, column {column!r}, which a program has rounded: several "
                "identifiers may have become this one, so write the column as text."
            )


def read_patients(path: Path, column: str, cells: pd.Series) -> list[str]:
    """Read the patient identifiers of a column.

    Raises
    ------
    UserError
        If an identifier is missing or rounded, or if two may be spellings of one: they differ only in case, blanks,
        invisible characters, leading zeros, or in the notation of a number.
    """
    check_exact(path, column, cells)
    patients = [plain_id(text) for text in cells]
    lines: dict[str, int] = {}
    for line, patient in zip(cells.index.tolist(), patients, strict=True):
        lines.setdefault(patient, line)
    folded = {patient: _folded(patient) for patient in lines}
    for patient, text in folded.items():
        if text in MISSING or SPREADSHEET_ERROR.fullmatch(text) or not any(map(str.isalnum, text)):
            raise UserError(
                f"{path} names no patient in line {lines[patient]}, column {column!r} ({patient!r}): fill it in."
            )
    _check_digits(path, column, lines)
    texts = folded.values()
    # In hexadecimal identifiers, 00e1 is not zero and 01e2 is not a hundred.
    codes = all(map(_HEXADECIMAL.fullmatch, texts)) and any(set(text) & set("abcdf") for text in texts)
    spellings: dict[str, str] = {}
    for patient, text in folded.items():
        other = spellings.setdefault(text if codes and "e" in text else _number(text), patient)
        if other != patient:
            raise UserError(
                f"{path} has {other!r} and {patient!r} (line {lines[patient]}) in column {column!r}, which may be one "
                "patient: write each patient always in the same way."
            )
    return patients


def _check_digits(path: Path, column: str, lines: dict[str, int]) -> None:
    """Refuse identifiers that a spreadsheet has cut to 15 digits: then all identifiers of one length end in zeros."""
    longer: dict[int, list[str]] = {}
    for patient in lines:
        if len(patient) > DIGITS and patient.isdecimal():
            longer.setdefault(len(patient), []).append(patient)
    for length, same in longer.items():
        if (length - DIGITS) * len(same) >= UNLIKELY and not any(patient[DIGITS:].strip("0") for patient in same):
            raise UserError(
                f"{path} has {same[0]!r} in line {lines[same[0]]}, column {column!r}; a spreadsheet may have kept "
                f"only {DIGITS} digits of it: several identifiers may have become this one, so write the column as "
                "text. If the zeros are right, write a letter before each identifier."
            )


def _folded(text: str) -> str:
    """One form for all spellings of a text: lower case, without blanks and invisible characters."""
    if text.isascii() and text.isdecimal():
        return text
    letters = unicodedata.normalize("NFKC", text).casefold()
    return "".join(map(_plain, letters)).lstrip("'")  # spreadsheets mark a text with it


def _plain(letter: str) -> str:
    if letter.isascii():
        return "" if letter.isspace() else letter
    kind = unicodedata.category(letter)
    if kind in ("Cf", "Zs", "Zl", "Zp", "Cc"):
        return ""
    if kind == "Nd":
        return str(unicodedata.decimal(letter))
    if kind == "Pd" or letter == "\N{MINUS SIGN}":
        return "-"
    return "'" if letter in "\N{LEFT SINGLE QUOTATION MARK}\N{RIGHT SINGLE QUOTATION MARK}" else letter


def _number(text: str) -> str:
    """One form for all notations of a whole number: ``+1,001.0`` is ``1001``. Other texts are returned unchanged."""
    if text.isdecimal():
        return text.lstrip("0")
    whole = text.rpartition(".")[0] if re.search(r"\.0{1,2}$", text) else text
    if grouped := _THOUSANDS.fullmatch(whole):
        text = whole.replace(grouped[1], "")
    found = _NUMBER.fullmatch(text)
    if found is None:
        return text
    sign, digits, fraction, exponent = found.groups(default="")
    # 1.10 and 1.1 differ if they are the tenth and the first patient of a site.
    fraction = fraction if exponent else fraction.rstrip("0") and fraction
    shift = int(exponent or 0) - len(fraction)
    digits += fraction + "0" * shift
    if shift < 0:
        if digits[shift:].strip("0"):
            return text
        digits = digits[:shift]
    return sign.strip("+") + digits.lstrip("0")


def _read_text(path: Path) -> str:
    if not path.parent.is_dir():
        raise UserError(f"The folder {absent(path.parent)}: set dataset.root to an existing folder.")
    if not path.is_file():
        raise UserError(f"{absent(path)}: restore it, or set dataset.root to a folder that has it.")
    try:
        content = path.read_bytes()
        if content.startswith(WORKBOOKS):
            raise UserError(f"{path} is a workbook, not a CSV table: save it as CSV UTF-8.")
        encoding = next((name for mark, name in ENCODINGS.items() if content.startswith(mark)), "utf-8")
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path} is not in {encoding.removesuffix('-sig').upper()} (the byte {content[error.start]:#04x} in line "
            f"{line}): save it as CSV UTF-8, or restore it."
        ) from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): make it readable.") from error
    if "\0" in text[:4]:
        raise UserError(f"{path} is in UTF-16 without its byte order mark, or in UTF-32: save it as CSV UTF-8.")
    return text


def _header(path: Path, text: str, columns: Sequence[str]) -> tuple[int, str, list[str]]:
    """Return the last line of the header, the separator, and the names of all columns."""
    hint = re.match(r'"?sep=(.)"?\r?\n?', text)  # Excel's own line, which names the separator
    found = []
    for separator in hint[1] if hint else SEPARATORS:
        reader = csv.reader(io.StringIO(text[:LONGEST_HEADER], newline=""), delimiter=separator)
        try:
            row = next((row for row in reader if any(map(str.strip, row)) and not (hint and reader.line_num == 1)), [])
        except csv.Error:  # reported when the rows are read
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
