"""An ECG as it is printed: 25 mm/s, 10 mm/mV, on millimetre paper."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from ecgexp.reports.figures import plain

MM_PER_SECOND, MM_PER_MILLIVOLT = 25.0, 10.0
INCH = 25.4  # mm

# The usual print of 10 s: four columns of 2.5 s, and one lead over the whole time below.
GRID = (("I", "AVR", "V1", "V4"), ("II", "AVL", "V2", "V5"), ("III", "AVF", "V3", "V6"))
RHYTHM = "II"
GRID_SECONDS = (8.0, 12.0)
LONGEST_SECONDS = 30.0
MOST_ROWS = 16  # a metre of paper

PAPER, FINE, COARSE, INK, SOFT = "#fffdfb", "#f8d8d4", "#eda9a1", "#111111", "#8a5a55"
MARGIN, START, HEAD, FOOT = 6.0, 15.0, 4.0, 8.0  # mm; traces begin at START, right of the pulse
LINE_OF_TITLE = 5.0
ABOVE, BELOW = (15.0, 35.0), (10.0, 35.0)  # least and most mm above and below a row's zero
NAME = 10.0  # mm from a row's zero up to the name of a lead
SMALL_LETTER = 1.5  # mm: width of a letter in the footnote
LETTER = (2.4, 1.7)  # mm: width of a letter in the title's first line, and in the others
MOST_LINES = 4  # at most so many, into which a line of the title is broken


@dataclass(frozen=True)
class _Trace:
    lead: str
    values: NDArray[np.float64]  # mV
    start: int  # sample within the record


def ecg_figure(
    signal: ArrayLike,
    sampling_rate: float,
    lead_names: Sequence[str],
    title: str = "",
    footnote: str = "",
) -> Figure:
    """Draw a record on ECG paper. It is true to scale where it is printed at its own size.

    The 12 standard leads of 8 to 12 s are laid out in three rows of four columns, with lead II over the whole time
    as a rhythm strip. Other records have one row per lead. Each lead is drawn around its median, since the zero of a
    printed ECG is the isoelectric line. At most 30 s and 16 rows are drawn, the first ones; where there are more, the
    picture says so.

    Parameters
    ----------
    signal : array, (samples, leads), mV
        Samples that are NaN leave a gap.
    sampling_rate : float
        In Hz.
    lead_names : sequence of str, (leads,)
        Upper and lower case are the same.
    title : str
        Above the paper; its first line is set in bold. Lines are broken to the width of the paper.
    footnote : str
        Below the paper, right of the scales.

    Returns
    -------
    Figure
        Its size in inches is the size of the paper.

    Raises
    ------
    ValueError
        Where the shape of `signal` is not (1 or more samples, as many leads as names).
    """
    values = np.asarray(signal, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] != len(lead_names) or not values.size:
        raise ValueError(f"signal has the shape (samples, {len(lead_names)}), not {values.shape}")
    shown = min(len(values), round(LONGEST_SECONDS * sampling_rate))
    cut = [f"first {LONGEST_SECONDS:g} s of {len(values) / sampling_rate:g} s"] * (shown < len(values))
    values = values[:shown]
    with np.errstate(all="ignore"):
        centred = values - np.nan_to_num(np.nanmedian(values, axis=0))
    rows = _rows(centred, sampling_rate, lead_names)
    if len(rows) > MOST_ROWS:
        cut.append(f"first {MOST_ROWS} of {len(rows)} leads")
        rows = rows[:MOST_ROWS]

    tops, bottoms = zip(*(_extent(row) for row in rows), strict=True)
    seconds = len(values) / sampling_rate
    width, height = _round_up(START + seconds * MM_PER_SECOND + 2), sum(tops) + sum(bottoms)
    lines, bold = _broken(title, width)
    head = MARGIN + (HEAD + LINE_OF_TITLE * (len(lines) - 1) if lines else 0.0)
    scales = f"{MM_PER_SECOND:g} mm/s    {MM_PER_MILLIVOLT:g} mm/mV    {sampling_rate:g} Hz"
    footnote = " · ".join([*cut, *filter(None, [footnote])])
    beside = (len(scales) + len(footnote)) * SMALL_LETTER < width
    foot = FOOT if beside else FOOT + HEAD
    size = (width + 2 * MARGIN, height + head + foot)
    figure = Figure(figsize=(size[0] / INCH, size[1] / INCH), facecolor="white")
    axes = figure.add_axes((MARGIN / size[0], foot / size[1], width / size[0], height / size[1]))
    _paper(axes, width, height)
    y = height
    for row, top, bottom in zip(rows, tops, bottoms, strict=True):
        y -= top
        _draw_row(axes, row, y, sampling_rate)
        y -= bottom
    for i, line in enumerate(lines):
        figure.text(
            MARGIN / size[0], 1 - (5 + LINE_OF_TITLE * i) / size[1], line,
            fontsize=11 if i < bold else 9, fontweight="bold" if i < bold else "normal", va="center",
        )  # fmt: skip
    figure.text(MARGIN / size[0], (foot - HEAD) / size[1], scales, fontsize=7.5, color=SOFT, va="center")
    figure.text(1 - MARGIN / size[0], 4 / size[1], footnote, fontsize=7.5, color=SOFT, va="center", ha="right")
    return figure


def _rows(signal: NDArray[np.float64], rate: float, lead_names: Sequence[str]) -> list[list[_Trace]]:
    """The traces of each row, from left to right."""
    column = {name.upper(): i for i, name in enumerate(lead_names)}
    standard = {name for row in GRID for name in row}
    seconds = len(signal) / rate
    if set(column) != standard or not GRID_SECONDS[0] <= seconds <= GRID_SECONDS[1]:
        return [[_Trace(name, signal[:, i], 0)] for i, name in enumerate(lead_names)]
    edges = np.linspace(0, len(signal), 5).round().astype(int).tolist()
    rows = [
        [_Trace(lead, signal[edges[i] : edges[i + 1], column[lead]], edges[i]) for i, lead in enumerate(row)]
        for row in GRID
    ]
    return [*rows, [_Trace(RHYTHM, signal[:, column[RHYTHM]], 0)]]


def _broken(title: str, width: float) -> tuple[list[str], int]:
    """A title broken into lines of at most `width` mm, and the number of lines that its first line became."""
    broken = [
        textwrap.wrap(line, max(12, int(width / letter)), max_lines=MOST_LINES, placeholder=" …")
        for line, letter in zip(title.splitlines(), [LETTER[0], *[LETTER[1]] * title.count("\n")], strict=False)
    ]
    return [line.replace("$", r"\$") for lines in broken for line in lines], len(broken[0]) if broken else 0


def _extent(row: list[_Trace]) -> tuple[float, float]:
    """Space above and below the zero of a row in mm: whole squares, so that each zero lies on a grid line."""
    values = np.concatenate([trace.values for trace in row])
    values = values[np.isfinite(values)] * MM_PER_MILLIVOLT
    high, low = (values.max(), values.min()) if values.size else (0.0, 0.0)
    return float(np.clip(_round_up(high + 2), *ABOVE)), float(np.clip(_round_up(2 - low), *BELOW))


def _round_up(millimetres: float) -> float:
    """Round up to whole squares of 5 mm."""
    return float(5 * np.ceil(millimetres / 5))


def _paper(axes: Axes, width: float, height: float) -> None:
    axes.set(xlim=(0, width), ylim=(0, height), facecolor=PAPER)
    axes.set_axis_on()
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(color=COARSE, linewidth=0.8)
    for step, color, weight in ((1, FINE, 0.35), (5, COARSE, 0.6)):
        upright = [[(x, 0), (x, height)] for x in np.arange(0, width + 0.5, step)]
        level = [[(0, y), (width, y)] for y in np.arange(0, height + 0.5, step)]
        axes.add_collection(LineCollection(upright + level, colors=color, linewidths=weight, zorder=step / 10))


def _draw_row(axes: Axes, row: list[_Trace], zero: float, rate: float) -> None:
    pulse = np.array([0, 0, 1, 1, 0, 0]) * MM_PER_MILLIVOLT  # 1 mV for 0.2 s
    axes.plot([3, 5, 5, 10, 10, 12], zero + pulse, color=INK, linewidth=0.8, solid_joinstyle="miter")
    for trace in row:
        x = START + (trace.start + np.arange(len(trace.values))) / rate * MM_PER_SECOND
        y = zero + trace.values * MM_PER_MILLIVOLT
        axes.plot(x, y, color=INK, linewidth=0.75, solid_joinstyle="round", antialiased=True)
        if trace.start:
            axes.plot([x[0], x[0]], [zero - 3, zero + 3], color=INK, linewidth=0.75)
        axes.text(
            x[0] + 1, zero + NAME, plain(_printed(trace.lead)), fontsize=9, fontweight="bold", color=INK, va="bottom",
            bbox={"facecolor": PAPER, "edgecolor": "none", "alpha": 0.75, "pad": 0.6}, zorder=1.5,
        )  # fmt: skip


def _printed(lead: str) -> str:
    """A lead's name as it is printed: aVR, not AVR."""
    return f"a{lead.upper()[1:]}" if lead.upper() in ("AVR", "AVL", "AVF") else lead
