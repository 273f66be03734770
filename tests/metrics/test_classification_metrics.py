import math

import numpy as np
import pytest
import torch

from ecgexp.errors import UserError
from ecgexp.metrics import classification_metrics, mlcm, mlcm_report
from ecgexp.targets import MultiLabel

sklearn_metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is in the extra 'dev'")

LABELS = ("NORM", "STTC", "CD", "MI", "HYP")
NAN = float("nan")


def random_split(records=1500, labels=5, seed=0, decimals=None):
    """Probabilities that know something of the targets, with ties where rounded."""
    rng = np.random.default_rng(seed)
    prevalence = rng.uniform(0.05, 0.5, labels)
    targets = rng.random((records, labels)) < prevalence
    logits = rng.normal(2.0 * targets - 1.5, 1.5)
    probabilities = 1 / (1 + np.exp(-logits))
    if decimals is not None:
        probabilities = probabilities.round(decimals)
    return torch.as_tensor(probabilities, dtype=torch.float32), torch.as_tensor(targets, dtype=torch.uint8)


@pytest.mark.parametrize("decimals", [None, 2, 1])
@pytest.mark.parametrize("threshold", [0.3, 0.5])
@pytest.mark.parametrize("labels", [1, 2, 5, 23])
def test_equals_scikit_learn(decimals, threshold, labels):
    probabilities, targets = random_split(labels=labels, decimals=decimals)
    names = [f"label{i}" for i in range(labels)]
    metrics, left_out = classification_metrics(probabilities, targets, names, threshold)

    scores, true = probabilities.numpy(), targets.numpy()
    predicted = scores > np.float32(threshold)
    f1 = [sklearn_metrics.f1_score(true[:, k], predicted[:, k]) for k in range(labels)]
    auroc = [sklearn_metrics.roc_auc_score(true[:, k], scores[:, k]) for k in range(labels)]
    ap = [sklearn_metrics.average_precision_score(true[:, k], scores[:, k]) for k in range(labels)]
    expected = {
        "subset_accuracy": sklearn_metrics.accuracy_score(true, predicted),
        "binary_accuracy": sklearn_metrics.accuracy_score(true.ravel(), predicted.ravel()),
        "auroc_macro": np.mean(auroc),
        "ap_macro": np.mean(ap),
        **{f"f1/{name}": value for name, value in zip(names, f1, strict=True)},
    }
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, abs=2e-6)
    assert left_out == {}


def test_mlcm_metrics_are_those_of_the_matrix():
    probabilities, targets = random_split()
    report = mlcm_report(mlcm(probabilities, targets, 5, 0.4), LABELS)
    metrics, _ = classification_metrics(probabilities, targets, LABELS, 0.4)
    assert bool((targets.sum(dim=1) == 0).any())
    for name, value in report.averages.items():
        assert metrics[f"mlcm_{name}"] == value
    for name, value in zip((*LABELS, "NTL"), report.f1, strict=True):
        assert metrics[f"mlcm_f1/{name}"] == value


def test_ntl_is_there_only_where_a_record_has_no_label():
    probabilities, targets = random_split()
    targets[targets.sum(dim=1) == 0, 2] = 1
    metrics, _ = classification_metrics(probabilities, targets, LABELS)
    assert "mlcm_f1/NTL" not in metrics
    assert "mlcm_f1/HYP" in metrics


def test_keras_accuracy_compares_the_first_largest_of_both():
    probabilities = torch.tensor(
        [
            [0.1, 0.9, 0.2],  # most probable 1, first true 1: right
            [0.1, 0.2, 0.1],  # likewise, though nothing is predicted
            [0.9, 0.8, 0.1],  # most probable 0, first true 1: wrong
            [0.1, 0.2, 0.9],  # most probable 2 is true, but 1 is the first true: wrong
            [0.9, 0.2, 0.1],  # nothing is true: counts as label 0, right
            [0.5, 0.5, 0.1],  # a tie goes to the first, 0: right
            [NAN, 0.1, 0.0],  # most probable 1: right
            [NAN, NAN, NAN],  # nothing is known: wrong
        ]
    )
    targets = torch.tensor([[0, 1, 0], [0, 1, 1], [0, 1, 0], [0, 1, 1], [0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 0, 0]])
    metrics, _ = classification_metrics(probabilities, targets, ["a", "b", "c"])
    assert metrics["keras_accuracy"] == pytest.approx(5 / 8)


def test_nan_counts_as_a_probability_of_zero():
    probabilities, targets = random_split()
    holes = torch.rand(probabilities.shape, generator=torch.Generator().manual_seed(0)) < 0.2
    with_nan = torch.where(holes, torch.tensor(NAN), probabilities)
    with_zero = torch.where(holes, torch.tensor(0.0), probabilities)
    for threshold in (0.0, 0.5):
        assert classification_metrics(with_nan, targets, LABELS, threshold) == classification_metrics(
            with_zero, targets, LABELS, threshold
        )


