"""What surrounds the trials of a multirun, whatever its sweeper and launcher."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from omegaconf import DictConfig

from ecgexp.reports.sweep import (
    best_trial,
    described,
    failures,
    sweep_results,
    sweep_table,
    swept_keys,
    write_sweep_report,
)
from ecgexp.restore import load_run
from ecgexp.tracking import provenance
from ecgexp.tracking.model import log_model
from ecgexp.tracking.run import Run
from ecgexp.tracking.store import open_store
from ecgexp.trial import PARENT_VARIABLE, build_dataset, example


@contextmanager
def sweep_session(cfg: DictConfig, overrides: list[str]) -> Iterator[list[str]]:
    """Make a multirun's parent run, and report on its trials at the end, whatever happened.

    Parameters
    ----------
    cfg : DictConfig
        Configuration of its first trial.
    overrides : list of str
        Of the command line.

    Yields
    ------
    list of str
        Further overrides, which tell the trials of their parent.
    """
    store = open_store(cfg.tracking)
    name = " ".join(o for o in overrides if not o.lstrip("+~").startswith("hydra")) or "sweep"
    with Run(store, name, {"kind": "sweep", **provenance.git_state(Path.cwd())}) as run:
        try:
            yield [f"+hydra.job.env_set.{PARENT_VARIABLE}={run.id}"]
        except (Exception, SystemExit):
            # Hydra raises what the first failed trial raised, and Ctrl-C arrives as SystemExit.
            killed = "KILLED" in set(sweep_results(store, run.id)["status"])
            run.status = "KILLED" if killed else "FAILED"
            raise
        finally:
            _report(run, cfg)


def _report(run: Run, cfg: DictConfig) -> None:
    results = sweep_results(run.store, run.id)
    if results.empty:
        return
    keys = swept_keys(results)
    with run.artifacts() as folder:
        write_sweep_report(folder, results, keys, cfg.objective)
    print(f"\n{sweep_table(results, keys, cfg.objective)}")
    for line in failures(results, keys):
        print(line)
    best = best_trial(results, cfg.objective)
    if best is not None:
        print(f"\nBest: {described(best, keys)}  {cfg.objective} = {best[cfg.objective]:.4f}")
        run.log_metrics({cfg.objective: best[cfg.objective]})
        run.set_tags({"best_run_id": best["run_id"], "best_trial": described(best, keys)})
        if cfg.tracking.log_model == "best":
            trained, network = load_run(run.store, best["run_id"])
            log_model(run.store, best["run_id"], network, example(build_dataset(trained).load("val")))
    print(f"Look at it: {run.store.ui_command()}")
