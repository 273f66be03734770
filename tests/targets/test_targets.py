"""The rules for every kind of target, and the properties of targets that are known before data are read."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from ecgexp.errors import UserError
from ecgexp.metrics import classification_metrics, multiclass_metrics
from ecgexp.metrics.base import as_metric
from ecgexp.targets import MultiClass, MultiLabel

NAMES = ("A", "B(x)", "C")


def example(kind, records=60):
    random = np.random.default_rng(0)
    if kind is MultiClass:
        targets = np.eye(3, dtype=np.float32)[random.integers(0, 3, records)]
    else:
        targets = (random.random((records, 3)) < 0.4).astype(np.float32)
    logits = torch.from_numpy(random.normal(size=(records, 3)) + targets).float()
    return kind(NAMES), logits, torch.from_numpy(targets)


def test_neither_importing_nor_asking_a_target_needs_torch_numpy_or_pandas():
    code = (
        "import sys; from ecgexp.targets import MultiClass, MultiLabel\n"
        "for kind in (MultiClass, MultiLabel):\n"
        "    target = kind(['A', 'B'])\n"
        "    assert target.higher_is_better('f1/A') and not target.higher_is_better('loss') and target.outputs == 2\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'numpy', 'pandas')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("kind", [MultiLabel, MultiClass])
def test_it_measures_exactly_what_it_names(kind):
    target, logits, targets = example(kind)
    found = target.measure(target.activation()(logits), targets).metrics
    ntl = {"mlcm_f1/NTL"} & set(found)
    assert all(target.find_metric(name) is not None for name in set(found) - ntl)
    named = {m.name for m in target.metrics if not m.per_output}
    assert named <= set(found) and target.main_metric in named
    assert {m.name for m in target.metrics if m.per_output} == {n.partition("/")[0] for n in found if "/" in n}
    assert set(target.scorers()) <= named
    assert set(target.table_metrics) | set(target.shown) <= named | {"loss", "brier"}


@pytest.mark.parametrize(
    "name", ["", "f1", "f1/", "f1/B(x)", "f1/D", "f1/A/B", "loss/A", "val/loss", "LOSS", "f1_micro"]
)
@pytest.mark.parametrize("kind", [MultiLabel, MultiClass])
def test_it_knows_what_is_no_metric(kind, name):
    target = kind(NAMES)
    assert target.find_metric(name) is None
    with pytest.raises(UserError, match=r"There is no metric .*loss, .*f1/<label>"):
        target.higher_is_better(name)


@pytest.mark.parametrize(
    ("name", "multilabel", "multiclass"),
    [
        *(("loss", True, True), ("auroc_macro", True, True), ("f1/B-x-", True, True)),
        *(("mlcm_f1_macro", True, False), ("subset_accuracy", True, False), ("mlcm_f1/A", True, False)),
        *(("f1_macro", False, True), ("accuracy", False, True), ("recall/C", False, True)),
    ],
)
def test_it_knows_its_metrics(name, multilabel, multiclass):
    assert (MultiLabel(NAMES).find_metric(name) is not None) == multilabel
    assert (MultiClass(NAMES).find_metric(name) is not None) == multiclass


@pytest.mark.parametrize("kind", [MultiLabel, MultiClass])
def test_its_metrics_are_those_of_the_library(kind):
    target, logits, targets = example(kind)
    if kind is MultiLabel:
        target, expected = MultiLabel(NAMES, 0.3), classification_metrics(logits.sigmoid(), targets, NAMES, 0.3)
    else:
        expected = multiclass_metrics(logits.softmax(dim=1), targets, NAMES)
    assert target.measure(target.activation()(logits), targets) == expected


def test_decisions():
    probabilities = torch.tensor([[0.2, 0.5, 0.9], [0.1, 0.1, 0.1], [0.4, 0.5, torch.nan]])
    assert MultiLabel(NAMES).decide(probabilities).tolist() == [[0, 0, 1], [0, 0, 0], [0, 0, 0]]
    assert MultiLabel(NAMES, 0.1).decided(probabilities[0]) == list(NAMES)
    assert MultiLabel(NAMES).with_thresholds([0.1, 0.5, 0.95]).decided(probabilities[0]) == ["A"]
    assert MultiClass(NAMES).decide(probabilities).tolist() == [[0, 0, 1], [1, 0, 0], [0, 0, 0]]
    assert MultiClass(NAMES).decided(probabilities[0]) == ["C"]


@pytest.mark.parametrize("kind", [MultiLabel, MultiClass])
def test_the_prior_gives_each_label_its_share(kind):
    target, _, targets = example(kind)
    predicted = target.activation()(target.prior(targets)[None])[0]
    np.testing.assert_allclose(predicted.numpy(), targets.double().mean(dim=0).numpy(), atol=1e-6)


@pytest.mark.parametrize("kind", [MultiLabel, MultiClass])
def test_the_scores_of_the_bootstrap_are_those_of_repeated_records(kind):
    target, logits, targets = example(kind)
    probabilities = target.activation()(logits)
    times = np.random.default_rng(1).integers(1, 4, (2, len(targets)))
    for name, prepare in target.scorers().items():
        given = prepare(probabilities.numpy(), targets.numpy())(times.astype(float))
        for weights, score in zip(times, given, strict=True):
            rows = np.repeat(np.arange(len(targets)), weights)
            assert score == pytest.approx(target.measure(probabilities[rows], targets[rows]).metrics[name], abs=1e-6)


def test_every_resample_holds_what_its_scores_need():
    targets = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 0]])
    required, columns = MultiLabel(NAMES).required(targets)
    assert columns == [*NAMES, "no label"] and required[2].tolist() == [False, False, False, True]
    required, columns = MultiClass(NAMES).required(targets[:2])
    assert columns == ["A", "B(x)"] and required.shape == (2, 2)
    assert MultiClass(NAMES).for_evaluation().required(targets[:2])[1] == []  # too few of each


def test_the_confusion_table_names_true_and_predicted_labels():
    target, logits, targets = example(MultiClass)
    table = target.confusion(logits.softmax(dim=1), targets)
    assert list(table.columns) == list(table.index) == list(NAMES)
    assert table.to_numpy().sum() == len(targets)
    target, logits, targets = example(MultiLabel)
    assert list(target.confusion(logits.sigmoid(), targets).columns) == [*NAMES, "NPL"]


# --- metrics of a user's own


class Worst:
    higher_is_better = False

    def __call__(self, probabilities, targets):
        return (probabilities - targets).abs().max()


class Shares:
    higher_is_better, per_output = True, True

    def __call__(self, probabilities, targets):
        return targets.mean(dim=0)


class Odd(Worst):
    def __call__(self, probabilities, targets):
        return "many"


def test_own_metrics_are_measured_beside_those_of_the_target():
    target, logits, targets = example(MultiLabel)
    before = target.measure(logits.sigmoid(), targets).metrics
    target.extra = (as_metric("worst", Worst()), as_metric("share", Shares()))
    metrics = dict(target.measure(logits.sigmoid(), targets).metrics)
    assert metrics.pop("worst") == pytest.approx(float((logits.sigmoid() - targets).abs().max()))
    shares = [metrics.pop(f"share/{label}") for label in ("A", "B-x-", "C")]
    assert shares == pytest.approx(targets.mean(dim=0).tolist())
    assert metrics == before
    assert not target.higher_is_better("worst") and target.higher_is_better("share/C")
    assert target.displayed()[-1] == "worst"


def test_an_own_metric_that_gives_no_number_is_named():
    target, logits, targets = example(MultiLabel)
    target.extra = (as_metric("odd", Odd()),)
    with pytest.raises(UserError, match=r"'metrics\.odd' must return a number, not 'many'"):
        target.measure(logits.sigmoid(), targets)


@pytest.mark.parametrize("component", [object(), len, "text"])
def test_a_metric_has_to_say_which_way_is_better(component):
    with pytest.raises(UserError, match=r"'metrics\.mine' needs a callable"):
        as_metric("mine", component)
