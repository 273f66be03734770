"""Error messages, with any content of the file that caused them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from ecgexp.datasets.ecg.records import RecordError
from ecgexp.errors import UserError

SOURCE = Path(__file__).resolve().parents[1] / "src"
ODD = "\x1b[31m lead\t\u202e\ufeff\x00 \udc80 µ"


def test_a_message_is_one_line_that_moves_no_cursor():
    for error in (UserError(f"Odd {ODD}.\nMore."), RecordError("r", f"it has no lead {ODD}\n")):
        assert str(error).isprintable()
        assert r"\x1b[31m lead\t\u202e\ufeff\x00 \udc80 µ" in str(error)


def test_a_message_has_an_end():
    for error in (UserError("a" * 5000), RecordError("r", "a" * 5000)):
        assert len(str(error)) < 2100
        assert str(error).endswith(" ...")


def texts(node: ast.expr) -> Iterator[ast.Constant | ast.JoinedStr]:
    """The texts that an expression may be."""
    if isinstance(node, ast.IfExp):
        yield from texts(node.body)
        yield from texts(node.orelse)
    elif isinstance(node, (ast.Constant, ast.JoinedStr)):
        yield node


def ends(node: ast.Constant | ast.JoinedStr) -> tuple[str, str]:
    """How a text begins and ends; '' where a value stands there."""
    parts = [node] if isinstance(node, ast.Constant) else node.values
    return tuple(str(part.value) if isinstance(part, ast.Constant) else "" for part in (parts[0], parts[-1]))


SENTENCES = [
    (f"{path.relative_to(SOURCE)}:{text.lineno}", *ends(text))
    for path in sorted(SOURCE.rglob("*.py"))
    for node in ast.walk(ast.parse(path.read_text()))
    if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("UserError", "RetriesExhausted", "StoreAway")
    for argument in node.args
    for text in texts(argument)
]


def test_errors_are_sentences():
    assert len(SENTENCES) > 200
    wrong = [
        place
        for place, start, end in SENTENCES
        if (start and not (start[0].isupper() or start[0] in "'\"{")) or (end and not end.endswith("."))
    ]
    assert not wrong, f"these errors do not begin with a capital letter or do not end with a full stop: {wrong}"
