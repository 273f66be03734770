"""One trial: configuration in, value of the objective out."""

from __future__ import annotations

import json
import logging
import os
import shutil
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytorch_lightning as pl
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from mlflow.entities import Run as MlflowRun
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.callbacks.progress.progress_bar import ProgressBar
from torch import Tensor, nn

from ecgexp.config import DATA_KEYS, DATA_SHAPE, accepts, check, locate, objectives, plain
from ecgexp.datasets.base import Dataset, Split, SplitName
from ecgexp.errors import UserError
from ecgexp.lit.callbacks import LAST, Checkpoints, History, Patience, Pruning, progress
from ecgexp.lit.compiled import compiles
from ecgexp.lit.data import Batches, ECGDataModule, evaluation_batch
from ecgexp.lit.module import Diverged, LitClassifier, Network, measure, output_layer, predict
from ecgexp.lit.ranks import other_ranks
from ecgexp.metrics import higher_is_better
from ecgexp.metrics.names import COSTS, LATENCY, PER_LABEL_METRIC_NAMES, escape_labels, macro_f1_name
from ecgexp.reports.sweep import PRUNED, is_pruned, maximizes
from ecgexp.reports.trial import write_confusion, write_curves, write_predictions
from ecgexp.sweeps.identity import cell, identity
from ecgexp.sweeps.job import Interrupted, Job
from ecgexp.sweeps.ledger import exclusive, find_earlier, is_own, reuse
from ecgexp.tracking import provenance
from ecgexp.tracking.model import log_model
from ecgexp.tracking.run import EpochLog, Run, end_orphans
from ecgexp.tracking.store import open_store

logger = logging.getLogger(__name__)

ALL_THREADS = torch.get_num_threads()
Judge = Callable[[list[dict[str, float]]], bool]
SPLITS: tuple[SplitName, SplitName] = ("train", "val")

for _name in ("pytorch_lightning", "lightning_fabric"):
    logging.getLogger(_name).setLevel(logging.WARNING)
warnings.filterwarnings("ignore", module="pytorch_lightning")


@dataclass(frozen=True)
class Outcome:
    """What a trial comes to.

    Attributes
    ----------
    run_id : str
        Its run.
    values : list of float
        Of the objectives; empty for a trial that was pruned.
    reused : bool
        It was finished before, and not trained again.
    diverged : bool
        Its loss stopped being finite.
    seconds : float
        That its training took, whenever that was.
    pruned : bool
        It was stopped early, as not worth its further epochs.
    """

    run_id: str
    values: list[float]
    reused: bool
    diverged: bool
    seconds: float
    pruned: bool = False


