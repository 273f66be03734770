"""A small PTB-XL folder, and the real records where they are."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from folders import LEADS, STATEMENTS, Folder, write_record

DATA = (Path(__file__).resolve().parents[2] / "../shared/data").resolve()


def needs(name: str) -> Path:
    if not (DATA / name).exists():
        pytest.skip(f"needs the real data in {DATA / name}")
    return DATA / name


@pytest.fixture(scope="session")
def real_ptbxl() -> Path:
    return needs("ptbxl")


@pytest.fixture(scope="session")
def real_labels() -> pd.DataFrame:
    return pd.read_csv(needs("ptbxl_labels_21799.csv")).set_index("ecg_id")


@pytest.fixture(scope="session")
def mitdb() -> Path:
    return needs("mitdb")


@pytest.fixture
def folder(template: Folder, tmp_path: Path) -> Folder:
    root = tmp_path / "ptbxl"
    shutil.copytree(template.root, root)
    return Folder(root, template.table.copy(), template.signals)


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    root = tmp_path_factory.mktemp("template") / "ptbxl"
    rng = np.random.default_rng(0)
    codes = [
        "{'NORM': 100.0, 'SR': 0.0}",
        "{'NDT': 50.0, 'ABQRS': 0.0}",
        "{'LAFB': 100.0, 'IMI': 35.0}",
        "{'IMI': 80.0, 'ASMI': 100.0, 'SR': 0.0}",
        "{'LVH': 100.0, 'LAFB': 50.0}",
    ]
    ids = range(1, 21)
    table = pd.DataFrame(
        {
            "ecg_id": ids,
            "patient_id": [1000.0 + i for i in ids],
            "scp_codes": [codes[i % 5] for i in range(20)],
            "strat_fold": [i % 10 + 1 for i in range(20)],
            "filename_lr": [f"records100/00000/{i:05d}_lr" for i in ids],
            "filename_hr": [f"records500/00000/{i:05d}_hr" for i in ids],
        }
    )
    folder = Folder(root, table, {})
    for i in ids:
        signal = rng.normal(size=(1000, 12))
        folder.signals[i] = write_record(folder.path(i), signal, LEADS, 100)
    statements = pd.DataFrame.from_dict(
        STATEMENTS,
        orient="index",
        columns=["diagnostic", "form", "rhythm", "diagnostic_class", "diagnostic_subclass"],
    )
    statements.to_csv(root / "scp_statements.csv")
    folder.save()
    return folder
