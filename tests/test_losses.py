from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ecgexp.losses import BinaryCrossEntropy, CrossEntropy

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


CLASSES = torch.tensor([[0, 0, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
CLASS_LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.5, 3.0, 0.0], [-2.0, 0.0, 1.0], [0.0, 0.0, 0.0]])


def weighted_by_hand(weights):
    """Sum over records of w_c times -log of the true class' share of the exponentials, over the sum of the w_c."""
    total = scale = 0.0
    for logits, target in zip(CLASS_LOGITS.tolist(), CLASSES.argmax(dim=1).tolist(), strict=True):
        share = math.exp(logits[target]) / sum(map(math.exp, logits))
        total -= weights[target] * math.log(share)
        scale += weights[target]
    return total / scale


def counted(*counts):
    """One-hot targets with so many records of each class."""
    classes = np.repeat(range(len(counts)), counts)
    return torch.from_numpy(np.eye(len(counts), dtype=np.uint8)[classes])


def test_cross_entropy_without_weights_is_the_mean():
    loss = CrossEntropy()
    loss.fit_labels(counted(1, 2, 30))
    assert loss(CLASS_LOGITS, CLASSES).item() == pytest.approx(weighted_by_hand([1, 1, 1]))


def test_inverse_frequency_is_the_balanced_weight_of_scikit_learn():
    class_weight = pytest.importorskip("sklearn.utils.class_weight", reason="scikit-learn is in the extra 'dev'")
    targets = counted(700, 20, 3)
    loss = CrossEntropy("inverse_frequency")
    loss.fit_labels(targets)
    expected = class_weight.compute_class_weight("balanced", classes=np.arange(3), y=targets.argmax(dim=1).numpy())
    assert loss.weight.tolist() == pytest.approx(expected.tolist())
    assert loss(CLASS_LOGITS, CLASSES).item() == pytest.approx(weighted_by_hand(expected))


@pytest.mark.parametrize("beta", [0.9, 0.999, 0.9999])
def test_effective_number_is_that_of_cui_et_al(beta):
    loss = CrossEntropy("effective_number", beta)
    loss.fit_labels(counted(700, 20, 3))
    effective = [sum(beta**i for i in range(n)) for n in (700, 20, 3)]  # their equation 2, as a sum
    inverse = np.array([1 / number for number in effective])
    expected = 3 * inverse / inverse.sum()
    assert loss.weight.tolist() == pytest.approx(expected.tolist(), rel=1e-5)
    assert loss(CLASS_LOGITS, CLASSES).item() == pytest.approx(weighted_by_hand(expected), rel=1e-5)


def test_beta_leads_from_no_weights_to_inverse_frequency():
    weights = {}
    for name, beta in (("effective_number", 0.0), ("effective_number", 1 - 1e-9), ("inverse_frequency", 0.0)):
        loss = CrossEntropy(name, beta)
        loss.fit_labels(counted(500, 40, 7))
        weights[name, beta] = (loss.weight / loss.weight.sum()).tolist()
    assert weights["effective_number", 0.0] == pytest.approx([1 / 3] * 3)
    assert weights["effective_number", 1 - 1e-9] == pytest.approx(weights["inverse_frequency", 0.0], rel=1e-5)


@pytest.mark.parametrize("class_weights", ["inverse_frequency", "effective_number"])
def test_a_class_without_records_in_training_keeps_weight_1_and_changes_no_other(class_weights):
    with_absent, without = CrossEntropy(class_weights), CrossEntropy(class_weights)
    with_absent.fit_labels(counted(90, 0, 10))
    without.fit_labels(counted(90, 10))
    assert with_absent.weight[1] == 1
    assert with_absent.weight[[0, 2]].tolist() == without.weight.tolist()
    assert math.isfinite(with_absent(CLASS_LOGITS, CLASSES).item())


def test_gradients_of_the_cross_entropy_are_softmax_minus_target_over_the_records():
    logits = CLASS_LOGITS.clone().requires_grad_()
    CrossEntropy()(logits, CLASSES).backward()
    torch.testing.assert_close(logits.grad, (CLASS_LOGITS.softmax(dim=1) - CLASSES) / 4)
