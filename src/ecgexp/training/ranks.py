"""Several processes that train one net: rank 0 and the others, started by it, torchrun or srun."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any

import torch
from lightning_fabric.plugins.environments import SLURMEnvironment
from lightning_fabric.plugins.environments.lightning import find_free_network_port
from torch import distributed

from ecgexp.processes import leave_with_parent
from ecgexp.training.launched import launched

TASK, FAILED, LEFT_OUT = "task", "failed", ""
# Before rank 0 sends a task, it may have to read its data and find earlier trials.
PATIENCE = timedelta(days=30)
GRACE = timedelta(seconds=60)
_SENTENCE = "Training process {} failed; its error is shown above."

_store: distributed.Store | None = None  # rank 0 sends tasks to the ranks of torchrun or srun through it


@contextmanager
def other_ranks(processes: int, function: Callable[..., Any], *args: Any) -> Iterator[None]:
    """Call a function in the other ranks; the body of the context is rank 0.

    Parameters
    ----------
    processes : int
        Number of ranks.
    function : callable
        Called with `args` and a callable `ready`. It calls `ready` just before it joins the other ranks; without
        that, rank 0 would wait half an hour for a rank that failed earlier. Ranks of torchrun or srun call the function
        that they passed to `follow`, with `args` read from JSON.

    Raises
    ------
    RuntimeError
        If one of the other ranks failed.
    """
    if _store is not None:
        _tell(_store, json.dumps(args, default=str))
        yield
    elif processes == 1:
        yield
    else:
        with _started(processes, function, *args):
            yield


@contextmanager
def leading() -> Iterator[None]:
    """As rank 0, send tasks to the ranks of torchrun or srun; at the end, tell them that there is none."""
    global _store
    _, ranks = launched()
    if ranks == 1:
        yield
        return
    _store = _meet()
    try:
        yield
    finally:
        if not _store.check([TASK]):
            with suppress(RuntimeError):
                _tell(_store, LEFT_OUT, GRACE)
        _store = None
        _leave()


def follow(function: Callable[..., Any]) -> None:
    """As another rank of torchrun or srun, call a function with the arguments of rank 0, if rank 0 sends any."""
    rank, _ = launched()
    store = _meet()
    store.wait([TASK], PATIENCE)
    task = store.get(TASK).decode()
    answer = f"{rank}"
    try:
        if task != LEFT_OUT:
            function(*json.loads(task), lambda: store.set(answer, "ready"))
    except BaseException:
        store.set(answer, FAILED)
        raise
    store.set(answer, "ready")
    _leave()


def _meet() -> distributed.Store:
    """The store that all ranks of torchrun, or of srun, share."""
    if "RANK" not in os.environ:
        rank, ranks = launched()
        node = SLURMEnvironment.resolve_root_node_address(os.environ.get("SLURM_STEP_NODELIST", "127.0.0.1"))
        job = int(os.environ.get("SLURM_JOB_ID", 0))
        port = 15000 + job % 10000
        given = {"RANK": rank, "WORLD_SIZE": ranks, "LOCAL_RANK": os.environ["SLURM_LOCALID"]}
        os.environ.update({name: str(value) for name, value in given.items()})
        os.environ.setdefault("NODE_RANK", os.environ.get("SLURM_NODEID", "0"))
        os.environ.setdefault("MASTER_ADDR", node)
        os.environ.setdefault("MASTER_PORT", str(port))
    store, _, _ = next(distributed.rendezvous("env://"))
    return distributed.PrefixStore("ecgexp", store)


def _tell(store: distributed.Store, task: str, patience: timedelta = PATIENCE) -> None:
    """Tell all other ranks what to do, and wait until they are ready."""
    _, ranks = launched()
    store.set(TASK, task)
    for rank in range(1, ranks):
        store.wait([str(rank)], patience)
        if store.get(str(rank)).decode() == FAILED:
            raise RuntimeError(_SENTENCE.format(rank))


def _leave() -> None:
    if distributed.is_initialized():
        distributed.destroy_process_group()


@contextmanager
def _started(processes: int, function: Callable[..., Any], *args: Any) -> Iterator[None]:
    """Start the other ranks on this machine."""
    # Lightning would start them by running the whole command again, and so the whole sweep. If LOCAL_RANK is set,
    # Lightning expects that they run already. A torchrun with one process has its own store.
    shared = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(find_free_network_port()),
        "WORLD_SIZE": str(processes),
        "NODE_RANK": "0",
        "TORCHELASTIC_USE_AGENT_STORE": "False",
    }
    context = torch.multiprocessing.get_context("spawn")
    children: list[SpawnProcess] = []
    signals: list[Connection] = []
    for rank in range(1, processes):
        signal, theirs = context.Pipe(duplex=False)
        rest = ({**shared, "LOCAL_RANK": str(rank)}, theirs, function, args)
        child = context.Process(target=_run_rank, args=rest, daemon=True)
        child.start()
        theirs.close()
        children.append(child)
        signals.append(signal)
    before = {name: os.environ.get(name) for name in (*shared, "LOCAL_RANK")}
    os.environ.update(shared, LOCAL_RANK="0")
    try:
        for rank, signal in enumerate(signals, 1):
            _wait(signal, rank)
        try:
            yield
        except RuntimeError as error:
            if _is_cut_off(error):
                _check(children, GRACE)
            raise
        _check(children)
    finally:
        for child in children:
            child.kill()  # it writes nothing, and may wait for other ranks
        for name, value in before.items():
            os.environ.pop(name, None)
            os.environ.update({name: value} if value is not None else {})
        _leave()


def _wait(signal: Connection, rank: int) -> None:
    try:
        signal.recv()
    except EOFError:  # the other process has ended
        raise RuntimeError(_SENTENCE.format(rank)) from None


def _is_cut_off(error: RuntimeError) -> bool:
    """Whether the error only means that another rank does not answer."""
    return isinstance(error, distributed.DistError) or "gloo" in str(error)


def _check(children: list[SpawnProcess], patience: timedelta | None = None) -> None:
    """Wait for the end of the other ranks; raise an error if one failed, first for a killed one."""
    for child in children:
        child.join(None if patience is None else patience.total_seconds())
    failed = [(child.exitcode, rank) for rank, child in enumerate(children, 1) if child.exitcode]
    if failed:
        raise RuntimeError(_SENTENCE.format(min(failed)[1]))


def _run_rank(
    environment: dict[str, str], signal: Connection, function: Callable[..., Any], args: tuple[Any, ...]
) -> None:
    leave_with_parent()
    os.environ.update(environment)
    function(*args, lambda: signal.send(None))