def test_a_net_that_puts_out_nothing_but_nan_has_no_skill():
    _, targets = random_split()
    metrics, left_out = classification_metrics(torch.full(targets.shape, NAN), targets, LABELS)
    assert not any(math.isnan(value) for value in metrics.values())
    assert metrics["auroc_macro"] == pytest.approx(0.5)
    assert metrics["ap_macro"] == pytest.approx(targets.float().mean().item(), abs=1e-6)
    assert metrics["keras_accuracy"] == 0
    assert {metrics[f"f1/{label}"] for label in LABELS} == {0}
    assert metrics["mlcm_f1/NORM"] == 0
    assert left_out == {}


def test_a_label_that_is_absent_or_always_present_is_left_out_of_the_macro_averages_and_reported():
    probabilities, targets = random_split()
    targets[:, 1], targets[:, 3] = 0, 1
    metrics, left_out = classification_metrics(probabilities, targets, ("NORM", "ST/T", "CD", "MI", "HYP"))
    scores, true = probabilities.numpy(), targets.numpy()
    auroc = [sklearn_metrics.roc_auc_score(true[:, k], scores[:, k]) for k in (0, 2, 4)]
    ap = [sklearn_metrics.average_precision_score(true[:, k], scores[:, k]) for k in (0, 2, 3, 4)]
    assert left_out == {"auroc_macro": ("ST/T", "MI"), "ap_macro": ("ST/T",)}
    assert metrics["auroc_macro"] == pytest.approx(np.mean(auroc), abs=2e-6)
    assert metrics["ap_macro"] == pytest.approx(np.mean(ap), abs=2e-6)
    assert metrics["f1/ST-T"] == 0


def test_a_macro_average_of_no_label_is_absent():
    probabilities, targets = random_split()
    metrics, left_out = classification_metrics(probabilities, torch.zeros_like(targets), LABELS)
    assert left_out == {"auroc_macro": LABELS, "ap_macro": LABELS}
    assert "auroc_macro" not in metrics
    assert "ap_macro" not in metrics
    assert not any(math.isnan(value) for value in metrics.values())


def test_every_metric_has_a_known_name():
    probabilities, targets = random_split(labels=3)
    labels = ["PRC(S)", "LAFB/LPFB", "1AVB"]
    metrics, _ = classification_metrics(probabilities, targets, labels)
    target = MultiLabel(labels)
    assert {name for name in metrics if target.find_metric(name) is None} == {"mlcm_f1/NTL"}  # no label of the target
    assert {"f1/PRC-S-", "f1/LAFB-LPFB", "mlcm_f1/1AVB", "mlcm_f1/NTL"} <= metrics.keys()
    assert len(metrics) == 5 + 3 + 9 + 4


def test_other_number_types_give_the_same():
    probabilities, targets = random_split(200, decimals=1)
    expected = classification_metrics(probabilities, targets, LABELS)
    assert classification_metrics(probabilities.double(), targets.float(), LABELS) == expected
    assert classification_metrics(probabilities, targets.bool(), LABELS) == expected


@pytest.mark.parametrize(
    ("probabilities", "targets", "labels", "threshold", "message"),
    [
        (torch.empty(0, 2), torch.empty(0, 2), "ab", 0.5, "without records"),
        (torch.zeros(3, 2), torch.zeros(3, 2), "abc", 0.5, r"\(records, 3\)"),
        (torch.zeros(3, 2), torch.zeros(2, 2), "ab", 0.5, "Targets must have the shape"),
        (torch.zeros(3, 2), torch.full((3, 2), 2), "ab", 0.5, "Targets must be 0 or 1"),
        (torch.full((3, 2), 1.5), torch.zeros(3, 2), "ab", 0.5, "apply the sigmoid"),
        (torch.full((3, 2), math.inf), torch.zeros(3, 2), "ab", 0.5, "apply the sigmoid"),
        (torch.zeros(3, 2), torch.zeros(3, 2), "ab", 1.5, "threshold"),
        (torch.zeros(3, 2), torch.zeros(3, 2), ["A(B)", "A/B/"], 0.5, r"'A\(B\)' and 'A/B/'.*'A-B-'"),
        (torch.zeros(3, 2), torch.zeros(3, 2), ["MI", "NTL"], 0.5, "'NTL'"),
    ],
)
def test_refuses_bad_input(probabilities, targets, labels, threshold, message):
    with pytest.raises(UserError, match=message):
        classification_metrics(probabilities, targets, labels, threshold)