def run_trial(cfg: DictConfig, job: Job, announce: Callable[[str], None] = lambda run_id: None) -> Outcome:
    """Train, evaluate and record one trial, or find that this was done before.

    Parameters
    ----------
    cfg : DictConfig
        The composed configuration.
    job : Job
        What Hydra says of the job: overrides, choices, folders.
    announce : callable
        Told the id of the run once it has begun.

    Raises
    ------
    UserError
        Where configuration or data cannot be used.
    """
    check(cfg)
    if _rank() != 0:  # a cluster's launcher runs the command once per rank; rank 0 records
        _fit_rank(plain(cfg), None, _is_judged(cfg, job), lambda: None)
        return Outcome("", [], False, False, 0.0)
    store = open_store(cfg.tracking, known=job.parent is not None)
    if job.parent is None:
        end_orphans(store)
    threads = _set_threads(cfg, job)
    tags = _tags(cfg, job, threads)
    try:
        parts = build(cfg)
        if parts.dataset.warning:
            logger.warning(parts.dataset.warning)
            tags |= provenance.warn(parts.dataset.warning)
        parts.dataset.prepare()
        _check_labels(cfg, parts.dataset)
        tags |= {"dataset_fingerprint": parts.dataset.fingerprint()}
        here = (tags["dataset_fingerprint"], _device_kind(cfg), threads, tags["precision"])
        tags |= {"identity": identity(tags["cell"], *here)}
    except Exception:
        with Run(store, job.name, tags, job.parent) as run:
            announce(run.id)
            _record_inputs(run, cfg, job.overrides)
            raise
    with exclusive(store, tags["identity"], wait=job.parent is not None):
        earlier = find_earlier(store, tags, job, cfg.sweep.max_retries) if cfg.resume else None
        if earlier is not None and earlier.info.status == "FINISHED":
            shutil.rmtree(store.scratch(earlier.info.run_id), ignore_errors=True)  # killed before it could do so
            if not is_own(earlier, job):
                earlier = reuse(store, earlier, job, tags)
            return _outcome(earlier, objectives(cfg), reused=True)
        tags |= {"attempts": 1 if earlier is None else int(earlier.data.tags.get("attempts", 1)) + 1}
        with Run(store, job.name, tags, job.parent, earlier) as run, _no_exit(job):
            announce(run.id)
            _record_inputs(run, cfg, job.overrides)
            checkpoint = run.scratch / LAST if (run.scratch / LAST).exists() else None
            processes = cfg.trainer.devices if cfg.trainer.strategy == "ddp" else 1
            epoch_log = EpochLog(run, cfg.tracking.system_metrics)
            rank = (plain(cfg), checkpoint, _is_judged(cfg, job))
            with epoch_log as log, other_ranks(processes, _fit_rank, *rank):
                quiet = job.parent is not None
                fitted = fit(cfg, parts, load(cfg, parts), checkpoint, run, log, quiet, _judge(cfg, job))
            _record_training(run, fitted)
            if not fitted.pruned:
                _record_results(run, cfg, fitted)
                if cfg.tracking.log_model == "all" or (cfg.tracking.log_model == "best" and job.parent is None):
                    signals = example(fitted.data.splits["val"])
                    log_model(store, run.id, fitted.network, signals, describe(cfg, fitted.dataset))
        shutil.rmtree(run.scratch, ignore_errors=True)
    return _outcome(store.client.get_run(run.id), objectives(cfg), reused=False)


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
    pruned : bool
        It was stopped early, as not worth its further epochs.
    """

    network: Network
    loss: nn.Module
    trainer: pl.Trainer
    data: ECGDataModule
    dataset: Dataset
    history: list[dict[str, float]]
    diverged: bool
    best_epoch: int | None
    pruned: bool


def build(cfg: DictConfig) -> Parts:
    """Build what a configuration names, with the weights that its seed gives.

    Raises
    ------
    UserError
        Where a class refuses its arguments.
    """
    check_device(cfg)
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


def check_device(cfg: DictConfig) -> None:
    """Refuse a GPU that is not there.

    Raises
    ------
    UserError
        Where torch sees none.
    """
    if cfg.trainer.get("accelerator") in ("gpu", "cuda") and not torch.cuda.is_available():
        raise UserError("trainer.accelerator asks for a GPU, but torch sees none: use trainer=cpu.")


def build_dataset(cfg: DictConfig) -> Dataset:
    """The dataset of a configuration; reads nothing yet."""
    component = plain(cfg.dataset)
    target = locate("dataset", component)
    kept = {key: value for key, value in component.items() if key not in DATA_KEYS or accepts(target, key)}
    return instantiate_group("dataset", kept)


def load(cfg: DictConfig, parts: Parts) -> ECGDataModule:
    """Read the training and validation splits, and fit what depends on their labels alone.

    Raises
    ------
    UserError
        Where the data are not as the configuration says.
    """
    data = ECGDataModule(parts.dataset, cfg.batch_size, cfg.seed, cfg.memory_budget)
    _check_data(cfg, parts.dataset, data.splits["train"])
    fitting: list[Any] = [parts.net, parts.loss]
    for part in fitting:
        if hasattr(part, "fit_labels"):
            part.fit_labels(torch.from_numpy(data.splits["train"].targets))
    return data


def fit(
    cfg: DictConfig,
    parts: Parts,
    data: ECGDataModule,
    checkpoint: Path | None = None,
    run: Run | None = None,
    log: Callable[[list[dict[str, float]]], None] = lambda epochs: None,
    quiet: bool = True,
    judge: Judge | None = None,
) -> Fitted:
    """Train in this process, alone or as one of several ranks.

    Parameters
    ----------
    cfg : DictConfig
        The configuration.
    parts : Parts
        Built from it.
    data : ECGDataModule
        Loaded by `load`.
    checkpoint : Path, optional
        Of an interrupted training to go on with.
    run : Run, optional
        Where the trial is recorded; rank 0 has it.
    log : callable
        Told of all epochs so far after each.
    quiet : bool
        Show no progress.
    judge : callable, optional
        Told of all epochs so far after each; whether to prune the trial.
    """
    module = LitClassifier(
        Network(parts.net, parts.dataset.normalization()),
        parts.loss,
        parts.optimizer,
        parts.schedule,
        cfg.scheduler.interval,
        cfg.monitor,
        parts.dataset.label_names,
        cfg.threshold,
        parts.dataset.multiclass,
        _compile_for(cfg, len(data.splits["train"])),
    )
    history = History(log)
    # on a GPU an epoch may take less time than writing what it ended with
    share = 1.0 if _device_kind(cfg) == "cpu" else 0.1
    kept = Checkpoints(run.scratch if run else None, cfg.monitor, _mode(cfg.monitor), share)
    pruning = Pruning(history, judge or (lambda epochs: False))
    trainer = _trainer(cfg, [history, kept, *_callbacks(cfg, quiet), *([pruning] if judge else [])])
    diverged = False
    try:
        trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)
    except Diverged:
        diverged = True
    log(history.epochs)  # also where an interrupted training had but to be logged
    if run is not None and kept.best_epoch is not None:
        module.load_state_dict(kept.best_weights())
    network = module.net
    assert isinstance(network, Network)
    return Fitted(
        network, parts.loss, trainer, data, parts.dataset, history.epochs, diverged, kept.best_epoch, pruning.pruned
    )


def evaluate(fitted: Fitted, split: SplitName) -> tuple[Tensor, Tensor]:
    """Logits of the kept weights and targets of a split, both (records, classes), on the CPU.

    Logits are NaN where no weights were kept, which counts as nothing predicted.
    """
    device = fitted.trainer.strategy.root_device
    batches = Batches(fitted.data.records(split, device), evaluation_batch(device))
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


def describe(cfg: DictConfig, dataset: Dataset) -> dict[str, Any]:
    """What one has to know to use a trained net on other records."""
    return {
        "labels": list(dataset.label_names),
        "multiclass": dataset.multiclass,
        "leads": list(dataset.lead_names),
        "sampling_rate": dataset.sampling_rate,
        "samples": cfg.dataset.samples,
        "unit": dataset.unit,
        "threshold": cfg.threshold,
    }


@contextmanager
def _no_exit(job: Job) -> Iterator[None]:
    """In a sweep, take an exit that nobody asked for, such as a net's own ``sys.exit``, as a failure."""
    try:
        yield
    except (SystemExit, KeyboardInterrupt) as error:
        if job.parent is None or isinstance(error, Interrupted):
            raise
        raise RuntimeError(f"the code of the trial left by itself, with {error!r}") from error


