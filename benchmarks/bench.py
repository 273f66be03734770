"""Figures of a benchmark: measured in turn with a peer, printed, written and drawn as a picture."""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"
SELECTING = ("nets", "precisions", "batch_sizes", "keras_python")  # arguments that change no figure


@dataclass(frozen=True)
class Figure:
    """One measured figure, identified by `bench`, `figure` and the first word of `peer_name`.

    Attributes
    ----------
    bench, figure : str
        The benchmark, and what it measured.
    ours : float
        The value of ecgexp.
    peer : float, optional
        The value of the peer. None where there is no peer, or where it could not run.
    peer_name : str
        The peer and its version.
    ratio : float, optional
        How many times better ecgexp is: above 1 is faster or smaller than the peer.
    unit : str
        Unit of `ours` and `peer`.
    target : str
        The target, as a text.
    device, commit : str
        Where the figure was measured, and with which commit.
    """

    bench: str
    figure: str
    ours: float
    peer: float | None
    peer_name: str
    ratio: float | None
    unit: str
    target: str
    device: str
    commit: str


def figure(
    bench: str,
    name: str,
    ours: float,
    peer: float | None = None,
    peer_name: str = "",
    unit: str = "",
    higher_is_better: bool = False,
    target: str = "",
    device: str = "",
) -> Figure:
    """A figure with its ratio, the machine and the commit."""
    ratio = None
    if peer:
        ratio = ours / peer if higher_is_better else peer / ours
    return Figure(bench, name, ours, peer, peer_name, ratio, unit, target, device or processor(), commit())


def median(values: Sequence[float]) -> float:
    """Median: one slow run on a shared machine does not count."""
    return statistics.median(values)


def alternate(runs: int, *functions: Callable[[], Any]) -> list[list[Any]]:
    """Call the functions in turn, `runs` times each, and return the results of each."""
    found: list[list[Any]] = [[] for _ in functions]
    for _ in range(runs):
        for values, function in zip(found, functions, strict=True):
            values.append(function())
    return found


def seconds(function: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    begun = time.perf_counter()
    function()
    return time.perf_counter() - begun


def processor() -> str:
    """Kind and number of the cores that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    name = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
        name = found.group(1) if found else name
    return f"{cores} x {name}"


@cache
def commit() -> str:
    """Short hash of the commit that was checked out when this process began, with a + where files differ from it."""

    def git(*given: str) -> str:
        return subprocess.run(["git", *given], cwd=Path(__file__).parent, capture_output=True, text=True).stdout.strip()

    dirty = "+" if git("status", "--porcelain", "--untracked-files=no", "--", "../src", "../conf", "*.py") else ""
    return git("rev-parse", "--short", "HEAD") + dirty


def package(name: str) -> str:
    """Name and version of an installed package."""
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return f"{name} (not installed)"


def finish(figures: Sequence[Figure]) -> None:
    """Print the table, and write the figures to today's file of this machine, with their picture beside it."""
    print(table(figures))
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{platform.node() or 'host'}-{date.today().isoformat()}.json"
    earlier = json.loads(path.read_text()) if path.exists() else []
    mine = [asdict(f) for f in figures]
    replaced = {(f["bench"], f["figure"], f["peer_name"].split(" ")[0]) for f in mine}
    kept = [f for f in earlier if (f["bench"], f["figure"], f["peer_name"].split(" ")[0]) not in replaced]
    part = path.with_suffix(".part")
    part.write_text(json.dumps(kept + mine, indent=1) + "\n")
    part.replace(path)  # an interrupt must not destroy earlier figures
    draw([Figure(**f) for f in kept + mine], path.with_suffix(".png"))
    print(f"\nWritten to {path} and {path.with_suffix('.png').name}.\n", flush=True)


def table(figures: Sequence[Figure]) -> str:
    """Markdown, one row per figure."""
    rows = ["| figure | ecgexp | peer | | ratio | target |", "|---|--:|--:|---|--:|--:|"]
    for f in figures:
        peer = "" if f.peer is None else f"{f.peer:.4g} {f.unit}"
        ratio = "" if f.ratio is None else f"{f.ratio:.2f}"
        rows.append(
            f"| {f.bench}: {f.figure} | {f.ours:.4g} {f.unit} | {peer} | {f.peer_name} | {ratio} | {f.target} |"
        )
    return "\n".join(rows)


def draw(figures: Sequence[Figure], path: Path) -> None:
    """Bars of all ratios to a peer, on a logarithmic axis."""
    from matplotlib.figure import Figure as Drawing

    compared = [f for f in figures if f.ratio]
    if not compared:
        return
    drawing = Drawing(figsize=(9, 1 + 0.24 * len(compared)), layout="constrained")
    axes = drawing.add_subplot()
    names = [f"{f.bench}: {f.figure} / {f.peer_name}" for f in compared]
    ratios = [f.ratio or 1.0 for f in compared]
    colors = ["#2b6cb0" if ratio >= 1 else "#c05621" for ratio in ratios]
    bars = axes.barh(range(len(ratios)), [r - 1 for r in ratios], left=1, color=colors)
    axes.bar_label(bars, [f"{r:.2f}" for r in ratios], padding=3, fontsize=7)
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xlabel("times better than the peer")
    axes.margins(x=0.12, y=0.01)
    axes.spines[["top", "right"]].set_visible(False)
    drawing.savefig(path, dpi=150)


def stoppable(main: Callable[[], None]) -> None:
    """Call `main`. Where it is interrupted, end with one sentence."""
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(f"\nStopped. Finished parts are in {RESULTS}; an unfinished part starts anew.")


def parser(description: str | None, runs: int) -> argparse.ArgumentParser:
    """The arguments of all benchmarks."""
    found = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--runs", type=positive, default=runs, help=f"runs of which the median counts (default {runs})")
    found.add_argument("--threads", type=positive, default=torch.get_num_threads(), help="threads of each library")
    return found


def parse(found: argparse.ArgumentParser) -> argparse.Namespace:
    """The arguments. Where one that changes figures is not the default, this is a try-out."""
    arguments = found.parse_args()
    if any(value != found.get_default(name) for name, value in vars(arguments).items() if name not in SELECTING):
        try_out()
    return arguments


def try_out() -> None:
    """Keep the figures of this process apart from published figures, which have the same names."""
    global RESULTS
    RESULTS /= "tryouts"


def positive(text: str) -> int:
    """An argument that is a whole number of at least 1."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def program(name: str) -> str:
    """An argument that is a program of this machine."""
    if shutil.which(name) is None:
        raise argparse.ArgumentTypeError(f"there is no program {name}")
    return name
