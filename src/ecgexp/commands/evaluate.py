"""Evaluate the best weights of a run on a split: metrics, intervals, calibration and subgroups."""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from mlflow.entities import Metric
from mlflow.entities import Run as MlflowRun
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from ecgexp.commands.arguments import one_of, place_of_runs
from ecgexp.config.build import build_dataset, check_inputs
from ecgexp.config.components import instantiate_group
from ecgexp.datasets.base import Dataset, Split, SplitName
from ecgexp.errors import UserError
from ecgexp.metrics import escape_label
from ecgexp.reports import evaluation
from ecgexp.reports.comparison import intervals
from ecgexp.reports.gallery import Section, draw_errors
from ecgexp.reports.page import write_gallery
from ecgexp.reports.trial import write_confusion
from ecgexp.statistics import Uncertainty
from ecgexp.targets import Target
from ecgexp.tracking.artifacts import artifact_folder, keep_files, read_json, run_folder
from ecgexp.tracking.contract import Contract
from ecgexp.tracking.names import (
    File,
    Tag,
    evaluation_folder,
    labels_left_out,
    predictions_file,
    split_metric,
    tuned_metric,
)
from ecgexp.tracking.overlap import find_overlap
from ecgexp.tracking.privacy import hashed_patients
from ecgexp.tracking.restore import load_run
from ecgexp.tracking.runs import find_run
from ecgexp.tracking.store import Store
from ecgexp.tracking.test_access import accesses, note_access
from ecgexp.tracking.trust import check_trusted, own_folders
from ecgexp.training.batches import GIGABYTE, Records
from ecgexp.training.fit import fit_labels
from ecgexp.training.inference import logits_of, measure_predictions, predictions_of
from ecgexp.training.network import Network
from ecgexp.training.predictions import Predictions, write_predictions

LEVEL = 0.95
DPI = 110


@dataclass(frozen=True)
class Findings:
    """The results of an evaluation.

    Attributes
    ----------
    metrics : dict of str to float
        By name, without the split. `tuned_metric` names those with tuned thresholds.
    left_out : dict of str to tuple of str
        Labels that a macro average leaves out, by the name of the average.
    labels, tuned_labels, bins, subgroups : DataFrame or None
        See `Target.label_table` and `ecgexp.reports.evaluation`. None where they were not asked for, where the
        metadata are missing, or where the target has no labels.
    uncertainty : Uncertainty or str
        Intervals of the macro scores. A sentence with the reason where there are none.
    """

    metrics: dict[str, float]
    left_out: dict[str, tuple[str, ...]]
    labels: pd.DataFrame | None
    tuned_labels: pd.DataFrame | None
    bins: pd.DataFrame | None
    subgroups: pd.DataFrame | None
    uncertainty: Uncertainty | str


def evaluate(
    predictions: Predictions,
    loss: Callable[[Tensor, Tensor], Tensor],
    metadata: pd.DataFrame | None = None,
    validation: Predictions | None = None,
) -> Findings:
    """Measure predictions of a split.

    Parameters
    ----------
    predictions : Predictions
        Predictions of the split.
    loss : callable
        From ``(logits, targets)`` to a scalar mean.
    metadata : DataFrame, optional
        See `Dataset.metadata`.
    validation : Predictions, optional
        Predictions of the validation split, on which a threshold per label is tuned. None: only the run's threshold.
    """
    target = predictions.target.for_evaluation()
    probabilities = torch.from_numpy(predictions.probabilities)
    targets = torch.from_numpy(predictions.targets.astype(np.float32))
    metrics, left_out = measure_predictions(predictions, loss, target)
    labels = target.label_table(probabilities, targets)
    if labels is not None:
        metrics |= {"brier": float(labels["brier"].mean())} | _per_label("brier", labels["brier"])
        metrics |= _per_label("auroc", labels["auroc"].dropna())
        with suppress(UserError):  # too few patients, as the scores of `_uncertainty` say
            labels = labels.join(evaluation.label_intervals(target, probabilities, targets, predictions.groups))
    uncertainty = _uncertainty(predictions, target)
    metrics |= _limits(uncertainty)
    tuned_labels = None
    if validation is not None:
        tuned_target = target.tuned(validation.probabilities, validation.targets)
        tuned_labels = tuned_target.label_table(probabilities, targets)
        tuned = tuned_target.measure_decisions(probabilities, targets)
        limits = _limits(_uncertainty(predictions, tuned_target))
        tuned |= {name: value for name, value in limits.items() if name.rpartition("_")[0] in tuned}
        metrics |= {tuned_metric(name): value for name, value in tuned.items()}
    subgroups = None
    if metadata is not None:
        subgroups = evaluation.subgroup_table(target, probabilities, targets, predictions.groups, metadata)
    bins = None if labels is None else evaluation.calibration_bins(probabilities, targets, target.names)
    return Findings(metrics, left_out, labels, tuned_labels, bins, subgroups, uncertainty)


