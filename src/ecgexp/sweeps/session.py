"""Begins, watches and reports a sweep, under any sweeper and launcher."""

from __future__ import annotations

import hashlib
import json
import math
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from filelock import Timeout
from mlflow.entities import Run as MlflowRun
from omegaconf import DictConfig, OmegaConf

from ecgexp.config.build import build_dataset, build_statistics, build_target, example
from ecgexp.config.schema import objectives
from ecgexp.config.upgrade import FORM
from ecgexp.errors import UserError
from ecgexp.reports.stages import COLUMN, StagedPath, about_path, read_path, stage_column, write_path
from ecgexp.reports.statistics import compute_statistics, lines_of, write_statistics
from ecgexp.reports.tables import (
    MOST_SETS,
    best_trials,
    described,
    failures,
    set_name,
    sweep_results,
    sweep_table,
    swept_keys,
    write_sweep_report,
)
from ecgexp.sweeps.status import DONE, Board, StatusLine, TrialStatus
from ecgexp.sweeps.supervisor import GRACE, TrialFailed
from ecgexp.text import quoted
from ecgexp.tracking import provenance
from ecgexp.tracking.heartbeat import HEARTBEAT_TIMEOUT, is_alive
from ecgexp.tracking.model import log_model
from ecgexp.tracking.names import TRAIN_SECONDS, File, Kind, Status, Tag, metric_of
from ecgexp.tracking.restore import load_run
from ecgexp.tracking.run import Run, end_orphans
from ecgexp.tracking.runs import (
    children,
    form_of,
    is_pruned,
    job_of,
    name_before,
    overrides_of,
    sweep_runs,
    sweeps_named,
)
from ecgexp.tracking.store import Store, StoreAway, open_store
from ecgexp.tracking.trust import named_packages
from ecgexp.trials.identity import key_of
from ecgexp.trials.job import PARENT_VARIABLE, SWEPT_VARIABLE

if TYPE_CHECKING:
    import pandas as pd

    from ecgexp.search.stages import Staged
    from ecgexp.search.worker import Search

# Overrides that say how a sweep runs, not what it trains.
_NOT_TRAINED = ("hydra", "sweep.", "resume=", "statistics", "tracking")
# Those of them that nevertheless make another search.
_SEARCHED = ("hydra/sweeper", "hydra.sweeper.params", "hydra.sweeper.space")
_STAGED = ("hydra/sweeper", "hydra.sweeper.")
# The status line replaces Hydra's line per job; a trial's output goes to its trial.log.
_QUIET = ("hydra/hydra_logging=none", "hydra/job_logging=none")
_BEGINNING = 30.0  # seconds in which a command that has the lock creates its run