def _rank() -> int:
    """Of this process among those that a cluster's own launcher started; 0 where there is but one."""
    return int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", 0)))


def _fit_rank(config: dict[str, Any], checkpoint: Path | None, judged: bool, ready: Callable[[], None]) -> None:
    cfg = OmegaConf.create(config)
    parts = build(cfg)
    data = load(cfg, parts)
    ready()
    fit(cfg, parts, data, checkpoint, judge=(lambda epochs: False) if judged else None)  # rank 0 decides


def _check_data(cfg: DictConfig, dataset: Dataset, split: Split) -> None:
    samples, leads = split.signals.shape[1:]
    found = {"leads": leads, "samples": samples, "classes": len(dataset.label_names)}
    for name in DATA_SHAPE:
        value = cfg.dataset[name]
        if value != found[name]:
            raise UserError(f"Config key 'dataset.{name}' is {value}, but the data have {found[name]}.")
    multiclass = bool(cfg.dataset.get("multiclass", False))
    if multiclass != dataset.multiclass:
        raise UserError(
            f"Config key 'dataset.multiclass' is {str(multiclass).lower()}, "
            f"but that of {type(dataset).__name__} is {str(dataset.multiclass).lower()}: set both alike."
        )
    counts = split.targets.sum(axis=1, dtype=np.int64)
    if multiclass and (counts != 1).any():
        record = (counts != 1).argmax()
        raise UserError(f"Record {split.ids[record]} has {counts[record]} labels, not one: correct it or leave it out.")


