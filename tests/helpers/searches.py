"""Searches for tests: the project's own configuration of a sampler, and a worker whose trials are a formula."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf
from optuna.trial import FrozenTrial

from ecgexp import CONF
from ecgexp.commands.plan import parameters
from ecgexp.search.study import open_storage
from ecgexp.search.worker import Search, Worker

SAMPLERS = sorted(path.stem for path in (CONF / "hydra/sweeper/sampler").glob("*.yaml"))
PRUNERS = sorted(path.stem for path in (CONF / "hydra/sweeper/pruner").glob("*.yaml"))
SPACE = ("lr=tag(log, interval(1e-4, 1e-1))", "size=range(1,9)", "rate=interval(0, 0.5)")


def sweeper(**settings: Any) -> DictConfig:
    """``hydra.sweeper`` as Hydra composes it; ``sampler`` and ``pruner`` by name, or whole."""
    group = CONF / "hydra/sweeper"
    values = OmegaConf.to_container(OmegaConf.load(group / "optuna.yaml"))
    chosen = {"sampler": "tpe", "pruner": "none", **settings}
    parts = {
        key: OmegaConf.load(group / key / f"{chosen[key]}.yaml")
        for key in ("sampler", "pruner")
        if isinstance(chosen[key], str)
    }
    settings = {key: value for key, value in settings.items() if key not in parts}
    given = {"seed": 0, "directions": ["maximize"], "max_retries": 3, "max_failures": None}
    del values["defaults"]
    whole = OmegaConf.create({"max_epochs": 9, "sweeper": {**values, **parts, **given, **settings}})
    return whole.sweeper


def read(*overrides: str, **settings: Any) -> Search:
    config, parser = sweeper(**settings), OverridesParser.create()
    return Search.read(config, [*parameters(config, parser), *parser.parse_overrides(list(overrides))])


def value(params: dict[str, Any]) -> float:
    """An objective with its maximum inside the space."""
    rate = params.get("rate", 0.3)
    return -abs(params.get("size", 5) - 5) - abs(rate - 0.3) - params.get("lr", 0.0)


@dataclass
class Formula(Worker):
    """A worker whose trials are a formula of their parameters, which may raise, instead of a Hydra job."""

    formula: Callable[[dict[str, Any]], Any] = value

    def _launch(self, study: optuna.Study, trial: optuna.Trial) -> Any:
        try:
            return SimpleNamespace(_return_value=self.formula(trial.params))
        except Exception as error:  # as Hydra does
            return SimpleNamespace(_return_value=error)


def worker(search: Search, folder: Path, formula: Callable[[dict[str, Any]], Any] = value) -> Formula:
    return Formula(search, str(folder / "study.journal"), "study", None, None, None, formula=formula)  # type: ignore[arg-type]


def trials(folder: Path) -> list[FrozenTrial]:
    storage = open_storage(str(folder / "study.journal"))
    return optuna.load_study(study_name="study", storage=storage).get_trials()
