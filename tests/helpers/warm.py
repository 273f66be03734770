"""Commands in processes that are forked from one that has imported everything already.

To import torch, Lightning and MLflow costs a new process seconds. A forked process has its own working folder,
arguments, environment, signals and exit status, and nothing that another command has set in Hydra, MLflow or torch.
The workers that it starts to train trials are forked, too. To psutil its command line and its environment are those
of the process that was forked, so that a test that looks for processes starts new ones.
"""

from __future__ import annotations

import fcntl
import gc
import json
import logging
import os
import runpy
import selectors
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from filelock import FileLock

ADDRESS = "ECGEXP_TESTS_WARM"  # environment variable: where the process listens that is forked
IMPORTED = (
    *("ecgexp.cli", "ecgexp.sweeps.session", "ecgexp.sweeps.supervisor", "ecgexp.sweeps.trial_process"),
    *("ecgexp.trials.run", "ecgexp.search.study", "ecgexp.search.worker", "ecgexp.commands.report"),
    "ecgexp.commands.evaluate",
    *("ecgexp.commands.predict", "ecgexp.models", "ecgexp.datasets", "ecgexp.losses", "mlflow.pytorch", "optuna"),
    *(
        "mlflow.store.tracking.sqlalchemy_store",
        "mlflow.tracing.client",
        "sqlalchemy.dialects.sqlite",
        "alembic.command",
    ),
    *("matplotlib.backends.backend_agg", "matplotlib.pyplot", "pyarrow.parquet", "pyarrow.pandas_compat", "joblib"),
    *("torch.profiler", "PIL.JpegImagePlugin", "PIL.GifImagePlugin", "PIL.BmpImagePlugin", "PIL.PpmImagePlugin"),
    *("hydra_plugins.ecgexp_optuna_sweeper", "hydra_plugins.ecgexp_staged_sweeper", "ecgexp.sweeps.staged"),
)
# What is read when Python or a library starts, so that a forked process cannot have its own.
_FIXED = ("PYTHON", "OMP_", "MKL_", "OPENBLAS_", "LD_")
_BIG = 1 << 20  # bytes, more than a request has
_HIGH = 500  # descriptors from here on are free in a forked process


class Forked:
    """A process as ``subprocess.Popen`` has it, running a module.

    Parameters
    ----------
    address : str
        Of the process to fork.
    module, arguments : str, sequence of str
        As of ``python -m``.
    descriptors : mapping of int to int
        Those of this process that the new one gets, by their numbers there.
    folder : Path
        Its working folder.
    environment : mapping of str to str
    new_session : bool
        It leads a session of its own.
    """

    def __init__(
        self,
        address: str,
        module: str,
        arguments: Sequence[str],
        descriptors: Mapping[int, int],
        folder: Path,
        environment: Mapping[str, str],
        new_session: bool = False,
    ) -> None:
        self.args = [sys.executable, "-m", module, *arguments]
        self.returncode: int | None = None
        self._connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._connection.connect(address)
        request = [module, list(arguments), list(descriptors), str(folder), dict(environment), new_session]
        socket.send_fds(self._connection, [json.dumps(request).encode()], list(descriptors.values()))
        answer = json.loads(self._connection.recv(_BIG))
        assert isinstance(answer, int), answer
        self.pid = answer

    def wait(self, timeout: float | None = None) -> int:
        """Its exit status, negative for a signal."""
        if self.returncode is None:
            self._connection.settimeout(timeout)
            try:
                self.returncode = int(self._connection.recv(_BIG))
            except TimeoutError:
                raise subprocess.TimeoutExpired(self.args, timeout or 0) from None
            self._connection.close()
        return self.returncode

    def poll(self) -> int | None:
        with suppress(subprocess.TimeoutExpired):
            return self.wait(1e-6)
        return None

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Popen(subprocess.Popen):
    """Forks the workers that a command starts to train trials, too."""

    def __new__(cls, command: Any, **options: Any) -> Any:
        if ADDRESS in os.environ and list(command)[:3] == [sys.executable, "-m", "ecgexp.sweeps.trial_process"]:
            passed = {0: os.open(os.devnull, os.O_RDONLY), 1: 1, 2: 2, **{fd: fd for fd in options["pass_fds"]}}
            where = Path.cwd(), options["env"], options["start_new_session"]
            try:
                return Forked(os.environ[ADDRESS], command[2], command[3:], passed, *where)
            finally:
                os.close(passed[0])
        return super().__new__(cls)


