from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
REAL_DATA = ROOT.parent / "shared" / "data"

# A shell that starts the tests in the background ignores Ctrl-C, and so would every process below.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Several test processes share few cores; results on a CPU are equal only at equal threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def ptbxl_folder() -> Path:
    folder = REAL_DATA / "ptbxl"
    if not folder.is_dir():
        pytest.skip(f"needs real PTB-XL records in {folder}")
    return folder


@pytest.fixture(scope="session")
def mitdb_folder() -> Path:
    folder = REAL_DATA / "mitdb"
    if not folder.is_dir():
        pytest.skip(f"needs the real recordings of the MIT-BIH Arrhythmia Database in {folder}")
    return folder
