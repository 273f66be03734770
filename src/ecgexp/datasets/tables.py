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
MISSING = {
    "", "nan", "-nan", "1.#ind", "-1.#ind", "1.#qnan", "-1.#qnan", "na", "n.a.", "n.a", "n/a", "#n/a", "#n/an/a", "#na",
    "#nv", "<na>", "nat", "null", "nil", "none", "unknown", "undefined", "missing", "notavailable", "notapplicable",
}  # fmt: skip
"""What programs and people write where there is nothing, in lower case and without blanks."""
SPREADSHEET_ERROR = re.compile(r"#.*[!?]|err:\d+")
"""``#REF!`` and the like, in whichever language, in lower case."""
LONGEST_HEADER = 1 << 16
"""Characters in which the names of the columns are looked for."""
EXACT = 2**53
"""From here on not every whole number is a float."""
DIGITS = 15
"""That a spreadsheet keeps of a number; it writes zeros for the others."""
UNLIKELY = 3
"""So many zeros in the place of any digits are no chance."""
_ROUNDED = re.compile(r"[+-]?\d+(?:[.,]\d+[eE]\+?|[eE]\+)\d+")
_THOUSANDS = re.compile(r"[+-]?\d{1,3}([.,'])\d{3}(?:\1\d{3})*")
_NUMBER = re.compile(r"([+-]?)(\d+)(?:[.,](\d+))?(?:e([+-]?\d{1,2}))?")
_HEXADECIMAL = re.compile(r"[\da-f]+")


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
    """Patient identifiers of a column.

    Raises
    ------
    UserError
        Where one is missing or rounded, or two may be one in two spellings: they differ but in case, blanks,
        characters that are not seen, leading zeros, or in how a number is written.
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
    # Of these 00e1 is no zero, and 01e2 no hundred.
    codes = all(map(_HEXADECIMAL.fullmatch, texts)) and any(set(text) & set("abcdf") for text in texts)
    spellings: dict[str, str] = {}
    for patient, text in folded.items():
        other = spellings.setdefault(text if codes and "e" in text else _number(text), patient)
        if other != patient:
            raise UserError(
                f"{path} has {other!r} and {patient!r} (line {lines[patient]}) in column {column!r}, which may be one "
                "patient: write each patient in one way."
            )
    return patients


def _check_digits(path: Path, column: str, lines: dict[str, int]) -> None:
    """Refuse identifiers of which a spreadsheet has kept but the first digits: all that are so long end in zeros."""
    longer: dict[int, list[str]] = {}
    for patient in lines:
        if len(patient) > DIGITS and patient.isdecimal():
            longer.setdefault(len(patient), []).append(patient)
    for length, same in longer.items():
        if (length - DIGITS) * len(same) >= UNLIKELY and not any(patient[DIGITS:].strip("0") for patient in same):
            raise UserError(
                f"{path} has {same[0]!r} in line {lines[same[0]]}, column {column!r}, of which a spreadsheet may have "
                f"kept {DIGITS} digits alone: several identifiers may have become this one, so write the column as "
                "text, and where the zeros are right, a letter before each identifier."
            )


def _folded(text: str) -> str:
    """The same for all ways to write a text: what a reader does not see in it is left out."""
    if text.isascii() and text.isdecimal():
        return text
    letters = unicodedata.normalize("NFKC", text).casefold()
    return "".join(map(_plain, letters)).lstrip("'")  # by which spreadsheets mark a text


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
    """The same for all ways to write a whole number: ``+1,001.0`` and ``1.001e3`` are ``1001``; others as they are."""
    if text.isdecimal():
        return text.lstrip("0")
    whole = text.rpartition(".")[0] if re.search(r"\.0{1,2}$", text) else text
    if grouped := _THOUSANDS.fullmatch(whole):
        text = whole.replace(grouped[1], "")
    found = _NUMBER.fullmatch(text)
    if found is None:
        return text
    sign, digits, fraction, exponent = found.groups(default="")
    # 1.10 is another than 1.1 where it is the tenth of a site.
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
        raise UserError(f"The folder {absent(path.parent)}: set dataset.root to one that is there.")
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
        raise UserError(f"{path} is in UTF-16 without the mark that says so, or UTF-32: save it as CSV UTF-8.")
    return text


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
