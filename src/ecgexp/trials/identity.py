"""When two trials are the same trial."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from ecgexp.tracking.provenance import config_hash

# Keys that do not change a trial's result: paths, logging and launching.
# `compile` only affects GPUs, where repeated results differ by rounding in any case.
_TOP = ("tracking", "sweep", "resume", "privacy", "objective", "statistics", "cache_dir", "memory_budget", "compile")
_DATASET = ("root", "file", "cache_dir", "workers")
_TRAINER = ("accelerator", "threads", "strategy")


def cell(config: dict[str, Any]) -> str:
    """Hash of the parts of a resolved configuration that define a trial; equal for equal cells of a grid."""
    config = copy.deepcopy(config)
    if (config.get("init") or {}).get("run") is None:  # as all trials were before there was such a key
        config.pop("init", None)
    for keys, part in ((_TOP, config), (_DATASET, config["dataset"]), (_TRAINER, config["trainer"])):
        for key in keys:
            part.pop(key, None)
    return config_hash(config)


def slot(config: dict[str, Any], overrides: Sequence[str], swept: Sequence[str]) -> str:
    """Identifies a trial of a grid within its sweep: its cell, and the swept keys that the cell leaves out.

    Parameters
    ----------
    config : dict
        Resolved configuration.
    overrides : sequence of str
        Overrides of the trial.
    swept : sequence of str
        Keys to which the command gives several values.
    """
    left_out = sorted(override for override in overrides if _is_left_out(key := key_of(override)) and key in swept)
    return config_hash({"cell": cell(config), "swept": left_out}) if left_out else cell(config)


def key_of(override: str) -> str:
    """Key that an override sets."""
    return override.lstrip("+~").partition("=")[0]


def _is_left_out(key: str) -> bool:
    group, _, name = key.partition(".")
    return group in _TOP or name in {"dataset": _DATASET, "trainer": _TRAINER}.get(group, ()) or key == "trainer"


def identity(
    config: dict[str, Any],
    fingerprint: str,
    device: str,
    threads: int,
    precision: int | str,
    code: str,
    start: str = "",
) -> str:
    """Hash of everything that a trial's result depends on.

    Parameters
    ----------
    config : dict
        Resolved configuration.
    fingerprint : str
        Fingerprint of the dataset.
    device : str
        Kind of device, 'cpu' or 'cuda'.
    threads : int
        Threads of torch; on a CPU they change the order of sums.
    precision : int or str
        Precision as resolved on this machine; 'auto' gives the same trial as the value that it resolves to.
    code : str
        Hash of the user's own code, see `own_code`; empty if there is none.
    start : str
        Hash of the weights that the net starts from; empty if it starts anew. The trial is the same wherever the
        weights are kept.
    """
    config = {**config, "precision": precision}
    if start:
        config["init"] = {**config["init"], "run": start}
    parts = {"cell": cell(config), "dataset": fingerprint, "device": device}
    parts |= {"code": code} if code else {}
    return config_hash({**parts, "threads": threads} if device == "cpu" else parts)
