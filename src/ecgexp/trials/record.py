"""Records a trained trial in its run: metrics, tags, files and a model. Reads the result for its sweep."""

from __future__ import annotations

import json
from dataclasses import replace

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig

from ecgexp.config.build import example
from ecgexp.config.schema import objectives, plain
from ecgexp.datasets.base import Dataset, Split, SplitName
from ecgexp.errors import UserError
from ecgexp.metrics.names import COSTS, LATENCY, PARAMETERS
from ecgexp.reports.trial import validation_fingerprint, write_confusion, write_curves
from ecgexp.tracking.contract import Contract
from ecgexp.tracking.model import log_model
from ecgexp.tracking.names import (
    EPOCH_SECONDS,
    EPOCHS,
    TRAIN_SECONDS,
    TRAINED_PARAMETERS,
    File,
    Tag,
    best_metric,
    labels_left_out,
    predictions_file,
)
from ecgexp.tracking.overlap import write_trained_on
from ecgexp.tracking.privacy import hashed_patients
from ecgexp.tracking.run import Run
from ecgexp.tracking.runs import is_diverged, is_pruned, metrics_sum
from ecgexp.training.batches import tensors
from ecgexp.training.fit import Fitted, build_trainer, predict, shown
from ecgexp.training.inference import latency, measure_predictions
from ecgexp.training.network import Network
from ecgexp.training.predictions import Predictions, write_predictions
from ecgexp.trials.claim import Claimed
from ecgexp.trials.job import Job, Outcome

SPLITS: tuple[SplitName, SplitName] = ("train", "val")


def record_trial(claimed: Claimed, run: Run, fitted: Fitted) -> None:
    """Record the results of a training in the run of its trial; a pruned trial has no results.

    Raises
    ------
    UserError
        If an objective cannot be computed on the data.
    """
    _record_training(run, fitted)
    if claimed.transfer is not None:
        run.log_metrics({TRAINED_PARAMETERS: claimed.transfer.fit.trained})
    if not fitted.pruned:
        record_weights(claimed, run, fitted)


def record_weights(claimed: Claimed, run: Run, fitted: Fitted) -> None:
    """Record what the best weights come to: metrics, files and a model.

    Raises
    ------
    UserError
        If an objective cannot be computed on the data.
    """
    cfg = claimed.cfg
    predictions = {split: predict(fitted, split) for split in SPLITS}
    _record_metrics(run, cfg, fitted, predictions)
    contract = Contract.of(fitted.dataset, plain(cfg.target))
    contract.bind(fitted.network)
    _record_files(claimed, run, fitted, contract, predictions["val"])
    if _logs_model(cfg, claimed.job):
        inputs = example(fitted.dataset, fitted.data.splits["val"])
        log_model(claimed.store, run.id, fitted.network, inputs, contract, fitted.target)


def complete(claimed: Claimed) -> None:
    """Add the latency, if it is an objective, to a trial that was finished before.

    It is measured on this machine, since latencies of different machines cannot be compared.
    """
    cfg, parts, run = claimed.cfg, claimed.parts, claimed.store.client.get_run(claimed.run_id)
    is_known = claimed.is_own and LATENCY in run.data.metrics
    if LATENCY in objectives(cfg) and not is_known and not is_pruned(run):
        network = Network(parts.net, parts.dataset.normalization())
        milliseconds = _latency(network, parts.dataset, parts.dataset.load("val"), build_trainer(cfg, []))
        claimed.store.client.log_metric(claimed.run_id, LATENCY, milliseconds)


