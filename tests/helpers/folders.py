"""Writes small folders of real WFDB files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import wfdb

from ecgexp.datasets import PTBXL

LEADS = ["I", "II", "III", "AVR", "AVL", "AVF", "V1", "V2", "V3", "V4", "V5", "V6"]
# statement: diagnostic, form, rhythm, class, subclass
STATEMENTS = {
    "NORM": (1, "", "", "NORM", "NORM"),
    "NDT": (1, 1, "", "STTC", "STTC"),
    "LAFB": (1, "", "", "CD", "LAFB/LPFB"),
    "IMI": (1, "", "", "MI", "IMI"),
    "ASMI": (1, "", "", "MI", "AMI"),
    "LVH": (1, "", "", "HYP", "LVH"),
    "ABQRS": ("", 1, "", "", ""),
    "SR": ("", "", 1, "", ""),
}


def write_record(path: Path, signal: np.ndarray, leads: list[str], rate: float, **options: Any) -> np.ndarray:
    """Write a record of gain 1000 per unit; the values as they can be read back."""
    path.parent.mkdir(parents=True, exist_ok=True)
    digital = np.round(signal * 1000).astype(np.int64)
    n = len(leads)
    settings = {"fmt": ["16"] * n, "units": ["mV"] * n, "adc_gain": [1000.0] * n, "baseline": [0] * n}
    wfdb.wrsamp(
        path.name,
        fs=rate,
        sig_name=leads,
        d_signal=digital,
        write_dir=str(path.parent),
        **(settings | options),
    )
    return digital / 1000


@dataclass
class Folder:
    """A PTB-XL folder of 20 records of 20 patients, two in each fold, labelled in turn."""

    root: Path
    table: pd.DataFrame
    signals: dict[int, np.ndarray]

    def save(self) -> None:
        self.table.to_csv(self.root / "ptbxl_database.csv", index=False)

    def set(self, record: int, column: str, value: Any) -> None:
        self.table[column] = self.table[column].astype(object)
        self.table.loc[self.table.ecg_id == record, column] = value
        self.save()

    def path(self, record: int) -> Path:
        return self.root / f"records100/00000/{record:05d}_lr"

    def write(self, record: int, signal: np.ndarray, leads: list[str] = LEADS, rate: float = 100) -> None:
        write_record(self.path(record), signal, leads, rate)

    def dataset(self, **options: Any) -> PTBXL:
        return PTBXL(self.root, **({"cache_dir": self.root.parent / "cache"} | options))
