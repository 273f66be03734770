import math

import numpy as np
import pytest
import torch

from ecgexp.errors import UserError
from ecgexp.metrics import confusion_matrix, multiclass_metrics, predicted_classes
from ecgexp.targets import MultiClass

oracle = pytest.importorskip("sklearn.metrics", reason="scikit-learn is in the extra 'dev'")

LABELS = ("N", "S", "V", "F", "Q")
NAN = float("nan")


def random_split(records=400, classes=5, seed=0, decimals=None, absent=(), nan=0.0):
    """Probabilities that know something of the targets: with ties where rounded, with classes that no record has,
    and with a share of records for which nothing is known."""
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet(np.ones(classes))
    shares[list(absent)] = 0
    true = rng.choice(classes, records, p=shares / shares.sum())
    logits = rng.normal(size=(records, classes)) + 1.5 * np.eye(classes)[true]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    if decimals is not None:
        probabilities = probabilities.round(decimals)
    probabilities[rng.random(records) < nan] = NAN
    return torch.as_tensor(probabilities, dtype=torch.float32), torch.as_tensor(
        np.eye(classes)[true], dtype=torch.uint8
    )


def by_scikit_learn(probabilities, targets, names, smallest=1):
    """Each metric by the other implementation; a record without a prediction is predicted to be of a class too many."""
    scores, true = probabilities.numpy(), targets.numpy().argmax(axis=1)
    classes = range(len(names))
    predicted = np.where(np.isnan(scores).any(axis=1), len(names), np.nan_to_num(scores, nan=-1).argmax(axis=1))
    each = oracle.precision_recall_fscore_support(true, predicted, labels=classes, zero_division=0)
    counted = [k for k in classes if (true == k).sum() >= smallest]
    expected = {"accuracy": oracle.accuracy_score(true, predicted)}
    for score, values in zip(("precision", "recall", "f1"), each, strict=False):
        function = getattr(oracle, f"{score}_score")
        options = {"labels": classes, "zero_division": 0}
        expected[f"{score}_weighted"] = function(true, predicted, average="weighted", **options)
        expected |= {f"{score}/{name}": value for name, value in zip(names, values, strict=True)}
        if counted:
            expected[f"{score}_macro"] = function(true, predicted, average="macro", **{**options, "labels": counted})
    known = np.nan_to_num(scores, nan=0.0)
    rankable = [k for k in counted if 0 < (true == k).sum() < len(true)]
    if counted:
        expected["balanced_accuracy"] = expected["recall_macro"]
        expected["ap_macro"] = np.mean([oracle.average_precision_score(true == k, known[:, k]) for k in counted])
    if rankable:
        expected["auroc_macro"] = np.mean([oracle.roc_auc_score(true == k, known[:, k]) for k in rankable])
    return expected


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("decimals", [None, 2, 1])
@pytest.mark.parametrize("nan", [0.0, 0.2])
@pytest.mark.parametrize(
    ("classes", "absent", "smallest"), [(2, (), 1), (5, (), 1), (5, (1, 4), 1), (5, (2,), 40), (23, (0, 7, 22), 10)]
)
def test_equals_scikit_learn(seed, decimals, nan, classes, absent, smallest):
    probabilities, targets = random_split(400, classes, seed, decimals, absent, nan)
    names = [f"class{i}" for i in range(classes)]
    metrics, left_out = multiclass_metrics(probabilities, targets, names, smallest)
    assert metrics == pytest.approx(by_scikit_learn(probabilities, targets, names, smallest), abs=2e-6)
    few = tuple(name for name, count in zip(names, targets.sum(dim=0), strict=True) if count < smallest)
    macro = {name for name in metrics if name.endswith("_macro")} | {"balanced_accuracy"}
    assert left_out == dict.fromkeys(macro if few else (), few)


def test_balanced_accuracy_is_that_of_scikit_learn():
    probabilities, targets = random_split(absent=(3,))
    with pytest.warns(UserWarning, match="y_pred contains classes not in y_true"):
        expected = oracle.balanced_accuracy_score(targets.argmax(dim=1), probabilities.argmax(dim=1))
    assert multiclass_metrics(probabilities, targets, LABELS).metrics["balanced_accuracy"] == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("nan", [0.0, 0.3])
