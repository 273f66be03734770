"""The command line: Hydra's door. Imports nothing heavy, so that ``--help`` answers at once."""

from __future__ import annotations

import argparse
import math
import os
import sys
from pathlib import Path

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from ecgexp.errors import UserError

PACKAGE = Path(__file__).resolve().parent
# A wheel carries conf/ inside the package; in a checkout it stands at the top level.
CONF = PACKAGE / "conf" if (PACKAGE / "conf").is_dir() else PACKAGE.parents[1] / "conf"


def register_resolvers() -> None:
    """Make the interpolations that conf/ uses known to OmegaConf."""
    OmegaConf.register_new_resolver("ecgexp.len", len, replace=True)
    OmegaConf.register_new_resolver("ecgexp.product", lambda *factors: math.prod(factors), replace=True)
    OmegaConf.register_new_resolver("ecgexp.ptbxl_classes", _ptbxl_classes, replace=True)


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def run_job(cfg: DictConfig) -> float:
    """Train one trial: what Hydra calls for each job, in whatever process its launcher chose.

    Returns
    -------
    float
        The value of ``cfg.objective``.
    """
    from ecgexp.trial import run_trial

    register_resolvers()
    job = HydraConfig.get()
    os.chdir(job.runtime.cwd)  # relative paths mean the same under every launcher
    try:
        return run_trial(cfg, job)
    except UserError as error:
        if job.mode == RunMode.RUN:
            sys.exit(str(error))  # Hydra would add lines of its own
        raise


def main() -> None:
    """Entry point of ``python -m ecgexp``."""
    register_resolvers()
    args = get_args_parser().parse_args()
    if args.help or args.hydra_help or args.cfg or args.info or args.shell_completion:
        run_job()
        return
    os.environ["HYDRA_FULL_ERROR"] = "1"  # else Hydra prints errors itself, and we could not say them shortly
    try:
        _run(args)
    except UserError as error:
        sys.exit(str(error))


def _run(args: argparse.Namespace) -> None:
    from ecgexp.composition import configurations
    from ecgexp.config import check

    first, *others = configurations(CONF, args)
    for cfg in (first, *others):
        check(cfg)
    if args.multirun or "hydra.mode=MULTIRUN" in args.overrides:
        from ecgexp.sweeps.session import sweep_session

        with sweep_session(first, args.overrides) as overrides:
            sys.argv.extend(overrides)
            run_job()
    else:
        run_job()


def _ptbxl_classes(task: str) -> int | None:
    from ecgexp.datasets.ptbxl import PTBXL_CLASSES

    return PTBXL_CLASSES.get(task)