def run(values: dict[str, list[str]]) -> None:
    """Run ``python -m ecgexp.evaluate``; `values` are its arguments by key."""
    if "run" not in values:
        raise UserError("The key 'run' is missing: write run=ID of a trial.")
    split: SplitName = "test" if one_of(values, "split", ("test", "val")) == "test" else "val"
    tune = one_of(values, "thresholds", ("fixed", "tuned"), "fixed") == "tuned"
    keep_patients = one_of(values, "privacy.patients", ("hash", "keep"), "hash") == "keep"
    trusted = [package for package in values.get("trust", [""])[0].split(",") if package]
    root, uri = place_of_runs(values)
    store, run = find_run(values["run"][0], root, uri)
    restored = load_run(store, run.info.run_id, trusted)
    cfg, network = restored.cfg, restored.network
    for group in ("dataset", "target", "loss", *(["metrics"] if cfg.get("metrics") else [])):
        check_trusted(group, cfg.get(group), trusted)
    cfg = _placed(cfg, values)
    dataset = build_dataset(cfg)
    target = dataset.target
    if tune and not target.can_tune:
        raise UserError(f"{target.records.capitalize()} take no thresholds: leave out thresholds=tuned.")
    difference = _check_data(restored.contract, dataset, store, run)
    records = dataset.load(split)  # errors in the data are reported before an access is noted
    overlap = _overlap(store, run, records, split, bool(difference), dataset.patients_known)
    data, names = records.fingerprint(), hashlib.sha256("\n".join(records.ids).encode()).hexdigest()[:16]
    number, counted, place, first = 0, "", split if not difference else f"{split}-{data[:8]}", None
    if split == "test":
        thresholds = "none" if not target.can_tune else "tuned" if tune else "fixed"
        first = next((entry for entry in accesses(store, run.info.run_id) if entry["run"] == run.info.run_id), None)
        place = split if first is None or first.get("data") == data else f"{split}-{data[:8]}"
        details = {
            "thresholds": thresholds,
            "same_data": not difference,
            "records": len(records),
            "data": data,
            "names": names,
        }
        number, counted = note_access(store, run, {**details, "place": place})
    predictions = predict_split(network, dataset, split, cfg)
    validation = predict_split(network, dataset, "val", cfg) if tune else None
    findings = evaluate(predictions, _loss(cfg, dataset), dataset.metadata(split), validation)
    if not dataset.patients_known:
        predictions = replace(predictions, patients=None)
    elif not keep_patients:
        predictions = replace(predictions, patients=hashed_patients(store, records.patients))
    warning = run.data.tags.get(Tag.WARNING) or dataset.warning
    folder = _record(store, run, split, predictions, findings, number, warning, place, data, overlap)
    drawn = draw_errors(predictions, records, dataset.inputs, dataset.metadata(split))
    pictures = _keep_errors(store, run, split, place, warning, drawn)
    overlaps = [overlap] if overlap else []
    print("\n\n".join([*overlaps, _summary(run, split, predictions, findings), *overlaps]))
    if warning:
        print(f"\n{warning}")
    for sentence in dataset.remarks():
        print(f"\n{sentence}")
    if difference:
        print(f"\nThe data are not those that the run was trained on: {difference}.")
    if first is not None and place != split:
        print(f"\n{other_records(len(records), names, first)}: metrics and files are kept separately, as {place}.")
    if number:
        print(f"\nThis is test-set access number {number} of this {counted}.")
    print(f"Files: {folder}")
    if pictures:
        print(f"Errors, with pictures of the records: {pictures}")