def test_the_confusion_matrix_is_that_of_scikit_learn(seed, nan):
    probabilities, targets = random_split(seed=seed, decimals=1, absent=(1,), nan=nan)
    predicted = predicted_classes(probabilities)
    expected = oracle.confusion_matrix(targets.argmax(dim=1), predicted, labels=range(6))
    matrix = confusion_matrix(probabilities, targets)
    assert matrix.dtype == torch.int64
    np.testing.assert_array_equal(matrix, expected[:5])
    assert (matrix[:, 5].sum() > 0) == (nan > 0)


def test_the_first_of_equally_probable_classes_is_predicted_and_nothing_where_one_is_unknown():
    probabilities = torch.tensor([[0.2, 0.4, 0.4], [0.5, 0.5, 0.0], [0.9, NAN, 0.0], [NAN] * 3, [0.0, 0.0, 0.0]])
    assert predicted_classes(probabilities).tolist() == [1, 0, 3, 3, 0]


def test_a_net_that_puts_out_nothing_but_nan_is_wrong_everywhere_and_has_no_skill():
    _, targets = random_split()
    metrics, left_out = multiclass_metrics(torch.full(targets.shape, NAN), targets, LABELS)
    assert not any(math.isnan(value) for value in metrics.values())
    assert metrics.pop("auroc_macro") == pytest.approx(0.5)
    assert metrics.pop("ap_macro") == pytest.approx(0.2)
    assert set(metrics.values()) == {0}
    assert left_out == {}


def test_where_no_class_is_large_enough_there_is_no_macro_average():
    probabilities, targets = random_split(30)
    metrics, left_out = multiclass_metrics(probabilities, targets, LABELS, smallest_class=31)
    assert not [name for name in metrics if name.endswith("_macro") or name == "balanced_accuracy"]
    assert set(left_out.values()) == {LABELS}
    assert {"accuracy", "f1_weighted", "f1/N"} <= metrics.keys()
    assert not any(math.isnan(value) for value in metrics.values())


def test_every_metric_has_a_known_name():
    probabilities, targets = random_split(classes=3)
    labels = ["PRC(S)", "LAFB/LPFB", "1AVB"]
    metrics, _ = multiclass_metrics(probabilities, targets, labels)
    target = MultiClass(labels)
    assert {name for name in metrics if target.find_metric(name) is None} == set()
    assert {"precision/PRC-S-", "recall/LAFB-LPFB", "f1/1AVB"} <= metrics.keys()
    assert len(metrics) == 4 + 6 + 9


def test_other_number_types_give_the_same():
    probabilities, targets = random_split(200, decimals=1)
    expected = multiclass_metrics(probabilities, targets, LABELS)
    assert multiclass_metrics(probabilities.double(), targets.float(), LABELS) == expected
    assert multiclass_metrics(probabilities, targets.bool(), LABELS) == expected


@pytest.mark.parametrize(
    ("probabilities", "targets", "labels", "message"),
    [
        (torch.empty(0, 2), torch.empty(0, 2), "ab", "without records"),
        (torch.zeros(3, 2), torch.zeros(3, 2), "abc", r"\(records, 3\)"),
        (torch.zeros(3, 2), torch.zeros(2, 2), "ab", "Targets must have the shape"),
        (torch.zeros(3, 2), torch.zeros(3, 2), "ab", "exactly one label"),
        (torch.zeros(3, 2), torch.ones(3, 2), "ab", "exactly one label"),
        (torch.full((1, 2), 1.5), torch.tensor([[0, 1]]), "ab", "sigmoid or softmax"),
        (torch.zeros(1, 2), torch.tensor([[0, 1]]), ["A(B)", "A/B/"], r"'A\(B\)' and 'A/B/'.*'A-B-'"),
    ],
)
def test_refuses_bad_input(probabilities, targets, labels, message):
    with pytest.raises(UserError, match=message):
        multiclass_metrics(probabilities, targets, labels)