class Session:
    """What the processes of a test session share.

    Parameters
    ----------
    folder : Path
        The same for all of them.
    owner : int
        Process with which the session ends.
    """

    def __init__(self, folder: Path, owner: int) -> None:
        self.folder, self.owner = folder, owner
        self.fixed = _fixed(os.environ)

    @property
    def template(self) -> Path:
        """Database that MLflow has migrated, once it has."""
        return self.folder / "migrated.db"

    def address(self) -> str:
        """Address of the process to fork, which the first of the test processes to ask starts."""
        ready, log = self.folder / "warm.address", self.folder / "warm.log"
        with FileLock(self.folder / "warm.lock"):
            if not ready.exists():
                # The name of a socket has at most 107 bytes, which may be fewer than those of the folder.
                address = Path(tempfile.mkdtemp(prefix="ecgexp-tests-")) / "warm"
                command = [sys.executable, __file__, str(address), str(self.template), str(self.owner)]
                with log.open("w") as said:
                    process = subprocess.Popen(
                        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said, start_new_session=True
                    )
                assert process.stdout is not None
                assert process.stdout.readline(), log.read_text()
                ready.write_text(str(address))
        return ready.read_text()


session: Session | None = None  # set by conftest.py


def run(module: str, folder: Path, *arguments: str, timeout: float = 600) -> subprocess.CompletedProcess[str]:
    """``python -m module arguments`` in a folder, forked where the environment allows it."""
    assert session is not None
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", module, *map(str, arguments)]
    if _fixed(os.environ) != session.fixed:
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=timeout)
    address = session.address()
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err, Path(os.devnull).open() as nothing:
        descriptors = {0: nothing.fileno(), 1: out.fileno(), 2: err.fileno()}
        process = Forked(address, module, command[3:], descriptors, folder, {**os.environ, ADDRESS: address})
        try:
            status = process.wait(timeout)
        except BaseException:
            process.kill()
            raise
        for file in (out, err):
            file.seek(0)
        return subprocess.CompletedProcess(command, status, out.read(), err.read())


def _fixed(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith(_FIXED)}


def migrate_once(template: Path) -> None:
    """Have MLflow make each further SQLite database of this process as a copy of one that it has migrated."""
    from mlflow.store.db import utils

    make = utils._initialize_tables

    def copy(engine: Any) -> None:
        if engine.url.get_backend_name() != "sqlite" or not engine.url.database:
            make(engine)
            return
        with FileLock(f"{template}.lock"):
            if not template.exists():
                make(engine)
                engine.dispose()
                _copy(Path(engine.url.database), template.with_suffix(".part"))
                template.with_suffix(".part").replace(template)
                return
        _copy(template, Path(engine.url.database))

    utils._initialize_tables = copy


def _copy(database: Path, to: Path) -> None:
    with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(to)) as target:
        source.backup(target)


def _serve(address: str, owner: int) -> tuple[list[Any], list[int]]:
    """Fork a process for each request: returns in those, with what was asked and the descriptors that came along."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with selectors.DefaultSelector() as selector:
        selector.register(listener, selectors.EVENT_READ)
        selector.register(os.pidfd_open(owner), selectors.EVENT_READ, ())
        listener.bind(address)
        listener.listen(100)
        print("ready", flush=True)
        while True:
            for key, _ in selector.select():
                if key.data == ():  # the tests have ended
                    shutil.rmtree(Path(address).parent)
                    os._exit(0)
                elif key.data is not None:
                    pid, connection = key.data
                    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                    selector.unregister(key.fd)
                    os.close(key.fd)
                    with suppress(OSError):  # who asked may be gone
                        connection.send(str(status).encode())
                    connection.close()
                else:
                    connection, _ = listener.accept()
                    text, descriptors, *_ = socket.recv_fds(connection, _BIG, 16)
                    if (pid := os.fork()) == 0:
                        for other in selector.get_map().values():
                            os.close(other.fd)
                            if other.data:
                                other.data[1].close()
                        connection.close()
                        listener.detach()
                        return json.loads(text), descriptors
                    for descriptor in descriptors:
                        os.close(descriptor)
                    connection.send(str(pid).encode())
                    selector.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, connection))


def _become(request: list[Any], descriptors: list[int]) -> str:
    """Take over what makes a process: descriptors, folder, environment, arguments; returns the module to run."""
    module, arguments, numbers, folder, environment, new_session = request
    kept = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, _HIGH) for descriptor in descriptors]
    for descriptor, number in zip(kept, numbers, strict=True):
        os.dup2(descriptor, number)
    for descriptor in {*kept, *descriptors} - set(numbers):
        os.close(descriptor)
    if new_session:
        os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv[:] = [module, *arguments]
    sys.path[0] = folder
    import numpy as np

    np.random.seed()  # noqa: NPY002
    return module


def main() -> None:
    from ecgexp.tracking import provenance

    address, template, owner = sys.argv[1:]
    for name in IMPORTED:
        import_module(name)
    logging.root.handlers.clear()  # mlflow.pytorch, when it is imported, has the root logger show errors alone
    logging.root.setLevel(logging.WARNING)
    provenance.packages()  # kept by it; to read them takes half a second
    migrate_once(Path(template))
    subprocess.Popen = Popen  # type: ignore[misc]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ[ADDRESS] = address
    gc.collect()
    gc.freeze()  # else a collection in a forked process would copy every page
    module = _become(*_serve(address, int(owner)))
    sys.modules.pop(module, None)  # else Python warns that it was imported before
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
