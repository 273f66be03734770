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


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Have long tests begin first, for no test process to be left alone with one in the end.

    Those of a group, and quick ones of a file, stay in one process, which makes what they share once.
    """
    slow = {item for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (item not in slow, item.get_closest_marker("xdist_group") is None))
    for item in items:
        if item not in slow:
            item.add_marker(pytest.mark.xdist_group(str(item.path.relative_to(ROOT))))


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
