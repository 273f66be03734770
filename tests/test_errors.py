"""What is said of what went wrong, whatever a file had in it."""

from __future__ import annotations

from ecgexp.datasets.ecg.records import RecordError
from ecgexp.errors import UserError

ODD = "\x1b[31m lead\t\u202e\ufeff\x00 \udc80 µ"


def test_a_message_is_one_line_that_moves_no_cursor():
    for error in (UserError(f"Odd {ODD}.\nMore."), RecordError("r", f"it has no lead {ODD}\n")):
        assert str(error).isprintable()
        assert r"\x1b[31m lead\t\u202e\ufeff\x00 \udc80 µ" in str(error)


def test_a_message_has_an_end():
    for error in (UserError("a" * 5000), RecordError("r", "a" * 5000)):
        assert len(str(error)) < 2100
        assert str(error).endswith(" ...")