def predict_split(network: Network, dataset: Dataset, split: SplitName, cfg: DictConfig) -> Predictions:
    """Predictions of a net for a split, in full precision, on a GPU where there is one."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    loaded = dataset.load(split)
    records = Records(loaded, dataset.inputs, float(cfg.memory_budget) * GIGABYTE, device)
    return predictions_of(loaded, logits_of(network, records, device), dataset.target)


def _placed(cfg: DictConfig, values: dict[str, list[str]]) -> DictConfig:
    """The configuration, with the paths of the data from the command line."""
    changes = [f"{key}={value[0]}" for key, value in values.items() if key.startswith("dataset.")]
    for change in changes:
        key = change.partition("=")[0].removeprefix("dataset.")
        if key not in cfg.dataset:
            raise UserError(f"The dataset of this run has no key 'dataset.{key}': leave it out.")
    placed = OmegaConf.merge(cfg, OmegaConf.from_dotlist(changes))
    assert isinstance(placed, DictConfig)
    return own_folders(placed, values)


def _check_data(contract: Contract, dataset: Dataset, store: Store, run: MlflowRun) -> str:
    """How the data differ from those of the run, "" where they do not; refuse data that do not fit the net."""
    check_inputs(dataset, dataset.load("val"))
    contract.check_data(dataset)
    with run_folder(store, run.info.run_id) as folder:
        counts = read_json(folder / File.DATA).get("counts")
    if dataset.fingerprint() != run.data.tags.get(Tag.DATASET):
        return "their fingerprint differs"
    # Training reads no test record, but it notes how many of them the table lists.
    noted, found = _test_records(counts), _test_records(dataset.summary())
    return "" if noted in (None, found) else f"their table lists {found} test records, not {noted}"


def _overlap(store: Store, run: MlflowRun, records: Split, split: SplitName, differ: bool, patients_known: bool) -> str:
    """A sentence on records that the run used in another split; refuse such records in the test split."""
    with run_folder(store, run.info.run_id) as folder:
        found = find_overlap(folder / File.TRAINED_ON, store, records)
    if isinstance(found, str):
        return f"It cannot be checked whether {split} records were trained on: {found}." if differ else ""
    uses, sentences = {"trained on": found["train"]}, []
    if split == "test":
        uses["used in validation"] = found["val"]
    for use, seen in uses.items():
        which = f"{seen.records} of the {seen.of_records} {split} records were {use}"
        if seen.records and split == "test":
            raise UserError(
                f"{which}, by their names, so nothing is measured and no access is noted: use the splits that run "
                f"{run.info.run_id} was trained with, or train again."
            )
        if seen.records:
            sentences.append(f"{which}: these figures say nothing about other records.")
        elif seen.patients:
            sentences.append(f"Other records of {seen.patients} of the {seen.of_patients} {split} patients were {use}.")
        elif differ:
            others = ", and no other record of these patients," if patients_known else ""
            sentences.append(f"No {split} record{others} was {use}.")
    return "\n".join(sentences)


def other_records(records: int, names: str, first: dict[str, Any]) -> str:
    """How test records differ from those of the first access. An access of an earlier version has not noted names."""
    if first.get("names") == names:
        return f"The {records} test records are those of this run's first access, but their labels or signals differ"
    if "names" in first:
        return f"The {records} test records are not the {first['records']} of this run's first access"
    return (
        f"The {records} test records are not the {first.get('records', '')} of this run's first access, or their "
        "labels or signals differ"
    )


def _test_records(counts: Any) -> Any:
    test = counts.get("test") if isinstance(counts, dict) else None
    return test.get("records") if isinstance(test, dict) else None


def _loss(cfg: DictConfig, dataset: Dataset) -> Any:
    loss = instantiate_group("loss", cfg.loss)
    fit_labels([loss], dataset.load("train"), dataset.target)
    return loss


def _uncertainty(predictions: Predictions, target: Target) -> Uncertainty | str:
    try:
        return intervals([(target, predictions.probabilities)], predictions.targets, predictions.groups)
    except UserError as error:  # too few records or patients
        return str(error)


def _limits(uncertainty: Uncertainty | str) -> dict[str, float]:
    if isinstance(uncertainty, str):
        return {}
    limits: dict[str, float] = {}
    for name, score in uncertainty.scores.items():
        limits |= {f"{name}_low": float(score.low[0]), f"{name}_high": float(score.high[0])}
    return limits


def _per_label(metric: str, values: pd.Series) -> dict[str, float]:
    return {f"{metric}/{escape_label(str(label))}": float(value) for label, value in values.items()}


def _record(
    store: Store,
    run: MlflowRun,
    split: SplitName,
    predictions: Predictions,
    findings: Findings,
    number: int,
    warning: str | None,
    place: str,
    data: str,
    overlap: str,
) -> str:
    """Log to the run, under `place`; return the folder of the files."""
    run_id = run.info.run_id
    if number:
        now = int(time.time() * 1000)
        entries = [Metric(split_metric(place, name), value, now, number) for name, value in findings.metrics.items()]
        left_out = {
            labels_left_out(split_metric(place, name)): ", ".join(labels) for name, labels in findings.left_out.items()
        }
        store.client.log_batch(run_id, metrics=entries)
        for key, value in left_out.items():
            store.client.set_tag(run_id, key, value)
    with tempfile.TemporaryDirectory() as temporary:
        _write(Path(temporary), split, predictions, findings, number, warning, data, overlap)
        return keep_files(store, run, Path(temporary), evaluation_folder(place))


def _keep_errors(
    store: Store,
    run: MlflowRun,
    split: SplitName,
    place: str,
    warning: str | None,
    drawn: tuple[list[Section], pd.DataFrame] | None,
) -> str:
    """Write the gallery of errors; returns the path of its page. Pictures of records never go to a server."""
    if drawn is None:
        return ""
    title = f"Errors of run {run.info.run_name}, {split} split"
    if artifact_folder(store, run) is None:
        folder = store.root / "errors" / run.info.run_id / place
        folder.mkdir(parents=True, exist_ok=True)
        write_gallery(folder, title, warning, *drawn)
        return f"{folder / File.ERRORS_PAGE} (it stays on this machine, and goes to no server)"
    with tempfile.TemporaryDirectory() as temporary:
        write_gallery(Path(temporary), title, warning, *drawn)
        return str(Path(keep_files(store, run, Path(temporary), evaluation_folder(place))) / File.ERRORS_PAGE)


def _write(
    folder: Path,
    split: SplitName,
    predictions: Predictions,
    findings: Findings,
    number: int,
    warning: str | None,
    data: str,
    overlap: str,
) -> None:
    write_predictions(folder / predictions_file(split), predictions)
    write_confusion(folder, split, predictions)
    if findings.labels is not None:
        findings.labels.to_csv(folder / File.LABELS)
    if findings.bins is not None:
        findings.bins.to_csv(folder / File.CALIBRATION, index=False)
        title = f"Reliability, {split} split, {len(predictions)} records"
        figure = evaluation.reliability_figure(findings.bins, findings.metrics["brier"], title)
        figure.savefig(folder / File.RELIABILITY, dpi=DPI)
    if findings.tuned_labels is not None:
        findings.tuned_labels.to_csv(folder / File.LABELS_TUNED)
    if findings.subgroups is not None:
        findings.subgroups.to_csv(folder / File.SUBGROUPS, index=False)
    content = {
        "test_access": number or None,
        "records": len(predictions),
        "data": data,
        "warning": warning,
        "trained_on": overlap or None,
        "metrics": findings.metrics,
        "labels_left_out": findings.left_out,
        "interval": findings.uncertainty
        if isinstance(findings.uncertainty, str)
        else f"{LEVEL:.0%}, {findings.uncertainty.resamples} resamples of {findings.uncertainty.patients} "
        f"{'records' if predictions.patients is None else 'patients'}, "
        f"{findings.uncertainty.redraws} redrawn; covers records, not seeds",
    }
    (folder / File.METRICS).write_text(json.dumps(content, indent=1))


def _summary(run: MlflowRun, split: SplitName, predictions: Predictions, findings: Findings) -> str:
    """The text that the terminal shows."""
    known = predictions.patients is not None
    of_patients = f" of {len(np.unique(predictions.groups))} patients" if known else ""
    target = predictions.target
    blocks = [
        f"Run {run.info.run_id} ({run.info.run_name})\n"
        f"{split} split: {len(predictions)} records{of_patients}, {target.rule}"
    ]
    rows = []
    for name in (name for name in target.displayed() if name in findings.metrics):
        row = {"metric": name, "value": _number(findings.metrics[name]), "95 % interval": ""}
        row["95 % interval"] = _interval(findings.metrics, name)
        if findings.tuned_labels is not None:
            row["tuned"] = _number(findings.metrics.get(tuned_metric(name), np.nan))
            row["95 % interval "] = _interval(findings.metrics, tuned_metric(name))
        rows.append(row)
    blocks.append(pd.DataFrame(rows).to_string(index=False))
    if isinstance(findings.uncertainty, str):
        blocks.append(f"No intervals: {findings.uncertainty}")
    else:
        what = "records (patients)" if known else "records"
        blocks.append(f"The intervals cover the choice of the {what}, but not of the seed.")
        blocks.extend(findings.uncertainty.undefined.values())
    for left_out in dict.fromkeys(findings.left_out.values()):
        which = ", ".join(name for name, labels in findings.left_out.items() if labels == left_out)
        blocks.append(f"Without {', '.join(left_out)} ({target.left_out_reason}): {which}.")
    if findings.labels is not None:
        labels = _with_intervals(findings.labels.drop(columns=["mean_probability", "prevalence"]))
        if findings.tuned_labels is not None:
            tuned = findings.tuned_labels[["threshold", "precision", "recall", "f1", "mlcm_f1"]]
            labels = labels.join(tuned.add_suffix(" tuned"))
        blocks.append(labels.to_string(float_format=_number, na_rep="-"))
    if findings.subgroups is not None:
        blocks.append(findings.subgroups.to_string(index=False, float_format=_number, na_rep="-"))
    return "\n\n".join(blocks)


def _with_intervals(labels: pd.DataFrame) -> pd.DataFrame:
    """A table of labels with the limits of a score as one column behind it."""
    shown = labels.copy()
    for name in ("precision", "recall"):
        if f"{name}_low" in labels:
            low, high = shown.pop(f"{name}_low"), shown.pop(f"{name}_high")
            texts = [f"{_number(a)} to {_number(b)}" for a, b in zip(low, high, strict=True)]
            shown.insert(list(shown.columns).index(name) + 1, f"{name} 95 %", texts)
    return shown


def _interval(metrics: dict[str, float], name: str) -> str:
    low, high = metrics.get(f"{name}_low"), metrics.get(f"{name}_high")
    return "" if low is None or high is None else f"{low:.3f} to {high:.3f}"


def _number(value: float) -> str:
    return "-" if value != value else f"{value:.3f}"
