"""Claims a trial: finds its identity, whether it was trained before, and the run that stands for it."""

from __future__ import annotations

import json
import logging
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from ecgexp.config.build import Parts, build, device_kind, resolve_precision
from ecgexp.config.schema import plain
from ecgexp.errors import without_passwords
from ecgexp.tracking import code, provenance
from ecgexp.tracking.names import File, Status, Tag
from ecgexp.tracking.run import Run, end_orphans
from ecgexp.tracking.store import Store, open_store
from ecgexp.tracking.target import metric_note, to_tag
from ecgexp.training.callbacks import find_checkpoint
from ecgexp.trials.identity import identity
from ecgexp.trials.job import Interrupted, Job
from ecgexp.trials.ledger import Claim, claim, claim_unidentified, exclusive, tags_of, use_finished
from ecgexp.trials.start import Transfer, changed_source, find_transfer

logger = logging.getLogger(__name__)

ALL_THREADS = torch.get_num_threads()


@dataclass(frozen=True)
class Claimed:
    """A trial and its run, locked against other processes.

    Attributes
    ----------
    cfg : DictConfig
        The composed configuration.
    job : Job
        The job that runs the trial.
    store : Store
        Store of the run.
    parts : Parts
        The parts that the configuration names.
    run_id : str
        Id of the run.
    run : Run, optional
        The run, if the trial has to be trained; None if it was finished before.
    checkpoint : Path, optional
        Checkpoint of an interrupted training to resume.
    transfer : Transfer, optional
        What the net takes from trained weights; None if it starts anew.
    is_own : bool
        Whether this sweep began the run, for this trial.
    """

    cfg: DictConfig
    job: Job
    store: Store
    parts: Parts
    run_id: str
    run: Run | None
    checkpoint: Path | None
    transfer: Transfer | None
    is_own: bool


@contextmanager
def claim_trial(cfg: DictConfig, job: Job, announce: Callable[[str], None]) -> Iterator[Claimed]:
    """Find the run that stands for a trial, or begin one, which ends when the body ends.

    Until then, another process of the sweep that claims the same trial waits.

    Parameters
    ----------
    cfg : DictConfig
        The composed and checked configuration.
    job : Job
        The job that runs the trial.
    announce : callable
        Called with the id of the run once it has begun.

    Raises
    ------
    UserError
        If data cannot be used, or the trial failed too often.
    """
    store = open_store(cfg.tracking, known=job.parent is not None)
    if job.parent is None:
        end_orphans(store)
    threads = _set_threads(cfg, job)
    tags = _tags(cfg, job, threads)
    try:
        parts = _build(cfg, tags)
        transfer = find_transfer(cfg, parts, store)
        tags |= transfer.tags if transfer is not None else {}
        tags |= {Tag.IDENTITY: _identity(cfg, tags)}
    except Exception:
        claimed = claim_unidentified(store, tags, job)
        tags |= {**claimed.tags, Tag.ATTEMPTS: claimed.attempts}
        with Run(store, job.name, tags, job.parent, claimed.earlier) as run:
            announce(run.id)
            _record_settings(run, cfg, job)
            raise
    with exclusive(store, tags[Tag.IDENTITY], wait=job.parent is not None):
        claimed = claim(store, tags, job, cfg.sweep.max_retries, cfg.resume)
        if claimed.earlier is not None and claimed.earlier.info.status == Status.FINISHED:
            shutil.rmtree(
                store.scratch(claimed.earlier.info.run_id), ignore_errors=True
            )  # left if a process was killed here
            run_id = use_finished(store, claimed, job, tags).info.run_id
            yield Claimed(cfg, job, store, parts, run_id, None, None, transfer, claimed.is_own)
            return
        checkpoint, restarted = _checkpoint(store, claimed)
        if transfer is not None:
            print(transfer.note, file=sys.stderr)
            restarted |= _tell_of_other_weights(store, tags, job) if claimed.earlier is None else {}
        tags |= {**claimed.tags, Tag.ATTEMPTS: claimed.attempts, **restarted}
        with Run(store, job.name, tags, job.parent, claimed.earlier) as run, _no_exit(job):
            announce(run.id)
            _record_settings(run, cfg, job, transfer)
            yield Claimed(cfg, job, store, parts, run.id, run, checkpoint, transfer, claimed.is_own)
        shutil.rmtree(run.scratch, ignore_errors=True)


