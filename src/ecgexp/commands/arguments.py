"""Arguments ``key=value`` of the commands that do not use Hydra, such as ``python -m ecgexp.predict``."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Sequence

from ecgexp import CONF
from ecgexp.errors import UserError

# Keys with which every command finds runs.
TRACKING = ("tracking", "tracking.root", "tracking.uri")
_KEY_VALUE = re.compile(r"([A-Za-z_][\w.]*)=(.*)", re.S)


def asks_for_help(arguments: Sequence[str]) -> bool:
    """Whether to print the usage: for ``--help``, or where there are no arguments."""
    return not arguments or any(argument in ("-h", "--help") for argument in arguments)


def read_arguments(
    arguments: Sequence[str], keys: Collection[str], module: str, bare: str | None = None
) -> dict[str, list[str]]:
    """Values by key, in the order of the command line.

    Parameters
    ----------
    arguments : sequence of str
        ``key=value`` each.
    keys : collection of str
        The known keys. One that ends in a dot allows all keys that begin with it.
    module : str
        Module of the command, for the error messages.
    bare : str, optional
        Key of arguments without ``=``. Only this key may be given several times.

    Returns
    -------
    dict of str to list of str
        Only keys that were given, each with at least one value.

    Raises
    ------
    UserError
        For an unknown key, or one that is given twice.
    """
    values: dict[str, list[str]] = {}
    for argument in arguments:
        found = _KEY_VALUE.fullmatch(argument)
        if found is None and (bare is None or argument.startswith("-")):
            raise UserError(f"'{argument}' is no key=value: python -m {module} --help shows the known keys.")
        key, value = (found[1], found[2]) if found else (str(bare), argument)
        if key not in keys and not any(known.endswith(".") and key.startswith(known) for known in keys):
            near = difflib.get_close_matches(key, keys, 1)
            advice = f"did you mean '{near[0]}'?" if near else f"python -m {module} --help shows the known keys."
            raise UserError(f"There is no key '{key}': {advice}")
        if key in values and key != bare:
            raise UserError(f"The key '{key}' is given twice: keep one of them.")
        if value or key != bare:
            values.setdefault(key, []).append(value)
    return values


def place_of_runs(values: dict[str, list[str]]) -> tuple[str, str | None]:
    """Where runs are: ``tracking.root`` and ``tracking.uri``, as in training."""
    from omegaconf import OmegaConf  # not at the top: help also works where the extra `train` is not installed

    defaults = OmegaConf.load(CONF / "tracking" / f"{one_of(values, 'tracking', ('local', 'server'), 'local')}.yaml")
    return values.get("tracking.root", [defaults.root])[0], values.get("tracking.uri", [defaults.uri])[0]


def one_of(values: dict[str, list[str]], key: str, choices: Sequence[str], default: str | None = None) -> str:
    """Value of a key that allows only certain values.

    Raises
    ------
    UserError
        For another value, or where the key is missing and has no default.
    """
    value = values.get(key, [default])[0]
    if value is None or value not in choices:
        problem = f"is '{value}'" if value is not None else "is missing"
        raise UserError(f"The key '{key}' {problem}: write {' or '.join(f'{key}={choice}' for choice in choices)}.")
    return value
