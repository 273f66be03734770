"""Several processes that train one net, on one machine."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning_fabric.plugins.environments.lightning import find_free_network_port
from torch import distributed

# Lightning starts the other processes by running the whole command line again, which would enter a
# sweep once more. Where LOCAL_RANK is set it takes them as started.
_VARIABLES = ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "LOCAL_RANK")


@contextmanager
def other_ranks(processes: int, function: Callable[..., Any], *args: Any) -> Iterator[None]:
    """Run ``function(*args)`` in ``processes - 1`` further processes; the body is rank 0.

    Raises
    ------
    RuntimeError
        Where one of them failed.
    """
    if processes == 1:
        yield
        return
    shared = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(find_free_network_port()),
        "WORLD_SIZE": str(processes),
    }
    context = torch.multiprocessing.get_context("spawn")
    children = [
        context.Process(target=_run_rank, args=({**shared, "LOCAL_RANK": str(rank)}, function, args), daemon=True)
        for rank in range(1, processes)
    ]
    for child in children:
        child.start()
    os.environ.update(shared, LOCAL_RANK="0")
    try:
        yield
        for child in children:
            child.join()
        if failed := [rank for rank, child in enumerate(children, 1) if child.exitcode]:
            raise RuntimeError(f"Training process {failed[0]} of {processes} failed; its error is shown above.")
    finally:
        for child in children:
            child.terminate()
        for name in _VARIABLES:
            os.environ.pop(name, None)
        if distributed.is_initialized():
            distributed.destroy_process_group()


def _run_rank(environment: dict[str, str], function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    os.environ.update(environment)
    function(*args)
