"""One trial: configuration in, value of the objective out."""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import Callback, EarlyStopping, ModelCheckpoint
from pytorch_lightning.callbacks.progress.progress_bar import ProgressBar
from torch import Tensor, nn

from ecgexp.config import DATA_SHAPE, accepts, check, locate, plain
from ecgexp.datasets.base import Dataset, Split, SplitName
from ecgexp.errors import UserError
from ecgexp.lit.callbacks import History, progress
from ecgexp.lit.data import EVALUATION_BATCH, Batches, ECGDataModule
from ecgexp.lit.module import Diverged, LitClassifier, Network, measure, predict
from ecgexp.lit.ranks import other_ranks
from ecgexp.metrics import higher_is_better
from ecgexp.reports.trial import write_confusion, write_curves, write_predictions
from ecgexp.tracking import provenance
from ecgexp.tracking.model import log_model
from ecgexp.tracking.run import Run
from ecgexp.tracking.store import open_store

PARENT_VARIABLE = "ECGEXP_PARENT_RUN_ID"
SPLITS: tuple[SplitName, SplitName] = ("train", "val")

for _name in ("pytorch_lightning", "lightning_fabric"):
    logging.getLogger(_name).setLevel(logging.WARNING)
warnings.filterwarnings("ignore", module="pytorch_lightning")


def run_trial(cfg: DictConfig, job: Any) -> float:
    """Train, evaluate and record one trial.

    Parameters
    ----------
    cfg : DictConfig
        The composed configuration.
    job : HydraConf
        What Hydra says of the job: overrides, choices, folders.

    Returns
    -------
    float
        The value of ``cfg.objective``.

    Raises
    ------
    UserError
        Where configuration or data cannot be used.
    """
    check(cfg)
    if _rank() != 0:  # a cluster's launcher runs the command once per rank; rank 0 records
        _fit_rank(cfg)
        return float("nan")
    store = open_store(cfg.tracking)
    parent = os.environ.get(PARENT_VARIABLE)
    choices = {group: str(choice) for group, choice in job.runtime.choices.items() if "/" not in group}
    overrides = list(job.overrides.task)
    name = " ".join(overrides) or f"{choices['model']} on {choices['dataset']}"
    with Run(store, name, _tags(cfg, choices, overrides), parent, cfg.tracking.system_metrics) as run:
        _record_inputs(run, cfg, overrides)
        parts = build(cfg)
        parts.dataset.prepare()
        processes = cfg.trainer.devices if cfg.trainer.strategy == "ddp" else 1
        started = time.perf_counter()
        with other_ranks(processes, _fit_rank, cfg):
            fitted = fit(cfg, parts, run)
        metrics = _record_results(run, cfg, fitted, time.perf_counter() - started)
        if cfg.tracking.log_model == "all" or (cfg.tracking.log_model == "best" and parent is None):
            log_model(store, run.id, fitted.network, example(fitted.data.splits["val"]))
        shutil.rmtree(run.scratch, ignore_errors=True)
    if parent is None:
        print(f"{cfg.objective} = {metrics[cfg.objective]:.4f}\nLook at it: {store.ui_command()}")
    return metrics[cfg.objective]


@dataclass(frozen=True)
class Parts:
    """What a configuration names, built: nothing is read yet."""

    dataset: Dataset
    net: nn.Module
    loss: nn.Module
    optimizer: Callable[..., torch.optim.Optimizer]
    schedule: Callable[..., Any] | None


@dataclass(frozen=True)
class Fitted:
    """A net after training.

    Attributes
    ----------
    network : Network
        With the kept weights.
    loss : nn.Module
        That it was trained with.
    trainer : pl.Trainer
        That trained it.
    data : ECGDataModule
        What it was trained on.
    dataset : Dataset
        Where the data come from.
    history : list of dict
        Metrics of each epoch.
    diverged : bool
        The loss stopped being finite.
    best_epoch : int, optional
        Epoch, from 0, whose weights were kept; None where none was validated with a finite loss.
    """

    network: Network
    loss: nn.Module
    trainer: pl.Trainer
    data: ECGDataModule
    dataset: Dataset
    history: list[dict[str, float]]
    diverged: bool
    best_epoch: int | None


def build(cfg: DictConfig) -> Parts:
    """Build what a configuration names, with the weights that its seed gives.

    Raises
    ------
    UserError
        Where a class refuses its arguments.
    """
    if cfg.trainer.get("accelerator") in ("gpu", "cuda") and not torch.cuda.is_available():
        raise UserError("trainer.accelerator asks for a GPU, but torch sees none: use trainer=cpu.")
    pl.seed_everything(cfg.seed, verbose=False)
    parts = Parts(
        build_dataset(cfg),
        instantiate_group("model", cfg.model),
        instantiate_group("loss", cfg.loss),
        instantiate_group("optimizer", cfg.optimizer),
        None if cfg.scheduler.schedule is None else instantiate_group("scheduler", cfg.scheduler.schedule),
    )
    try:
        parts.optimizer([nn.Parameter(torch.zeros(1))])
    except (TypeError, ValueError) as error:
        raise UserError(f"Config group 'optimizer' cannot be used: {error}.") from error
    return parts


