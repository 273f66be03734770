"""Hashes show which records and patients a run was trained on, without naming them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ecgexp.datasets.base import Split
from ecgexp.errors import UserError
from ecgexp.tracking.names import File
from ecgexp.tracking.overlap import Overlap, find_overlap, write_trained_on
from ecgexp.tracking.privacy import KEY
from ecgexp.tracking.store import Store


def store_in(folder: Path) -> Store:
    return Store(None, "sqlite:///", "1", folder)  # type: ignore[arg-type]


def split(*records: str) -> Split:
    """Each record is written as 'id/patient'."""
    ids, patients = (np.array(part) for part in zip(*(record.split("/") for record in records), strict=True))
    count = len(ids)
    return Split(
        {"signal": np.zeros((count, 1, 1), np.float32)}, np.arange(count), np.zeros((count, 1), np.uint8), ids, patients
    )


@pytest.fixture
def written(tmp_path) -> Path:
    path = tmp_path / File.TRAINED_ON
    splits = {"train": split("r1/Doe", "r2/Doe", "r3/7", "8/P"), "val": split("r4/Roe", "r5/Doe")}
    write_trained_on(path, store_in(tmp_path), splits)
    return path


def test_records_and_patients_are_counted_apart(written, tmp_path):
    # 'P' is a patient and no record of the training, '8' the other way round.
    found = find_overlap(written, store_in(tmp_path), split("r2/Doe", "r4/Roe", "P/8", "r9/Doe", "r10/new"))
    assert found == {"train": Overlap(1, 1, 5, 4), "val": Overlap(1, 2, 5, 4)}


def test_the_file_has_eight_bytes_each_and_no_name_or_order(written, tmp_path):
    content = np.load(written)
    assert {name: (len(content[name]), content[name].dtype.itemsize) for name in content} == {
        "key": (1, 8), "train_records": (4, 8), "train_patients": (3, 8), "val_records": (2, 8), "val_patients": (2, 8),
    }  # fmt: skip
    assert all((np.sort(content[name]) == content[name]).all() for name in content)
    assert b"Doe" not in written.read_bytes()
    again = tmp_path / "again.npz"
    write_trained_on(again, store_in(tmp_path), {"train": split("Doe/r1"), "val": split("x/y")})
    assert not set(np.load(again)["train_records"].tolist()) & set(content["train_patients"].tolist())


def test_without_the_file_or_its_key_nothing_is_claimed(written, tmp_path):
    assert "earlier version" in find_overlap(tmp_path / "no.npz", store_in(tmp_path), split("r1/Doe"))
    message = find_overlap(written, store_in(tmp_path / "elsewhere"), split("r1/Doe"))
    assert isinstance(message, str)
    assert str(tmp_path / "elsewhere" / KEY) in message


@pytest.mark.parametrize("content", [b"", b"PK", b"nothing of numpy's"])
def test_a_damaged_file_is_reported(written, tmp_path, content):
    written.write_bytes(content)
    with pytest.raises(UserError, match=r"trained_on\.npz is damaged"):
        find_overlap(written, store_in(tmp_path), split("r1/Doe"))
