"""Formats texts for messages and for Hydra."""

from __future__ import annotations

import re

from hydra.core.override_parser.types import Quote, QuotedString


def shortened(text: object) -> str:
    """A text whose numbers have at most four significant digits."""
    return re.sub(r"\d*\.\d{5,}(e[-+]?\d+)?", lambda number: f"{float(number[0]):.4g}", str(text))


def quoted(text: str) -> str:
    """A text in quotes, so that Hydra reads any content unchanged."""
    return QuotedString(text, Quote.single).with_quotes()
