"""What disks, editors, spreadsheets and kills do to files, by chance that a seed decides.

A damage takes a random generator and the content of a file, and returns another content. A disguise writes the same
in another way, which no reader may mind.
"""

from __future__ import annotations

import csv
import io
import json
import sqlite3
import tempfile
import zipfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

import yaml

Mutator = Callable[[Random, bytes], bytes]

WORDS = (
    *("", " ", "0", "-1", "1", "0.5", "1e999", "-1e999", "nan", "inf", "1e-320", "9" * 400, "9223372036854775808"),
    *("null", "None", "true", "~", "[]", "{}", "[", "{", "'", '"', '""', "a,b", "a;b", "a\tb", "=1+1", "#", "%s"),
    *("\x00", "\x1b[31m", "é", "µV", "٣", "½", "\u202e", "💓", "\ufeff", "a" * 5000, "../../etc/passwd", "/"),
    *(".", "..", "~/x", "con.hea", "1,000", "0x10", "007", "1.23457E+12", "2026-11-29", "-0", "${x}", "!!python/none"),
)
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 0.5, 1e300, float("nan"), float("inf"), 2**70, -(2**70), "", "x", "é💓", "a" * 5000),
    *([], {}, [[]], [None], {"": None}, {"a": {"b": 1}}, "1", "nan", "../x", list(range(50))),
)


# --- bytes


def flip(rng: Random, content: bytes) -> bytes:
    """One bit."""
    place = rng.randrange(len(content))
    return content[:place] + bytes([content[place] ^ 1 << rng.randrange(8)]) + content[place + 1 :]


def overwrite(rng: Random, content: bytes) -> bytes:
    """Some bytes become others."""
    start = rng.randrange(len(content))
    end = min(len(content), start + rng.choice((1, 2, 4, 16, 512)))
    return content[:start] + rng.randbytes(end - start) + content[end:]


def blank(rng: Random, content: bytes) -> bytes:
    """A block of zeros, as file systems leave behind."""
    start = rng.randrange(len(content))
    end = min(len(content), start + rng.choice((1, 16, 512, 4096)))
    return content[:start] + bytes(end - start) + content[end:]


