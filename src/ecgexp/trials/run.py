"""One trial: configuration in, value of the objective out."""

from __future__ import annotations

import json
import logging
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from mlflow.entities import Run as MlflowRun
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from ecgexp.config.build import Parts, build, describe, device_kind, example, resolve_precision
from ecgexp.config.schema import check, objectives, plain
from ecgexp.datasets.base import Dataset, Split, SplitName
from ecgexp.errors import UserError, without_passwords
from ecgexp.metrics.names import COSTS, LATENCY, PER_LABEL_METRIC_NAMES, escape_labels
from ecgexp.reports.tables import PRUNED, VALIDATION, is_pruned, maximizes
from ecgexp.reports.trial import validation_fingerprint, write_confusion, write_curves, write_predictions
from ecgexp.tracking import code, provenance
from ecgexp.tracking.model import log_model
from ecgexp.tracking.overlap import TRAINED_ON, write_trained_on
from ecgexp.tracking.privacy import hashed_patients
from ecgexp.tracking.run import EpochLog, Run, end_orphans
from ecgexp.tracking.runs import SLOT, SUM, metrics_sum
from ecgexp.tracking.store import Store, open_store
from ecgexp.training.callbacks import find_checkpoint
from ecgexp.training.fit import (
    Fitted,
    Judge,
    best_is,
    build_trainer,
    evaluate,
    fit,
    load,
    shown,
)
from ecgexp.training.network import Network, measure, output_layer
from ecgexp.training.ranks import other_ranks
from ecgexp.trials.identity import cell, identity
from ecgexp.trials.job import Interrupted, Job, Outcome
from ecgexp.trials.ledger import claim, claim_unread, exclusive, slot_of, take

logger = logging.getLogger(__name__)

ALL_THREADS = torch.get_num_threads()
SPLITS: tuple[SplitName, SplitName] = ("train", "val")


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
        tags |= {"code": code.own_code(plain(cfg))}
        parts.dataset.prepare()
        _check_labels(cfg, parts.dataset)
        tags |= {"dataset_fingerprint": parts.dataset.fingerprint()}
        here = (tags["dataset_fingerprint"], device_kind(cfg), threads, tags["precision"], tags["code"])
        tags |= {"identity": identity(plain(cfg), *here)}
    except Exception:
        claimed = claim_unread(store, tags, job)
        tags |= {**claimed.tags, "attempts": claimed.attempts}
        with Run(store, job.name, tags, job.parent, claimed.earlier) as run:
            announce(run.id)
            _record_inputs(run, cfg, job.overrides)
            raise
    with exclusive(store, tags["identity"], wait=job.parent is not None):
        claimed = claim(store, tags, job, cfg.sweep.max_retries, cfg.resume)
        if claimed.earlier is not None and claimed.earlier.info.status == "FINISHED":
            shutil.rmtree(store.scratch(claimed.earlier.info.run_id), ignore_errors=True)  # if killed there
            found = take(store, claimed, job, tags)
            return _outcome(_with_costs(store, found, cfg, parts, claimed.is_own), objectives(cfg), reused=True)
        checkpoint, damaged = None, False
        if claimed.earlier is not None:
            checkpoint, damaged = find_checkpoint(store.scratch(claimed.earlier.info.run_id))
        tags |= {**claimed.tags, "attempts": claimed.attempts}
        if damaged:  # which is no failure of the trial's
            tags |= {"attempts": claimed.attempts - 1, "restarted": "its checkpoint was damaged"}
        with Run(store, job.name, tags, job.parent, claimed.earlier) as run, _no_exit(job):
            announce(run.id)
            _record_inputs(run, cfg, job.overrides)
            epoch_log = EpochLog(run, cfg.tracking.system_metrics)
            rank = (plain(cfg), checkpoint, _is_judged(cfg, job))
            with epoch_log as log, other_ranks(cfg.trainer.devices, fit_rank, *rank):
                quiet = job.parent is not None
                fitted = fit(cfg, parts, load(cfg, parts), checkpoint, run.scratch, log, quiet, _judge(cfg, job))
            _record_training(run, fitted)
            if not fitted.pruned:
                _record_results(run, cfg, fitted)
                if cfg.tracking.log_model == "all" or (cfg.tracking.log_model == "best" and job.parent is None):
                    signals = example(fitted.data.splits["val"])
                    log_model(store, run.id, fitted.network, signals, describe(cfg, fitted.dataset))
        shutil.rmtree(run.scratch, ignore_errors=True)
    return _outcome(store.client.get_run(run.id), objectives(cfg), reused=False)


@contextmanager
def _no_exit(job: Job) -> Iterator[None]:
    """In a sweep, take an exit that nobody asked for, such as a net's own ``sys.exit``, as a failure."""
    try:
        yield
    except (SystemExit, KeyboardInterrupt) as error:
        if job.parent is None or isinstance(error, Interrupted):
            raise
        raise RuntimeError(f"the code of the trial left by itself, with {error!r}") from error


