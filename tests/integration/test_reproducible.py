from __future__ import annotations

import numpy as np
import pytest
from commands import SMALL, all_runs, ecgexp, fresh, only, predictions

pytestmark = pytest.mark.slow

TIMES = ("epoch_seconds", "train_seconds")


def test_the_same_command_gives_the_same_numbers_to_the_last_bit(tmp_path):
    net = ("model=ribeiro", "model.width=4", "model.depth=2")  # with dropout and BatchNorm
    shared = (f"dataset.root={tmp_path / 'data'}", f"cache_dir={tmp_path / 'cache'}")
    folders = [
        run(tmp_path / name, *SMALL, *net, *shared).expect().folder
        for name, run in (("first", ecgexp), ("second", fresh))
    ]
    first, second = (only(all_runs(folder)) for folder in folders)
    metrics = [
        {name: value for name, value in run.data.metrics.items() if name not in TIMES} for run in (first, second)
    ]
    assert metrics[0] == metrics[1]
    assert first.data.tags["config_hash"] == second.data.tags["config_hash"]
    assert first.data.tags["dataset_fingerprint"] == second.data.tags["dataset_fingerprint"]
    for one, other in zip(predictions(folders[0], first), predictions(folders[1], second), strict=True):
        np.testing.assert_array_equal(one, other)
