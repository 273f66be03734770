"""Read one or several sweeps from the store, and report them."""

from __future__ import annotations

import json
import re
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from mlflow.entities import Run as MlflowRun
from mlflow.exceptions import MlflowException
from numpy.typing import NDArray

from ecgexp.commands.arguments import place_of_runs
from ecgexp.config.build import build_dataset
from ecgexp.datasets.base import Dataset, Split
from ecgexp.errors import UserError, first_line, summarised
from ecgexp.reports.comparison import compare_trials
from ecgexp.reports.findings import Report, merge
from ecgexp.reports.gallery import Errors, draw_errors
from ecgexp.reports.page import write_report
from ecgexp.reports.search import read_study
from ecgexp.reports.stages import COLUMN, StagedPath, read_path, stage_column
from ecgexp.reports.statistics import Statistics, read_statistics
from ecgexp.reports.tables import described, validation_sets
from ecgexp.reports.trial import validation_fingerprint
from ecgexp.sweeps.status import Board
from ecgexp.targets import Target
from ecgexp.tracking.artifacts import RunFiles, artifact_folder, keep_files, read_config, read_json
from ecgexp.tracking.names import (
    File,
    Kind,
    Status,
    Tag,
    labels_left_out,
    metric_of,
    predictions_file,
    report_folder,
    split_metric,
    split_of,
    where,
)
from ecgexp.tracking.runs import children, find_sweeps, left_out, standing, was_named
from ecgexp.tracking.store import Store, find_store
from ecgexp.tracking.target import note_of, target_of
from ecgexp.tracking.test_access import accesses
from ecgexp.tracking.trust import check_trusted, own_folders
from ecgexp.training.predictions import Predictions, read_predictions


def run(values: dict[str, list[str]]) -> None:
    """Run ``python -m ecgexp.report``; `values` are its arguments by key."""
    store = find_store(*place_of_runs(values))
    asked = [name.strip() for name in values.get("sweep", [""])[0].split(",") if name.strip()]
    parents = find_sweeps(store, asked)
    trust = [package for package in values.get("trust", [""])[0].split(",") if package]
    report = read_report(store, parents, trust)
    out = Path(values.get("out", [str(Path("reports") / _file_name(report.name))])[0]).expanduser()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"The folder {out} cannot be created: {error.strerror}. Choose another one with out=FOLDER."
        ) from None
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / _file_name(report.name)
        folder.mkdir()
        findings = write_report(folder, report)
        _put(folder, out)
        for parent in parents:
            _keep(store, parent, folder)
    print("\n".join([*report.warnings, *findings]))
    print(f"\nReport: {(out / File.REPORT).resolve()}")


def _file_name(name: str) -> str:
    """The name of a sweep as the name of a folder, without separators of a path."""
    return re.sub(r"[^\w.+-]", "_", name).lstrip(".") or "sweep"


