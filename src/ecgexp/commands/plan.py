"""The configurations of a command line, composed before any trial is trained."""

from __future__ import annotations

import argparse
import importlib.util
import math
import re
import sys
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import (
    ChoiceSweep,
    Glob,
    IntervalSweep,
    Override,
    OverrideType,
    QuotedString,
    RangeSweep,
)
from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from ecgexp.config.upgrade import refuse_old_key
from ecgexp.errors import UserError, summarised
from ecgexp.foreign.hydra import GRID_SWEEPER, grid_cells
from ecgexp.text import quoted
from ecgexp.trials.job import choices_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from ecgexp.search.stages import Staged
    from ecgexp.search.worker import Search

MOST_COMBINATIONS = 500
"""At most so many configurations of a search by stages are checked before it begins: this takes a few seconds."""
MOST_VALUES = 100_000
"""A key may have at most so many values on one command line."""
# Hydra's message where the schema of hydra-optuna-sweeper, which has the name of our sweeper, refuses our keys.
_FOREIGN_SCHEMA = re.compile(r"hydra/sweeper/.* (with|against ConfigStore) schema", re.S)


@dataclass(frozen=True)
class Plan:
    """What a command line asks for, as far as it is known before a sweeper runs.

    Attributes
    ----------
    configurations : list of DictConfig
        The first has the first value of each swept key. Each further one changes one key to another value. So every
        value is checked once, without composing every combination. Of a search by stages, these are all
        configurations that it can reach.
    cells : list of list of str, optional
        Overrides of each job of a grid; None with a sweeper other than Hydra's own.
    search : Search, optional
        None where the sweep is no search by Optuna.
    staged : Staged, optional
        None where the sweep is no search by stages.
    local : bool
        Whether trials run on this machine.
    output : tuple of str, optional
        Hydra's output folder, and the key that sets it; None where only a job can resolve it.
    choices : dict of str to str
        Option that the first configuration chooses for each group.
    """

    configurations: list[DictConfig]
    cells: list[list[str]] | None
    search: Search | None
    staged: Staged | None
    local: bool
    output: tuple[str, str] | None
    choices: dict[str, str]


