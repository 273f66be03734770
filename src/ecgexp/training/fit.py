"""Trains a net as configured: loads the data, fits the net, and predicts a split."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from omegaconf import DictConfig
from pytorch_lightning.callbacks import Callback, ProgressBar
from pytorch_lightning.plugins.environments import LightningEnvironment
from torch import nn

from ecgexp.config.build import (
    Parts,
    build_callbacks,
    check_inputs,
    device_kind,
    example,
    resolve_precision,
    wrong_size,
)
from ecgexp.config.schema import objectives
from ecgexp.datasets.base import Dataset, Split, SplitName
from ecgexp.errors import UserError, summarised
from ecgexp.fast.training import Optimizer, fused
from ecgexp.targets import Target
from ecgexp.tracking.names import metric_of, split_metric, split_of
from ecgexp.training.batches import tensors
from ecgexp.training.callbacks import Checkpoints, Faster, History, Patience, Pruning, progress
from ecgexp.training.compiled import compiles
from ecgexp.training.data import TrainingData
from ecgexp.training.inference import logits_of, predictions_of
from ecgexp.training.module import Diverged, TrainingModule
from ecgexp.training.network import Network, as_float, check_layers, check_takes
from ecgexp.training.predictions import Predictions
from ecgexp.training.transfer import Start

ShouldPrune = Callable[[list[dict[str, float]]], bool]

for _name in ("pytorch_lightning", "lightning_fabric"):
    logging.getLogger(_name).setLevel(logging.WARNING)
warnings.filterwarnings("ignore", module="pytorch_lightning")


@dataclass(frozen=True)
class Fitted:
    """A net after training.

    Attributes
    ----------
    network : Network
        The net with its best weights.
    loss : nn.Module
        The loss of the training.
    trainer : pl.Trainer
        The trainer.
    data : TrainingData
        The data of the training.
    dataset : Dataset
        The dataset of `data`.
    target : Target
        The target that the net predicts.
    history : list of dict
        Metrics of each epoch.
    diverged : bool
        Whether the loss became infinite or NaN.
    best_epoch : int, optional
        Epoch, from 0, of the best weights; None if no epoch was validated with a finite loss.
    pruned : bool
        Whether a search stopped the training early.
    """

    network: Network
    loss: nn.Module
    trainer: pl.Trainer
    data: TrainingData
    dataset: Dataset
    target: Target
    history: list[dict[str, float]]
    diverged: bool
    best_epoch: int | None
    pruned: bool


def load(cfg: DictConfig, parts: Parts) -> TrainingData:
    """Read the training and validation splits, and check them against the configuration.

    Raises
    ------
    UserError
        If the data differ from what the configuration says.
    """
    data = TrainingData(parts.dataset, cfg.batch_size, cfg.seed, cfg.memory_budget)
    _check_data(cfg, parts.dataset, data.splits["train"])
    check_takes(parts.net, [one.name for one in parts.dataset.inputs])
    for split in data.splits.values():
        parts.dataset.target.check(split.targets, split.ids)
    _check_metrics(cfg, parts, data)
    return data


def fit(
    cfg: DictConfig,
    parts: Parts,
    data: TrainingData,
    checkpoint: Path | None = None,
    scratch: Path | None = None,
    log: Callable[[list[dict[str, float]]], None] = lambda epochs: None,
    quiet: bool = True,
    should_prune: ShouldPrune | None = None,
    start: Start | None = None,
) -> Fitted:
    """Train in this process, alone or as one of several ranks.

    Parameters
    ----------
    cfg : DictConfig
        The configuration.
    parts : Parts
        The parts that the configuration names.
    data : TrainingData
        The data, from `load`.
    checkpoint : Path, optional
        Checkpoint of an interrupted training to resume.
    scratch : Path, optional
        Folder for checkpoints, only on rank 0.
    log : callable
        Called after each epoch with all epochs so far.
    quiet : bool
        Whether to hide the progress display.
    should_prune : callable, optional
        Called after each epoch with all epochs so far; returns whether to prune the trial.
    start : Start, optional
        Trained weights that the net starts from, and what of it is frozen.

    Raises
    ------
    UserError
        If the trainer cannot be used here, or computes a layer wrongly in the configured precision.
    """
    target = parts.dataset.target
    fit_labels((parts.net, parts.loss), data.splits["train"], target)
    start = start or Start()
    start.apply(parts.net)  # after the labels, by which a net may set weights
    module = TrainingModule(
        Network(parts.net, parts.dataset.normalization()),
        parts.loss,
        _optimizer(cfg, parts),
        parts.schedule,
        cfg.scheduler.interval,
        cfg.monitor,
        target,
        _compile_for(cfg, len(data.splits["train"])),
        start.still(parts.net),
    )
    history = History(log)
    # On a GPU an epoch may take less time than writing its checkpoint.
    share = 1.0 if device_kind(cfg) == "cpu" else 0.1
    checkpoints = Checkpoints(scratch, cfg.monitor, best_is(target, cfg.monitor), share)
    pruning = Pruning(history, should_prune or (lambda epochs: False))
    callbacks = [
        *build_callbacks(cfg),  # before the history, which collects what they log at the end of an epoch
        history,
        checkpoints,
        *_callbacks(cfg, target, quiet),
        *([pruning] if should_prune else []),
        *([Faster()] if cfg.fast else []),
    ]
    trainer = build_trainer(cfg, callbacks)
    if resolve_precision(cfg) != 32 and device_kind(cfg) == "cpu":
        inputs = tensors(example(parts.dataset, data.splits["train"]))
        check_layers(parts.net, as_float(inputs), trainer.precision_plugin.forward_context())
    diverged = False
    try:
        trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)
    except Diverged:
        diverged = True
    log(history.epochs)  # also if a resumed training had no epoch left
    if scratch is not None and checkpoints.best_epoch is not None:
        module.load_state_dict(checkpoints.best_weights())
    network = module.net
    assert isinstance(network, Network)
    return Fitted(
        network,
        parts.loss,
        trainer,
        data,
        parts.dataset,
        target,
        history.epochs,
        diverged,
        checkpoints.best_epoch,
        pruning.pruned,
    )


def fit_labels(parts: Iterable[nn.Module], train: Split, target: Target) -> None:
    """Pass the targets of the training split to the nets and losses that need them.

    Parameters
    ----------
    parts : iterable of nn.Module
        A method ``fit_labels`` is called with the targets, in their stored type. A method ``fit_prior`` is called
        with the logits that predict the distribution of the targets.
    train : Split
        The training split.
    target : Target
        The target that the net predicts.
    """
    for part in parts:
        if hasattr(part, "fit_labels"):
            part.fit_labels(torch.from_numpy(train.targets))  # type: ignore[operator]
        if hasattr(part, "fit_prior"):
            part.fit_prior(target.prior(torch.from_numpy(train.targets)))  # type: ignore[operator]


def predict(fitted: Fitted, split: SplitName) -> Predictions:
    """Predictions of the best weights for a split; NaN, which counts as no label, if there are no best weights."""
    device, context = fitted.trainer.strategy.root_device, fitted.trainer.precision_plugin.forward_context
    logits = logits_of(fitted.network, fitted.data.records(split, device), device, context)
    if fitted.best_epoch is None:
        logits = torch.full_like(logits, torch.nan)
    return predictions_of(fitted.data.splits[split], logits, fitted.target)


def shown(cfg: DictConfig, target: Target) -> str:
    """Metric that the progress display and the curves show beside the loss."""
    metric = metric_of(objectives(cfg)[0])
    return target.main_metric if metric == "loss" else metric


def best_is(target: Target, metric: str) -> str:
    """'max' or 'min': which value of a metric such as 'val/loss' is best."""
    return "max" if target.higher_is_better(metric_of(metric)) else "min"


def _check_data(cfg: DictConfig, dataset: Dataset, split: Split) -> None:
    check_inputs(dataset, split)
    wrong = wrong_size(cfg, dataset)
    if wrong is not None:
        name, given, found = wrong
        given = "missing" if given is None else given
        raise UserError(f"Config key 'dataset.{name}' is {given}, but the data have {found}.")
    named, known = [str(name) for name in cfg.dataset.label_names], list(dataset.label_names)
    if named != known:
        raise UserError(
            f"Config key 'dataset.label_names' is [{', '.join(named)}], but the labels of the data are "
            f"[{', '.join(known)}]: use the same names, in the same order."
        )


def _check_metrics(cfg: DictConfig, parts: Parts, data: TrainingData) -> None:
    """Refuse a monitor or objective that is undefined on the labels of its split, such as AUROC without positives."""
    configured = [("monitor", cfg.monitor), *(("objective", name) for name in objectives(cfg))]
    splits: tuple[SplitName, ...] = ("train", "val")
    for split in splits:
        wanted = [(key, name) for key, name in configured if split_of(name) == split and metric_of(name) != "loss"]
        if not wanted:
            continue
        target, targets = parts.dataset.target, torch.from_numpy(data.splits[split].targets.astype(np.float32))
        found = target.measure(target.activation()(torch.zeros(len(targets), target.outputs)), targets).metrics
        for key, name in wanted:
            if metric_of(name) not in found:
                raise UserError(
                    f"Config key '{key}' is '{name}', which cannot be computed on these data: "
                    "choose another metric, or data in which its labels occur."
                )


def _optimizer(cfg: DictConfig, parts: Parts) -> Optimizer:
    # Lightning refuses to clip gradients for a fused update under mixed precision
    if not cfg.fast or cfg.trainer.get("gradient_clip_val"):
        return parts.optimizer
    return fused(parts.optimizer, device_kind(cfg))


def _callbacks(cfg: DictConfig, target: Target, quiet: bool) -> list[Callback]:
    callbacks: list[Callback] = []
    if cfg.early_stopping.patience is not None:
        patience, min_delta = cfg.early_stopping.patience, cfg.early_stopping.min_delta
        mode = best_is(target, cfg.monitor)
        callbacks.append(Patience(cfg.monitor, mode=mode, patience=patience, min_delta=min_delta, check_finite=False))
    if not quiet:
        shown_metrics = ("train", "loss"), ("val", "loss"), ("val", shown(cfg, target))
        callbacks.append(progress(tuple(split_metric(split, metric) for split, metric in shown_metrics)))
    return callbacks


def build_trainer(cfg: DictConfig, callbacks: list[Callback]) -> pl.Trainer:
    """Lightning's trainer of a configuration.

    Raises
    ------
    UserError
        If it cannot be used on this machine.
    """
    settings: dict[str, Any] = {str(key): value for key, value in cfg.trainer.items() if key != "threads"}
    try:
        return pl.Trainer(
            max_epochs=cfg.max_epochs,
            precision=resolve_precision(cfg),
            callbacks=callbacks,
            logger=False,
            enable_model_summary=False,
            enable_progress_bar=any(isinstance(callback, ProgressBar) for callback in callbacks),
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            # otherwise Lightning would use a cluster's settings to start processes or handle signals
            plugins=[LightningEnvironment()],
            **settings,
        )
    except (ValueError, RuntimeError) as error:
        message = summarised(error).rstrip(".")
        raise UserError(f"Config group 'trainer' cannot be used on this machine: {message}.") from error


def _compile_for(cfg: DictConfig, records: int) -> int | None:
    """Size of the training batches that are compiled; None if nothing is compiled."""
    steps = cfg.max_epochs * records / cfg.batch_size
    # a compiled net overwrites the gradients of its last call, so they cannot be accumulated
    accumulates = cfg.trainer.get("accumulate_grad_batches", 1) != 1
    if accumulates or not compiles(cfg.compile, steps, device_kind(cfg)):
        return None
    return cfg.batch_size // cfg.trainer.devices
