"""The trials of a sweep as a table of cells: repetitions averaged, rows and columns as in a paper."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
import pandas as pd

from ecgexp.reports import paper
from ecgexp.reports.tables import REPETITIONS, maximizes, swept_keys
from ecgexp.tracking.names import Status

_ROWS_FIRST = ("model", "dataset")

Values = tuple[str, ...]


@dataclass(frozen=True)
class TableCell:
    """What the repetitions of a cell come to.

    Attributes
    ----------
    values : dict of str to str
        Of its keys.
    scores : tuple of float
        Of its finished repetitions.
    trials : int
        All repetitions, finished or not.
    diverged : int
        How many of the finished ones diverged.
    paper : float or None
        What the paper has there.
    best : bool
        No other cell that was validated on the same data has a better mean; never where there is no other one of
        these, but of other data.
    validation_sets : tuple of int
        Numbers of the data that `scores` are of, ascending.
    """

    values: dict[str, str]
    scores: tuple[float, ...]
    trials: int
    diverged: int
    paper: float | None = None
    best: bool = False
    validation_sets: tuple[int, ...] = ()

    @property
    def mean(self) -> float:
        """Mean of the scores; NaN where there is none."""
        return float(np.mean(self.scores)) if self.scores else float("nan")

    @property
    def sd(self) -> float | None:
        """Standard deviation, with scores - 1 as divisor; None of fewer than two."""
        return float(np.std(self.scores, ddof=1)) if len(self.scores) > 1 else None

    @property
    def difference(self) -> float | None:
        """From the paper's value."""
        return None if self.paper is None or not self.scores else self.mean - self.paper

    def text(self) -> str:
        """Mean, standard deviation, and marks: * best, † diverged, ‡ not all repetitions finished."""
        if not self.scores:
            return "-"
        spread = f" ± {self.sd:.3f}" if self.sd is not None else ""
        return f"{self.mean:.3f}{spread}{self.marks()}"

    def marks(self) -> str:
        """The marks of `text`."""
        return "*" * self.best + "†" * bool(self.diverged) + "‡" * (0 < len(self.scores) < self.trials)


@dataclass(frozen=True)
class Table:
    """Cells in rows and columns.

    Attributes
    ----------
    row_keys, column_keys : list of str
        What is told apart by rows, and by columns.
    rows, columns : list of tuple of str
        Their values.
    cells : dict
        By row and column; not all have one.
    """

    row_keys: list[str]
    column_keys: list[str]
    rows: list[Values]
    columns: list[Values]
    cells: dict[tuple[Values, Values], TableCell]

    def heading(self) -> list[list[tuple[str, int]]]:
        """A line for each column key: texts and how many columns each spans."""
        return [_spans(self.columns, level) for level in range(len(self.column_keys))]

    def lines(self) -> list[tuple[list[tuple[str, int]], list[TableCell | None]]]:
        """For each row the headings that begin there, each with the rows it spans, and its cells."""
        begins: list[list[tuple[str, int]]] = [[] for _ in self.rows]
        for level in range(len(self.row_keys)):
            at = 0
            for text, span in _spans(self.rows, level):
                begins[at].append((text, span))
                at += span
        found = ([self.cells.get((row, column)) for column in self.columns] for row in self.rows)
        return list(zip(begins, found, strict=True))

    def flat(self) -> list[list[str]]:
        """The table as texts, the first line being the names of its columns; the best cells are marked *."""
        names = [" ".join(column) for column in self.columns] if self.column_keys else [""]
        lines = [[*self.row_keys, *names]]
        for row in self.rows:
            cells = [self.cells.get((row, column)) for column in self.columns]
            lines.append([*row, *("" if cell is None else cell.text() for cell in cells)])
        return lines

    def means(self) -> pd.DataFrame:
        """Means over rows and columns, NaN where there is none."""
        index, columns = (_index(*axis) for axis in ((self.rows, self.row_keys), (self.columns, self.column_keys)))
        cells = [[self.cells.get((row, column)) for column in self.columns] for row in self.rows]
        values = [[np.nan if cell is None else cell.mean for cell in line] for line in cells]
        return pd.DataFrame(values, index=index, columns=columns)


def cell_keys(results: pd.DataFrame) -> list[str]:
    """Swept keys that make cells; the net where nothing but repetitions was swept."""
    return [key for key in swept_keys(results) if key not in REPETITIONS] or ["model"]


def repetition_keys(results: pd.DataFrame) -> list[str]:
    """Swept keys that repeat cells."""
    return [key for key in swept_keys(results) if key in REPETITIONS]