@contextmanager
def sweep_session(
    cfg: DictConfig,
    overrides: Sequence[str],
    cells: Sequence[Sequence[str]] | None,
    search: Search | None,
    staged: Staged | None = None,
) -> Iterator[list[str]]:
    """Begin or resume a sweep, show its status, and report at the end, even after an error.

    If the sweep is a search that already runs, this command joins it.

    Parameters
    ----------
    cfg : DictConfig
        Configuration of its first trial.
    overrides : sequence of str
        Overrides on the command line.
    cells : sequence of sequence of str, optional
        Overrides of each trial, if they are known in advance.
    search : Search, optional
        A search by Optuna, if the sweep is one.
    staged : Staged, optional
        A search by stages, if the sweep is one.

    Yields
    ------
    list of str
        Further overrides, by which the trials know their sweep.

    Raises
    ------
    UserError
        If the sweep is running already.
    """
    store = open_store(cfg.tracking)
    trained = [o for o in overrides if not o.lstrip("+~").startswith(_NOT_TRAINED)]
    searched = _STAGED if staged is not None else _SEARCHED if search is not None else ()
    defining = [*trained, *(o for o in overrides if o.startswith(searched))]
    name = cfg.sweep.name or hashlib.sha256(json.dumps(sorted(defining)).encode()).hexdigest()[:12]
    plan = _Plan(cfg, name, cells, search, staged)
    build_statistics(cfg)  # so that errors are reported before a trial begins
    with _lock(store, name) as locked:
        end_orphans(store)
        if locked and not cfg.resume:
            plan.check_new()
        earlier = _earlier(store, name, cfg.resume) if locked else _begun(store, name)
        plan.check_resumable(store, earlier)
        _warn_of_earlier_form(store, earlier)
        if not locked or _is_elsewhere(store, earlier):
            with _joined(store, plan, earlier) as for_trials:
                yield for_trials
            return
        tags = {
            Tag.KIND: Kind.SWEEP,
            Tag.SWEEP: name,
            Tag.OBJECTIVE: plan.objective,
            **provenance.git_state(Path.cwd()),
        }
        dataset = build_dataset(cfg)
        tags |= provenance.warn(dataset.warning) if dataset.warning else {}
        if search is not None:
            tags |= {Tag.SEARCH: "true", Tag.OBJECTIVES: json.dumps(objectives(cfg))}
        with Run(store, " ".join(trained) or "sweep", tags, continues=earlier) as run:
            board = Board(store.root, run.id)
            board.clear()
            if search is not None:
                _show_earlier(board, run, plan.objective)
            dataset.prepare()
            try:
                with _watched(board, plan):
                    yield plan.overrides(store, run.id)
                _check_complete(board, plan)
            except TrialFailed as error:
                run.status = Status.FAILED
                raise UserError(str(error)) from None
            except BaseException as error:
                run.status = Status.FAILED
                if isinstance(error, (KeyboardInterrupt, SystemExit)):
                    run.status = Status.KILLED
                    store.hurry()
                raise
            finally:
                try:
                    if run.status is not None:
                        # Other commands may have joined a search and still train.
                        _await_trials(run, GRACE if search is None else 3.0)
                    end_orphans(store)
                    _report(run, plan)
                except StoreAway as error:
                    if run.status is None:
                        raise
                    print(error, file=sys.stderr)


@dataclass(frozen=True)
class _Plan:
    """The plan of a sweep: the configuration of its first trial, its name, and its cells or its search."""

    cfg: DictConfig
    name: str
    cells: Sequence[Sequence[str]] | None
    search: Search | None
    staged: Staged | None = None

    @property
    def objective(self) -> str:
        """The metric that ranks the trials."""
        return objectives(self.cfg)[0]

    @property
    def maximizes(self) -> bool:
        """Whether a larger value of the objective is better."""
        return build_target(self.cfg).higher_is_better(metric_of(self.objective))

    def overrides(self, store: Store, parent: str) -> list[str]:
        """Overrides by which trials know their sweep."""
        overrides = [f"+hydra.job.env_set.{PARENT_VARIABLE}={parent}", *_QUIET]
        if swept := self.swept():
            overrides.append(f"+hydra.job.env_set.{SWEPT_VARIABLE}={quoted(','.join(swept))}")
        if self.search is None:
            return overrides
        storage, study = self.study(store, parent)
        return [*overrides, f"hydra.sweeper.storage={quoted(storage)}", f"hydra.sweeper.study={quoted(study)}"]

    def swept(self) -> list[str]:
        """Keys whose values differ between the trials of a grid or of a search by stages."""
        if self.staged is not None:
            return self.staged.swept
        overrides = {override for cell in self.cells or () for override in cell}
        values = Counter(map(key_of, overrides))
        return sorted(key for key, count in values.items() if count > 1)

    def check_new(self) -> None:
        """Refuse to begin a new search in a study that exists."""
        if self.search is None or self.search.config.storage is None or self.search.config.study is None:
            return
        from ecgexp.search.study import open_storage

        name = self.search.config.study
        try:
            open_storage(self.search.config.storage).get_study_id_from_name(name)
        except KeyError:
            return
        raise UserError(
            f"The study {name} exists already, but resume=false begins a new one: "
            "give hydra.sweeper.study another name, or leave it out."
        )

    def check_resumable(self, store: Store, earlier: MlflowRun | None) -> None:
        """Refuse to resume a study of another search, before anything is recorded."""
        if self.search is None:
            return
        from ecgexp.search.study import open_storage

        storage, study = self.search.config.storage, self.search.config.study
        if earlier is not None:
            storage, study = self.study(store, earlier.info.run_id)
        if storage is None or study is None:
            return
        # Opening a missing file would create it, and its folder would mark the sweep as begun here.
        if "://" in storage or Path(storage).exists():
            self.search.open(open_storage(storage), study)

    def study(self, store: Store, parent: str) -> tuple[str, str]:
        """Storage and name of the search's study."""
        assert self.search is not None
        journal = Board(store.root, parent).folder / "study.journal"
        return self.search.config.storage or str(journal), self.search.config.study or f"{self.name}-{parent[:8]}"


