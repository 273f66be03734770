"""A search by stages: each stage tries the values of its keys, while all other keys have the best value so far."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from pydantic import ConfigDict

from ecgexp.config.schema import REPETITIONS, Checked, objectives, validated
from ecgexp.errors import UserError
from ecgexp.targets import Target
from ecgexp.text import quoted
from ecgexp.tracking.names import best_metric

Setting = Mapping[str, str]
"""Values by key, as texts right of the ``=`` of an override."""

_STAGES = "hydra.sweeper.stages"
_EXAMPLE = "such as [{optimizer: [sgd, adam]}, {lr: [0.01, 0.1]}]"


class SweeperConfig(Checked):
    """``hydra.sweeper``, each key explained in conf/hydra/sweeper/staged.yaml."""

    model_config = ConfigDict(extra="ignore")  # Hydra's own keys are there too, and it has refused unknown ones

    params: dict[str, Any] | None
    stages: list[Any]
    start: dict[str, Any] | None
    rule: Literal["best", "one_se"]


@dataclass(frozen=True)
class Stage:
    """One stage.

    Attributes
    ----------
    keys : tuple of str
        What it chooses.
    settings : tuple of Setting
        What it chooses from, in order; each has all keys.
    start : int
        Index of the setting that trials of earlier stages have.
    """

    keys: tuple[str, ...]
    settings: tuple[Setting, ...]
    start: int

    def overrides(self, choice: int) -> list[str]:
        """Overrides of one of its settings."""
        return [f"{key}={word}" for key, word in self.settings[choice].items()]


@dataclass(frozen=True)
class Staged:
    """What a search by stages tries, and how it chooses.

    Attributes
    ----------
    stages : tuple of Stage
    fixed : list of str
        Overrides that all trials have.
    repetitions : list of list of str
        Overrides of each repetition of a setting; a single empty list where nothing is repeated.
    rule : str
        'best' or 'one_se'.
    """

    stages: tuple[Stage, ...]
    fixed: list[str]
    repetitions: list[list[str]]
    rule: Literal["best", "one_se"]

    @classmethod
    def read(cls, sweeper: DictConfig, overrides: Sequence[Override]) -> Staged:
        """Check what a configuration and a command line say.

        Parameters
        ----------
        sweeper : DictConfig
            ``hydra.sweeper``.
        overrides : sequence of Override
            Of ``params`` and then of the command line, which takes precedence.

        Raises
        ------
        UserError
            If the stages cannot be run like that.
        """
        values = OmegaConf.to_container(sweeper, resolve=True)
        assert isinstance(values, dict)
        config = validated(SweeperConfig, {str(key): value for key, value in values.items()}, "hydra.sweeper")
        task = [o for o in overrides if not o.get_key_element().lstrip("+~").startswith("hydra")]
        merged = {o.get_key_element(): o for o in task}.values()
        several = {o.get_key_element(): list(o.sweep_string_iterator()) for o in merged if o.is_sweep_override()}
        given = [_settings(number, stage) for number, stage in enumerate(config.stages, start=1)]
        if not given:
            others = {key: words for key, words in several.items() if key not in REPETITIONS}
            if not several:
                raise UserError(f"The sweeper hydra/sweeper=staged has nothing to choose: give {_STAGES}, {_EXAMPLE}.")
            given = [_grid(others)]
            several = {key: words for key, words in several.items() if key in REPETITIONS}
        for key in several.keys() - set(REPETITIONS):
            raise UserError(
                f"The key '{key}' has several values, but no stage chooses it: add it to {_STAGES}, or give it one "
                "value."
            )
        fixed = [o for o in merged if not o.is_sweep_override()]
        _check_keys(given, [o.get_key_element() for o in fixed])
        repetitions = [
            [f"{key}={word}" for key, word in zip(several, words, strict=True)] for words in product(*several.values())
        ]
        stages = _started(given, {key: _word(value) for key, value in (config.start or {}).items()})
        return cls(stages, [str(o.input_line) for o in fixed], repetitions, config.rule)

    @property
    def trials(self) -> int:
        """How many trials it trains: the setting that a stage begins with has been trained by the stage before."""
        first = min(1, len(self.stages))
        return len(self.repetitions) * (first + sum(len(stage.settings) - 1 for stage in self.stages))

    @property
    def combinations(self) -> int:
        """How many configurations it can reach, without repetitions."""
        return math.prod(len(stage.settings) for stage in self.stages)

    @property
    def overrides(self) -> list[str]:
        """Each value of each stage as an override."""
        return [word for stage in self.stages for at in range(len(stage.settings)) for word in stage.overrides(at)]

    @property
    def swept(self) -> list[str]:
        """Keys in which trials differ."""
        repeated = [override.partition("=")[0] for override in self.repetitions[0]]
        return [*(key for stage in self.stages for key in stage.keys), *repeated]

    def cells(self, path: Sequence[int], choice: int) -> list[list[str]]:
        """Overrides of the trials of a setting, one for each repetition.

        Parameters
        ----------
        path : sequence of int
            The setting that each earlier stage has chosen.
        choice : int
            A setting of the stage after these.
        """
        begun = [stage.start for stage in self.stages]
        chosen = [*path, choice, *begun[len(path) + 1 :]]
        words = [word for stage, index in zip(self.stages, chosen, strict=True) for word in stage.overrides(index)]
        return [[*self.fixed, *words, *repetition] for repetition in self.repetitions]

    def check(self, cfg: DictConfig, target: Target) -> None:
        """Refuse an objective by which nothing can be chosen.

        Parameters
        ----------
        cfg : DictConfig
            Configuration of one trial.
        target : Target
            Its target.

        Raises
        ------
        UserError
            For several objectives, or for ``rule=one_se`` with an objective that has no standard error.
        """
        names = objectives(cfg)
        if len(names) > 1:
            raise UserError(
                f"A search by stages chooses by one objective, but 'objective' has {len(names)}: keep one of them."
            )
        scores = [best_metric("val", name) for name in target.scorers()]
        if self.rule == "one_se" and names[0] not in scores:
            raise UserError(
                f"The objective {names[0]} has no bootstrap, which hydra.sweeper.rule=one_se needs: choose rule=best, "
                f"or one of the objectives {', '.join(scores)}."
            )


def _settings(number: int, stage: Any) -> list[dict[str, str]]:
    """Settings of a stage: all combinations of the values of its keys, or those that it lists."""
    where = f"Stage {number} of {_STAGES}"
    if isinstance(stage, dict) and stage:
        for key, values in stage.items():
            if not isinstance(values, list) or not values:
                raise UserError(
                    f"{where} gives '{key}' {'no value' if values == [] else f'{values!r}'}: give it a list of values, "
                    f"{_EXAMPLE}."
                )
        settings = _grid({str(key): [_word(value) for value in values] for key, values in stage.items()})
    elif isinstance(stage, list) and stage and all(isinstance(one, dict) and one for one in stage):
        settings = [{str(key): _word(value) for key, value in one.items()} for one in stage]
        if any(set(one) != set(settings[0]) for one in settings):
            keys = ", ".join(dict.fromkeys(key for one in settings for key in one))
            raise UserError(f"{where} lists settings of different keys: give each of them all of {keys}.")
    else:
        raise UserError(f"{where} is {stage!r}: give keys with lists of values, {_EXAMPLE}.")
    for at, setting in enumerate(settings):
        if setting in settings[:at]:
            words = " ".join(f"{key}={word}" for key, word in setting.items())
            raise UserError(f"{where} has {words} twice: keep one of them.")
    return settings


def _grid(values: Mapping[str, Sequence[str]]) -> list[dict[str, str]]:
    return [dict(zip(values, words, strict=True)) for words in product(*values.values())]


def _check_keys(stages: Sequence[Sequence[Setting]], fixed: Sequence[str]) -> None:
    seen: dict[str, int] = {}
    plain = {key.lstrip("+~"): key for key in fixed}
    for number, settings in enumerate(stages, start=1):
        for key in settings[0]:
            name = key.lstrip("+~")
            where = f"Stage {number} of {_STAGES} chooses '{key}'"
            if name.partition(".")[0].partition("/")[0] == "hydra" or name in ("objective", "resume"):
                raise UserError(f"{where}, which is no setting of a training: leave it out.")
            if name in REPETITIONS:
                raise UserError(f"{where}, which repeats trials: give {name}=VALUE,VALUE on the command line instead.")
            if name in seen:
                raise UserError(f"{where}, and so does stage {seen[name]}: keep it in one of them.")
            if name in plain:
                raise UserError(
                    f"{where}, but it is also set beside the stages: leave {plain[name]}=VALUE out, or say what the "
                    "search begins with by hydra.sweeper.start."
                )
            seen[name] = number


def _started(stages: Sequence[Sequence[Setting]], start: Setting) -> tuple[Stage, ...]:
    """Stages that begin with their first setting, or with the first one that has the values of `start`."""
    found = []
    for settings in stages:
        keys = tuple(settings[0])
        wanted = {key: word for key, word in start.items() if key in keys}
        fitting = [at for at, setting in enumerate(settings) if all(setting[key] == wanted[key] for key in wanted)]
        if not fitting:
            words = " ".join(f"{key}={word}" for key, word in wanted.items())
            raise UserError(f"Config key 'hydra.sweeper.start' sets {words}, which is no setting of its stage.")
        found.append(Stage(keys, tuple(settings), fitting[0]))
    for key in start.keys() - {key for stage in found for key in stage.keys}:
        raise UserError(f"Config key 'hydra.sweeper.start' sets '{key}', which no stage chooses: leave it out.")
    return tuple(found)


def _word(value: Any) -> str:
    """A value as an override has it, so that Hydra reads the same value."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(map(_word, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}:{_word(one)}' for key, one in value.items())}}}"
    if not isinstance(value, str):
        return str(value)
    try:
        read = OverridesParser.create().parse_override(f"key={value}").value()
    except HydraException:
        read = None
    return value if read == value and isinstance(read, str) else quoted(value)
