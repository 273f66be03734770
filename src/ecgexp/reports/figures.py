"""Pictures, as matplotlib figures. They change no global state, and their size is bounded for any input."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

# Matrices with at most so many rows have room for a number in each cell.
LARGEST_ANNOTATED = 25
# A picture is at most so many pixels wide and high.
MOST_PIXELS = 6000
LONGEST_NAME = 28  # characters
_LARGEST = 14.0  # inches: the cells of a picture are together at most so wide and high
_POINT = 1 / 72  # inch
_LETTER = 0.09  # inches: approximate width of a letter in a tick label
_SMALLEST_FONT, _LINE = 7.0, 1.3  # points; and the line spacing in heights of the font


def save_figure(figure: Figure, path: Path, dpi: float, **options: Any) -> None:
    """Write a picture, in a lower resolution where it would have too many pixels.

    Parameters
    ----------
    figure : Figure
    path : Path
    dpi : float
        Pixels per inch, at most.
    **options
        Further arguments of `Figure.savefig`.
    """
    width, height = figure.get_size_inches()
    if options.get("bbox_inches") == "tight":  # which adds space for what lies outside the axes
        figure.canvas.draw()
        whole = figure.get_tightbbox()
        width, height = max(width, whole.width), max(height, whole.height)
    figure.savefig(path, dpi=min(dpi, MOST_PIXELS / max(width, height)), **options)


def data_uri(png: bytes) -> str:
    """A PNG as a page holds it."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def plain(text: object, longest: int = LONGEST_NAME) -> str:
    """A name as a picture shows it: on one line, without its middle where it is long, and never as a formula."""
    name = " ".join(str(text).split())
    if len(name) > longest:
        tail = (longest - 1) // 3
        name = f"{name[: longest - 1 - tail]}…{name[len(name) - tail :]}"
    # matplotlib draws text between dollars as a formula, and leaves names that begin with _ out of legends
    return ("\N{ZERO WIDTH SPACE}" if name.startswith("_") else "") + name.replace("$", r"\$")


