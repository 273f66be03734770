"""Hashes identify the patients within a store, and reveal their names to nobody without the key."""

from __future__ import annotations

import hashlib
import hmac
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from trained import Trained, call, trained_once

from ecgexp.errors import UserError
from ecgexp.reports.comparison import intervals
from ecgexp.targets import MultiLabel
from ecgexp.tracking.privacy import KEY, hashed_patients
from ecgexp.tracking.store import Store

PATIENTS = np.array(["Doe, Jane", "Müller", "Doe, Jane", "17"])


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Trained:
    return trained_once(tmp_path_factory.getbasetemp())


def store_in(folder: Path) -> Store:
    return Store(None, "sqlite:///", "1", folder)  # type: ignore[arg-type]


def test_equal_patients_have_equal_hashes_within_a_store_and_others_elsewhere(tmp_path):
    first, again = (hashed_patients(store_in(tmp_path / "a"), PATIENTS) for _ in range(2))
    assert first.tolist() == again.tolist()
    assert first[0] == first[2]
    assert len(set(first)) == 3
    assert not set(first) & set(hashed_patients(store_in(tmp_path / "b"), PATIENTS))
    key = bytes.fromhex((tmp_path / "a" / KEY).read_text())
    assert first[1] == hmac.new(key, "Müller".encode(), hashlib.sha256).hexdigest()[:16]
    assert first[1] != hashlib.sha256("Müller".encode()).hexdigest()[:16]


def test_the_key_is_its_owners_alone_and_one_for_all_processes(tmp_path):
    before = os.umask(0)
    try:
        with ThreadPoolExecutor(8) as several:
            found = list(several.map(lambda _: hashed_patients(store_in(tmp_path), PATIENTS)[0], range(16)))
    finally:
        os.umask(before)
    assert len(set(found)) == 1
    assert stat.S_IMODE((tmp_path / KEY).stat().st_mode) == 0o600


@pytest.mark.parametrize("content", ["", "ab" * 31, "no hexadecimal number"])
def test_a_damaged_key_is_reported(tmp_path, content):
    (tmp_path / KEY).write_text(content)
    with pytest.raises(UserError, match=r"patients\.key"):
        hashed_patients(store_in(tmp_path), PATIENTS)


def test_intervals_do_not_depend_on_what_patients_are_called():
    random = np.random.default_rng(0)
    targets = (random.random((120, 2)) < 0.4).astype(np.uint8)
    probabilities = np.clip(random.normal(0.3 + 0.4 * targets, 0.3), 0, 1).astype(np.float32)
    patients = random.integers(0, 50, 120)
    others = np.array([hashlib.sha256(str(one).encode()).hexdigest() for one in patients])
    one, two = (intervals([(MultiLabel("ab"), probabilities)], targets, who) for who in (patients, others))
    for name, score in one.scores.items():
        np.testing.assert_array_equal(score.low, two.scores[name].low)
        np.testing.assert_array_equal(score.high, two.scores[name].high)


def test_the_predictions_of_a_trial_name_no_patient(trained):
    predictions = trained.validation()
    table = pd.read_csv(trained.records.parents[1] / "ptbxl_database.csv", index_col="ecg_id")
    known = table.loc[predictions["id"].astype(int), "patient_id"].astype(float).astype(int).astype(str)
    assert not set(predictions["patient"]) & set(known)
    groups = pd.DataFrame({"hash": predictions["patient"].to_numpy(), "patient": known.to_numpy()}).drop_duplicates()
    assert groups["hash"].is_unique
    assert groups["patient"].is_unique
    key = (trained.mlruns / KEY).read_text()
    for path in (trained.mlruns / "artifacts").rglob("*"):
        assert not path.is_file() or key.encode() not in path.read_bytes()
    assert key.encode() not in (trained.mlruns / "mlflow.db").read_bytes()


def test_an_evaluation_has_the_same_hashes_unless_configured_to_keep_patients(trained, tmp_path, monkeypatch):
    moved = trained.moved_to(tmp_path / "copy")
    words = [f"run={trained.run_id}", "split=val", f"dataset.root={trained.folder}/data/synthetic"]
    words += [f"dataset.cache_dir={trained.folder}/data/cache"]
    path = moved.artifacts / "evaluation" / "val" / "predictions_val.parquet"
    assert call(monkeypatch, "evaluate", moved.folder, *words) == 0
    assert pd.read_parquet(path)["patient"].tolist() == trained.validation()["patient"].tolist()
    assert call(monkeypatch, "evaluate", moved.folder, *words, "privacy.patients=keep") == 0
    assert set(pd.read_parquet(path)["patient"].str.len()) < {1, 2, 3, 4, 5, 6, 7}
