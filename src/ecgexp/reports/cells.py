"""The trials of a sweep as a table of cells: repetitions averaged, rows and columns as in a paper."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
import pandas as pd

from ecgexp.config.schema import REPETITIONS
from ecgexp.reports import paper
from ecgexp.reports.tables import maximizes, swept_keys
from ecgexp.tracking.names import Status

_ROWS_FIRST = ("model", "dataset")

Values = tuple[str, ...]


@dataclass(frozen=True)
class TableCell:
    """The results of the repetitions of a cell.

    Attributes
    ----------
    values : dict of str to str
        The value of each key that makes the cell.
    scores : tuple of float
        Scores of the finished repetitions.
    trials : int
        Number of all repetitions, finished or not.
    diverged : int
        Number of finished repetitions that diverged.
    paper : float or None
        The paper's value for this cell.
    best : bool
        Whether no other cell that was validated on the same data has a better mean. False for a cell that was
        validated on its own data, where other cells have other data.
    validation_sets : tuple of int
        Numbers of the validation sets of `scores`, ascending.
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
        """Standard deviation, with n - 1 as divisor; None for fewer than two scores."""
        return float(np.std(self.scores, ddof=1)) if len(self.scores) > 1 else None

    @property
    def difference(self) -> float | None:
        """Mean minus the paper's value; None where one of them is missing."""
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
        Keys whose values make the rows, and the columns.
    rows, columns : list of tuple of str
        Values of these keys, for each row and each column.
    cells : dict
        By row and column. Combinations without a trial have no cell.
    """

    row_keys: list[str]
    column_keys: list[str]
    rows: list[Values]
    columns: list[Values]
    cells: dict[tuple[Values, Values], TableCell]

    def heading(self) -> list[list[tuple[str, int]]]:
        """A line for each column key: each text, and the number of columns that it spans."""
        return [_spans(self.columns, level) for level in range(len(self.column_keys))]

    def lines(self) -> list[tuple[list[tuple[str, int]], list[TableCell | None]]]:
        """For each row: the headings that begin there, each with the number of rows that it spans; and the cells."""
        begins: list[list[tuple[str, int]]] = [[] for _ in self.rows]
        for level in range(len(self.row_keys)):
            at = 0
            for text, span in _spans(self.rows, level):
                begins[at].append((text, span))
                at += span
        found = ([self.cells.get((row, column)) for column in self.columns] for row in self.rows)
        return list(zip(begins, found, strict=True))

    def flat(self) -> list[list[str]]:
        """The table as lines of texts. The first line names the columns; * marks the best cells."""
        names = [" ".join(column) for column in self.columns] if self.column_keys else [""]
        lines = [[*self.row_keys, *names]]
        for row in self.rows:
            cells = [self.cells.get((row, column)) for column in self.columns]
            lines.append([*row, *("" if cell is None else cell.text() for cell in cells)])
        return lines

    def means(self) -> pd.DataFrame:
        """Means by row and column, NaN where there is none."""
        index, columns = (_index(*axis) for axis in ((self.rows, self.row_keys), (self.columns, self.column_keys)))
        cells = [[self.cells.get((row, column)) for column in self.columns] for row in self.rows]
        values = [[np.nan if cell is None else cell.mean for cell in line] for line in cells]
        return pd.DataFrame(values, index=index, columns=columns)


def cell_keys(results: pd.DataFrame) -> list[str]:
    """Swept keys whose values make the cells; `model` where only repetitions were swept."""
    return [key for key in swept_keys(results) if key not in REPETITIONS] or ["model"]


def repetition_keys(results: pd.DataFrame) -> list[str]:
    """Swept keys whose values repeat a cell, such as the seed."""
    return [key for key in swept_keys(results) if key in REPETITIONS]


def collect_cells(
    results: pd.DataFrame, keys: Sequence[str], metric: str, study: paper.Study | None = None
) -> list[TableCell]:
    """Cells in the order of the command line.

    Parameters
    ----------
    results : DataFrame
        A row per trial.
    keys : sequence of str
        Keys whose values make a cell.
    metric : str
        Column to average.
    study : Study, optional
        Published study in which each cell is looked up.
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
                None
                if study is None
                else study.published_value({key: trials.iloc[0].get(key) for key in study.keys} | known),
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
    """Cells with scores, in groups that were validated on the same data: only cells of one group can be ranked."""
    families: dict[tuple[int, ...], list[TableCell]] = {}
    for cell in cells:
        if cell.scores:
            families.setdefault(cell.validation_sets, []).append(cell)
    return list(families.values())


def _settings(trial: pd.Series, study: paper.Study) -> dict[str, object]:
    return {key: trial.get(key) for key in study.keys}


def arrange(cells: Sequence[TableCell], most_columns: int | None = None) -> Table:
    """Cells as a table like the paper's: nets and batch sizes make the rows, the other keys make the columns.

    Where there would be more than `most_columns` columns, further keys make rows.
    """
    keys = list(cells[0].values)
    known = paper.LEANDRO2023.keys
    if set(keys) <= set(known):
        keys = [key for key in known if key in keys]
    else:
        keys.sort(key=lambda key: key.partition(".")[0] not in _ROWS_FIRST)
    split = max(1, len(keys) // 2)
    if set(keys) <= set(known) and 0 < (named := len({"model", "batch_size"} & set(keys))) < len(keys):
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
    """A row per cell: keys, numbers of trials, scores, and for the paper's grid its value and the difference."""
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
    """Texts of a level, each with the number of neighbours that are equal up to this level."""
    first: Callable[[Values], Values] = lambda value: value[: level + 1]  # noqa: E731
    return [(prefix[-1], len(list(group))) for prefix, group in groupby(values, first)]


def _index(values: Sequence[Values], keys: Sequence[str]) -> pd.Index:
    if not keys:
        return pd.Index([""])
    if len(keys) > 1:
        return pd.MultiIndex.from_tuples(values, names=list(keys))
    return pd.Index([value for (value,) in values], name=keys[0])