def build_dataset(cfg: DictConfig) -> Dataset:
    """The dataset of a configuration; reads nothing yet."""
    component = plain(cfg.dataset)
    target = locate("dataset", component)
    kept = {key: value for key, value in component.items() if key not in DATA_SHAPE or accepts(target, key)}
    return instantiate_group("dataset", kept)


def fit(cfg: DictConfig, parts: Parts, run: Run | None = None) -> Fitted:
    """Train in this process, alone or as one of several ranks; only rank 0 has a run to log to."""
    if cfg.trainer.threads is not None:
        torch.set_num_threads(cfg.trainer.threads)
    data = ECGDataModule(parts.dataset, cfg.batch_size, cfg.seed, cfg.memory_budget)
    _check_data(cfg, parts.dataset, data.splits["train"])
    for part in (parts.net, parts.loss):
        if hasattr(part, "fit_labels"):
            part.fit_labels(torch.from_numpy(data.splits["train"].targets))
    module = LitClassifier(
        Network(parts.net, parts.dataset.normalization()),
        parts.loss,
        parts.optimizer,
        parts.schedule,
        cfg.scheduler.interval,
        cfg.monitor,
        parts.dataset.label_names,
        cfg.threshold,
    )
    history = History(run.log_metrics if run else lambda metrics, epoch: None)
    best = ModelCheckpoint(
        dirpath=run.scratch if run else None,
        filename="best",
        monitor=cfg.monitor,
        mode=_mode(cfg.monitor),
        save_weights_only=True,
        enable_version_counter=False,
    )
    trainer = _trainer(cfg, [history, best, *_callbacks(cfg, run)])
    diverged = False
    try:
        trainer.fit(module, data)
    except Diverged:
        diverged = True
    best_epoch = None
    if run is not None and best.best_model_path:
        checkpoint = torch.load(best.best_model_path, map_location="cpu", weights_only=True)
        module.load_state_dict(checkpoint["state_dict"])
        best_epoch = int(checkpoint["epoch"])
    network = module.net
    assert isinstance(network, Network)
    return Fitted(network, parts.loss, trainer, data, parts.dataset, history.epochs, diverged, best_epoch)


def evaluate(cfg: DictConfig, fitted: Fitted, split: SplitName) -> tuple[Tensor, Tensor]:
    """Logits of the kept weights and targets of a split, both (records, classes), on the CPU.

    Logits are NaN where no weights were kept, which counts as nothing predicted.
    """
    device = fitted.trainer.strategy.root_device
    batches = Batches(fitted.data.records(split, device), EVALUATION_BATCH)
    network = fitted.network.to(device)
    logits, targets = predict(network, batches, device, fitted.trainer.precision_plugin.forward_context())
    if fitted.best_epoch is None:
        logits = torch.full_like(logits, torch.nan)
    return logits.cpu(), targets.cpu()


def example(split: Split) -> NDArray[np.float32]:
    """Signals to trace a net with: (2, leads, samples), mV."""
    rows = np.resize(split.rows, 2)
    return np.ascontiguousarray(split.signals[rows].transpose(0, 2, 1))


def instantiate_group(group: str, component: Any) -> Any:
    """Build what a config group names.

    Raises
    ------
    UserError
        Where its class refuses the arguments.
    """
    try:
        return instantiate(component)
    except InstantiationException as error:
        cause = error.__cause__ or error
        if isinstance(cause, UserError):
            raise cause from error
        message = str(cause).splitlines()[0].rstrip(".")
        kind = type(cause).__name__
        raise UserError(f"Config group '{group}' cannot be built: {kind}: {message}.") from error


def _rank() -> int:
    """Of this process among those that a cluster's own launcher started; 0 where there is but one."""
    return int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", 0)))


def _fit_rank(cfg: DictConfig) -> None:
    fit(cfg, build(cfg))


def _check_data(cfg: DictConfig, dataset: Dataset, split: Split) -> None:
    samples, leads = split.signals.shape[1:]
    found = {"leads": leads, "samples": samples, "classes": len(dataset.label_names)}
    for name in DATA_SHAPE:
        value = cfg.dataset[name]
        if value != found[name]:
            raise UserError(f"Config key 'dataset.{name}' is {value}, but the data have {found[name]}.")


