"""A report as files: tables, pictures, and one page that needs no other file."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure

from ecgexp.reports.cells import (
    TableCell,
    arrange,
    cell_keys,
    cells_frame,
    collect_cells,
    comparable,
    to_csv,
    to_markdown,
)
from ecgexp.reports.comparison import RESAMPLES
from ecgexp.reports.experiment import experiment_file
from ecgexp.reports.figures import confusion_figure, data_uri, heat_map, learning_curves, save_figure
from ecgexp.reports.findings import Report
from ecgexp.reports.gallery import Section
from ecgexp.reports.search import search_figures
from ecgexp.reports.stages import stage_figure
from ecgexp.reports.tables import MOST_SETS, described
from ecgexp.text import shortened
from ecgexp.tracking.names import EPOCHS, TRAIN_SECONDS, File, Status, Tag, best_metric, metric_of, short
from ecgexp.tracking.runs import INFINITE, best_epoch

DPI = 130


@dataclass(frozen=True)
class Picture:
    """A picture of the page.

    Attributes
    ----------
    file : str
        Its name in the folder.
    caption : str
    data : str
        The PNG as a data URI.
    """

    file: str
    caption: str
    data: str


def write_report(folder: Path, report: Report) -> list[str]:
    """Write ``report.html``, and its tables and pictures as separate files.

    Parameters
    ----------
    folder : Path
        A folder that exists.
    report : Report
        The content.

    Returns
    -------
    list of str
        The findings, in sentences.
    """
    report.full.to_csv(folder / File.RESULTS, index=False)
    cells_frame(report.cells).to_csv(folder / File.CELLS, index=False)
    lines = report.table.flat()
    (folder / File.CELLS_TABLE).write_text(to_csv(lines))
    (folder / File.CELLS_MARKDOWN).write_text("\n".join([to_markdown(lines), *report.warnings]))
    for row in report.best[:MOST_SETS]:
        (folder / "experiment").mkdir(exist_ok=True)
        where = f" on {report.set_name(row['validation_set'])}" if report.several_sets else ""
        title = f"Best of sweep {report.name}{where}: {report.objective} = {row[report.objective]:.4f}"
        sweeper = "optuna" if report.search is not None else "staged" if report.staged is not None else None
        best = experiment_file(report.run(row["run_id"]), title, sweeper)
        (folder / "experiment" / f"{_experiment(report, row)}.yaml").write_text(best)
    environment = _templates()
    environment.filters |= {"number": _number, "clock": _clock, "day": _day}
    environment.filters |= {"setting": _setting, "parts": _parts, "rates": _rates, "plain": _plain}
    findings = report.findings()
    page = environment.get_template("report.html.j2").render(
        report=report,
        findings=findings,
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        version=version("ecgexp"),
        tiles=_tiles(report),
        trials=_trials(report),
        unfinished=_unfinished(report),
        cost=_cost(report),
        commits=_commits(report),
        heat_maps=[] if report.search or report.staged else list(_heat_maps(folder, report)),
        searched=list(_searched(folder, report)),
        stages=list(_stages(folder, report)),
        curves=list(_curves(folder, report)),
        matrices=list(_matrices(folder, report)),
        described=described,
        experiment=lambda row: _experiment(report, row),
        most_sets=MOST_SETS,
        resamples=RESAMPLES,
    )
    if not isinstance(report.errors, str):
        report.errors.table.to_csv(folder / File.ERRORS, index=False)
    (folder / File.REPORT).write_text(page, encoding="utf-8")
    names = [str(path.relative_to(folder)) for path in sorted(folder.rglob("*")) if path.is_file()]
    (folder / File.LISTED).write_text("\n".join([*names, File.LISTED]) + "\n")
    return findings


def write_gallery(folder: Path, title: str, warning: str | None, sections: list[Section], table: pd.DataFrame) -> None:
    """Write the page of a gallery, which needs no other file, and its errors as CSV."""
    page = _templates().get_template("errors.html.j2").render(title=title, warning=warning, sections=sections)
    (folder / File.ERRORS_PAGE).write_text(page, encoding="utf-8")
    table.to_csv(folder / File.ERRORS, index=False)


def _templates() -> Environment:
    """The templates of pages."""
    return Environment(
        loader=PackageLoader("ecgexp", "reports"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip


def _experiment(report: Report, row: pd.Series) -> str:
    """Name of the experiment that trains a best trial again."""
    return f"best_{row['validation_set']}" if report.several_sets else "best"


def _save(folder: Path, name: str, figure: Figure, caption: str, **options: Any) -> Picture:
    path = folder / name
    save_figure(figure, path, DPI, **options)
    return Picture(name, caption, data_uri(path.read_bytes()))


def _heat_maps(folder: Path, report: Report) -> Iterator[Picture]:
    keys = cell_keys(report.results)
    for metric in dict.fromkeys((report.objective, *(best_metric("val", name) for name in report.other_scores))):
        if metric not in report.results or len(report.cells) < 2:
            continue
        cells = collect_cells(report.results, keys, metric)
        families = comparable(cells)
        name = short(metric)
        if len(families) == 1:
            panels = [(arrange(cells).means(), name)]
        else:  # a panel for each set, with its own colour scale
            panels = [
                (arrange(family).means(), f"{name}, {_sets(report, family[0])}")
                for family in families
                if len(family) > 1
            ]
        if panels:
            averaged = ", repetitions averaged" if report.repetitions else ""
            together = ", cells with the same validation sets together" if len(families) > 1 else ""
            yield _save(folder, f"heat_map_{_file(name)}.png", heat_map(*panels), f"{name}{averaged}{together}")


def _sets(report: Report, cell: TableCell) -> str:
    """The validation sets of a cell, as captions name them."""
    numbers = cell.validation_sets
    return report.set_name(numbers[0]) if len(numbers) == 1 else f"validation sets {', '.join(map(str, numbers))}"


def _searched(folder: Path, report: Report) -> Iterator[Picture]:
    if report.search is not None:
        names = list(map(short, report.objectives))
        for name, figure, caption in search_figures(report.search, names, report.monitor):
            yield _save(folder, f"search_{name}.png", figure, caption, bbox_inches="tight")


def _stages(folder: Path, report: Report) -> Iterator[dict[str, Any]]:
    """For each stage of a search its settings, and a picture of them."""
    if report.staged is None:
        return
    rows, loss = report.full.set_index("run_id"), best_metric("val", "loss")
    column = report.staged.objective
    histories = {run: _finite(history) for run, history in report.histories.items()}
    for number, (stage, shares) in enumerate(zip(report.staged.done, report.stage_shares, strict=True), start=1):
        lines = []
        for at, candidate in enumerate(stage.candidates):
            trials = rows[rows.index.isin(candidate.runs)]
            alone: Any = trials.iloc[0] if len(trials) == 1 else {}
            lines.append(
                {
                    "candidate": candidate,
                    "chosen": at == stage.chosen,
                    "trials": ", ".join(map(str, trials["trial"])),
                    "sd": trials[column].std() if len(trials) > 1 else None,
                    "low": alone.get(f"{column}_low"),
                    "high": alone.get(f"{column}_high"),
                    "loss": trials[loss].mean() if loss in trials and column != loss else None,
                    "share": shares.get(at),
                }
            )
        keys = ", ".join(report.staged.planned[number - 1])
        figure = stage_figure(stage, report.full, report.metric, histories)
        yield {
            "number": number,
            "keys": keys,
            "lines": lines,
            "picture": _save(folder, f"stage_{number}.png", figure, f"Stage {number}: {keys}"),
        }


def _finite(history: Iterable[dict[str, float]]) -> list[dict[str, float]]:
    return [{name: value if abs(value) < INFINITE else math.nan for name, value in epoch.items()} for epoch in history]


def _curves(folder: Path, report: Report) -> Iterator[Picture]:
    for kind, row in report.extremes():
        history = _finite(report.histories.get(row["run_id"], []))
        if history:
            figure = learning_curves(history, report.metric, best_epoch(report.run(row["run_id"])))
            ended = ", diverged" if row["diverged"] else ""
            caption = f"The {kind}: {described(row, report.keys)}{ended}"
            name = _experiment(report, row) if kind.startswith("best") else kind
            yield _save(folder, f"learning_curves_{name}.png", figure, caption)


def _matrices(folder: Path, report: Report) -> Iterator[Picture]:
    rows = report.best[:MOST_SETS]
    if not report.several_sets:
        rows = [row for _, row in report.ranked.drop_duplicates("model").iterrows()]
    for number, row in enumerate(rows):
        found = report.predictions.get(row["source_run_id"])
        if found is None:
            continue
        probabilities, targets = torch.tensor(found.probabilities), torch.tensor(found.targets).int()
        table = found.target.confusion(probabilities, targets)
        if table is None:
            continue
        stem, what = found.target.confusion_name
        whose, name = "The best", f"{stem}_{_experiment(report, row)}"
        if report.several_sets:
            whose += f" on {report.set_name(row['validation_set'])}"
        elif number > 0:
            whose, name = f"The best of {row['model']}", f"{stem}_best_{_file(str(row['model']))}"
        figure = confusion_figure(table, f"{what}, validation, {len(targets)} records")
        yield _save(folder, f"{name}.png", figure, f"{whose}: {described(row, report.keys)}")


def _tiles(report: Report) -> list[tuple[str, str]]:
    """Key figures for the top of the page: value and label."""
    results = report.results
    tiles = [(f"{len(report.ranked)} of {len(results)}", "trials finished")]
    for label, count in (
        ("diverged", int(results["diverged"].sum())),
        ("pruned", int(results["pruned"].sum())),
        ("failed", int((results["status"] == Status.FAILED).sum())),
        ("reused from other sweeps", int(results["reused"].sum())),
    ):
        tiles += [(str(count), label)] * bool(count)
    if report.several_sets:
        tiles.append((str(len(report.best)), "validation sets"))
    elif report.best:
        tiles.insert(0, (_number(report.best[0][report.objective]), f"best {metric_of(report.objective)}"))
    trained = results[~results["reused"]]
    if TRAIN_SECONDS in trained:
        tiles.append((_clock(trained[TRAIN_SECONDS].sum()), "of training"))
    return tiles


def _trials(report: Report) -> list[dict[str, Any]]:
    """A line per finished trial, the best first, with its interval as a bar in per cent of the width."""
    column = best_metric("val", report.score)
    ranked = report.ranked
    low, high = (ranked.get(f"{column}_{end}", pd.Series(dtype=float)).astype(float) for end in ("low", "high"))
    start, end = low.min(), high.max()
    best = {row["run_id"] for row in report.best}

    def place(value: float) -> float:
        return 100 * (value - start) / (end - start) if end > start else 50.0

    lines = []
    for _, row in ranked.iterrows():
        known = f"{column}_low" in row and not pd.isna(row[f"{column}_low"])
        marks = ["diverged"] * bool(row["diverged"]) + ["reused"] * bool(row["reused"])
        marks += [f"trained by commit {row['reused_from_commit'][:9]}"] * bool(row["reused_from_commit"])
        lines.append(
            {
                "row": row,
                "marks": marks,
                "best": row["run_id"] in best,
                "score": row.get(column),
                "objective": row[report.objective],
                "known": known,
                "low": row.get(f"{column}_low"),
                "high": row.get(f"{column}_high"),
                "bar": [place(row[f"{column}_low"]), place(row[f"{column}_high"]), place(row[column])]
                if known
                else None,
                "difference": row.get(f"{column}_difference"),
                "difference_low": row.get(f"{column}_difference_low"),
                "difference_high": row.get(f"{column}_difference_high"),
                "maybe_best": known and bool(row[f"{column}_maybe_best"]),
                "others": [_score(row, name) for name in report.other_scores],
                "epochs": row.get(EPOCHS),
                "seconds": row.get(TRAIN_SECONDS),
                "device": row[Tag.DEVICE],
                "set": row["validation_set"],
            }
        )
    return lines


def _score(row: pd.Series, name: str) -> dict[str, Any]:
    """A score of a trial, with its interval where it has one."""
    column = best_metric("val", name)
    low, high = row.get(f"{column}_low"), row.get(f"{column}_high")
    return {"name": name, "value": row.get(column), "known": not pd.isna(low), "low": low, "high": high}


def _unfinished(report: Report) -> list[tuple[str, str, str]]:
    """Trial, status and error of trials without a result."""
    rows = report.results[~report.results["run_id"].isin(report.ranked["run_id"])]
    return [
        (described(row, report.keys), row["status"].lower(), row["error"])
        for _, row in rows.iterrows()
        if not row["pruned"]
    ]


def _cost(report: Report) -> list[dict[str, Any]]:
    """Training times of the trials of each net on each device, and of all trials."""
    results = report.results
    if TRAIN_SECONDS not in results:
        return []
    measured = results[results[TRAIN_SECONDS].notna()]
    lines = []
    for (model, device), trials in measured.groupby(["model", Tag.DEVICE], sort=False):
        lines.append({"what": f"{model} on {device or 'an unknown device'}", **_times(trials)})
    if len(lines) > 1:
        lines.append({"what": "all", **_times(measured)})
    return lines


def _times(trials: pd.DataFrame) -> dict[str, Any]:
    spent = trials.loc[~trials["reused"], TRAIN_SECONDS]
    return {
        "trials": len(trials),
        "median": trials[TRAIN_SECONDS].median(),
        "longest": trials[TRAIN_SECONDS].max(),
        "epoch": (trials[TRAIN_SECONDS] / trials[EPOCHS].where(trials[EPOCHS] > 0)).median(),
        "spent": spent.sum(),
        "saved": trials.loc[trials["reused"], TRAIN_SECONDS].sum(),
    }


def _commits(report: Report) -> list[str]:
    """Commits that trials were trained with."""
    found: dict[str, int] = {}
    for run in report.runs:
        commit = run.data.tags.get(Tag.GIT_COMMIT)
        if commit:
            changed = " with uncommitted changes" if run.data.tags.get(Tag.GIT_DIRTY) == "true" else ""
            found[commit[:12] + changed] = found.get(commit[:12] + changed, 0) + 1
    return [f"{commit} ({count} trials)" if len(found) > 1 else commit for commit, count in found.items()]


def _number(value: Any, digits: int = 3, sign: bool = False) -> str:
    if value is None or pd.isna(value):
        return "–"
    text = f"{float(value):{'+' if sign else ''}.{digits}f}"
    return text.replace("-", "\N{MINUS SIGN}")


def _plain(value: Any) -> str:
    """A value in a user's own table."""
    return "–" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _setting(value: Any) -> str:
    """The value of a key."""
    return "–" if pd.isna(value) else shortened(value)


def _rates(data: dict[str, Any]) -> str:
    """Sampling rates of the inputs that have one; a run of an earlier version has one input and notes its rate."""
    rates = [one.get("rate") for one in data.get("inputs", [])] or [data.get("sampling_rate")]
    return "".join(f", {rate:g} Hz" for rate in dict.fromkeys(rates) if rate)


def _parts(name: str) -> list[str]:
    """Parts of a key's name, after which a line may break."""
    return re.split(r"(?<=[._])", name)


def _clock(seconds: Any) -> str:
    if seconds is None or pd.isna(seconds):
        return "–"
    if seconds < 100:
        return f"{float(seconds):.1f} s"
    minutes, rest = divmod(round(float(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d} h" if hours else f"{minutes}:{rest:02d} min"


def _day(milliseconds: int | None) -> str:
    if not milliseconds:
        return "–"
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _file(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in name)
