"""Optuna as a Hydra sweeper: ``hydra/sweeper=optuna``.

Hydra imports this module for every command, so slow imports are inside functions.
"""

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
    """Runs a search with an Optuna study; each worker asks the study for a trial as soon as it is free.

    The launcher starts workers, not trials. So no worker waits for the slowest trial of a batch, and a worker on
    another machine can join. The arguments are the keys of ``conf/hydra/sweeper/optuna.yaml``, which explains them.
    """

    def __init__(self, **settings: Any) -> None:
        self.hydra_context: HydraContext | None = None
        self.config: DictConfig | None = None
        self._task_function: TaskFunction | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Store what Hydra passes."""
        self.hydra_context, self._task_function, self.config = hydra_context, task_function, config

    def sweep(self, arguments: list[str]) -> Any:
        """Run the search.

        Returns
        -------
        sequence of JobReturn
            One for each worker; its return value is the number of trials that failed in this worker.

        Raises
        ------
        UserError
            If the space cannot be searched as configured.
        TrialFailed
            After the search, if a trial failed.
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
        # A worker has no folder of its own; each trial that it runs has one.
        job = [*first, "hydra.sweep.subdir=.", "hydra.output_subdir=null"]
        try:
            study = worker.prepare()
            returns = launcher.launch([job] * self._workers(search.config.workers), initial_job_idx=0)
            failed = sum(result.return_value for result in returns)
            _write_results(folder, study)
        except StorageInternalError as error:
            raise UserError(
                "The study's storage (hydra.sweeper.storage) stopped answering: "
                "once it is back, the same command resumes."
            ) from error
        if failed:
            raise TrialFailed(f"{failed} trial{'s' * (failed != 1)} of the search failed.")
        return returns

    def _workers(self, configured: int | None) -> int:
        assert self.config is not None
        launcher = self.config.hydra.launcher
        if str(launcher._target_).endswith("BasicLauncher"):
            return 1  # this launcher runs one job after another
        jobs = launcher.get("n_jobs", 1)
        if jobs < 0:
            import joblib

            jobs = joblib.effective_n_jobs(jobs)
        return configured or jobs


def _write_results(folder: Path, study: Study) -> None:
    """Write the best trials to the file that Hydra's other sweepers write, too."""
    best = [{"params": trial.params, "values": trial.values} for trial in study.best_trials]
    OmegaConf.save(OmegaConf.create({"name": "optuna", "best_trials": best}), folder / "optimization_results.yaml")
