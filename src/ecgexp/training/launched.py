"""Ranks of processes that torchrun or srun started to train one net. Imports nothing slow."""

from __future__ import annotations

import os
from typing import Any

from ecgexp.errors import UserError


def launched() -> tuple[int, int]:
    """Rank of this process and number of ranks, if torchrun or srun started several processes; else 0 and 1."""
    for rank, ranks in (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS")):
        if rank in os.environ and int(os.environ.get(ranks, 1)) > 1:
            return int(os.environ[rank]), int(os.environ[ranks])
    return 0, 1


def check_ranks(trainer: Any, batch_size: int, sweep: bool) -> None:
    """Refuse a number of processes that does not fit the configuration or the command.

    Parameters
    ----------
    trainer : mapping
        Config group `trainer`.
    batch_size : int
        Records of a step, over all processes.
    sweep : bool
        Whether the command is a sweep.

    Raises
    ------
    UserError
        If the processes do not fit the configuration.
    """
    _, ranks = launched()
    nodes, devices = trainer.get("num_nodes", 1), trainer["devices"]
    if ranks > 1 and sweep:
        raise UserError(
            f"There are {ranks} processes of torchrun or srun, but a sweep starts those of each trial itself: "
            f"start it without, and give trainer=ddp trainer.devices={ranks}."
        )
    if ranks > 1 and nodes * devices != ranks:
        raise UserError(
            f"There are {ranks} processes of torchrun or srun, but trainer.devices={devices} asks for "
            f"{nodes * devices}: "
            f"give trainer=ddp trainer.devices={ranks} (for each node, with +trainer.num_nodes=N), or start it without."
        )
    if ranks == 1 and nodes > 1:
        raise UserError(
            f"Config key 'trainer.num_nodes' is {nodes}, which needs a process for each device of each node: "
            "start a single trial with torchrun or srun on all of them."
        )
    if batch_size % ranks:
        raise UserError(f"Config key 'batch_size' is {batch_size}, which {ranks} processes cannot share equally.")