def plan(conf: Path, args: argparse.Namespace) -> Plan:
    """Compose what a command line asks for.

    Parameters
    ----------
    conf : Path
        Folder of the primary configuration.
    args : Namespace
        Hydra's parsed command line.

    Raises
    ------
    UserError
        For a key or an option that does not exist, or a launcher that is not installed.
    """
    name = args.config_name or "config"
    if args.config_dir and not Path(args.config_dir).is_dir():
        raise UserError(
            f"There is no folder {args.config_dir}: --config-dir names a folder that contains model/ or other groups."
        )
    searchpath = _searchpath(args)
    multirun = args.multirun or "hydra.mode=MULTIRUN" in args.overrides
    try:
        with initialize_config_dir(str(conf), version_base="1.3"):
            parser = OverridesParser.create(GlobalHydra.instance().config_loader())  # the loader resolves glob(*)
            given = parser.parse_overrides(args.overrides)
            _check_options(given, parser, searchpath)
            _check_globs(given)
            _check_once(given)
            for override in given:
                refuse_old_key(override.key_or_group)
            several = [o for o in given if o.is_sweep_override()]
            if several and not multirun:
                line = several[0].input_line
                raise UserError(f"{line} gives several values: add -m to train a trial with each of them.")
            fixed = _fixed(given)
            given_first = {**{key: values[0] for key, values in _axes(given, True).items()}, **fixed}
            base = compose(name, [*searchpath, *given_first.values()], return_hydra_config=True)
            _check_parts(base.hydra)
            _check_launcher(base.hydra.launcher, base.hydra.runtime.choices["hydra/launcher"])
            output = _output(base, "sweep" if multirun else "run")
            sweeper = base.hydra.sweeper
            is_search = _is_search(sweeper)
            listed = parameters(sweeper, parser)
            _check_options(listed, parser, searchpath)
            for override in (*listed, *given):
                if isinstance(override.value(), IntervalSweep) and not is_search:
                    raise UserError(f"{override.input_line} can only be searched: add hydra/sweeper=optuna.")
            staged = _staged(sweeper, [*listed, *given]) if multirun else None
            axes = {**_axes(listed, is_search), **_axes(given, is_search)}
            first = {**_fixed(listed), **{key: values[0] for key, values in axes.items()}, **fixed}
            if staged is not None:
                _check_options(parser.parse_overrides(staged.overrides), parser, searchpath)
                cell = staged.cells([], staged.stages[0].start)[0]
                first |= {override.partition("=")[0]: override for override in cell}

            def composed(chosen: dict[str, str]) -> DictConfig:
                return _without_hydra(compose(name, [*searchpath, *chosen.values()]))

            configurations = [composed(first)]
            for key in axes.keys() - fixed.keys():
                for value in axes[key][1:]:
                    changed = _changed(configurations[0], parser.parse_override(value))
                    configurations.append(composed({**first, key: value}) if changed is None else changed)
            if staged is not None:
                configurations += _combinations(staged, configurations[0], first, composed, parser)
    except (HydraException, OmegaConfBaseException, ValueError) as error:  # Hydra raises ValueError for some values
        if _FOREIGN_SCHEMA.search(str(error)) and importlib.util.find_spec("hydra_plugins.hydra_optuna_sweeper"):
            raise UserError(
                "The package hydra-optuna-sweeper is installed here too, and uses the name hydra/sweeper=optuna, "
                "which ecgexp's own sweeper needs: run pip uninstall hydra-optuna-sweeper."
            ) from error
        raise UserError(_sentence(error)) from error
    cells: list[list[str]] | None = None
    search: Search | None = None
    if str(sweeper._target_).endswith(GRID_SWEEPER):
        task = [o for o in given if not o.get_key_element().lstrip("+~").startswith("hydra")]
        cells = grid_cells([*listed, *task])
    elif is_search:
        from ecgexp.search.worker import Search  # not at the top: it imports Optuna, which only a search needs

        search = Search.read(sweeper, [*listed, *given])
    local = str(base.hydra.launcher._target_).endswith((".BasicLauncher", ".JoblibLauncher"))
    return Plan(configurations, cells, search, staged, local, output, choices_of(base.hydra))


def check_options(conf: Path, args: argparse.Namespace) -> None:
    """Refuse what is no option of a group, such as null, before Hydra shows a configuration."""
    with initialize_config_dir(str(conf), version_base="1.3"):
        parser = OverridesParser.create(GlobalHydra.instance().config_loader())
        try:
            given = parser.parse_overrides(args.overrides)
        except HydraException:  # Hydra reports this error itself
            return
        _check_options(given, parser, _searchpath(args))


def parameters(sweeper: DictConfig, parser: OverridesParser) -> list[Override]:
    """Overrides that ``hydra.sweeper.params`` lists."""
    params = sweeper.get("params")
    if not isinstance(params, DictConfig):  # null has no keys, and other values are refused elsewhere
        return []
    null = "null" if _is_search(sweeper) else None  # Hydra's own sweeper writes null as None
    return parser.parse_overrides([f"{key!s}={null if value is None else value}" for key, value in params.items()])


def _searchpath(args: argparse.Namespace) -> list[str]:
    if not args.config_dir:
        return []
    return [f"hydra.searchpath=[{quoted(f'file://{Path(args.config_dir).resolve()}')}]"]


def _output(cfg: DictConfig, mode: str) -> tuple[str, str] | None:
    try:
        return str(cfg.hydra[mode].dir), f"hydra.{mode}.dir"
    except OmegaConfBaseException:
        return None


def _is_search(sweeper: DictConfig) -> bool:
    return str(sweeper._target_).endswith(".OptunaSweeper")


def _staged(sweeper: DictConfig, overrides: list[Override]) -> Staged | None:
    if not str(sweeper._target_).endswith(".StagedSweeper"):
        return None
    from ecgexp.search.stages import Staged

    return Staged.read(sweeper, overrides)


