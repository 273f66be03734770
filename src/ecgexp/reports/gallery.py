"""The errors of a net, to look at: which records it decides wrongly, how surely, and what it takes them for."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ecgexp.datasets.base import Input, Split
from ecgexp.reports.ecg import ecg_figure
from ecgexp.reports.figures import data_uri, plain
from ecgexp.training.predictions import Predictions

MOST_ERRORS, MOST_PAIRS = 6, 10
"""Errors of a section, and pairs of decisions of which one error is shown."""
MOST_PROBABILITIES = 8
SIGNAL_DPI, IMAGE_INCHES, DPI = 60, 1.6, 100
# Log-odds beyond this are equally sure to float32.
_SUREST = 16.0
_COLUMNS = ("section", "id", "true", "predicted", "confidence", "margin", "nearest_predicted", "nearest_true")


@dataclass(frozen=True)
class Record:
    """A record as the gallery shows it.

    Attributes
    ----------
    role : str
        Why it is shown, such as 'nearest correct NORM'.
    id : str
    facts : list of pairs of str
        Name and value of what is known of it.
    probabilities : list of pairs of str and float
        The highest first.
    picture : str
        PNG as a data URI.
    """

    role: str
    id: str
    facts: list[tuple[str, str]]
    probabilities: list[tuple[str, float]]
    picture: str


@dataclass(frozen=True)
class Section:
    """Errors of one kind.

    Attributes
    ----------
    title : str
    errors : list of list of Record
        Of each error the record, the nearest correct one of the predicted decision and that of the true one.
    """

    title: str
    errors: list[list[Record]]


@dataclass(frozen=True)
class Errors:
    """Errors of one trial, for a report.

    Attributes
    ----------
    trial : str
        Its settings.
    sections : list of Section
    table : DataFrame
        See `draw_errors`.
    """

    trial: str
    sections: list[Section]
    table: pd.DataFrame


def find_errors(predictions: Predictions) -> pd.DataFrame | None:
    """Errors to look at, and for each the most similar records that are decided rightly.

    The similarity of two records is the Euclidean distance of their log-odds of all labels.

    Parameters
    ----------
    predictions : Predictions

    Returns
    -------
    DataFrame or None
        ``section`` ('Most confident', 'Least decided', or 'NORM taken for MI (7)' for a pair of decisions and the
        number of its errors), ``record``, ``id``, ``true``, ``predicted``, ``confidence``, ``margin``, and
        ``nearest_predicted`` and ``nearest_true``: rows of records, -1 where there is none. See `Decisions`. None where
        the target has no decisions. It has no rows where all decisions are right.
    """
    probabilities = torch.from_numpy(predictions.probabilities)
    targets = torch.from_numpy(predictions.targets.astype(np.float32))
    found = predictions.target.decisions(probabilities, targets)
    if found is None:
        return None
    errors = found.mistakes.assign(margin=found.margins[found.mistakes["record"]])
    surest = errors.sort_values(["confidence", "record"], ascending=[False, True], kind="stable")
    narrow = errors.sort_values(["margin", "record"], kind="stable").drop_duplicates("record")
    sections = [("Most confident", surest.head(MOST_ERRORS)), ("Least decided", narrow.head(MOST_ERRORS))]
    pairs = surest.groupby(["true", "predicted"], sort=False)
    counts = pairs.size().sort_values(ascending=False, kind="stable").head(MOST_PAIRS)
    for pair, count in zip(counts.index.tolist(), counts.tolist(), strict=True):
        sections.append((f"{pair[0]} taken for {pair[1]} ({count})", pairs.get_group(pair).head(1)))
    table = pd.concat([part.assign(section=title) for title, part in sections], ignore_index=True)
    odds = _log_odds(predictions.probabilities)
    for column in ("predicted", "true"):
        table[f"nearest_{column}"] = [
            _nearest(odds, int(record), found.correct[decision])
            for record, decision in zip(table["record"], table[column], strict=True)
        ]
    table["id"] = predictions.ids[table["record"].to_numpy(dtype=int)]
    return table


def _log_odds(probabilities: NDArray[np.float32]) -> NDArray[np.float64]:
    values = probabilities.astype(np.float64)
    with np.errstate(divide="ignore"):
        odds: NDArray[np.float64] = np.log(values) - np.log1p(-values)
    return np.clip(odds, -_SUREST, _SUREST)


def _nearest(odds: NDArray[np.float64], record: int, among: NDArray[np.bool_]) -> int:
    rows = np.flatnonzero(among)
    if not len(rows):
        return -1
    return int(rows[np.square(odds[rows] - odds[record]).sum(axis=1).argmin()])


def draw_errors(
    predictions: Predictions, split: Split, inputs: Sequence[Input], metadata: pd.DataFrame | None = None
) -> tuple[list[Section], pd.DataFrame] | None:
    """Draw the errors of `find_errors`.

    Parameters
    ----------
    predictions : Predictions
    split : Split
        Their records, in the same order.
    inputs : sequence of Input
        The inputs of the dataset.
    metadata : DataFrame, optional
        One row per record.

    Returns
    -------
    list of Section, and DataFrame
        For `ecgexp.reports.page.write_gallery`, and the errors as a table with names of records in place of rows. None
        where the target has no decisions.
    """
    errors = find_errors(predictions)
    if errors is None:
        return None
    drawn: dict[int, str] = {}

    def record(row: int, role: str) -> Record:
        if row not in drawn:
            drawn[row] = _picture(split, inputs, row)
        return Record(role, str(predictions.ids[row]), _facts(metadata, row), _highest(predictions, row), drawn[row])

    sections: dict[str, Section] = {}
    for error in errors.to_dict("records"):
        role = f"{error['true']}, predicted {error['predicted']} ({error['confidence']:.2f})"
        others = ((int(error[f"nearest_{column}"]), error[column]) for column in ("predicted", "true"))
        nearest = [
            record(row, f"nearest correct {decision}") if row >= 0 else _none(f"there is no correct {decision}")
            for row, decision in others
        ]
        section = sections.setdefault(error["section"], Section(error["section"], []))
        section.errors.append([record(int(error["record"]), role), *nearest])
    table = errors.copy()
    for column in ("nearest_predicted", "nearest_true"):
        table[column] = [str(predictions.ids[row]) if row >= 0 else "" for row in errors[column]]
    return list(sections.values()), table[list(_COLUMNS)]


def _none(role: str) -> Record:
    return Record(role, "", [], [], "")


def _facts(metadata: pd.DataFrame | None, row: int) -> list[tuple[str, str]]:
    if metadata is None:
        return []
    values = metadata.iloc[row]
    known = {str(name): value for name, value in values.items() if not pd.isna(value) and str(value)}
    return [(name, str(value).removesuffix(".0")) for name, value in known.items()]


def _highest(predictions: Predictions, row: int) -> list[tuple[str, float]]:
    pairs = zip(predictions.target.names, predictions.probabilities[row].tolist(), strict=True)
    return sorted(pairs, key=lambda pair: -pair[1])[:MOST_PROBABILITIES]


def _picture(split: Split, inputs: Sequence[Input], row: int) -> str:
    """The first input that can be drawn, as a data URI; empty where none can."""
    for one in inputs:
        values = np.asarray(split.inputs[one.name][split.rows[row]])
        for figure, dpi in _figures(one, values.transpose([place - 1 for place in one.order[1:]])):
            file = io.BytesIO()
            figure.savefig(file, dpi=dpi, format="png")
            return data_uri(file.getvalue())
    return ""


def _figures(one: Input, values: NDArray[Any]) -> Iterator[tuple[Figure, float]]:
    """A figure of an input, of values in the order of its axes, and its resolution."""
    if one.axes == ("lead", "time"):
        names = one.coordinates.get("lead", tuple(map(str, range(one.size("lead")))))
        yield ecg_figure(values.T, one.rate or 1.0, names), SIGNAL_DPI
    elif one.axes == ("channel", "row", "column"):
        yield _image_figure(values), DPI
    elif len(one.axes) == 1 and len(values) > 1:
        figure = Figure(figsize=(3, 1.6), layout="constrained")
        axes = figure.subplots()
        axes.bar([plain(name) for name in one.coordinates.get(one.axes[0], range(len(values)))], values)
        yield figure, DPI


def _image_figure(values: NDArray[Any]) -> Figure:
    """An image, (channels, rows, columns), with its pixels as they are."""
    shown = values[:3] if len(values) >= 3 else values[:1]
    if shown.dtype != np.uint8:
        low, high = float(shown.min()), float(shown.max())
        shown = (255 * (shown.astype(np.float64) - low) / (high - low or 1)).round().astype(np.uint8)
    height, width = shown.shape[1:]
    figure = Figure(figsize=(IMAGE_INCHES * width / max(height, width), IMAGE_INCHES * height / max(height, width)))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    pixels = np.broadcast_to(shown.transpose(1, 2, 0), (height, width, 3))
    axes.imshow(pixels, interpolation="nearest", aspect="auto")
    return figure
