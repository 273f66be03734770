"""A search by stages as a sweeper of Hydra's: ``hydra/sweeper=staged``. Hydra imports this for every command."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict


class StagedSweeper(Sweeper):
    """Launches the trials of one stage after the other, each stage with what the earlier ones chose.

    Its arguments are the keys of ``conf/hydra/sweeper/staged.yaml``, explained there.
    """

    def __init__(self, **settings: Any) -> None:
        self.hydra_context: HydraContext | None = None
        self.config: DictConfig | None = None
        self._task_function: TaskFunction | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what Hydra composed."""
        self.hydra_context, self._task_function, self.config = hydra_context, task_function, config

    def sweep(self, arguments: list[str]) -> list[Sequence[JobReturn]]:
        """Search.

        Returns
        -------
        list of sequence of JobReturn
            Of the trials of each stage.

        Raises
        ------
        UserError
            Where the stages cannot be run as configured, or their trials cannot be compared.
        TrialFailed
            Where a stage has no result.
        """
        from ecgexp.commands.plan import parameters
        from ecgexp.errors import UserError, without_passwords
        from ecgexp.foreign.hydra import outcome
        from ecgexp.search.stages import Staged
        from ecgexp.sweeps.staged import StagedSweep
        from ecgexp.trials.job import PARENT_VARIABLE

        assert self.config is not None and self.hydra_context is not None and self._task_function is not None
        parent = self.config.hydra.job.env_set.get(PARENT_VARIABLE)
        if parent is None:
            raise UserError("The sweeper hydra/sweeper=staged needs the runs of a sweep: start it by python -m ecgexp.")
        folder = Path(self.config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "multirun.yaml").write_text(without_passwords(OmegaConf.to_yaml(self.config)))
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        sweeper = self.config.hydra.sweeper
        staged = Staged.read(sweeper, [*parameters(sweeper, parser), *parser.parse_overrides(arguments)])
        sweep = StagedSweep(staged, self._compose, parent)
        launcher = Plugins.instance().instantiate_launcher(
            hydra_context=self.hydra_context, task_function=self._task_function, config=self.config
        )
        returns: list[Sequence[JobReturn]] = []
        begun = 0
        for _ in staged.stages:
            cells = sweep.cells()
            jobs = launcher.launch(cells, initial_job_idx=begun) if cells else []
            for error in filter(lambda found: isinstance(found, Exception), map(outcome, jobs)):
                raise error
            begun += len(cells)
            returns.append(jobs)
            sweep.choose()
        return returns

    def _compose(self, overrides: list[str]) -> DictConfig:
        """Configuration of a trial, as its job will have it."""
        assert self.config is not None and self.hydra_context is not None
        cfg = self.hydra_context.config_loader.load_sweep_config(self.config, overrides)
        with open_dict(cfg):
            del cfg["hydra"]
        return cfg