@contextmanager
def _watched(board: Board, plan: _Plan) -> Iterator[None]:
    """Show the status of the sweep while the body runs, and exit in order on SIGTERM."""
    previous = signal.signal(signal.SIGTERM, _terminate)
    size: tuple[int, list[str]] | tuple[()] = ()
    if plan.search is not None:
        size = plan.search.n_trials, plan.search.fixed
    elif plan.staged is not None:
        size = plan.staged.trials, plan.staged.fixed
    try:
        with StatusLine(board, plan.cells, plan.maximizes, *size):
            yield
    except BrokenProcessPool as error:  # joblib then ends all its processes
        raise UserError(
            "A process that ran trials was killed (out of memory?): the same command resumes the sweep."
        ) from error
    finally:
        signal.signal(signal.SIGTERM, previous)


@contextmanager
def _joined(store: Store, plan: _Plan, running: MlflowRun | None) -> Iterator[list[str]]:
    """Join a search that another command runs; the command that ends last writes the report."""
    if plan.search is None or running is None:
        host = running.data.tags[Tag.HOST] if running else provenance.host()
        raise UserError(
            f"The sweep {plan.name} is running already on {host}: wait for its end (if that machine died, "
            f"{HEARTBEAT_TIMEOUT / 60:.0f} minutes), or start another one with sweep.name=NAME."
        )
    parent = running.info.run_id
    board = Board(store.root, parent)
    if plan.search.config.storage is None and not board.folder.exists():
        raise UserError(
            f"The search {plan.name} runs on {running.data.tags[Tag.HOST]} with its study in a file there: "
            "to join it from another folder, give both hydra.sweeper.storage=URL."
        )
    print(f"Joining the search {plan.name}, which already runs.", file=sys.stderr)
    build_dataset(plan.cfg).prepare()
    try:
        with _watched(board, plan):
            yield plan.overrides(store, parent)
        _check_complete(board, plan)
    except TrialFailed as error:
        raise UserError(str(error)) from None
    finally:
        with _lock(store, plan.name) as locked:
            current = store.client.get_run(parent)
            if locked and current.info.status != Status.RUNNING:
                with Run(store, current.info.run_name, {}, continues=current) as run:
                    run.status = current.info.status
                    _report(run, plan)


@contextmanager
def _lock(store: Store, name: str) -> Iterator[bool]:
    """Lock the sweep against other commands of this folder; yields False if another one has it."""
    lock = store.lock(f"sweep-{name}")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def _show_earlier(board: Board, run: Run, objective: str) -> None:
    """Show the finished trials of a resumed search; unlike a grid, it does not visit them again."""
    for trial in sweep_runs(run.store, run.id):
        if trial.info.status == Status.FINISHED:
            metrics = trial.data.metrics
            status = TrialStatus("pruned" if is_pruned(trial) else "done", overrides_of(trial), 0.0)
            board.write(
                job_of(trial),
                replace(status, value=metrics.get(objective), seconds=metrics.get(TRAIN_SECONDS)),
            )


