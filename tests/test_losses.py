from __future__ import annotations

import math

import pytest
import torch

from ecgexp.losses import BinaryCrossEntropy

LOGITS = torch.tensor([[2.0, -1.0], [0.5, 3.0], [-2.0, 0.0]])
TARGETS = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])


def by_hand(weights):
    """Mean over records and labels of -(w t log p + (1 - t) log(1 - p)), term by term."""
    total = 0.0
    for logits, targets in zip(LOGITS.tolist(), TARGETS.tolist(), strict=True):
        for logit, target, weight in zip(logits, targets, weights, strict=True):
            probability = 1 / (1 + math.exp(-logit))
            total -= weight * target * math.log(probability) + (1 - target) * math.log(1 - probability)
    return total / 6


def test_without_weights_it_is_the_mean_cross_entropy():
    loss = BinaryCrossEntropy()
    loss.fit_labels(TARGETS)
    assert loss(LOGITS, TARGETS).item() == pytest.approx(by_hand([1, 1]))


def test_inverse_frequency_weights_positives_by_negatives_over_positives():
    loss = BinaryCrossEntropy("inverse_frequency")
    # Of 8 training records the first label holds in 2, the second in 4: weights 6 / 2 and 4 / 4.
    loss.fit_labels(torch.tensor([[1, 1], [1, 1], [0, 1], [0, 1], [0, 0], [0, 0], [0, 0], [0, 0]]))
    assert loss(LOGITS, TARGETS).item() == pytest.approx(by_hand([3, 1]))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float32])
def test_weights_do_not_depend_on_the_type_of_the_targets(dtype):
    targets = torch.zeros(1000, 1, dtype=dtype)
    targets[:400] = 1  # more than a byte can count
    loss = BinaryCrossEntropy("inverse_frequency")
    loss.fit_labels(targets)
    weighted = loss(torch.zeros(1, 1), torch.ones(1, 1)).item()
    assert weighted == pytest.approx(1.5 * math.log(2))


def test_a_label_without_positives_in_training_keeps_weight_1():
    loss = BinaryCrossEntropy("inverse_frequency")
    loss.fit_labels(torch.tensor([[0, 1], [0, 0]]))
    assert loss(LOGITS, TARGETS).item() == pytest.approx(by_hand([1, 1]))


def test_a_label_that_always_holds_in_training_gives_a_finite_loss():
    loss = BinaryCrossEntropy("inverse_frequency")
    loss.fit_labels(torch.ones(4, 2))
    assert math.isfinite(loss(LOGITS, TARGETS).item())


def test_gradients_are_sigmoid_minus_target_over_the_number_of_terms():
    logits = LOGITS.clone().requires_grad_()
    BinaryCrossEntropy()(logits, TARGETS).backward()
    torch.testing.assert_close(logits.grad, (LOGITS.sigmoid() - TARGETS) / 6)
