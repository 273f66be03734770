from __future__ import annotations

import os
import subprocess
import sys
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


def run_ecgexp(folder: Path, *arguments: str, **options) -> subprocess.CompletedProcess[str]:
    """Run the command line as a user would, in `folder`."""
    command = [sys.executable, "-m", "ecgexp", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=900, **options)