def _check_labels(cfg: DictConfig, dataset: Dataset) -> None:
    known = escape_labels(dataset.label_names)
    for key, value in [("monitor", cfg.monitor), *(("objective", value) for value in objectives(cfg))]:
        metric = value.rsplit("/", 2)
        if len(metric) > 1 and metric[-2] in PER_LABEL_METRIC_NAMES and metric[-1] not in known:
            raise UserError(f"Config key '{key}' is '{value}', but the labels are {', '.join(known)}.")


def _mode(metric: str) -> str:
    return "max" if higher_is_better(metric.split("/", 1)[1]) else "min"


def _callbacks(cfg: DictConfig, quiet: bool) -> list[Callback]:
    callbacks: list[Callback] = []
    if cfg.early_stopping.patience is not None:
        patience, min_delta = cfg.early_stopping.patience, cfg.early_stopping.min_delta
        mode = _mode(cfg.monitor)
        callbacks.append(Patience(cfg.monitor, mode=mode, patience=patience, min_delta=min_delta, check_finite=False))
    if not quiet:
        callbacks.append(progress(("train/loss", "val/loss", f"val/{_shown(cfg)}")))
    return callbacks


def _trainer(cfg: DictConfig, callbacks: list[Callback]) -> pl.Trainer:
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
            **settings,
        )
    except (ValueError, RuntimeError) as error:
        message = str(error).splitlines()[0].rstrip(".")
        raise UserError(f"Config group 'trainer' cannot be used on this machine: {message}.") from error


def _set_threads(cfg: DictConfig, job: Job) -> int:
    """Set and return the threads of torch: jobs that run side by side take one each unless told otherwise."""
    torch.set_num_threads(cfg.trainer.threads or (1 if job.parallel else ALL_THREADS))
    return torch.get_num_threads()


def _device_kind(cfg: DictConfig) -> str:
    on_gpu = cfg.trainer.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    return "cuda" if on_gpu else "cpu"


def resolve_precision(cfg: DictConfig) -> Literal[32, "16-mixed", "bf16-mixed"]:
    """What ``precision=auto`` means here: bfloat16 where the chip computes with it."""
    if cfg.precision != "auto":
        return cfg.precision
    if _device_kind(cfg) == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = bool(torch.cpu.get_capabilities().get("avx512_bf16"))
    return "bf16-mixed" if native else 32


def _compile_for(cfg: DictConfig, records: int) -> int | None:
    """Size of the training batches that are compiled; None where nothing is."""
    steps = cfg.max_epochs * records / cfg.batch_size
    # gradients to be added to are not where they were once a compiled net has gone on
    accumulates = cfg.trainer.get("accumulate_grad_batches", 1) != 1
    if accumulates or not compiles(cfg.compile, steps, _device_kind(cfg)):
        return None
    return cfg.batch_size // cfg.trainer.devices


def _tags(cfg: DictConfig, job: Job, threads: int) -> dict[str, Any]:
    config = plain(cfg)
    return {
        "kind": "trial",
        **job.choices,
        "overrides": json.dumps(job.overrides),
        "job": job.number,
        **provenance.git_state(Path.cwd()),
        "config_hash": provenance.config_hash(config),
        "cell": cell(config),
        "seed": cfg.seed,
        "precision": resolve_precision(cfg),
        "threads": threads,
        "device": torch.cuda.get_device_name() if _device_kind(cfg) == "cuda" else "cpu",
    }


def _outcome(run: MlflowRun, objectives: list[str], reused: bool) -> Outcome:
    metrics, diverged = run.data.metrics, run.data.tags.get("diverged") == "true"
    seconds = metrics.get("train_seconds", 0.0)
    if is_pruned(run):
        return Outcome(run.info.run_id, [], reused, diverged, seconds, pruned=True)
    for objective in objectives:
        if objective not in metrics:
            raise UserError(f"objective={objective} was not recorded by run {run.info.run_id}: choose another metric.")
    return Outcome(run.info.run_id, [metrics[objective] for objective in objectives], reused, diverged, seconds)


