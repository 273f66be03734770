"""Predictions of a trained net for single records."""

from __future__ import annotations

import glob
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ecgexp.commands.arguments import one_of, place_of_runs
from ecgexp.datasets.base import Input
from ecgexp.datasets.ecg.headers import record_path
from ecgexp.datasets.ecg.records import MILLIVOLTS, Reading, read_record
from ecgexp.datasets.image.reader import Resize, read_image
from ecgexp.datasets.reading import RecordError
from ecgexp.errors import UserError
from ecgexp.tracking.restore import Trained, load_trained
from ecgexp.training.batches import evaluation_batch
from ecgexp.training.inference import run_net

PICTURES = (".png", ".pdf", ".svg")
DPI = 150


def predict_records(trained: Trained, readings: Sequence[Reading]) -> NDArray[np.float32]:
    """Probabilities of records, (records, names).

    Parameters
    ----------
    trained : Trained
        The net.
    readings : sequence of Reading
        Records from `read_record`, read for this net.

    Raises
    ------
    UserError
        Where an output of the net is not finite.
    """
    scale = _scale(trained.name, trained.contract.signal(trained.name))
    return _probabilities(trained, np.stack([reading.signal.T for reading in readings]) * np.float32(scale))


def _probabilities(trained: Trained, records: NDArray[Any]) -> NDArray[np.float32]:
    """Probabilities, (records, names), of records with the axes of the net's input; UserError as `predict_records`."""
    inputs = torch.from_numpy(records)
    batches = inputs.split(evaluation_batch(inputs.device))
    probabilities = torch.cat([*run_net(trained.net, batches, inputs.device)])
    if not torch.isfinite(probabilities).all():
        raise UserError(f"The net of {trained.name} gives no finite probabilities: choose another run.")
    return probabilities.numpy()


def _scale(name: str, signal: Input) -> float:
    """Factor that converts records in mV to the unit of a signal; UserError where this is no voltage."""
    millivolts = MILLIVOLTS.get((signal.unit or "").casefold())
    if millivolts is None:
        raise UserError(
            f"The net of {name} takes {signal.unit}, to which records in mV cannot be converted: "
            "python -m ecgexp.evaluate uses it on its own data set."
        )
    return 1 / millivolts


def run(values: dict[str, list[str]]) -> int:
    """Run ``python -m ecgexp.predict``, and return its exit status; `values` are its arguments by key."""
    form = one_of(values, "format", ("table", "json"), "table")
    assume = one_of(values, "uncalibrated", ("refuse", "assume"), "refuse") == "assume"
    if "run" not in values:
        raise UserError("The key 'run' is missing: write run=ID, run=FOLDER or run=models:/NAME/VERSION.")
    files = _files(values.get("record", []))
    plot = _plot_path(values["plot"][0]) if "plot" in values else None
    root, uri = place_of_runs(values)
    trusted = [package for package in values.get("trust", [""])[0].split(",") if package]
    trained = load_trained(values["run"][0], root, uri, trusted)
    if trained.contract.image is not None:
        results, problems = _of_images(trained, trained.contract.image, files, values)
    else:
        results, problems = _of_signals(trained, files, assume, plot, "crop" in values)
    if form == "json":
        refused = [{"record": str(path), "error": problem} for path, problem in problems.items()]
        answer = {"run": trained.name, "threshold": trained.target.threshold, "records": [*results, *refused]}
        print(json.dumps(answer, indent=1, ensure_ascii=False))
    elif results:
        print(_table(results))
    for result in results:
        for note in result["notes"] if form == "table" else ():
            print(f"record {result['record']}: {note}", file=sys.stderr)
    for problem in problems.values():
        print(problem, file=sys.stderr)
    return 1 if problems else 0


def _of_signals(
    trained: Trained, files: list[Path], assume: bool, plot: Path | None, cropped: bool
) -> tuple[list[dict[str, Any]], dict[Path, str]]:
    """Results of WFDB records, and the problems of those that cannot be used."""
    signal = trained.contract.signal(trained.name)
    if cropped:
        raise UserError("The key 'crop' is for images: leave it out.")
    _scale(trained.name, signal)  # refuses a wrong unit before records are read
    readings: dict[Path, Reading] = {}
    problems: dict[Path, str] = {}
    for path in dict.fromkeys(map(record_path, files)):  # whichever of its files is named
        try:
            readings[path] = read_record(
                path,
                lead_names=signal.coordinates["lead"],
                sampling_rate=signal.rate or 0,
                samples=signal.size("time"),
                uncalibrated="assume" if assume else "refuse",
            )
        except RecordError as error:
            problems[path] = str(error)
    results: list[dict[str, Any]] = []
    if readings:
        rows = predict_records(trained, list(readings.values()))
        results = _results(trained, list(readings), rows, [reading.notes for reading in readings.values()])
    if plot is not None:
        for target, result, reading in zip(
            _plot_targets(plot, list(readings)), results, readings.values(), strict=True
        ):
            _draw(target, trained, result, reading)
            result["plot"] = str(target)
    return results, problems


