"""What surrounds the trials of a multirun, whatever its sweeper and launcher."""

from __future__ import annotations

import hashlib
import json
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

from filelock import Timeout
from mlflow.entities import Run as MlflowRun
from omegaconf import DictConfig

from ecgexp.errors import UserError
from ecgexp.reports.sweep import (
    best_trial,
    described,
    failures,
    maximizes,
    sweep_results,
    sweep_runs,
    sweep_table,
    swept_keys,
    write_sweep_report,
)
from ecgexp.restore import load_run, named_packages
from ecgexp.sweeps.job import PARENT_VARIABLE
from ecgexp.sweeps.status import Board, StatusLine
from ecgexp.sweeps.supervisor import TrialFailed
from ecgexp.tracking import provenance
from ecgexp.tracking.heartbeat import SILENCE
from ecgexp.tracking.model import log_model
from ecgexp.tracking.run import Run, end_orphans
from ecgexp.tracking.store import Store, StoreAway, open_store
from ecgexp.trial import build_dataset, describe, example

# Overrides that say how a sweep is run, not what it sweeps.
_MANNER = ("hydra", "sweep.", "resume=", "tracking")
# The status line stands for Hydra's line per job; what a trial says goes to its trial.log.
_QUIET = ("hydra/hydra_logging=none", "hydra/job_logging=none")


@contextmanager
def sweep_session(
    cfg: DictConfig, overrides: Sequence[str], cells: Sequence[Sequence[str]] | None
) -> Iterator[list[str]]:
    """Begin or continue a sweep, show where it stands, and report at the end, whatever happened.

    Parameters
    ----------
    cfg : DictConfig
        Configuration of its first trial.
    overrides : sequence of str
        Of the command line.
    cells : sequence of sequence of str, optional
        Overrides of each trial, where they are known before.

    Yields
    ------
    list of str
        Further overrides, which tell the trials of their sweep.

    Raises
    ------
    UserError
        Where the sweep is running already.
    """
    store = open_store(cfg.tracking)
    asked = [o for o in overrides if not o.lstrip("+~").startswith(_MANNER)]
    name = cfg.sweep.name or hashlib.sha256(json.dumps(sorted(asked)).encode()).hexdigest()[:12]
    with _alone(store, name):
        end_orphans(store)
        tags = {"kind": "sweep", "sweep": name, "objective": cfg.objective, **provenance.git_state(Path.cwd())}
        tags |= provenance.note(cfg.dataset._target_)
        earlier = _earlier(store, name, cfg.resume)
        _refuse_if_elsewhere(store, name, earlier)
        with Run(store, " ".join(asked) or "sweep", tags, continues=earlier) as run:
            board = Board(store.root, run.id)
            board.clear()
            build_dataset(cfg).prepare()
            previous = signal.signal(signal.SIGTERM, _terminate)
            try:
                with StatusLine(board, cells, maximizes(cfg.objective)):
                    yield [f"+hydra.job.env_set.{PARENT_VARIABLE}={run.id}", *_QUIET]
            except TrialFailed:
                run.status = "FAILED"
                raise UserError("The sweep is not complete: the trials listed above failed.") from None
            except BaseException as error:
                run.status = "FAILED"
                if isinstance(error, (KeyboardInterrupt, SystemExit)):
                    run.status = "KILLED"
                    store.hurry()
                raise
            finally:
                signal.signal(signal.SIGTERM, previous)
                try:
                    end_orphans(store)
                    _report(run, cfg)
                    for line in _unrecorded(board, run):
                        print(line, file=sys.stderr)
                except StoreAway as error:
                    if run.status is None:
                        raise
                    print(error, file=sys.stderr)


@contextmanager
def _alone(store: Store, name: str) -> Iterator[None]:
    lock = store.lock(f"sweep-{name}")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(
            f"The sweep {name} is running already: wait for its end, or start another one with sweep.name=NAME."
        ) from None
    try:
        yield
    finally:
        lock.release()


def _earlier(store: Store, name: str, resume: bool) -> MlflowRun | None:
    """The run of an earlier start; it gives its name up where the sweep is to start afresh."""
    runs = store.search(f"tags.kind = 'sweep' and tags.sweep = '{name}'")
    if not runs or resume:
        return runs[-1] if runs else None
    for run in runs:
        store.client.set_tag(run.info.run_id, "sweep", f"{name} before {datetime.now(UTC):%Y-%m-%d %H:%M:%S}")
    return None


def _refuse_if_elsewhere(store: Store, name: str, earlier: MlflowRun | None) -> None:
    # Where this folder has seen that start, its lock, which is ours now, tells that the sweep is not running.
    if earlier is None or earlier.info.status != "RUNNING" or Board(store.root, earlier.info.run_id).folder.exists():
        return
    raise UserError(
        f"The sweep {name} is running already on {earlier.data.tags['host']}: wait for its end (if that machine died, "
        f"{SILENCE / 60:.0f} minutes), or start another one with sweep.name=NAME."
    )


def _unrecorded(board: Board, run: Run) -> list[str]:
    """A line for each trial whose process died before it had a run."""
    recorded = {trial.data.tags["job"] for trial in sweep_runs(run.store, run.id)}
    failed = {job: status for job, status in board.read().items() if status.state == "failed"}
    return [
        f"Failed: trial {job} {' '.join(status.overrides)}  {status.error}"
        for job, status in failed.items()
        if str(job) not in recorded
    ]


def _terminate(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _report(run: Run, cfg: DictConfig) -> None:
    results = sweep_results(run.store, run.id)
    if results.empty:
        return
    keys = swept_keys(results)
    with run.artifacts() as folder:
        write_sweep_report(folder, results, keys, cfg.objective)
    print(f"\n{sweep_table(results, keys, cfg.objective)}")
    for line in failures(results, keys):
        print(line, file=sys.stderr)
    best = best_trial(results, cfg.objective)
    if best is not None:
        print(f"\nBest: {described(best, keys)}  {cfg.objective} = {best[cfg.objective]:.4f}")
        run.log_metrics({cfg.objective: best[cfg.objective]})
        _log_best(run, best["source_run_id"], cfg, described(best, keys))
    print(f"Report: python -m ecgexp.report sweep={run.id}\nLook at it: {run.store.ui_command()}")


def _log_best(run: Run, run_id: str, cfg: DictConfig, words: str) -> None:
    best = run.store.client.get_run(run_id)
    run.set_tags({"best_run_id": run_id, "best_trial": words})
    if cfg.tracking.log_model == "best" and not (best.outputs and best.outputs.model_outputs):
        trained, network = load_run(run.store, run_id, trust=named_packages(cfg))
        dataset = build_dataset(trained)
        log_model(run.store, run_id, network, example(dataset.load("val")), describe(trained, dataset))
