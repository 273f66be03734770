"""The training of a claimed trial, in this process or in several."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ecgexp.config.build import build
from ecgexp.config.schema import objectives, plain
from ecgexp.targets import Target
from ecgexp.tracking.run import EpochLog, Run
from ecgexp.training.fit import Fitted, Judge, best_is, fit, load
from ecgexp.training.ranks import other_ranks
from ecgexp.trials.claim import Claimed
from ecgexp.trials.job import Job


def train_trial(claimed: Claimed, run: Run) -> Fitted:
    """Train a claimed trial, from its checkpoint if it has one, and log each epoch to its run.

    Raises
    ------
    UserError
        Where data or trainer cannot be used.
    """
    cfg, job, parts = claimed.cfg, claimed.job, claimed.parts
    epoch_log = EpochLog(run, cfg.tracking.system_metrics)
    rank = (plain(cfg), claimed.checkpoint, _is_judged(cfg, job))
    with epoch_log as log, other_ranks(cfg.trainer.devices, fit_rank, *rank):
        data, quiet = load(cfg, parts), job.parent is not None
        return fit(
            cfg, parts, data, claimed.checkpoint, run.scratch, log, quiet, _judge(cfg, parts.dataset.target, job)
        )


def fit_rank(config: dict[str, Any], checkpoint: Path | None, judged: bool, ready: Callable[[], None]) -> None:
    """Train as another rank than the first, which records."""
    cfg = OmegaConf.create(config)
    parts = build(cfg)
    data = load(cfg, parts)
    ready()
    fit(cfg, parts, data, checkpoint, judge=(lambda epochs: False) if judged else None)  # rank 0 decides


def _is_judged(cfg: DictConfig, job: Job) -> bool:
    """Whether a study is told of each epoch; of several objectives it takes none."""
    return job.study is not None and len(objectives(cfg)) == 1


def _judge(cfg: DictConfig, target: Target, job: Job) -> Judge | None:
    if job.study is None or not _is_judged(cfg, job):
        return None
    from ecgexp.search.study import judge

    alike = best_is(target, cfg.monitor) == best_is(target, objectives(cfg)[0])
    return judge(job.study, cfg.monitor, 1 if alike else -1)