def read_report(store: Store, parents: Sequence[MlflowRun], trust: Sequence[str] = ()) -> Report:
    """Read everything that a report of sweeps shows.

    Raises
    ------
    UserError
        Where the sweeps have no trial.
    """
    stores = [Store(store.client, store.uri, parent.info.experiment_id, store.root) for parent in parents]
    found = {
        parent.data.tags[Tag.SWEEP]: children(own, parent.info.run_id)
        for own, parent in zip(stores, parents, strict=True)
    }
    by_sweep = {name: standing(trials) for name, trials in found.items()}
    runs, results = merge(by_sweep, [remark for trials in found.values() for remark in left_out(trials)])
    if not runs:
        raise UserError(f"The sweep {', '.join(by_sweep)} has no trial yet: start it, or name another one.")
    predictions: dict[str, Predictions] = {}
    data: dict[str, dict[str, Any]] = {}
    missing = []
    problems: dict[str, None] = {}  # a dict, so that a problem of many trials is reported once
    with tempfile.TemporaryDirectory() as temporary:
        files = RunFiles(store, {run.info.run_id: run for run in [*parents, *runs]}, Path(temporary))
        for run, row in zip(runs, results.to_dict("records"), strict=True):
            source = row["source_run_id"]
            if row["status"] != Status.FINISHED or row["pruned"] or source in predictions:
                continue
            build = target_of(run, trust)  # not within `try`: a package that is not trusted ends the report
            try:
                read = _read_predictions(files, source, build)
            except UserError as error:
                problems[str(error)] = None
                read = None
            if read is None:
                missing.append(row["trial"])
            else:
                predictions[source] = read
            fingerprint = run.data.tags.get(Tag.DATASET, "")
            if fingerprint not in data:
                data[fingerprint] = _read_data(files, source)
        hashes = {
            source: validation_fingerprint(found.ids, found.targets, found.target.names)
            for source, found in predictions.items()
        }
        sources = dict(zip(results["run_id"], results["source_run_id"], strict=True))
        validated = {run: hashes[source] for run, source in sources.items() if source in hashes}
        results["validation_set"] = validation_sets(runs, validated)
        sets = dict(zip(results["source_run_id"], results["validation_set"], strict=True))
        groups = compare_trials(predictions, lambda run, ids: _patients(files, run, ids, trust), sets)
        search = _read_search(files, parents[0])
        staged = _read_stages(files, parents[0]) if len(parents) == 1 else None
        if staged is not None:
            results.insert(1, COLUMN, stage_column(results, staged))
        statistics = {
            parent.data.tags[Tag.SWEEP]: computed for parent in parents if (computed := _read_statistics(files, parent))
        }
    if problems:
        print("\n".join(problems), file=sys.stderr)
    entries = _all_accesses(store, parents)
    runs_of = {entry["run"]: store.client.get_run(entry["run"]) for entry in entries}
    report = Report(
        parents=list(parents),
        runs=runs,
        results=results,
        groups=groups,
        predictions=predictions,
        missing=missing,
        data=[found for found in data.values() if found],
        accesses=[{**entry, **_results_of(runs_of[entry["run"]], entry.get("place", "test"))} for entry in entries],
        histories={},
        search=search,
        staged=staged,
        statistics=statistics,
    )
    with tempfile.TemporaryDirectory() as temporary:
        files = RunFiles(store, {run.info.run_id: run for run in runs}, Path(temporary))
        report.errors = _draw_errors(files, report, trust)
    for run_id in report.drawn:
        report.histories[run_id] = _history(store, sources[run_id], report.metric)
    return report


def _all_accesses(store: Store, parents: Sequence[MlflowRun]) -> list[dict[str, Any]]:
    """Test-set accesses, the earliest first. An access that is noted on several sweeps counts once."""
    noted: Counter[str] = Counter()
    for parent in parents:
        # A sweep that was started afresh has lost its name, but its test-set accesses still count.
        sweeps = replace(store, experiment_id=parent.info.experiment_id).search(where({Tag.KIND: Kind.SWEEP}))
        earlier = [sweep for sweep in sweeps if was_named(sweep, parent.data.tags[Tag.SWEEP])]
        for sweep in (parent, *earlier):
            noted |= Counter(json.dumps(entry) for entry in accesses(store, sweep.info.run_id))
    return sorted((json.loads(text) for text in noted.elements()), key=lambda entry: str(entry["when"]))


def _results_of(run: MlflowRun, place: str) -> dict[str, Any]:
    """The results of the last access with a run; `place` names the test records."""
    metrics = {
        split_metric("test", metric_of(key)): value for key, value in run.data.metrics.items() if split_of(key) == place
    }
    tag = labels_left_out(split_metric(place, note_of(run).main))
    return {"metrics": metrics, "left_out": run.data.tags.get(tag, "")}


def _read_predictions(files: RunFiles, run_id: str, build: Callable[[Sequence[str]], Target]) -> Predictions | None:
    path = files.find(run_id, predictions_file("val"))
    return None if path is None else read_predictions(path, build)


def _read_search(files: RunFiles, parent: MlflowRun) -> optuna.Study | None:
    try:
        path = files.find(parent.info.run_id, File.STUDY) if Tag.SEARCH in parent.data.tags else None
        return None if path is None else read_study(path)
    except UserError as error:
        print(error, file=sys.stderr)
        return None


def _read_stages(files: RunFiles, parent: MlflowRun) -> StagedPath | None:
    """The choices of a search by stages; of one that is running, those so far."""
    latest = Board(files.store.root, parent.info.run_id).folder / File.STAGES
    try:
        path = latest if latest.is_file() else files.find(parent.info.run_id, File.STAGES)
        return None if path is None else read_path(path)
    except UserError as error:
        print(error, file=sys.stderr)
        return None


def _read_statistics(files: RunFiles, parent: MlflowRun) -> Statistics | None:
    try:
        path = files.find(parent.info.run_id, File.STATISTICS)
        return None if path is None else read_statistics(path)
    except UserError as error:
        print(error, file=sys.stderr)
        return None