def confusion_figure(table: pd.DataFrame, title: str) -> Figure:
    """Confusion matrix from `ecgexp.reports.trial.confusion_table`, each row normalised to 100 %.

    With many labels only some are named, and only the colours show the shares.
    """
    matrix = table.to_numpy()
    rows = matrix.sum(axis=1, keepdims=True)
    percent = 100 * np.divide(matrix, rows, out=np.zeros(matrix.shape), where=rows > 0)
    size = min(0.55 * len(matrix), _LARGEST)
    names = _room_for_names(table.index)
    figure = Figure(figsize=(max(4.0, size) + names + 0.8, max(4.0, size) + names + 0.5), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(percent, cmap="Blues", vmin=0, vmax=100)
    _name_ticks(axes, table, max(4.0, size), max(4.0, size), rotation=45)
    axes.set_xlabel("predicted (NPL: no predicted label)" if "NPL" in table.columns else "predicted")
    axes.set_ylabel("true (NTL: no true label)" if "NTL" in table.index else "true")
    axes.set_title(title, fontsize=10)
    if len(matrix) <= LARGEST_ANNOTATED:
        axes.set_title(f"{title}, % of the row", fontsize=10)
        _annotate(axes, percent, "{:.0f}", dark_above=55)
    else:
        figure.colorbar(image, ax=axes, label="% of the row", shrink=0.8)
    return figure


def learning_curves(history: Sequence[dict[str, float]], metric: str, best_epoch: int | None) -> Figure:
    """Loss and one more metric of training and validation over the epochs."""
    frame = pd.DataFrame(history)
    epochs = np.arange(1, len(frame) + 1)
    figure = Figure(figsize=(9, 3.4))
    # Each trial draws this. If matplotlib had to find the margins, drawing would take twice as long.
    figure.subplots_adjust(left=0.075, right=0.985, bottom=0.145, top=0.97, wspace=0.22)
    for axes, name in zip(figure.subplots(1, 2), ("loss", metric), strict=True):
        for split in ("train", "val"):
            if f"{split}/{name}" in frame:
                axes.plot(epochs, frame[f"{split}/{name}"], marker=".", label=split)
        if best_epoch is not None:
            axes.axvline(best_epoch + 1, color="grey", linestyle=":", label="best weights")
        axes.set_xlabel("epoch")
        axes.set_ylabel(plain(name))
        axes.grid(alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
        if axes.lines:
            axes.legend()
    return figure


def heat_map(*panels: tuple[pd.DataFrame, str]) -> Figure:
    """Heat maps of tables, a panel for each, with a colour scale of its own.

    With more rows or columns than a page can hold, only some are named, and only the colours show the values. Panels
    that do not fit on a page are left out; the last title says how many.

    Parameters
    ----------
    *panels : tuple of DataFrame and str
        Rows and columns of values, NaN where there is no trial; and the title.
    """
    sizes = [_panel_size(grid) for grid, _ in panels]
    heights = [down + _room_for_names(grid.columns) + 1.0 for (grid, _), (down, _) in zip(panels, sizes, strict=True)]
    shown = max(1, int(np.searchsorted(np.cumsum(heights), 1.5 * _LARGEST, side="right")))
    width = max(
        across + _room_for_names(grid.index) + 1.9 for (grid, _), (_, across) in zip(panels, sizes, strict=True)
    )
    figure = Figure(figsize=(max(4.5, width), sum(heights[:shown])), layout="constrained")
    drawn = figure.subplots(shown, 1, squeeze=False, height_ratios=heights[:shown])[:, 0]
    for axes, (grid, title), (down, across) in zip(drawn, panels[:shown], sizes[:shown], strict=True):
        image = axes.imshow(grid.to_numpy(dtype=float), cmap="viridis", aspect="auto")
        _name_ticks(axes, grid, down, across, rotation=30)
        axes.set_xlabel(_axis_name(grid.columns, across))
        axes.set_ylabel(_axis_name(grid.index, down))
        axes.set_title(plain(title, 100), fontsize=10)
        _write_values(axes, grid.to_numpy(dtype=float), down, across)
        figure.colorbar(image, ax=axes, shrink=0.8)
    if shown < len(panels):
        missing = f"{len(panels) - shown} further panels are not drawn"
        drawn[-1].set_title(f"{drawn[-1].get_title()} ({missing})", fontsize=10)
    return figure


def _panel_size(grid: pd.DataFrame) -> tuple[float, float]:
    """Height and width of the cells of a heat map together, in inches."""
    return float(np.clip(0.5 * len(grid), 1.5, _LARGEST)), float(np.clip(0.9 * grid.shape[1], 2.5, _LARGEST))


def _write_values(axes: Axes, values: NDArray[np.float64], down: float, across: float) -> None:
    """Write each value into its cell where there is room."""
    low, high = np.nanmin(values, initial=np.inf), np.nanmax(values, initial=-np.inf)
    if np.isfinite(low) and down / len(values) > 0.15 and across / values.shape[1] > 0.5:
        _annotate(axes, values, "{:.3f}" if max(-low, high) < 1000 else "{:.2g}", -np.inf, (low + high) / 2)


def _name_ticks(axes: Axes, table: pd.DataFrame, down: float, across: float, rotation: float) -> None:
    """Name rows and columns, in a smaller font or only some of them where there is no room for all."""
    slanted: dict[str, Any] = {"rotation": rotation, "ha": "right", "rotation_mode": "anchor"}
    for set_ticks, keys, inches, options in (
        (axes.set_yticks, table.index, down, {}),
        (axes.set_xticks, table.columns, across, slanted),
    ):
        room = inches / len(keys) / (_LINE * _POINT)  # largest font, in points
        step = max(1, int(np.ceil(_SMALLEST_FONT / room)))
        font = float(np.clip(room * step, _SMALLEST_FONT, 10))
        set_ticks(range(0, len(keys), step), [_label(key) for key in keys[::step]], fontsize=font, **options)


def _room_for_names(keys: pd.Index) -> float:
    """Inches that the longest name of a row or column takes beside the cells."""
    return _LETTER * max(len(_label(key)) for key in keys)


def _axis_name(keys: pd.Index, inches: float) -> str:
    """Names of the keys of an axis, in as many lines as they need beside `inches` of cells."""
    lines = [""]
    for name in (plain(name, 40) for name in keys.names if name):
        longer = f"{lines[-1]}, {name}" if lines[-1] else name
        if lines[-1] and len(longer) * _LETTER > inches:
            lines[-1] += ","
            lines.append(name)
        else:
            lines[-1] = longer
    return "\n".join(lines)


def _annotate(
    axes: Axes, values: NDArray[np.float64], form: str, dark_above: float, light_above: float = np.inf
) -> None:
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            white = value > dark_above and value <= light_above
            axes.text(
                column, row, form.format(value), ha="center", va="center", fontsize=8,
                color="white" if white else "black",
            )  # fmt: skip


def _label(key: object) -> str:
    """The values of a row or a column; several values share the available length."""
    values = key if isinstance(key, tuple) else (key,)
    return " ".join(plain(value, max(8, 2 * LONGEST_NAME // (len(values) + 1))) for value in values)
