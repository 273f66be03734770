"""Runs one trial: takes its configuration, returns the values of the objectives."""

from __future__ import annotations

from collections.abc import Callable

from omegaconf import DictConfig

from ecgexp.config.schema import check
from ecgexp.trials.claim import claim_trial
from ecgexp.trials.job import Job, Outcome
from ecgexp.trials.record import complete, outcome, record_trial
from ecgexp.trials.train import train_trial


def run_trial(cfg: DictConfig, job: Job, announce: Callable[[str], None] = lambda run_id: None) -> Outcome:
    """Claim, train and record one trial, or reuse one that is finished.

    Parameters
    ----------
    cfg : DictConfig
        The composed configuration.
    job : Job
        Hydra's description of the job: overrides, choices, folders.
    announce : callable
        Called with the id of the run once it has begun.

    Raises
    ------
    UserError
        If configuration or data cannot be used.
    """
    check(cfg)
    with claim_trial(cfg, job, announce) as claimed:
        if claimed.run is None:
            complete(claimed)
        else:
            record_trial(claimed, claimed.run, train_trial(claimed, claimed.run))
    return outcome(claimed)
