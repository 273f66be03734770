"""A user's own statistics: computed at the end of a sweep, kept in its run, shown by the report."""

from __future__ import annotations

import json
import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ecgexp.errors import UserError, first_line, shown

MOST_ROWS, MOST_COLUMNS = 50, 12


@dataclass(frozen=True)
class Statistic:
    """The result of a statistic: a sentence, or a table.

    Attributes
    ----------
    name : str
        Its key in the config group ``statistics``.
    sentence : str
        Empty where there is a table.
    columns : list of str
    rows : list of list
        Numbers, texts, and None where there is no value.
    """

    name: str
    sentence: str
    columns: list[str]
    rows: list[list[Any]]

    def text(self) -> str:
        """The result as a terminal shows it."""
        if not self.columns:
            return f"{self.name}: {self.sentence}"
        table = pd.DataFrame(self.rows, columns=self.columns)
        return f"{self.name}:\n{table.to_string(index=False, na_rep='-', float_format='{:.4g}'.format)}"


@dataclass(frozen=True)
class Statistics:
    """The results of the statistics of a sweep.

    Attributes
    ----------
    trials : int
        Rows of the results that they were computed from.
    found : list of Statistic
    """

    trials: int
    found: list[Statistic]


def compute_statistics(
    statistics: Mapping[str, Callable[..., Any]], results: pd.DataFrame, objective: str
) -> Statistics:
    """Call each statistic with a copy of the results and the name of the objective, such as 'best/val/auroc_macro'.

    Where one fails, or returns neither a sentence nor a small table, its result is a sentence that says so.
    """
    found = [_compute(name, statistic, results, objective) for name, statistic in statistics.items()]
    return Statistics(len(results), found)


def write_statistics(path: Path, statistics: Statistics) -> None:
    """Write a file for `read_statistics`."""
    path.write_text(json.dumps(asdict(statistics), indent=1, allow_nan=False))


def read_statistics(path: Path) -> Statistics:
    """Read a file of `write_statistics`.

    Raises
    ------
    UserError
        Where the file is damaged.
    """
    try:
        content = json.loads(path.read_text())
        found = [
            Statistic(
                shown(str(one["name"])),
                shown(str(one["sentence"])),
                [shown(str(column)) for column in one["columns"][:MOST_COLUMNS]],
                [[_value(value) for value in row[:MOST_COLUMNS]] for row in one["rows"][:MOST_ROWS]],
            )
            for one in content["found"]
        ]
        return Statistics(int(content["trials"]), found)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path} is damaged or holds no statistics: {first_line(error)}.") from error


def _compute(name: str, statistic: Callable[..., Any], results: pd.DataFrame, objective: str) -> Statistic:
    try:
        found = statistic(results.copy(), objective)
        if isinstance(found, pd.DataFrame):
            return _table(name, found)
    except (Exception, SystemExit) as error:  # a user's code may raise anything, and the sweep still needs its table
        return _sentence(name, f"The statistic '{name}' failed: {first_line(error).rstrip('.')}.")
    if isinstance(found, str) and found.strip():
        return _sentence(name, found)
    kind = type(found).__name__
    return _sentence(name, f"The statistic '{name}' returned {kind}: return a sentence or a small DataFrame.")


def _sentence(name: str, text: str) -> Statistic:
    return Statistic(name, shown(" ".join(text.split())), [], [])


def _table(name: str, table: pd.DataFrame) -> Statistic:
    if not isinstance(table.index, pd.RangeIndex):
        table = table.reset_index()
    rows, columns = table.shape
    if not (0 < rows <= MOST_ROWS and 0 < columns <= MOST_COLUMNS):
        return _sentence(
            name,
            f"The statistic '{name}' returned a table of {rows} rows and {columns} columns: "
            f"return 1 to {MOST_ROWS} rows and 1 to {MOST_COLUMNS} columns.",
        )
    names = [" ".join(map(str, column)) if isinstance(column, tuple) else str(column) for column in table.columns]
    return Statistic(name, "", names, [[_value(value) for value in row] for row in table.itertuples(index=False)])


def _value(value: Any) -> Any:
    """A value as JSON can hold it: a finite number, a text, or None."""
    if isinstance(value, bool | str):
        return shown(str(value))
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value) if math.isfinite(value) else None if math.isnan(value) else str(value)
    return None if value is None or value is pd.NaT or value is pd.NA else shown(str(value))


def lines_of(statistics: Sequence[Statistic]) -> str:
    """All results as a terminal shows them."""
    return "\n\n".join(one.text() for one in statistics)