def _mode(metric: str) -> str:
    return "max" if higher_is_better(metric.split("/", 1)[1]) else "min"


def _callbacks(cfg: DictConfig, run: Run | None) -> list[Callback]:
    folder = run.scratch if run else None
    callbacks: list[Callback] = [ModelCheckpoint(dirpath=folder, filename="last", enable_version_counter=False)]
    if cfg.early_stopping.patience is not None:
        callbacks.append(
            EarlyStopping(
                cfg.monitor,
                mode=_mode(cfg.monitor),
                patience=cfg.early_stopping.patience,
                min_delta=cfg.early_stopping.min_delta,
                check_finite=False,
            )
        )
    if run is not None:
        callbacks.append(progress(("train/loss", "val/loss", f"val/{_shown(cfg)}")))
    return callbacks


def _trainer(cfg: DictConfig, callbacks: list[Callback]) -> pl.Trainer:
    settings: dict[str, Any] = {str(key): value for key, value in cfg.trainer.items() if key != "threads"}
    try:
        return pl.Trainer(
            max_epochs=cfg.max_epochs,
            precision=cfg.precision,
            callbacks=callbacks,
            logger=False,
            enable_model_summary=False,
            enable_progress_bar=any(isinstance(callback, ProgressBar) for callback in callbacks),
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            **settings,
        )
    except (ValueError, RuntimeError) as error:
        message = str(error).splitlines()[0].rstrip(".")
        raise UserError(f"Config group 'trainer' cannot be used on this machine: {message}.") from error


def _tags(cfg: DictConfig, choices: dict[str, str], overrides: list[str]) -> dict[str, Any]:
    return {
        "kind": "trial",
        **choices,
        "overrides": json.dumps(overrides),
        **provenance.git_state(Path.cwd()),
        "config_hash": provenance.config_hash(plain(cfg)),
        "seed": cfg.seed,
        "precision": cfg.precision,
        "threads": cfg.trainer.threads or torch.get_num_threads(),
        "host": provenance.host(),
    }


def _record_inputs(run: Run, cfg: DictConfig, overrides: list[str]) -> None:
    config = plain(cfg)
    run.log_params(dict(provenance.flatten(config)))
    with run.artifacts() as folder:
        OmegaConf.save(OmegaConf.create(config), folder / "config.yaml")
        OmegaConf.save(OmegaConf.create(overrides), folder / "overrides.yaml")
        (folder / "environment.txt").write_text(provenance.packages())


def _record_results(run: Run, cfg: DictConfig, fitted: Fitted, seconds: float) -> dict[str, float]:
    metrics: dict[str, float] = {}
    outputs: dict[SplitName, tuple[Tensor, Tensor]] = {}
    left_out: dict[str, tuple[str, ...]] = {}
    for split in SPLITS:
        logits, targets = outputs[split] = evaluate(cfg, fitted, split)
        found = measure(logits, targets, fitted.loss.cpu(), fitted.dataset.label_names, cfg.threshold)
        metrics |= {f"best/{split}/{name}": value for name, value in found.metrics.items()}
        left_out |= {f"best/{split}/{name}": labels for name, labels in found.left_out.items()}
    if cfg.objective not in metrics:
        raise UserError(
            f"objective={cfg.objective} cannot be computed on these data: "
            "choose another metric, or data in which its labels occur."
        )
    device = fitted.trainer.strategy.root_device
    run.log_metrics({**metrics, "epochs": len(fitted.history), "train_seconds": seconds})
    run.set_tags(
        {
            "dataset_fingerprint": fitted.dataset.fingerprint(),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            "diverged": str(fitted.diverged).lower(),
            "best_epoch": fitted.best_epoch,
            **{f"labels_left_out/{name}": ", ".join(labels) for name, labels in left_out.items()},
        }
    )
    logits, targets = outputs["val"]
    names, probabilities = fitted.dataset.label_names, logits.sigmoid()
    with run.artifacts() as folder:
        write_predictions(
            folder / "predictions_val.parquet", fitted.data.splits["val"].ids, probabilities, targets, names
        )
        write_confusion(folder, "val", probabilities, targets, names, cfg.threshold)
        write_curves(folder / "learning_curves.png", fitted.history, _shown(cfg), fitted.best_epoch)
        (folder / "data.json").write_text(json.dumps(fitted.dataset.summary(), indent=1))
        torch.save(fitted.network.cpu().state_dict(), folder / "weights.pt")
    return metrics


def _shown(cfg: DictConfig) -> str:
    """Metric that the progress display and the curves show beside the loss."""
    metric = cfg.objective.split("/", 2)[2]
    return "mlcm_f1_macro" if metric == "loss" else metric
