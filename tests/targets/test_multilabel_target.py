"""Records with any number of labels: decisions, thresholds and what is shown of each label."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn import metrics as oracle

from ecgexp.targets import MultiLabel
from ecgexp.targets.thresholds import tuned_thresholds


def example(records: int = 400, labels: int = 3, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    random = np.random.default_rng(seed)
    targets = random.random((records, labels)) < [0.5, 0.2, 0.05][:labels]
    values = np.clip(random.normal(0.3 + 0.3 * targets, 0.2), 0.001, 0.999).astype(np.float32)
    return torch.from_numpy(values), torch.from_numpy(targets.astype(np.float32))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_tuned_thresholds_are_the_best_of_all(seed):
    values, targets = (part.numpy() for part in example(60, 2, seed))
    values = values.round(2)  # with ties
    tuned = tuned_thresholds(values, targets, 0.5)
    for label in range(2):
        everywhere = [oracle.f1_score(targets[:, label], values[:, label] > t) for t in np.arange(-0.005, 1, 0.01)]
        reached = oracle.f1_score(targets[:, label], values[:, label] > tuned[label])
        assert reached == pytest.approx(max(everywhere))


def test_a_threshold_that_cannot_be_tuned_or_bettered_stays():
    values = np.array([[0.9, 0.2], [0.1, 0.4], [0.8, 0.3]])
    targets = np.array([[1, 0], [0, 0], [1, 0]])
    assert tuned_thresholds(values, targets, 0.5).tolist() == [0.5, 0.5]
    assert tuned_thresholds(values, 1 - 0 * targets, 0.5)[0] < 0.1


def test_the_label_table_is_that_of_scikit_learn():
    values, targets = example()
    targets[:, 2] = 0
    table = MultiLabel(("a", "b", "never")).with_thresholds((0.5, 0.4, 0.5)).label_table(values, targets)
    assert table.loc["a", "auroc"] == pytest.approx(oracle.roc_auc_score(targets[:, 0], values[:, 0]))
    assert table.loc["b", "ap"] == pytest.approx(oracle.average_precision_score(targets[:, 1], values[:, 1]))
    assert table.loc["b", "f1"] == pytest.approx(oracle.f1_score(targets[:, 1], values[:, 1] > 0.4))
    assert table.loc["a", "brier"] == pytest.approx(oracle.brier_score_loss(targets[:, 0], values[:, 0]))
    assert np.isnan(table.loc["never", ["auroc", "ap"]].to_numpy(dtype=float)).all()
    assert table.loc["never", "positives"] == 0
