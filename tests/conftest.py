from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
REAL_DATA = ROOT.parent / "shared" / "data"

# Several test processes share few cores; results on a CPU are equal only at equal threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def ptbxl_folder() -> Path:
    folder = REAL_DATA / "ptbxl"
    if not folder.is_dir():
        pytest.skip(f"needs real PTB-XL records in {folder}")
    return folder
