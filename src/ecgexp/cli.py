"""The command line: Hydra's entry point. It imports nothing slow, so that ``--help`` answers at once."""

from __future__ import annotations

import argparse
import errno
import math
import os
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from ecgexp import CONF
from ecgexp.config.resolvers import register_resolvers
from ecgexp.errors import UserError, summarised, without_passwords
from ecgexp.foreign.hydra import argument_parser
from ecgexp.paths import check_name, check_writable
from ecgexp.training.launched import check_ranks, launched

# Overrides that stop Hydra from writing files: for ranks above 0 that torchrun or srun started.
_WRITE_NOTHING = ("hydra.run.dir=.", "hydra.output_subdir=null", "hydra/job_logging=none", "hydra/hydra_logging=none")
# Numbers of the operating system's errors for a file or folder that cannot be written.
_NOT_WRITABLE = (
    errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG,
)  # fmt: skip


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def run_job(cfg: DictConfig) -> float | list[float]:
    """Train one trial. Hydra calls this for each job, in the process that its launcher chose.

    Returns
    -------
    float or list of float
        Value of ``cfg.objective``; a list if there are several objectives.

    Raises
    ------
    TrialPruned
        If the search stopped this trial early.
    """
    from ecgexp.trials.job import Job

    register_resolvers()
    _remove_passwords(HydraConfig.get())
    job = Job.of(HydraConfig.get())
    os.chdir(job.cwd)  # relative paths mean the same under every launcher
    if job.parent is not None:
        from ecgexp.sweeps.supervisor import TrialFailed, supervise

        try:
            values = supervise(cfg, job)
        except TrialFailed:
            if job.study is not None:
                raise
            return math.nan  # the session reports it at the end; an exception would make Hydra print more lines
        if not values:
            from optuna import TrialPruned

            raise TrialPruned
        return values[0] if len(values) == 1 else values
    from ecgexp.config.schema import objectives
    from ecgexp.tracking.store import open_store
    from ecgexp.training.ranks import follow, leading
    from ecgexp.trials.run import run_trial
    from ecgexp.trials.train import fit_rank

    if launched()[0] > 0:
        follow(fit_rank)
        return math.nan
    try:
        with leading():
            outcome = run_trial(cfg, job)
    except UserError as error:
        sys.exit(str(error))  # for an exception Hydra would print more lines
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):  # Lightning turns it into an exit with status 1
            raise error.__context__ from None
        raise
    for objective, value in zip(objectives(cfg), outcome.values, strict=False):
        print(f"{objective} = {value:.4f}   (run {outcome.run_id})")
    print(f"Look at it: {open_store(cfg.tracking, known=True).ui_command()}")
    return outcome.values[0]


def main() -> None:
    """Entry point of ``python -m ecgexp``."""
    register_resolvers()
    # conf/hydra/launcher/ray.yaml has the name of the plugin's own file, so that hydra/launcher=ray chooses ours.
    warnings.filterwarnings("ignore", r"\s*'hydra/launcher/ray' is validated against ConfigStore schema")
    args = argument_parser().parse_args()
    if args.help or args.hydra_help or args.cfg or args.info or args.shell_completion:
        _show(args)
        return
    os.environ["HYDRA_FULL_ERROR"] = "1"  # else Hydra prints errors itself, in many lines
    rank, _ = launched()
    try:
        _run(args)
    except UserError as error:
        sys.exit(str(error) if rank == 0 else 1)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            sys.exit(f"{summarised(error)}: once there is room, the same command resumes.")
        if error.errno in _NOT_WRITABLE and error.filename is not None:
            sys.exit(f"{error.filename} cannot be written: {error.strerror}. Once it can, the same command resumes.")
        raise
    except KeyboardInterrupt:
        print("Stopped. The same command resumes after the last finished epoch.", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)


def _show(args: argparse.Namespace) -> None:
    """Let Hydra show help or a configuration."""
    if args.cfg and args.multirun:
        sys.exit("--cfg shows one configuration: leave out -m, and give each key one value.")
    from ecgexp.commands.plan import check_options

    try:
        check_options(CONF, args)
    except UserError as error:
        sys.exit(str(error))
    run_job()


def _run(args: argparse.Namespace) -> None:
    from ecgexp.commands.plan import plan
    from ecgexp.config.components import build_target
    from ecgexp.config.schema import check

    check_name(Path.cwd())
    planned = plan(CONF, args)
    if planned.output is not None:
        check_writable(Path(planned.output[0]), planned.output[1])
    multirun = args.multirun or "hydra.mode=MULTIRUN" in args.overrides
    for cfg in planned.configurations:
        check(cfg)
        check_ranks(cfg.trainer, cfg.batch_size, multirun)
        if planned.search is not None:
            planned.search.check_together(cfg)
        if planned.staged is not None:
            planned.staged.check(cfg, build_target(cfg))
    if planned.local:
        from ecgexp.config.build import check_device

        for cfg in planned.configurations:
            check_device(cfg)
    if launched()[0] == 0 and any(cfg.init.run is not None for cfg in planned.configurations):
        from ecgexp.trials.start import check_starts

        check_starts(planned.configurations)
    if multirun:
        from ecgexp.processes import leave_nothing
        from ecgexp.sweeps.session import sweep_session

        leave_nothing()
        with sweep_session(
            planned.configurations[0], args.overrides, planned.cells, planned.search, planned.staged
        ) as overrides:
            sys.argv.extend(overrides)
            run_job()
    else:
        sys.argv.extend(_WRITE_NOTHING if launched()[0] > 0 else [])
        run_job()


def _remove_passwords(hydra: Any) -> None:
    """Remove passwords from the configuration files that Hydra has written."""
    own = [Path(hydra.runtime.output_dir) / hydra.output_subdir] if hydra.output_subdir else []
    sweep = Path(hydra.runtime.cwd) / hydra.sweep.dir
    for path in [file for folder in own for file in folder.glob("*.yaml")] + [sweep / "multirun.yaml"]:
        text = path.read_text() if path.is_file() else ""
        if (cleaned := without_passwords(text)) != text:
            temporary = path.with_name(f".{path.name}.{os.getpid()}")
            temporary.write_text(cleaned)
            temporary.replace(path)