def _combinations(
    staged: Staged,
    start: DictConfig,
    first: dict[str, str],
    compose_: Callable[[dict[str, str]], DictConfig],
    parser: OverridesParser,
) -> Iterator[DictConfig]:
    """Configurations that a search by stages can reach, without its start; of too many only those of one change."""
    known = [(start, first)]
    if staged.combinations > MOST_COMBINATIONS:
        print(
            f"The stages can reach {staged.combinations:,} configurations: each setting was checked alone, not all "
            "of them together.",
            file=sys.stderr,
        )
    # Values that need composing come first, where there are few configurations to compose them with.
    composed_first = sorted(
        staged.stages,
        key=lambda stage: all(
            _changed(start, override) is not None
            for override in parser.parse_overrides(stage.overrides(len(stage.settings) - 1))
        ),
    )
    for stage in composed_first:
        others = [stage.overrides(at) for at in range(len(stage.settings)) if at != stage.start]
        more = []
        for cfg, chosen in known if staged.combinations <= MOST_COMBINATIONS else known[:1]:
            for overrides in others:
                words = {**chosen, **{override.partition("=")[0]: override for override in overrides}}
                changed: DictConfig | None = cfg
                for override in parser.parse_overrides(overrides):
                    changed = None if changed is None else _changed(changed, override)
                more.append((compose_(words) if changed is None else changed, words))
        known += more
        yield from (cfg for cfg, _ in more)


def _check_options(overrides: list[Override], parser: OverridesParser, searchpath: list[str]) -> None:
    """Refuse null, numbers and the like as options of a group; Hydra's own error would not name the group."""
    for override in overrides:
        value = override.value()
        chosen = value.list if isinstance(value, ChoiceSweep) else [value]
        refused = [one for one in chosen if not _may_be_option(one, override)]
        if not refused or parser.config_loader is None:
            continue
        if override.key_or_group == "hydra":
            raise UserError(f"{override.input_line}: leave it out, or set keys of it, such as hydra.sweep.dir=FOLDER.")
        options = parser.config_loader.get_group_options(override.key_or_group, overrides=searchpath)
        if options:
            raise UserError(
                f"{override.input_line}: {'null' if None in refused else 'this'} is no option of the group "
                f"{override.key_or_group}: leave it out, or choose from {', '.join(options)}."
            )


def _may_be_option(value: object, override: Override) -> bool:
    if override.is_delete():
        return isinstance(value, str) or "=" not in str(override.input_line)
    return isinstance(value, (str, QuotedString, Glob, list))


def _check_globs(overrides: list[Override]) -> None:
    for override in overrides:
        if isinstance(override.value(), Glob) and not list(override.sweep_string_iterator()):
            raise _no_value(override)


def _no_value(override: Override) -> UserError:
    return UserError(f"{override.input_line} gives no value: give at least one.")


def _check_once(overrides: list[Override]) -> None:
    """Refuse a key that is given twice, at least once with several values."""
    lines: dict[str, list[Override]] = {}
    for override in overrides:
        lines.setdefault(override.get_key_element().lstrip("+~"), []).append(override)
    for key, same in lines.items():
        if len(same) > 1 and any(override.is_sweep_override() for override in same):
            both = " and ".join(str(override.input_line) for override in same)
            raise UserError(f"The key '{key}' is given twice, with several values: {both}: keep one of them.")


def _check_parts(hydra: DictConfig) -> None:
    for part in ("launcher", "sweeper"):
        if not isinstance(hydra[part], DictConfig) or "_target_" not in hydra[part]:
            raise UserError(f"Config key 'hydra.{part}' has no class to run: choose one with hydra/{part}=NAME.")


def _check_launcher(launcher: DictConfig, name: str) -> None:
    package = ".".join(str(launcher._target_).split(".")[:2])
    if importlib.util.find_spec(package) is None:
        raise UserError(
            f"The launcher hydra/launcher={name} needs a package that is not installed: pip install 'ecgexp[{name}]'."
        )
    if launcher.get("n_jobs") == 0:
        raise UserError(
            "Config key 'hydra.launcher.n_jobs' is 0: give the number of trials at the same time, or -1 for one per "
            "core."
        )
    if launcher.get("prefer") == "threads" or launcher.get("require") == "sharedmem":
        raise UserError("Trials run in processes: leave out hydra.launcher.prefer and hydra.launcher.require.")
    if (launcher.get("nodes") or 1) * (launcher.get("tasks_per_node") or 1) > 1:
        raise UserError(
            "A job of the launcher starts the processes of its trial itself, on one node: leave out "
            "hydra.launcher.nodes and hydra.launcher.tasks_per_node, and give trainer=ddp trainer.devices=N."
        )