def outcome(claimed: Claimed) -> Outcome:
    """Read the result of a trial from its run.

    Raises
    ------
    UserError
        If the run has no value of an objective.
    """
    run, reused = claimed.store.client.get_run(claimed.run_id), claimed.run is None
    metrics, diverged = run.data.metrics, is_diverged(run)
    seconds = metrics.get(TRAIN_SECONDS, 0.0)
    if is_pruned(run):
        return Outcome(claimed.run_id, [], reused, diverged, seconds, pruned=True)
    wanted = objectives(claimed.cfg)
    for objective in wanted:
        if objective not in metrics:
            raise UserError(
                f"The objective {objective} was not recorded by run {claimed.run_id}: choose another metric."
            )
    return Outcome(claimed.run_id, [metrics[objective] for objective in wanted], reused, diverged, seconds)


def _record_training(run: Run, fitted: Fitted) -> None:
    seconds = sum(epoch[EPOCH_SECONDS] for epoch in fitted.history)
    parameters = sum(parameter.numel() for parameter in fitted.network.parameters())
    run.log_metrics({EPOCHS: len(fitted.history), TRAIN_SECONDS: seconds, PARAMETERS: parameters})
    tags = {Tag.DIVERGED: str(fitted.diverged).lower(), Tag.BEST_EPOCH: fitted.best_epoch}
    run.set_tags({**tags, Tag.PRUNED: "true"} if fitted.pruned else tags)


def _record_metrics(run: Run, cfg: DictConfig, fitted: Fitted, predictions: dict[SplitName, Predictions]) -> None:
    metrics: dict[str, float] = {}
    left_out: dict[str, tuple[str, ...]] = {}
    for split, of_split in predictions.items():
        found = measure_predictions(of_split, fitted.loss.cpu())
        metrics |= {best_metric(split, name): value for name, value in found.metrics.items()}
        left_out |= {best_metric(split, name): labels for name, labels in found.left_out.items()}
    for objective in objectives(cfg):
        if objective == LATENCY:
            metrics[LATENCY] = _latency(fitted.network, fitted.dataset, fitted.data.splits["val"], fitted.trainer)
        elif objective not in metrics and objective not in COSTS:
            raise UserError(
                f"The objective {objective} cannot be computed on these data: "
                "choose another metric, or data in which its labels occur."
            )
    run.log_metrics(metrics)
    run.set_tags({Tag.METRICS_SUM: metrics_sum(metrics)})
    run.set_tags({labels_left_out(name): ", ".join(labels) for name, labels in left_out.items()})


def _record_files(claimed: Claimed, run: Run, fitted: Fitted, contract: Contract, predictions: Predictions) -> None:
    """Write the files of a run; `predictions` are those of the validation split."""
    cfg, seen = claimed.cfg, claimed.transfer.seen if claimed.transfer is not None else None
    dataset, target = fitted.dataset, fitted.target
    description = {**contract.to_json(), "counts": dataset.summary()}
    run.set_tags({Tag.VALIDATION: validation_fingerprint(predictions.ids, predictions.targets, target.names)})
    with run.artifacts() as folder:
        if cfg.privacy.patients != "keep" and predictions.patients is not None:
            predictions = replace(predictions, patients=hashed_patients(run.store, predictions.patients))
        write_predictions(folder / predictions_file("val"), predictions)
        write_confusion(folder, "val", predictions)
        if fitted.history:
            write_curves(folder / File.CURVES, fitted.history, shown(cfg, target), fitted.best_epoch)
        write_trained_on(folder / File.TRAINED_ON, run.store, fitted.data.splits, seen)
        (folder / File.DATA).write_text(json.dumps(description, indent=1))
        torch.save(fitted.network.cpu().state_dict(), folder / File.WEIGHTS)


def _logs_model(cfg: DictConfig, job: Job) -> bool:
    """Whether to log the model of this trial; by default a sweep logs only the model of its best trial."""
    return cfg.tracking.log_model == "all" or (cfg.tracking.log_model == "best" and job.parent is None)


def _latency(network: Network, dataset: Dataset, split: Split, trainer: pl.Trainer) -> float:
    record = tensors(example(dataset, split, 1))
    return latency(network, record, trainer.strategy.root_device, trainer.precision_plugin.forward_context)