def _earlier(store: Store, name: str, resume: bool) -> MlflowRun | None:
    """The run of an earlier start; without `resume`, rename the earlier runs, and return None."""
    runs = sweeps_named(store, name)
    if not runs or resume:
        return runs[-1] if runs else None
    for run in runs:
        store.client.set_tag(run.info.run_id, Tag.SWEEP, name_before(name, datetime.now(UTC)))
    return None


def _warn_of_earlier_form(store: Store, earlier: MlflowRun | None) -> None:
    """Warn that trials with an earlier form of the configuration are not reused."""
    runs = children(store, earlier.info.run_id) if earlier is not None else []
    old = sum(form_of(run) < FORM for run in runs)
    if old:
        print(
            f"{old} trial{'s' * (old > 1)} of this sweep {'were' if old > 1 else 'was'} trained by an earlier version, "
            "with another form of the configuration: reports still show them, but they are trained again rather than "
            "resumed or reused.",
            file=sys.stderr,
        )


def _begun(store: Store, name: str) -> MlflowRun | None:
    """The run that another command has begun, or is about to begin."""
    end = time.monotonic() + _BEGINNING
    while not (runs := sweeps_named(store, name)) and time.monotonic() < end:
        time.sleep(0.2)
    return runs[-1] if runs else None


def _is_elsewhere(store: Store, earlier: MlflowRun | None) -> bool:
    """Whether a sweep runs in another folder; in this folder, its lock shows that."""
    if earlier is None or earlier.info.status != Status.RUNNING:
        return False
    return not Board(store.root, earlier.info.run_id).folder.exists()


def _check_complete(board: Board, plan: _Plan) -> None:
    """Raise `TrialFailed` where a trial failed."""
    trials = board.read()
    if not any(status.state == "failed" for status in trials.values()):
        return
    left = (len(plan.cells) if plan.cells else len(trials)) - len(trials)
    limit = ""
    if left:
        plural = "s" * (left > 1)
        limit = f" {left} trial{plural} did not start because sweep.max_failures={plan.cfg.sweep.max_failures}."
    raise TrialFailed(f"The sweep is not complete: the trials listed above failed.{limit}")


def _await_trials(run: Run, seconds: float) -> None:
    """Wait until trials that a launcher kills have ended; their runs can be ended only then."""
    running = [trial.data.tags for trial in sweep_runs(run.store, run.id) if trial.info.status == Status.RUNNING]
    here = [tags for tags in running if tags.get(Tag.HOST) == provenance.host()]
    deadline = time.monotonic() + seconds
    while any(map(is_alive, here)) and time.monotonic() < deadline:
        time.sleep(0.1)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _report(run: Run, plan: _Plan) -> None:
    results, objective = sweep_results(run.store, run.id), plan.objective
    if results.empty:
        print("No trial of this sweep has a run, so there is no table.", file=sys.stderr)
        return
    results.attrs["remarks"] += _incomplete(plan, results, Board(run.store.root, run.id))
    keys = swept_keys(results)
    path = _path(run, plan)
    if path is not None:
        results.insert(1, COLUMN, stage_column(results, path))
    with run.artifacts() as folder:
        write_sweep_report(
            folder, results, keys, objectives(plan.cfg), grid=plan.search is None and plan.staged is None
        )
        if path is not None:
            write_path(folder / File.STAGES, path)
        if plan.search is not None:
            _write_study(folder / File.STUDY, *plan.study(run.store, run.id))
    print(f"\n{sweep_table(results, keys, objectives(plan.cfg))}")
    for line in failures(results, keys):
        print(line, file=sys.stderr)
    best = best_trials(results if path is None else results[results["run_id"].isin(path.runs)], objective)
    if path is not None:
        print(f"\n{about_path(path)}")
    several = " (the report has the Pareto front)" if len(objectives(plan.cfg)) > 1 else ""
    print()
    for trial in best[:MOST_SETS]:
        where = f" on {set_name(results, trial['validation_set'])}" if len(best) > 1 else ""
        print(f"Best{where}: {described(trial, keys)}  {objective} = {trial[objective]:.4f}{several}")
        _log_best(run, trial["source_run_id"], plan.cfg)
    if len(best) > MOST_SETS:
        print(f"The best of {len(best) - MOST_SETS} further validation sets are marked * in the table.")
    _record_best(run, best, objective, keys)
    _add_statistics(run, plan, results)
    own = sorted(named_packages(OmegaConf.masked_copy(plan.cfg, ["target", "metrics"])) - {"ecgexp"})
    trust = f" trust={','.join(own)}" if own else ""
    print(f"Report: python -m ecgexp.report sweep={run.id}{run.store.arguments()}{trust}")
    print(f"Look at it: {run.store.ui_command()}")