def _build(cfg: DictConfig, tags: dict[str, Any]) -> Parts:
    """Build the parts of a configuration and prepare its data; add each tag to `tags` as soon as it is known."""
    parts = build(cfg)
    if parts.dataset.warning:
        logger.warning(parts.dataset.warning)
        tags |= provenance.warn(parts.dataset.warning)
    tags |= {Tag.CODE: code.own_code(plain(cfg)), Tag.METRICS: to_tag(metric_note(parts.dataset.target))}
    parts.dataset.prepare()
    tags |= {Tag.DATASET: parts.dataset.fingerprint()}
    return parts


def _identity(cfg: DictConfig, tags: dict[str, Any]) -> str:
    here = (tags[Tag.DATASET], device_kind(cfg), tags[Tag.THREADS], tags[Tag.PRECISION], tags[Tag.CODE])
    return identity(plain(cfg), *here, start=tags.get(Tag.INIT_WEIGHTS, ""))


def _tell_of_other_weights(store: Store, tags: dict[str, Any], job: Job) -> dict[str, str]:
    """Say that a trial was begun from other weights under the same name, and so is not resumed; tags for its run."""
    earlier = changed_source(store, tags, job.parent)
    if earlier is None:
        return {}
    before, now = earlier.data.tags[Tag.INIT_WEIGHTS], tags[Tag.INIT_WEIGHTS]
    print(
        f"Run {earlier.info.run_id} of this trial began from other weights of the same name ({before}, now {now}), so "
        "that the trial starts anew.",
        file=sys.stderr,
    )
    return {Tag.RESTARTED: f"init.run has other weights ({now}) than it had ({before})"}


def _checkpoint(store: Store, claimed: Claim) -> tuple[Path | None, dict[str, Any]]:
    """Checkpoint of the earlier run, if any; and tags if it was damaged, which does not count as a failed attempt."""
    if claimed.earlier is None:
        return None, {}
    checkpoint, damaged = find_checkpoint(store.scratch(claimed.earlier.info.run_id))
    restarted = {Tag.ATTEMPTS: claimed.attempts - 1, Tag.RESTARTED: "its checkpoint was damaged"}
    return checkpoint, restarted if damaged else {}


@contextmanager
def _no_exit(job: Job) -> Iterator[None]:
    """In a sweep, treat an unexpected exit, such as ``sys.exit`` in a net, as a failure."""
    try:
        yield
    except (SystemExit, KeyboardInterrupt) as error:
        if job.parent is None or isinstance(error, Interrupted):
            raise
        raise RuntimeError(f"The code of the trial exited with {error!r}.") from error


def _set_threads(cfg: DictConfig, job: Job) -> int:
    """Set and return the threads of torch: one for each of parallel jobs, unless configured."""
    torch.set_num_threads(cfg.trainer.threads or (1 if job.parallel else ALL_THREADS))
    return torch.get_num_threads()


def _tags(cfg: DictConfig, job: Job, threads: int) -> dict[str, Any]:
    config = plain(cfg)
    return {
        **tags_of(config, job),
        **provenance.git_state(Path.cwd()),
        Tag.CONFIG_HASH: provenance.config_hash(config),
        Tag.SEED: cfg.seed,
        Tag.PRECISION: resolve_precision(cfg),
        Tag.THREADS: threads,
        Tag.PACKAGE: code.package(),
        Tag.TORCH: torch.__version__,
        Tag.DEVICE: torch.cuda.get_device_name() if device_kind(cfg) == "cuda" else "cpu",
    }


def _record_settings(run: Run, cfg: DictConfig, job: Job, transfer: Transfer | None = None) -> None:
    config = plain(cfg)
    run.log_params(dict(provenance.flatten(config)))
    with run.artifacts() as folder:
        for name, content in ((File.CONFIG, config), (File.OVERRIDES, job.overrides)):
            (folder / name).write_text(without_passwords(OmegaConf.to_yaml(content)))
        (folder / File.ENVIRONMENT).write_text(provenance.packages())
        if transfer is not None:
            (folder / File.INIT).write_text(json.dumps(transfer.to_json(), indent=1))