def _read_data(files: RunFiles, run_id: str) -> dict[str, Any]:
    try:
        path = files.find(run_id, File.DATA)
        return {} if path is None else read_json(path)
    except UserError as error:
        print(error, file=sys.stderr)
        return {}


def _read_dataset(files: RunFiles, run_id: str, trust: Sequence[str]) -> tuple[Dataset, Split]:
    """The dataset of a run and its validation split. Raises UserError where it is not on this machine."""
    path = files.find(run_id, File.CONFIG)
    if path is None:
        raise UserError(f"Run {run_id} has no {File.CONFIG}.")
    cfg = read_config(path)
    for group in ("dataset", "target", *(["metrics"] if cfg.get("metrics") else [])):
        check_trusted(group, cfg.get(group), trust)
    dataset = build_dataset(own_folders(cfg))
    return dataset, dataset.load("val")


def _draw_errors(files: RunFiles, report: Report, trust: Sequence[str]) -> Errors | str:
    """Errors of the best trial on the validation split; a sentence where they are not drawn."""
    row = report.best[0] if report.best else None
    predictions = report.predictions.get(row["source_run_id"]) if row is not None else None
    if row is None or predictions is None:
        return ""
    run_id = str(row["source_run_id"])
    command = f"python -m ecgexp.evaluate run={run_id} split=val"
    try:
        if artifact_folder(files.store, report.parents[0]) is None:
            return f"The errors are not drawn: this report goes to a server, and pictures stay here. Use {command}."
        dataset, split = _read_dataset(files, run_id, trust)
    except UserError as error:
        return f"The errors are not drawn: {first_line(error)}"
    if not np.array_equal(split.ids, predictions.ids) or not np.array_equal(split.targets, predictions.targets):
        return "The errors are not drawn: the records here, or their labels, are not those of the trial."
    drawn = draw_errors(predictions, split, dataset.inputs, dataset.metadata("val"))
    return "" if drawn is None else Errors(described(row, report.keys), *drawn)


def _patients(files: RunFiles, run_id: str, ids: NDArray[np.str_], trust: Sequence[str]) -> NDArray[np.str_] | None:
    """Patients of records, read from the dataset; None where the dataset is not on this machine."""
    try:
        _, split = _read_dataset(files, run_id, trust)
    except UserError:
        return None
    patients = dict(zip(split.ids.tolist(), split.patients.tolist(), strict=True))
    return np.array([patients[one] for one in ids]) if all(one in patients for one in ids) else None


def _history(store: Store, run_id: str, metric: str) -> list[dict[str, float]]:
    """Loss and one more metric of each epoch."""
    epochs: dict[int, dict[str, float]] = {}
    for name in dict.fromkeys(split_metric(split, one) for one in ("loss", metric) for split in ("train", "val")):
        for point in store.client.get_metric_history(run_id, name):
            epochs.setdefault(point.step, {})[name] = point.value
    return [epochs[step] for step in sorted(epochs)]


def _put(report: Path, folder: Path) -> None:
    """Copy a report into a folder, and remove files of an earlier report that the new report does not have."""
    earlier = _listed(folder)
    shutil.copytree(report, folder, dirs_exist_ok=True)
    _remove_earlier(folder, earlier)


def _listed(folder: Path | None) -> set[str]:
    """Files of the report in a folder, from its own list."""
    listed = folder / File.LISTED if folder is not None else None
    return set(listed.read_text().splitlines()) if listed is not None and listed.is_file() else set()


def _remove_earlier(folder: Path, earlier: set[str]) -> None:
    for name in earlier - _listed(folder):
        path = folder / name
        if path.is_file() and path.resolve().is_relative_to(folder.resolve()):
            path.unlink()


def _keep(store: Store, parent: MlflowRun, folder: Path) -> None:
    """Log the files to the run of the sweep."""
    place = report_folder(folder.name)
    local = None
    with suppress(UserError):  # where no file was logged to this run before
        local = artifact_folder(store, parent)
    try:
        earlier = _listed(local and local / place)
        keep_files(store, parent, folder, place)
        if local is not None:
            _remove_earlier(local / place, earlier)
    except (MlflowException, OSError, UserError) as error:
        print(f"The report could not be logged to run {parent.info.run_id}: {summarised(error)}", file=sys.stderr)