def cut(rng: Random, content: bytes) -> bytes:
    """Only the beginning is left."""
    return content[: rng.choice((0, 1, rng.randrange(len(content)), len(content) // 2, len(content) - 1))]


def remove(rng: Random, content: bytes) -> bytes:
    """Some bytes are gone."""
    start = rng.randrange(len(content))
    return content[:start] + content[start + rng.choice((1, 2, 3, 16, 512)) :]


def append(rng: Random, content: bytes) -> bytes:
    """Something stands behind the end."""
    return content + rng.choice((b"\0", b"\n", b"x", bytes(512), rng.randbytes(64), content))


BYTES = (flip, flip, overwrite, blank, cut, remove, append)


# --- text


def lines(rng: Random, content: bytes) -> bytes:
    """A line is gone, twice there, elsewhere, cut or new."""
    found = content.split(b"\n")
    place, other = rng.randrange(len(found)), rng.randrange(len(found))
    match rng.randrange(6):
        case 0:
            del found[place]
        case 1:
            found.insert(other, found[place])
        case 2:
            found[place], found[other] = found[other], found[place]
        case 3:
            found[place] = found[place][: rng.randrange(len(found[place]) + 1)]
        case 4:
            found.insert(place, rng.choice(WORDS).encode())
        case 5:
            found[place] += rng.choice((b" ", b",", b";", b"\t", b"#", b"\\", b'"')) + rng.choice(WORDS).encode()
    return b"\n".join(found)


def words(rng: Random, content: bytes) -> bytes:
    """A word becomes another one."""
    found = content.split(b"\n")
    place = rng.randrange(len(found))
    separator = rng.choice((b" ", b",", b"/", b":"))
    parts = found[place].split(separator)
    parts[rng.randrange(len(parts))] = rng.choice(WORDS).encode()
    found[place] = separator.join(parts)
    return b"\n".join(found)


def case(rng: Random, content: bytes) -> bytes:
    """All in capitals."""
    return content.upper()


TEXT = (lines, lines, words, words, words, case, flip, cut)


def windows_ends(rng: Random, content: bytes) -> bytes:
    """Ends of lines as Windows has them."""
    return content.replace(b"\n", b"\r\n")


def byte_order_mark(rng: Random, content: bytes) -> bytes:
    """What Windows puts before UTF-8."""
    return b"\xef\xbb\xbf" + content


def empty_lines(rng: Random, content: bytes) -> bytes:
    """Empty lines at the end."""
    return content + b"\n" * rng.randint(1, 3)


def comment(rng: Random, content: bytes) -> bytes:
    """A comment behind the last line."""
    return content + b"# as \xc3\xa9dited by hand\n"


SAME_TEXT = (windows_ends, byte_order_mark, empty_lines)


# --- tables


def _table(content: bytes, change: Callable[[list[list[str]]], object], **style: Any) -> bytes:
    rows = list(csv.reader(io.StringIO(content.decode())))
    change(rows)
    text = io.StringIO()
    csv.writer(text, **{"lineterminator": "\n", **style}).writerows(rows)
    return text.getvalue().encode()


def cell(rng: Random, content: bytes) -> bytes:
    """A cell, perhaps of the header, becomes another one."""

    def change(rows: list[list[str]]) -> None:
        row = rows[rng.choice((0, rng.randrange(len(rows))))]
        row[rng.randrange(len(row))] = rng.choice(WORDS)

    return _table(content, change)


def column(rng: Random, content: bytes) -> bytes:
    """A column is gone, twice there, empty, or as a spreadsheet formats it."""

    def change(rows: list[list[str]]) -> None:
        place, kind = rng.randrange(len(rows[0])), rng.randrange(5)
        for number, row in enumerate(rows):
            match kind:
                case 0:
                    del row[place]
                case 1:
                    row.append(row[place])
                case 2 if number:
                    row[place] = ""
                case 3 if number and row[place].isdecimal():
                    row[place] = rng.choice(("{:.0f}.0", "{:.5E}", "{:,}", " {} ", "00{}")).format(int(row[place]))
                case 4 if number:
                    row[place] = rng.choice(("NA", "nan", "#N/A", "NULL", "-"))

    return _table(content, change)


def row(rng: Random, content: bytes) -> bytes:
    """A row is gone, twice there, too long or too short."""

    def change(rows: list[list[str]]) -> None:
        place = rng.randrange(len(rows))
        match rng.randrange(4):
            case 0:
                del rows[place]
            case 1:
                rows.append(list(rows[place]))
            case 2:
                rows[place].append(rng.choice(WORDS))
            case 3:
                del rows[place][-1]

    return _table(content, change)


TABLE = (cell, cell, cell, column, column, row, lines, flip, cut)


def quoted(rng: Random, content: bytes) -> bytes:
    """All cells in quotes."""
    return _table(content, len, quoting=csv.QUOTE_ALL)


def semicolons(rng: Random, content: bytes) -> bytes:
    """As Excel exports where the comma is in numbers."""
    return byte_order_mark(rng, _table(content, len, delimiter=";", lineterminator="\r\n"))


def tabs(rng: Random, content: bytes) -> bytes:
    """Separated by tabs, in UTF-16, which Excel calls Unicode text."""
    return _table(content, len, delimiter="\t", lineterminator="\r\n").decode().encode("utf-16")


def other_order(rng: Random, content: bytes) -> bytes:
    """The columns in another order."""

    def change(rows: list[list[str]]) -> None:
        order = rng.sample(range(len(rows[0])), len(rows[0]))
        rows[:] = [[one[place] for place in order] for one in rows]

    return _table(content, change)


SAME_TABLE = (*SAME_TEXT, quoted, semicolons, tabs, other_order)


# --- JSON and YAML


def _nodes(tree: Any) -> list[tuple[Any, Any]]:
    """Each place in a tree, as what holds it and its key."""
    keys = list(tree) if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ()
    return [pair for key in keys for pair in ((tree, key), *_nodes(tree[key]))]


def _prune(rng: Random, tree: Any) -> Any:
    """A tree with one place changed, or something else altogether."""
    nodes = _nodes(tree)
    if not nodes or rng.random() < 0.1:
        return rng.choice(VALUES)
    holder, key = rng.choice(nodes)
    if rng.random() < 0.25:
        del holder[key]
    elif rng.random() < 0.1 and isinstance(holder, dict):
        holder[rng.choice(WORDS)] = holder.pop(key)
    else:
        holder[key] = rng.choice(VALUES)
    return tree


def json_value(rng: Random, content: bytes) -> bytes:
    """A value of a JSON file becomes another one."""
    return json.dumps(_prune(rng, json.loads(content))).encode()


def json_line(rng: Random, content: bytes) -> bytes:
    """A value in a line of JSON becomes another one."""
    found = content.split(b"\n")
    place = rng.randrange(len(found) - 1)
    found[place] = json_value(rng, found[place])
    return b"\n".join(found)


def yaml_value(rng: Random, content: bytes) -> bytes:
    """A value of a YAML file becomes another one."""
    return yaml.safe_dump(_prune(rng, yaml.safe_load(content)), allow_unicode=True).encode()


def json_again(rng: Random, content: bytes) -> bytes:
    """The same JSON, written with other blanks and in another order."""
    return json.dumps(json.loads(content), indent=rng.choice((None, 1, 4)), sort_keys=True).encode()


def yaml_again(rng: Random, content: bytes) -> bytes:
    """The same YAML, in another style."""
    return yaml.safe_dump(yaml.safe_load(content), default_flow_style=rng.random() < 0.5, sort_keys=True).encode()


def nested(rng: Random, content: bytes) -> bytes:
    """Brackets, deeper than any program can go."""
    return rng.choice((b"[", b'{"a":')) * 30000


JSON = (json_value, json_value, json_value, json_value, flip, cut, lines, nested)
YAML = (yaml_value, yaml_value, yaml_value, yaml_value, flip, cut, lines, words, nested)
JOURNAL = (json_line, json_line, json_line, lines, lines, flip, cut, overwrite)


# --- archives and databases


def member(rng: Random, content: bytes) -> bytes:
    """A member of a zip archive, with right checksums, is gone, empty, renamed, cut, changed, twice there or huge."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        files = [(info.filename, archive.read(info)) for info in archive.infolist()]
    place = rng.randrange(len(files))
    name, inside = files[place]
    match rng.randrange(6):
        case 0:
            del files[place]
        case 1:
            files[place] = name, b""
        case 2:
            files[place] = rng.choice(("../../x", "x", "x/", "archive/data.pkl", "archive/data/0")), inside
        case 3:
            files[place] = name, inside[: len(inside) // 2]
        case 4:
            files[place] = name, overwrite(rng, inside or b"x")
        case 5:
            files.append((name, inside + bytes(1 << 16)))
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        for name, inside in files:
            archive.writestr(name, inside)
    return written.getvalue()


ARCHIVE = (*BYTES, member, member)


def sql_value(rng: Random, content: bytes) -> bytes:
    """A cell of a SQLite database becomes another one, rows are gone, or a whole table is."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.db"
        path.write_bytes(content)
        with closing(sqlite3.connect(path)) as database, database:
            names = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            filled = [name for name in names if database.execute(f'SELECT 1 FROM "{name}" LIMIT 1').fetchone()]
            table = rng.choice(filled)
            columns = [info[1] for info in database.execute(f'PRAGMA table_info("{table}")')]
            some = f'rowid IN (SELECT rowid FROM "{table}" WHERE rowid % {rng.randint(1, 4)} = 0)'
            value = rng.choice((*WORDS, None, 1.5, b"\xff", 2**62))
            try:
                match rng.randrange(10):
                    case 0:
                        database.execute(f'DELETE FROM "{table}" WHERE {some}')
                    case 1:
                        database.execute(f'DROP TABLE "{table}"')
                    case _:
                        change = f'UPDATE OR IGNORE "{table}" SET "{rng.choice(columns)}" = ? WHERE {some}'
                        database.execute(change, [value])
            except sqlite3.Error:  # a constraint forbids it
                pass
        return path.read_bytes()


DATABASE = (*BYTES, *(sql_value,) * 8)
