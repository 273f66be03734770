"""Several processes that train one net, on one machine."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

import torch
from lightning_fabric.plugins.environments.lightning import find_free_network_port
from torch import distributed

from ecgexp.processes import leave_with_parent

# Lightning starts the other processes by running the whole command line again, which would enter a
# sweep once more. Where LOCAL_RANK is set it takes them as started.
_VARIABLES = ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "LOCAL_RANK")


@contextmanager
def other_ranks(processes: int, function: Callable[..., Any], *args: Any) -> Iterator[None]:
    """Run a function in ``processes - 1`` further processes; the body is rank 0.

    Parameters
    ----------
    processes : int
        Of all ranks.
    function : callable
        Called with `args` and one more callable, which it calls when it is about to join the others: rank 0
        would wait half an hour for one that fails before.

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
    children, signals = [], []
    for rank in range(1, processes):
        signal, theirs = context.Pipe(duplex=False)
        rest = ({**shared, "LOCAL_RANK": str(rank)}, theirs, function, args)
        child = context.Process(target=_run_rank, args=rest, daemon=True)
        child.start()
        theirs.close()
        children.append(child)
        signals.append(signal)
    os.environ.update(shared, LOCAL_RANK="0")
    try:
        for rank, signal in enumerate(signals, 1):
            _wait(signal, rank)
        yield
        for rank, child in enumerate(children, 1):
            child.join()
            if child.exitcode:
                raise RuntimeError(f"Training process {rank} failed; its error is shown above.")
    finally:
        for child in children:
            child.terminate()
        for name in _VARIABLES:
            os.environ.pop(name, None)
        if distributed.is_initialized():
            distributed.destroy_process_group()


def _wait(signal: Connection, rank: int) -> None:
    try:
        signal.recv()
    except EOFError:  # the process that held the other end is gone
        raise RuntimeError(f"Training process {rank} failed; its error is shown above.") from None


def _run_rank(
    environment: dict[str, str], signal: Connection, function: Callable[..., Any], args: tuple[Any, ...]
) -> None:
    leave_with_parent()
    os.environ.update(environment)
    function(*args, lambda: signal.send(None))
