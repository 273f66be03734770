"""A trained net is better than a constant prediction, by more than chance."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from commands import SMALL, all_runs, ecgexp, predictions, published_mlcm

pytestmark = pytest.mark.slow

RESAMPLES = 500


def macro_f1(true, probability):
    matrix = published_mlcm(true, probability > 0.5)
    sums = matrix.sum(axis=0) + matrix.sum(axis=1)
    f1 = 2 * np.diag(matrix) / np.maximum(sums, 1)
    return f1[:-1].mean() if matrix[-1].sum() == 0 else f1.mean()


def test_a_trained_net_beats_the_constant_prediction_beyond_its_bootstrap_interval(tmp_path):
    size = ("dataset.records=800", "max_epochs=6", "lr=0.003")
    for net in (("model=constant",), ("model=ribeiro", "model.width=8")):
        ecgexp(tmp_path, *SMALL, *size, *net, timeout=600).expect()
    runs = {run.data.tags["model"]: run for run in all_runs(tmp_path)}
    ids, true, trained, _ = predictions(tmp_path, runs["ribeiro"])
    _, _, constant, _ = predictions(tmp_path, runs["constant"])

    database = pd.read_csv(next(tmp_path.glob("data/synthetic/*/ptbxl_database.csv")), dtype={"ecg_id": str})
    patients = database.set_index("ecg_id").patient_id[ids].to_numpy()
    records = [np.flatnonzero(patients == patient) for patient in np.unique(patients)]
    rng = np.random.default_rng(0)
    gains = []
    for _ in range(RESAMPLES):
        drawn = np.concatenate([records[patient] for patient in rng.integers(0, len(records), len(records))])
        gains.append(macro_f1(true[drawn], trained[drawn]) - macro_f1(true[drawn], constant[drawn]))
    assert np.quantile(gains, 0.025) > 0
