"""Texts for people, and for Hydra."""

from __future__ import annotations

import re

from hydra.core.override_parser.types import Quote, QuotedString


def shortened(text: object) -> str:
    """A text for the eye: numbers in it with no more than four digits that count."""
    return re.sub(r"\d*\.\d{5,}(e[-+]?\d+)?", lambda number: f"{float(number[0]):.4g}", str(text))


def quoted(text: str) -> str:
    """A text as Hydra's grammar reads it, whatever is in it."""
    return QuotedString(text, Quote.single).with_quotes()
