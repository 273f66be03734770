"""A job of a sweep: it lets a separate process train its trial, and survives the death of that process."""

from __future__ import annotations

import atexit
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from itertools import product
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import Any

from filelock import FileLock, Timeout
from omegaconf import DictConfig, OmegaConf

from ecgexp.errors import UserError
from ecgexp.paths import database_file
from ecgexp.processes import training_environment
from ecgexp.sweeps.status import Board, TrialStatus
from ecgexp.tracking.names import Status
from ecgexp.trials.job import Job, Outcome

GRACE = 30.0  # seconds that an interrupted trial process has to exit


class TrialFailed(UserError):
    """One trial of a sweep failed; the others continue."""


class _TrialProcess:
    """A process that trains trials; the next trial reuses it while it is healthy."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = environment
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-m", "ecgexp.sweeps.trial_process", str(theirs.fileno())]
        self.process = subprocess.Popen(
            command,
            pass_fds=[theirs.fileno()],
            env=training_environment(environment),
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # a terminal's Ctrl-C is for the supervisor
        )
        theirs.close()
        self.connection = Connection(ours.detach())

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(GRACE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


_trial_process: _TrialProcess | None = None
_gpus: dict[str, FileLock] = {}  # locks that this process holds


def supervise(cfg: DictConfig, job: Job) -> list[float]:
    """Train one trial of a sweep in a process of its own.

    Returns
    -------
    list of float
        Values of ``cfg.objective``; empty if the trial was pruned.

    Raises
    ------
    TrialFailed
        If the trial raised an error, or its process died.
    """
    assert job.parent is not None
    root = database_file(cfg.tracking.root).parent
    board = Board(root, job.parent)
    limit = cfg.sweep.max_failures
    if limit is not None and sum(status.state == "failed" for status in board.read().values()) >= limit:
        raise TrialFailed(f"Not started: sweep.max_failures={limit} is reached.")
    status = TrialStatus("running", job.overrides, started=time.time())
    board.write(job.number, status)
    try:
        outcome = _train(cfg, job, root)
    except TrialFailed as error:
        board.write(job.number, status.ended("failed", error=str(error)))
        raise
    except BaseException:
        board.write(job.number, status.ended("interrupted"))
        raise
    board.write(
        job.number, status.ended(_state(outcome), value=next(iter(outcome.values), None), seconds=outcome.seconds)
    )
    return outcome.values


def _state(outcome: Outcome) -> str:
    for state in ("reused", "pruned", "diverged"):
        if getattr(outcome, state):
            return state
    return "done"


def _train(cfg: DictConfig, job: Job, root: Path) -> Outcome:
    trainer, run_id = _healthy_process(_gpu_environment(cfg, root)), None
    previous = _exit_on_terminate()
    try:
        trainer.connection.send((OmegaConf.to_container(cfg, resolve=True), job))
        while True:
            kind, content = trainer.connection.recv()
            if kind == "run":
                run_id = content
                _record_in_study(job, run_id)
            elif kind == "done":
                if content.run_id != run_id:  # the trial was trained before
                    _record_in_study(job, content.run_id)
                return content
            elif kind in ("failed", "exhausted"):
                trainer.process.wait()  # it exits by itself, and the next trial gets a new process
                if kind == "failed" and run_id is None:
                    _record_death(cfg, job, None, content)
                raise TrialFailed(content)
            else:
                raise KeyboardInterrupt
    except (EOFError, ConnectionError, BrokenPipeError):
        code = trainer.process.wait()
        sentence = _cause_of_death(code)
        _record_death(cfg, job, run_id, sentence)
        raise TrialFailed(sentence) from None
    except TrialFailed:
        raise
    except BaseException:  # Ctrl-C, SIGTERM, or an exception from a launcher's signal handler
        _ignore_signals()
        trainer.stop()
        raise
    finally:
        if previous is not None:
            signal.signal(signal.SIGTERM, previous)


def _record_in_study(job: Job, run_id: str) -> None:
    """Record the run of a trial in the study of its search."""
    if job.study is not None:
        from ecgexp.search.study import record_run

        record_run(job.study, run_id)


def _healthy_process(environment: dict[str, str]) -> _TrialProcess:
    """The process of the last trial; a new one if that has ended or has another environment."""
    global _trial_process
    if _trial_process is not None and _trial_process.process.poll() is None:
        if _trial_process.environment == environment:
            return _trial_process
        _trial_process.stop()
    _trial_process = _TrialProcess(environment)
    atexit.register(_trial_process.connection.close)
    return _trial_process


def _exit_on_terminate() -> Any:
    """Exit in order on SIGTERM, which a cluster sends before it takes a node away; returns the former handler."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    try:
        return signal.signal(signal.SIGTERM, leave)
    except ValueError:  # some launchers run jobs in a thread
        return None


def _ignore_signals() -> None:
    """Ignore further signals of a cluster: submitit would resubmit the job for each SIGUSR2."""
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, signal.SIG_IGN)


def _cause_of_death(code: int) -> str:
    if code < 0:
        name = signal.Signals(-code).name
        hint = " (out of memory?)" if name == "SIGKILL" else ""
        return f"The process of the trial was killed by {name}{hint}."
    return f"The process of the trial ended by itself with exit status {code}."


def _record_death(cfg: DictConfig, job: Job, run_id: str | None, sentence: str) -> None:
    from ecgexp.config.schema import plain
    from ecgexp.tracking.run import record_failure
    from ecgexp.tracking.store import StoreAway, open_store
    from ecgexp.trials.ledger import begin_for_dead

    log = Path(job.output_dir) / "trial.log"
    output = log.read_text(errors="replace") if log.exists() else ""
    try:
        store = open_store(cfg.tracking, known=True)
        run_id = run_id or begin_for_dead(store, plain(cfg), job)
        record_failure(store, run_id, sentence, f"{sentence}\n\n{output}")
        store.client.set_terminated(run_id, Status.FAILED)
    except StoreAway as error:  # the end of the sweep will detect that its process is gone
        print(error, file=sys.stderr)


def _gpu_environment(cfg: DictConfig, root: Path) -> dict[str, str]:
    """Environment that makes GPUs visible to a process: as many as its trial trains on, the first with a free place.

    The process of this job holds their locks until it ends, so its later trials use them too.
    """
    wanted = 0 if cfg.trainer.accelerator == "cpu" else cfg.trainer.devices
    gpus = _visible_gpus() if wanted else []
    if len(gpus) < max(2, wanted):
        return {}  # there is no choice
    folder = root / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    for place, gpu in product(range(cfg.sweep.jobs_per_gpu), gpus):
        if gpu in _gpus or len(_gpus) >= wanted:
            continue
        lock = FileLock(folder / f"{socket.gethostname()}-gpu{gpu}-{place}.lock")
        with suppress(Timeout):
            lock.acquire(timeout=0)
            _gpus[gpu] = lock
    if len(_gpus) < wanted:
        raise TrialFailed(
            f"The trial trains on {wanted} of the {len(gpus)} GPUs, but fewer have a free place: "
            f"start fewer jobs, or raise sweep.jobs_per_gpu={cfg.sweep.jobs_per_gpu}."
        )
    return {"CUDA_VISIBLE_DEVICES": ",".join([gpu for gpu in gpus if gpu in _gpus][:wanted])}


def _visible_gpus() -> list[str]:
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [gpu.strip() for gpu in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if gpu.strip()]
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    return [str(index) for index in range(pynvml.nvmlDeviceGetCount())]
