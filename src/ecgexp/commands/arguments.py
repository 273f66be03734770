"""Words ``key=value``: read after ``python -m ecgexp.predict`` and its like, without Hydra."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Sequence

from ecgexp import CONF
from ecgexp.errors import UserError

# What every door takes to find runs.
TRACKING = ("tracking", "tracking.root", "tracking.uri")
_KEY_VALUE = re.compile(r"([A-Za-z_][\w.]*)=(.*)", re.S)


def asks_for_help(words: Sequence[str]) -> bool:
    """Whether nothing is asked but how to ask: no word at all, or ``--help``."""
    return not words or any(word in ("-h", "--help") for word in words)


def read_words(words: Sequence[str], keys: Collection[str], door: str, bare: str | None = None) -> dict[str, list[str]]:
    """Values by key, in the order of the command line.

    Parameters
    ----------
    words : sequence of str
        ``key=value`` each.
    keys : collection of str
        Those that there are; one that ends in a dot stands for all that begin so.
    door : str
        Module that was asked, for the sentences.
    bare : str, optional
        Key that a word without ``=`` is a value of, which alone may be given several times.

    Returns
    -------
    dict of str to list of str
        Only keys that were given, each with at least one value.

    Raises
    ------
    UserError
        For a key that there is not, or that is given twice.
    """
    values: dict[str, list[str]] = {}
    for word in words:
        found = _KEY_VALUE.fullmatch(word)
        if found is None and (bare is None or word.startswith("-")):
            raise UserError(f"'{word}' is no key=value: python -m {door} --help shows the keys that there are.")
        key, value = (found[1], found[2]) if found else (str(bare), word)
        if key not in keys and not any(known.endswith(".") and key.startswith(known) for known in keys):
            near = difflib.get_close_matches(key, keys, 1)
            advice = f"did you mean '{near[0]}'?" if near else f"python -m {door} --help shows those there are."
            raise UserError(f"There is no key '{key}': {advice}")
        if key in values and key != bare:
            raise UserError(f"The key '{key}' is given twice: keep one of them.")
        if value or key != bare:
            values.setdefault(key, []).append(value)
    return values


def place_of_runs(values: dict[str, list[str]]) -> tuple[str, str | None]:
    """Where runs are: ``tracking.root`` and ``tracking.uri``, as in training."""
    from omegaconf import OmegaConf

    defaults = OmegaConf.load(CONF / "tracking" / f"{one_of(values, 'tracking', ('local', 'server'), 'local')}.yaml")
    return values.get("tracking.root", [defaults.root])[0], values.get("tracking.uri", [defaults.uri])[0]


def one_of(values: dict[str, list[str]], key: str, choices: Sequence[str], default: str | None = None) -> str:
    """Value of a key that takes one of few.

    Raises
    ------
    UserError
        For any other, or where it is missing and there is no default.
    """
    value = values.get(key, [default])[0]
    if value is None or value not in choices:
        said = f"is '{value}'" if value is not None else "is missing"
        raise UserError(f"The key '{key}' {said}: write {' or '.join(f'{key}={choice}' for choice in choices)}.")
    return value