def _add_statistics(run: Run, plan: _Plan, results: pd.DataFrame) -> None:
    """Compute the user's own statistics, save them with the sweep and print them."""
    statistics = compute_statistics(build_statistics(plan.cfg), results, plan.objective)
    earlier = any(file.path == File.STATISTICS for file in run.store.client.list_artifacts(run.id))
    if statistics.found or earlier:  # those of an earlier start belong to another table
        with run.artifacts() as folder:
            write_statistics(folder / File.STATISTICS, statistics)
    if statistics.found:
        print(f"\n{lines_of(statistics.found)}\n")


def _incomplete(plan: _Plan, results: pd.DataFrame, board: Board) -> list[str]:
    """A remark if planned trials have no result."""
    if plan.search is not None:  # other commands may have run some of the trials elsewhere
        total, done = plan.search.n_trials, int((results["status"] == Status.FINISHED).sum())
    else:  # the sweep may have further trials of an earlier command
        total = len(plan.cells or ()) if plan.staged is None else plan.staged.trials
        done = sum(status.state in DONE for status in board.read().values())
    if done >= total:
        return []
    has = "has" if total - done == 1 else "have"
    return [f"Not complete: {total - done} of the {total} trials {has} no result. The same command resumes the sweep."]


def _path(run: Run, plan: _Plan) -> StagedPath | None:
    """What the stages of a search chose, as far as they came."""
    file = Board(run.store.root, run.id).folder / File.STAGES
    return read_path(file) if plan.staged is not None and file.exists() else None


def _write_study(path: Path, storage: str, name: str) -> None:
    """Write the study to a file of the sweep, so that the report needs no storage."""
    from ecgexp.reports.search import write_study
    from ecgexp.search.study import open_storage

    write_study(path, open_storage(storage), name)


def _record_best(run: Run, best: Sequence[pd.Series], objective: str, keys: list[str]) -> None:
    """Record the best trial in the sweep's run, if there is a single one; else remove that of an earlier start."""
    if len(best) == 1:
        run.log_metrics({objective: best[0][objective]})
        run.set_tags({Tag.BEST_RUN: best[0]["source_run_id"], Tag.BEST_TRIAL: described(best[0], keys)})
        return
    earlier = run.store.client.get_run(run.id).data
    for tag in {Tag.BEST_RUN, Tag.BEST_TRIAL} & set(earlier.tags):
        run.store.client.delete_tag(run.id, tag)
    if objective in earlier.metrics:
        run.log_metrics({objective: math.nan})


def _log_best(run: Run, run_id: str, cfg: DictConfig) -> None:
    best = run.store.client.get_run(run_id)
    if cfg.tracking.log_model == "best" and not (best.outputs and best.outputs.model_outputs):
        trained = load_run(run.store, run_id, trust=named_packages(cfg))
        dataset = build_dataset(trained.cfg)
        inputs = example(dataset, dataset.load("val"))
        log_model(run.store, run_id, trained.network, inputs, trained.contract, dataset.target)