def _is_judged(cfg: DictConfig, job: Job) -> bool:
    """Whether a study is told of each epoch; of several objectives it takes none."""
    return job.study is not None and len(objectives(cfg)) == 1


def _judge(cfg: DictConfig, job: Job) -> Judge | None:
    if job.study is None or not _is_judged(cfg, job):
        return None
    from ecgexp.sweeps.study import judge

    alike = _mode(cfg.monitor) == ("max" if maximizes(objectives(cfg)[0]) else "min")
    return judge(job.study, cfg.monitor, 1 if alike else -1)


def _record_inputs(run: Run, cfg: DictConfig, overrides: list[str]) -> None:
    config = plain(cfg)
    run.log_params(dict(provenance.flatten(config)))
    with run.artifacts() as folder:
        OmegaConf.save(OmegaConf.create(config), folder / "config.yaml")
        OmegaConf.save(OmegaConf.create(overrides), folder / "overrides.yaml")
        (folder / "environment.txt").write_text(provenance.packages())


def _record_training(run: Run, fitted: Fitted) -> None:
    seconds = sum(epoch["epoch_seconds"] for epoch in fitted.history)
    parameters = sum(parameter.numel() for parameter in fitted.network.parameters())
    run.log_metrics({"epochs": len(fitted.history), "train_seconds": seconds, "parameters": parameters})
    tags = {"diverged": str(fitted.diverged).lower(), "best_epoch": fitted.best_epoch}
    run.set_tags({**tags, PRUNED: "true"} if fitted.pruned else tags)


def _record_results(run: Run, cfg: DictConfig, fitted: Fitted) -> None:
    dataset = fitted.dataset
    metrics: dict[str, float] = {}
    outputs: dict[SplitName, tuple[Tensor, Tensor]] = {}
    left_out: dict[str, tuple[str, ...]] = {}
    for split in SPLITS:
        logits, targets = outputs[split] = evaluate(fitted, split)
        found = measure(logits, targets, fitted.loss.cpu(), dataset.label_names, cfg.threshold, dataset.multiclass)
        metrics |= {f"best/{split}/{name}": value for name, value in found.metrics.items()}
        left_out |= {f"best/{split}/{name}": labels for name, labels in found.left_out.items()}
    for objective in objectives(cfg):
        if objective == LATENCY:
            metrics[LATENCY] = _latency(fitted)
        elif objective not in metrics and objective not in COSTS:
            raise UserError(
                f"objective={objective} cannot be computed on these data: "
                "choose another metric, or data in which its labels occur."
            )
    run.log_metrics(metrics)
    run.set_tags({f"labels_left_out/{name}": ", ".join(labels) for name, labels in left_out.items()})
    logits, targets = outputs["val"]
    names, probabilities = dataset.label_names, output_layer(dataset.multiclass)(logits)
    description = {**describe(cfg, dataset), "counts": dataset.summary()}
    with run.artifacts() as folder:
        records = fitted.data.splits["val"]
        path = folder / "predictions_val.parquet"
        write_predictions(path, records.ids, probabilities, targets, names, patients=records.patients)
        write_confusion(folder, "val", probabilities, targets, names, cfg.threshold, dataset.multiclass)
        write_curves(folder / "learning_curves.png", fitted.history, _shown(cfg), fitted.best_epoch)
        (folder / "data.json").write_text(json.dumps(description, indent=1))
        torch.save(fitted.network.cpu().state_dict(), folder / "weights.pt")


def _latency(fitted: Fitted) -> float:
    """Milliseconds that the net takes for one record: the median of ten passes, after a first."""
    device = fitted.trainer.strategy.root_device
    network = fitted.network.to(device).eval()
    record = torch.from_numpy(example(fitted.data.splits["val"])[:1]).to(device)
    times = []
    with torch.no_grad(), fitted.trainer.precision_plugin.forward_context():
        for _ in range(11):
            begun = time.perf_counter()
            network(record).cpu()
            times.append(time.perf_counter() - begun)
    return 1e3 * statistics.median(times[1:])


def _shown(cfg: DictConfig) -> str:
    """Metric that the progress display and the curves show beside the loss."""
    metric = objectives(cfg)[0].split("/", 2)[2]
    return macro_f1_name(bool(cfg.dataset.get("multiclass", False))) if metric == "loss" else metric
