"""The training of a claimed trial, in this process or in several."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ecgexp.config.build import build
from ecgexp.config.schema import objectives, plain
from ecgexp.targets import Target
from ecgexp.tracking.run import EpochLog, Run
from ecgexp.training.fit import Fitted, ShouldPrune, best_is, fit, load
from ecgexp.training.ranks import other_ranks
from ecgexp.training.transfer import Start
from ecgexp.trials.claim import Claimed
from ecgexp.trials.job import Job


def train_trial(claimed: Claimed, run: Run) -> Fitted:
    """Train a claimed trial, from its checkpoint if it has one, and log each epoch to its run.

    Raises
    ------
    UserError
        If data or trainer cannot be used.
    """
    cfg, job, parts = claimed.cfg, claimed.job, claimed.parts
    epoch_log = EpochLog(run, cfg.tracking.system_metrics)
    start = claimed.transfer.fit.start if claimed.transfer is not None else Start()
    rank = (plain(cfg), claimed.checkpoint, _reports_epochs(cfg, job), start.frozen)
    with epoch_log as log, other_ranks(cfg.trainer.devices, fit_rank, *rank):
        data, quiet = load(cfg, parts), job.parent is not None
        should_prune = _should_prune(cfg, parts.dataset.target, job)
        return fit(cfg, parts, data, claimed.checkpoint, run.scratch, log, quiet, should_prune, start)


def fit_rank(
    config: dict[str, Any], checkpoint: Path | None, may_prune: bool, frozen: Sequence[str], ready: Callable[[], None]
) -> None:
    """Train as a rank above 0; only rank 0 records, and sends the weights to start from."""
    cfg = OmegaConf.create(config)
    parts = build(cfg)
    data = load(cfg, parts)
    ready()
    should_prune = (lambda epochs: False) if may_prune else None  # rank 0 decides
    fit(cfg, parts, data, checkpoint, should_prune=should_prune, start=Start(frozen=tuple(frozen)))


def _reports_epochs(cfg: DictConfig, job: Job) -> bool:
    """Whether each epoch is reported to a study, which may prune; Optuna allows it for a single objective only."""
    return job.study is not None and len(objectives(cfg)) == 1


def _should_prune(cfg: DictConfig, target: Target, job: Job) -> ShouldPrune | None:
    if job.study is None or not _reports_epochs(cfg, job):
        return None
    from ecgexp.search.study import pruning

    same_direction = best_is(target, cfg.monitor) == best_is(target, objectives(cfg)[0])
    return pruning(job.study, cfg.monitor, 1 if same_direction else -1)
