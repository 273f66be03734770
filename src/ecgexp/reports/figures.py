"""Pictures, as matplotlib figures that touch no global state."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

# Up to here a cell of a matrix still has room for its number.
LARGEST_ANNOTATED = 25
# Rows, or columns, of a heat map that are named.
_MOST_NAMED = 40


def confusion_figure(table: pd.DataFrame, title: str) -> Figure:
    """Confusion matrix from `ecgexp.reports.trial.confusion_table`, each row normalised to 100 %."""
    matrix = table.to_numpy()
    rows = matrix.sum(axis=1, keepdims=True)
    percent = 100 * np.divide(matrix, rows, out=np.zeros(matrix.shape), where=rows > 0)
    size = max(4.5, 0.55 * len(matrix) + 1.5)
    figure = Figure(figsize=(size + 0.8, size), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(percent, cmap="Blues", vmin=0, vmax=100)
    axes.set_xticks(range(matrix.shape[1]), table.columns, rotation=45, ha="right")
    axes.set_yticks(range(matrix.shape[0]), table.index)
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
    # Each trial draws this: to have matplotlib find the margins takes as long as all the rest of it.
    figure.subplots_adjust(left=0.075, right=0.985, bottom=0.145, top=0.97, wspace=0.22)
    for axes, name in zip(figure.subplots(1, 2), ("loss", metric), strict=True):
        for split in ("train", "val"):
            if f"{split}/{name}" in frame:
                axes.plot(epochs, frame[f"{split}/{name}"], marker=".", label=split)
        if best_epoch is not None:
            axes.axvline(best_epoch + 1, color="grey", linestyle=":", label="kept weights")
        axes.set_xlabel("epoch")
        axes.set_ylabel(name)
        axes.grid(alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
        if axes.lines:
            axes.legend()
    return figure


def heat_map(grid: pd.DataFrame, title: str) -> Figure:
    """Values over two sets of axes: rows and columns of a table, NaN where there is no trial.

    Of more rows or columns than a page can hold only some are named, and cells are told by colour alone.
    """
    values = grid.to_numpy(dtype=float)
    height, width = (min(size, _MOST_NAMED) for size in grid.shape)
    figure = Figure(figsize=(max(4.5, 0.9 * width + 2.5), max(2.5, 0.5 * height + 1.8)), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(values, cmap="viridis", aspect="auto")
    down, across = (max(1, -(-size // _MOST_NAMED)) for size in grid.shape)
    axes.set_xticks(
        range(0, grid.shape[1], across), [_label(key) for key in grid.columns[::across]], rotation=30, ha="right"
    )
    axes.set_yticks(range(0, grid.shape[0], down), [_label(key) for key in grid.index[::down]])
    axes.set_xlabel(", ".join(str(name) for name in grid.columns.names if name))
    axes.set_ylabel(", ".join(str(name) for name in grid.index.names if name))
    axes.set_title(title, fontsize=10)
    low, high = np.nanmin(values, initial=np.inf), np.nanmax(values, initial=-np.inf)
    if np.isfinite(low) and down == across == 1:
        _annotate(axes, values, "{:.3f}", dark_above=-np.inf, light_above=(low + high) / 2)
    figure.colorbar(image, ax=axes, shrink=0.8)
    return figure


def _annotate(
    axes: object, values: NDArray[np.float64], form: str, dark_above: float, light_above: float = np.inf
) -> None:
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            white = value > dark_above and value <= light_above
            axes.text(  # type: ignore[attr-defined]
                column, row, form.format(value), ha="center", va="center", fontsize=8,
                color="white" if white else "black",
            )  # fmt: skip


def _label(key: object) -> str:
    return " ".join(map(str, key)) if isinstance(key, tuple) else str(key)