def collect_cells(
    results: pd.DataFrame, keys: Sequence[str], metric: str, against_paper: bool = False
) -> list[TableCell]:
    """Cells in the order of the command line.

    Parameters
    ----------
    results : DataFrame
        A row per trial.
    keys : sequence of str
        That make a cell.
    metric : str
        Column to average.
    against_paper : bool
        Look each cell up in the paper.
    """
    cells = []
    for values, trials in results.fillna(dict.fromkeys(keys, "-")).groupby(list(keys), sort=False):
        finished = trials[trials["status"] == Status.FINISHED]
        measured = finished[finished[metric].notna()] if metric in trials else finished[:0]
        known = dict(zip(keys, map(str, values), strict=True))
        cells.append(
            TableCell(
                known,
                tuple(measured[metric]) if len(measured) else (),
                len(trials),
                int(finished["diverged"].sum()),
                _published(trials.iloc[0], known) if against_paper else None,
                validation_sets=tuple(sorted(set(measured["validation_set"]))),
            )
        )
    best = max if maximizes(results, metric) else min
    families = comparable(cells)
    best_means = {
        family[0].validation_sets: best(cell.mean for cell in family)
        for family in families
        if len(family) > 1 or len(families) == 1
    }
    return [replace(cell, best=cell.mean == best_means.get(cell.validation_sets)) for cell in cells]


def comparable(cells: Sequence[TableCell]) -> list[list[TableCell]]:
    """Cells that have scores, those together that were validated on the same data, as others cannot be ranked."""
    families: dict[tuple[int, ...], list[TableCell]] = {}
    for cell in cells:
        if cell.scores:
            families.setdefault(cell.validation_sets, []).append(cell)
    return list(families.values())


def _published(trial: pd.Series, values: dict[str, str]) -> float | None:
    """What the paper has for a cell, which a trial of it and the cell's own values tell."""
    return paper.published_value({key: trial.get(key) for key in paper.KEYS} | values)


def arrange(cells: Sequence[TableCell], most_columns: int | None = None) -> Table:
    """Cells as a table like the paper's: nets and batch sizes below each other, the rest beside each other.

    Keys that would make more than `most_columns` columns stand below each other, too.
    """
    keys = list(cells[0].values)
    if set(keys) <= set(paper.KEYS):
        keys = [key for key in paper.KEYS if key in keys]
    else:
        keys.sort(key=lambda key: key.partition(".")[0] not in _ROWS_FIRST)
    split = max(1, len(keys) // 2)
    if set(keys) <= set(paper.KEYS) and 0 < (named := len({"model", "batch_size"} & set(keys))) < len(keys):
        split = named
    while most_columns and split < len(keys) and len({_values(cell, keys[split:]) for cell in cells}) > most_columns:
        split += 1
    row_keys, column_keys = keys[:split], keys[split:]
    place = {key: {value: i for i, value in enumerate(dict.fromkeys(c.values[key] for c in cells))} for key in keys}

    def ordered(part: list[str]) -> list[Values]:
        found = {_values(cell, part) for cell in cells}
        return sorted(found, key=lambda values: [place[key][value] for key, value in zip(part, values, strict=True)])

    by_place = {(_values(cell, row_keys), _values(cell, column_keys)): cell for cell in cells}
    return Table(row_keys, column_keys, ordered(row_keys), ordered(column_keys), by_place)


def _values(cell: TableCell, keys: Sequence[str]) -> Values:
    return tuple(cell.values[key] for key in keys)


def to_markdown(lines: Sequence[Sequence[str]]) -> str:
    """A table as GitHub writes it; the first line is the heading."""
    escaped = [[text.replace("|", "\\|") for text in line] for line in lines]
    ruled = [escaped[0], ["---"] * len(escaped[0]), *escaped[1:]]
    return "".join(f"| {' | '.join(line)} |\n" for line in ruled)


def to_csv(lines: Sequence[Sequence[str]]) -> str:
    """A table as CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()


def cells_frame(cells: Sequence[TableCell]) -> pd.DataFrame:
    """A row per cell: its keys, its trials, what they come to, and beside the paper its value and the difference."""
    rows = [
        {
            **cell.values,
            "trials": cell.trials,
            "finished": len(cell.scores),
            "diverged": cell.diverged,
            "mean": cell.mean,
            "sd": cell.sd,
            "min": min(cell.scores, default=None),
            "max": max(cell.scores, default=None),
            **({"paper": cell.paper, "difference": cell.difference} if any(c.paper is not None for c in cells) else {}),
        }
        for cell in cells
    ]
    return pd.DataFrame(rows)


def _spans(values: Sequence[Values], level: int) -> list[tuple[str, int]]:
    """Neighbours that are equal up to a level, as one."""
    first: Callable[[Values], Values] = lambda value: value[: level + 1]  # noqa: E731
    return [(prefix[-1], len(list(group))) for prefix, group in groupby(values, first)]


def _index(values: Sequence[Values], keys: Sequence[str]) -> pd.Index:
    if not keys:
        return pd.Index([""])
    if len(keys) > 1:
        return pd.MultiIndex.from_tuples(values, names=list(keys))
    return pd.Index([value for (value,) in values], name=keys[0])
