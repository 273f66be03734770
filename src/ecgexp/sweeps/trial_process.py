"""The process that trains the trials of a job, one after another; the job supervises it from another process."""

from __future__ import annotations

import faulthandler
import logging
import os
import queue
import signal
import sys
import threading
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ecgexp.errors import UserError, first_line, without_passwords
from ecgexp.trials.job import Interrupted, Job

GRACE = 20.0  # seconds that an interrupted trial has to exit


def main(descriptor: int) -> None:
    """Train the trials that the supervisor sends, until the supervisor ends.

    Parameters
    ----------
    descriptor : int
        File descriptor of the connection to the supervisor.
    """
    connection = Connection(descriptor)
    tasks: queue.Queue[Any] = queue.Queue()
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the supervisor, which passes it on
    threading.Thread(target=_listen, args=(connection, tasks), daemon=True).start()
    while (task := tasks.get()) is not None:
        answer = _train(connection, *task)
        connection.send(answer)
        if answer[0] != "done":
            return  # a failure may have left this process in a bad state


def _listen(connection: Connection, tasks: queue.Queue[Any]) -> None:
    try:
        while True:
            tasks.put(connection.recv())
    except (EOFError, OSError):  # the supervisor has ended, perhaps killed: interrupt the trial
        tasks.put(None)
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait(GRACE)
        os._exit(1)


def _interrupt(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Interrupted(128 + number)


def _train(connection: Connection, config: DictConfig, job: Job) -> tuple[str, Any]:
    """Train one trial; returns ('done', Outcome), ('failed' or 'exhausted', a sentence) or ('interrupted', None)."""
    from ecgexp.config.resolvers import register_resolvers
    from ecgexp.trials.ledger import RetriesExhausted
    from ecgexp.trials.run import run_trial

    register_resolvers()
    os.chdir(job.cwd)
    if job.cwd not in sys.path:
        sys.path.insert(0, job.cwd)
    _write_to(Path(job.output_dir) / "trial.log")
    try:
        return "done", run_trial(OmegaConf.create(config), job, lambda run_id: connection.send(("run", run_id)))
    except RetriesExhausted as error:  # its run exists and has the error
        return "exhausted", str(error)
    except UserError as error:
        print(error, file=sys.stderr, flush=True)
        return "failed", str(error)
    except Exception as error:
        print(without_passwords(traceback.format_exc()), file=sys.stderr, flush=True)
        return "failed", first_line(error)
    except (SystemExit, KeyboardInterrupt):  # Lightning turns the latter into the former
        return "interrupted", None


def _write_to(path: Path) -> None:
    """Redirect all output of this process, including a crash report, to the trial's log file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    with path.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    faulthandler.enable()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")


if __name__ == "__main__":
    main(int(sys.argv[1]))
