from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import warm

ROOT = Path(__file__).resolve().parents[1]
REAL_DATA = ROOT.parent / "shared" / "data"

# A shell that starts the tests in the background ignores Ctrl-C, and so would every process below.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Several test processes share few cores; results on a CPU are equal only at equal threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session", autouse=True)
def session_folder(tmp_path_factory) -> Path:
    """The same folder in every process of a test session, of which all fork the same process, and copy one store."""
    own, distributed = tmp_path_factory.getbasetemp(), "PYTEST_XDIST_WORKER" in os.environ
    warm.session = warm.Session(own.parent if distributed else own, os.getppid() if distributed else os.getpid())
    if "mlflow" in sys.modules:
        warm.migrate_once(warm.session.template)
    return warm.session.folder


@pytest.fixture(scope="session")
def database() -> Iterator[str]:
    """URI of a database in a PostgreSQL cluster of this test process."""
    from servers import postgresql

    with postgresql() as uri:
        yield uri


@pytest.fixture
def ray_folder(monkeypatch) -> Iterator[None]:
    """A folder of their own for Ray's sessions: the names of its sockets are too long for pytest's."""
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:
        monkeypatch.setenv("RAY_TMPDIR", folder)
        yield


def _real(name: str, what: str) -> Path:
    folder = REAL_DATA / name
    if not folder.is_dir():
        pytest.skip(f"needs {what} in {folder}")
    return folder


@pytest.fixture(scope="session")
def ptbxl_folder() -> Path:
    return _real("ptbxl", "real PTB-XL records")


@pytest.fixture(scope="session")
def mitdb_folder() -> Path:
    return _real("mitdb", "the real recordings of the MIT-BIH Arrhythmia Database")


@pytest.fixture(scope="session")
def pbc_folder() -> Path:
    return _real("pbc", "the real blood cells")


@pytest.fixture(scope="session")
def flowers_folder() -> Path:
    return _real("flowers17", "the photographs of flowers")