def fit_rank(config: dict[str, Any], checkpoint: Path | None, judged: bool, ready: Callable[[], None]) -> None:
    """Train as another rank than the first, which records."""
    cfg = OmegaConf.create(config)
    parts = build(cfg)
    data = load(cfg, parts)
    ready()
    fit(cfg, parts, data, checkpoint, judge=(lambda epochs: False) if judged else None)  # rank 0 decides


def _check_labels(cfg: DictConfig, dataset: Dataset) -> None:
    known = escape_labels(dataset.label_names)
    for key, value in [("monitor", cfg.monitor), *(("objective", value) for value in objectives(cfg))]:
        metric = value.rsplit("/", 2)
        if len(metric) > 1 and metric[-2] in PER_LABEL_METRIC_NAMES and metric[-1] not in known:
            raise UserError(f"Config key '{key}' is '{value}', but the labels are {', '.join(known)}.")


def _set_threads(cfg: DictConfig, job: Job) -> int:
    """Set and return the threads of torch: jobs that run side by side take one each unless told otherwise."""
    torch.set_num_threads(cfg.trainer.threads or (1 if job.parallel else ALL_THREADS))
    return torch.get_num_threads()


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
        SLOT: slot_of(config, job),
        "seed": cfg.seed,
        "precision": resolve_precision(cfg),
        "threads": threads,
        "package": code.package(),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if device_kind(cfg) == "cuda" else "cpu",
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
    from ecgexp.search.study import judge

    alike = best_is(cfg.monitor) == ("max" if maximizes(objectives(cfg)[0]) else "min")
    return judge(job.study, cfg.monitor, 1 if alike else -1)


def _record_inputs(run: Run, cfg: DictConfig, overrides: list[str]) -> None:
    config = plain(cfg)
    run.log_params(dict(provenance.flatten(config)))
    with run.artifacts() as folder:
        for name, content in (("config.yaml", config), ("overrides.yaml", overrides)):
            (folder / name).write_text(without_passwords(OmegaConf.to_yaml(content)))
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
            metrics[LATENCY] = _latency(fitted.network, fitted.data.splits["val"], fitted.trainer)
        elif objective not in metrics and objective not in COSTS:
            raise UserError(
                f"objective={objective} cannot be computed on these data: "
                "choose another metric, or data in which its labels occur."
            )
    run.log_metrics(metrics)
    run.set_tags({SUM: metrics_sum(metrics)})
    run.set_tags({f"labels_left_out/{name}": ", ".join(labels) for name, labels in left_out.items()})
    logits, targets = outputs["val"]
    names, probabilities = dataset.label_names, output_layer(dataset.multiclass)(logits)
    description = {**describe(cfg, dataset), "counts": dataset.summary()}
    records = fitted.data.splits["val"]
    run.set_tags({VALIDATION: validation_fingerprint(records.ids, targets.numpy(), names)})
    with run.artifacts() as folder:
        keep = cfg.privacy.patients == "keep"
        patients = records.patients if keep else hashed_patients(run.store, records.patients)
        path = folder / "predictions_val.parquet"
        write_predictions(path, records.ids, probabilities, targets, names, patients)
        write_confusion(folder, "val", probabilities, targets, names, cfg.threshold, dataset.multiclass)
        write_curves(folder / "learning_curves.png", fitted.history, shown(cfg), fitted.best_epoch)
        write_trained_on(folder / TRAINED_ON, run.store, fitted.data.splits)
        (folder / "data.json").write_text(json.dumps(description, indent=1))
        torch.save(fitted.network.cpu().state_dict(), folder / "weights.pt")


def _with_costs(store: Store, run: MlflowRun, cfg: DictConfig, parts: Parts, is_own: bool) -> MlflowRun:
    """A reused run with the latency that is asked for: on this machine, since another one's does not compare."""
    if LATENCY not in objectives(cfg) or (is_own and LATENCY in run.data.metrics) or is_pruned(run):
        return run
    network = Network(parts.net, parts.dataset.normalization())
    latency = _latency(network, parts.dataset.load("val"), build_trainer(cfg, []))
    store.client.log_metric(run.info.run_id, LATENCY, latency)
    return store.client.get_run(run.info.run_id)


def _latency(network: Network, split: Split, trainer: pl.Trainer) -> float:
    """Milliseconds that a net takes for one record, whatever its weights: the median of ten passes, after a first."""
    device = trainer.strategy.root_device
    network = network.to(device).eval()
    record = torch.from_numpy(example(split)[:1]).to(device)
    times = []
    with torch.no_grad(), trainer.precision_plugin.forward_context():
        for _ in range(11):
            begun = time.perf_counter()
            network(record).cpu()
            times.append(time.perf_counter() - begun)
    return 1e3 * statistics.median(times[1:])