def _of_images(
    trained: Trained, image: Input, files: list[Path], values: dict[str, list[str]]
) -> tuple[list[dict[str, Any]], dict[Path, str]]:
    """Results of image files, and the problems of those that cannot be used."""
    for key in ("plot", "uncalibrated"):
        if key in values:
            raise UserError(f"The key '{key}' is for ECG records, but the net of {trained.name} takes images.")
    size = {"channels": image.size("channel"), "height": image.size("row"), "width": image.size("column")}
    resize: Resize = "stretch" if trained.prepared.get("resize") == "stretch" else "cover"
    crop = values["crop"][0] if "crop" in values else trained.prepared.get("crop")
    if crop is not None and not (str(crop).isdecimal() and int(crop) > 0):
        raise UserError(f"The key 'crop' is {crop!r}: give the side of a square in pixels, such as crop=200.")
    if "crop" not in values and "crop" not in trained.prepared:
        print(
            "The run does not say how its images were cut: each is resized as a whole. With crop=N, a square of N "
            "pixels in its middle is.",
            file=sys.stderr,
        )
    readings: dict[Path, tuple[NDArray[np.uint8], tuple[str, ...]]] = {}
    problems: dict[Path, str] = {}
    for path in dict.fromkeys(files):
        try:
            readings[path] = read_image(
                path,
                **size,
                crop=None if crop is None else int(crop),
                resize="stretch" if resize == "stretch" else "cover",
            )
        except RecordError as error:
            problems[path] = str(error)
    if not readings:
        return [], problems
    arrays = np.stack([pixels.transpose(2, 0, 1) for pixels, _ in readings.values()])
    rows = _probabilities(trained, arrays.astype(np.float32))
    return _results(trained, list(readings), rows, [notes for _, notes in readings.values()]), problems


def _files(patterns: list[str]) -> list[Path]:
    """Paths that are named, or that match a pattern."""
    if not patterns:
        raise UserError("No record is named: write record=PATH, and further paths after it.")
    files: list[Path] = []
    for pattern in patterns:
        matches = [pattern]
        if glob.has_magic(pattern) and not Path(pattern).exists():
            matches = sorted(glob.glob(str(Path(pattern).expanduser())))  # noqa: PTH207 - the pattern may be absolute
            if not matches:
                raise UserError(f"No file matches record={pattern}: check the path.")
        files.extend(Path(match).expanduser() for match in matches)
    return files


def _plot_path(name: str) -> Path:
    path = Path(name).expanduser()
    if path.suffix.lower() not in PICTURES:
        raise UserError(f"The file plot={name} is no picture: name a file that ends in {', '.join(PICTURES)}.")
    if not path.parent.is_dir():
        raise UserError(f"The file plot={name} cannot be written: there is no folder {path.parent}.")
    return path


def _plot_targets(plot: Path, records: list[Path]) -> list[Path]:
    if len(records) == 1:
        return [plot]
    names = [record.name for record in records]
    if len(set(names)) < len(names):  # records in several folders may have the same name
        names = [f"{number}-{name}" for number, name in enumerate(names, 1)]
    return [plot.with_name(f"{plot.stem}-{name}{plot.suffix}") for name in names]


def _results(
    trained: Trained, paths: Sequence[Path], rows: NDArray[np.float32], notes: Sequence[tuple[str, ...]]
) -> list[dict[str, Any]]:
    results = []
    for path, row, noted in zip(paths, torch.from_numpy(rows), notes, strict=True):
        results.append(
            {
                "record": str(path),
                "probabilities": dict(zip(trained.target.names, row.tolist(), strict=True)),
                "predicted": trained.target.decided(row),
                "notes": list(noted),
            }
        )
    return results


def _table(results: list[dict[str, Any]]) -> str:
    """A line per record: the probability of each label, and the predicted labels."""
    labels = list(results[0]["probabilities"])
    lines = [["record", *labels, "predicted"]]
    for result in results:
        values = [f"{value:.4f}" for value in result["probabilities"].values()]
        lines.append([result["record"], *values, ", ".join(result["predicted"]) or "-"])
    widths = [max(len(line[i]) for line in lines) for i in range(len(labels) + 1)]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:-1], widths[1:]), line[-1]]) for line in lines
    )


def _draw(target: Path, trained: Trained, result: dict[str, Any], reading: Reading) -> None:
    from ecgexp.reports.ecg import ecg_figure  # not at the top: matplotlib is needed for pictures alone

    signal = trained.contract.signal(trained.name)
    ranked = sorted(result["probabilities"].items(), key=lambda item: -item[1])
    predicted = ", ".join(result["predicted"]) or trained.target.no_decision
    shown = "   ".join(f"{label} {value:.2f}" for label, value in ranked[:8])
    figure = ecg_figure(
        reading.signal,
        signal.rate or 0,
        signal.coordinates["lead"],
        title="\n".join(
            [f"{Path(result['record']).name}:  {predicted}", shown, *filter(None, ["; ".join(reading.notes)])]
        ),
        footnote="not for diagnosis",
    )
    try:
        figure.savefig(target, dpi=DPI)
    except OSError as error:
        raise UserError(f"{target} cannot be written: {error.strerror}.") from error