def _fixed(overrides: list[Override]) -> dict[str, str]:
    return {o.get_key_element(): str(o.input_line) for o in overrides if not o.is_sweep_override()}


def _axes(overrides: list[Override], ends: bool) -> dict[str, list[str]]:
    return {
        o.get_key_element(): [f"{o.get_key_element()}={value}" for value in _values(o, ends)]
        for o in overrides
        if o.is_sweep_override()
    }


def _values(override: Override, ends: bool) -> list[str]:
    """Values of a sweep; only the ends of an interval, and of a range where `ends` is set."""
    sweep = override.value()
    if isinstance(sweep, IntervalSweep):
        return [str(sweep.start), str(sweep.end)]
    if isinstance(sweep, RangeSweep):
        _check_range(sweep, ends, str(override.input_line))
    if isinstance(sweep, RangeSweep) and isinstance(whole := sweep.range(), range) and ends and whole:
        return [str(whole[0]), str(whole[-1])]  # not a list of all values, which may be millions
    values = list(override.sweep_string_iterator())
    if not values:
        raise _no_value(override)
    return [values[0], values[-1]] if ends and isinstance(sweep, RangeSweep) else values


def _check_range(sweep: RangeSweep, ends: bool, line: str) -> None:
    """Refuse a range that has no end, or more values than can be listed."""
    start, stop, step = sweep.start, sweep.stop, sweep.step
    assert start is not None and stop is not None
    if not step:
        raise UserError(f"{line}: the step of a range cannot be 0.")
    if not all(isinstance(number, int) or math.isfinite(number) for number in (start, stop, step)):
        raise UserError(f"{line}: the ends of a range and its step must be finite.")
    count = int((stop - start) // step)
    if count > MOST_VALUES and not (ends and isinstance(sweep.range(), range)):
        raise UserError(f"{line} gives {count:,} values, but at most {MOST_VALUES:,} are allowed: give a larger step.")


def _changed(cfg: DictConfig, override: Override) -> DictConfig | None:
    """The configuration with another plain value, which saves 0.2 s of composing; None where it must be composed."""
    key, value = override.key_or_group, override.value()
    is_plain = isinstance(value, (bool, int, float)) or (isinstance(value, str) and "${" not in value)
    if not is_plain or override.type is OverrideType.DEL or override.package is not None:
        return None
    if OmegaConf.select(cfg, key) is None or OmegaConf.is_config(OmegaConf.select(cfg, key)):
        return None
    changed = deepcopy(cfg)
    OmegaConf.update(changed, key, value)
    return changed


def _without_hydra(cfg: DictConfig) -> DictConfig:
    with open_dict(cfg):
        cfg.pop("hydra", None)
    return cfg


def _sentence(error: Exception) -> str:
    """Hydra's message of many lines as one sentence."""
    text = str(error)
    if isinstance(error, MissingConfigException) and (found := re.search(r"Could not find '([^']+)/([^'/]+)'", text)):
        options = re.findall(r"^\t(\S+)$", text, re.M)
        return f"There is no {found[1]}={found[2]}: choose one of {', '.join(options)}."
    cause = f" ({summarised(error.__cause__)})" if error.__cause__ else ""
    first = re.sub("^Lexer[A-Za-z]+: ", "Hydra cannot read ", summarised(error).rstrip("."))
    if isinstance(error, OverrideParseException):
        where = "" if error.override in first else f"{error.override}: "
        return f"{where}{first}: write KEY=VALUE, or 'KEY=\"VALUE\"' for a text with special characters."
    if isinstance(error, ConfigCompositionException):
        return f"{first}{cause}: python -m ecgexp --cfg job shows the known keys."
    return f"{first}{cause}."
