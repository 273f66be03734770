"""Optuna as a sweeper of Hydra's: ``hydra/sweeper=optuna``. Hydra imports this for every command: nothing heavy."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

if TYPE_CHECKING:
    from optuna.study import Study


class OptunaSweeper(Sweeper):
    """Searches with an Optuna study, by workers that each ask it for a trial as soon as they are free.

    The launcher starts the workers, not the trials: so none waits for the slowest of a batch, and one more may join
    from anywhere. Its arguments are the keys of ``conf/hydra/sweeper/optuna.yaml``, explained there.
    """

    def __init__(self, **settings: Any) -> None:
        self.hydra_context: HydraContext | None = None
        self.config: DictConfig | None = None
        self._task_function: TaskFunction | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take over what Hydra composed."""
        self.hydra_context, self._task_function, self.config = hydra_context, task_function, config

    def sweep(self, arguments: list[str]) -> Any:
        """Search.

        Returns
        -------
        sequence of JobReturn
            Of the workers: how many trials failed in each.

        Raises
        ------
        UserError
            Where the space cannot be searched as configured.
        TrialFailed
            At the end, where a trial failed.
        """
        from optuna.exceptions import StorageInternalError

        from ecgexp.commands.plan import parameters
        from ecgexp.errors import UserError, without_passwords
        from ecgexp.search.worker import Search, Worker
        from ecgexp.sweeps.supervisor import TrialFailed

        assert self.config is not None and self.hydra_context is not None and self._task_function is not None
        folder = Path(self.config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "multirun.yaml").write_text(without_passwords(OmegaConf.to_yaml(self.config)))
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        sweeper = self.config.hydra.sweeper
        search = Search.read(sweeper, [*parameters(sweeper, parser), *parser.parse_overrides(arguments)])
        first = search.first_overrides()
        self.validate_batch_is_legal([first])
        worker = Worker(
            search,
            search.config.storage or str(folder.resolve() / "study.journal"),
            search.config.study or self.config.hydra.job.name,
            self.config,
            self.hydra_context,
            self._task_function,
            time.time() + (search.config.timeout or float("inf")),
        )
        launcher = Plugins.instance().instantiate_launcher(
            hydra_context=self.hydra_context, task_function=worker, config=self.config
        )
        # A worker is a job without a folder of its own; the trials that it runs have theirs.
        job = [*first, "hydra.sweep.subdir=.", "hydra.output_subdir=null"]
        try:
            study = worker.prepare()
            returns = launcher.launch([job] * self._workers(search.config.workers), initial_job_idx=0)
            failed = sum(result.return_value for result in returns)
            _write_results(folder, study)
        except StorageInternalError as error:
            raise UserError(
                "The study's storage (hydra.sweeper.storage) stopped answering: once it does, the same command goes on."
            ) from error
        if failed:
            raise TrialFailed(f"{failed} trial{'s' * (failed != 1)} of the search failed.")
        return returns

    def _workers(self, asked: int | None) -> int:
        assert self.config is not None
        launcher = self.config.hydra.launcher
        if str(launcher._target_).endswith("BasicLauncher"):
            return 1  # it runs one job after the other
        jobs = launcher.get("n_jobs", 1)
        if jobs < 0:
            import joblib

            jobs = joblib.effective_n_jobs(jobs)
        return asked or jobs


def _write_results(folder: Path, study: Study) -> None:
    """Write the best trials as Hydra's other sweepers do."""
    best = [{"params": trial.params, "values": trial.values} for trial in study.best_trials]
    OmegaConf.save(OmegaConf.create({"name": "optuna", "best_trials": best}), folder / "optimization_results.yaml")
