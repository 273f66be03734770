import importlib
import itertools

import numpy as np
import pytest
import torch

from ecgexp.errors import UserError
from ecgexp.metrics import MLCM, mlcm


def loop_mlcm(true, predicted, rule="published"):
    """One record at a time, one case of the rule after the other, with sets."""
    labels = len(true[0])
    matrix = np.zeros((labels + 1, labels + 1), dtype=np.int64)
    for true_row, predicted_row in zip(true, predicted, strict=True):
        t, p = {i for i in range(labels) if true_row[i]}, {i for i in range(labels) if predicted_row[i]}
        if not t:
            for column in p or {labels}:
                matrix[labels, column] += 1
        elif not p:
            for row in t:
                matrix[row, labels] += 1
        elif len(t) == 1:
            for column in p:
                matrix[next(iter(t)), column] += 1
        else:
            missed, surplus = t - p, sorted(p - t)
            for label in t & p:
                matrix[label, label] += 1
            if missed and rule == "order_free":
                for row, column in itertools.product(missed, surplus or [labels]):
                    matrix[row, column] += 1
            else:
                for column in surplus:
                    for row in missed or t:
                        matrix[row, column] += 1
                    missed = set()
                for row in missed:
                    matrix[row, labels] += 1
    return matrix


def all_pairs(labels):
    sets = np.array(list(itertools.product([0, 1], repeat=labels)))
    return np.repeat(sets, len(sets), axis=0), np.tile(sets, (len(sets), 1))


def random_pairs(records, labels, prevalence=0.3, seed=0):
    rng = np.random.default_rng(seed)
    shape = (records, labels)
    return (rng.random(shape) < prevalence).astype(int), (rng.random(shape) < prevalence).astype(int)


def ours(true, predicted, rule="published"):
    return mlcm(torch.as_tensor(predicted), torch.as_tensor(true), true.shape[1], rule=rule).numpy()


@pytest.fixture
def published(monkeypatch):
    package = pytest.importorskip("mlcm.mlcm", reason="the public package mlcm is in the extra 'dev'")
    monkeypatch.setattr(np, "int", int, raising=False)
    monkeypatch.setattr(np, "float", float, raising=False)
    return lambda true, predicted: package.cm(true, predicted, False)[0]


@pytest.mark.slow
def test_equals_the_public_package_on_every_pair_of_5_labels(published):
    true, predicted = all_pairs(5)
    assert len(true) == 1024
    for i in range(len(true)):
        pair = true[i : i + 1], predicted[i : i + 1]
        np.testing.assert_array_equal(ours(*pair), published(*pair), err_msg=str(pair))
    np.testing.assert_array_equal(ours(true, predicted), published(true, predicted))


@pytest.mark.full
def test_equals_the_public_package_on_every_pair_of_8_labels(published):
    true, predicted = all_pairs(8)
    assert len(true) == 65536
    for i in range(0, len(true), 256):
        pairs = true[i : i + 256], predicted[i : i + 256]
        np.testing.assert_array_equal(ours(*pairs), published(*pairs), err_msg=str(pairs[0][0]))


@pytest.mark.parametrize("labels", [1, 2, 5, 23, 71])
@pytest.mark.parametrize("prevalence", [0.03, 0.3, 0.8])
def test_equals_the_public_package_on_random_records(published, labels, prevalence):
    pairs = random_pairs(300, labels, prevalence)
    np.testing.assert_array_equal(ours(*pairs), published(*pairs))


def test_equals_the_public_package_where_no_record_has_a_label(published):
    _, predicted = random_pairs(300, 5)
    pairs = np.zeros_like(predicted), predicted
    np.testing.assert_array_equal(ours(*pairs), published(*pairs))
    assert ours(*pairs)[:-1].sum() == 0


@pytest.mark.parametrize("rule", ["published", "order_free"])
def test_equals_the_loop(rule):
    for pairs in (all_pairs(5), random_pairs(2000, 12, seed=1), random_pairs(200, 71, 0.05, seed=2)):
        np.testing.assert_array_equal(ours(*pairs, rule), loop_mlcm(*pairs, rule))


@pytest.mark.slow
def test_order_free_differs_in_140_of_the_1024_pairs():
    true, predicted = all_pairs(5)
    differs = 0
    for i in range(len(true)):
        pair = true[i : i + 1], predicted[i : i + 1]
        np.testing.assert_array_equal(ours(*pair, "order_free"), loop_mlcm(*pair, "order_free"))
        differs += not np.array_equal(ours(*pair), ours(*pair, "order_free"))
    assert differs == 140


def test_order_free_does_not_depend_on_the_order_of_the_labels():
    true, predicted = random_pairs(2000, 6, 0.5)
    order = [3, 0, 5, 1, 4, 2]
    both = [*order, 6]
    shuffled = ours(true[:, order], predicted[:, order], "order_free")
    np.testing.assert_array_equal(shuffled, ours(true, predicted, "order_free")[np.ix_(both, both)])
    shuffled = ours(true[:, order], predicted[:, order])
    assert not np.array_equal(shuffled, ours(true, predicted)[np.ix_(both, both)])


def test_more_records_than_one_chunk_holds():
    true, predicted = random_pairs(500, 5)
    times = 200
    whole = ours(np.tile(true, (times, 1)), np.tile(predicted, (times, 1)))
    np.testing.assert_array_equal(whole, loop_mlcm(true, predicted) * times)


def test_a_probability_is_a_prediction_above_the_threshold_and_not_at_it():
    preds, target = torch.tensor([[0.25, 0.5, 0.75]]), torch.tensor([[1, 1, 1]])
    for threshold, predicted in ((0.0, [1, 1, 1]), (0.25, [0, 1, 1]), (0.5, [0, 0, 1]), (1.0, [0, 0, 0])):
        np.testing.assert_array_equal(
            mlcm(preds, target, 3, threshold), loop_mlcm([[1, 1, 1]], [predicted]), err_msg=str(threshold)
        )


def test_nan_is_not_predicted():
    nan = float("nan")
    preds, target = torch.tensor([[nan, 0.9], [nan, nan]]), torch.tensor([[1, 1], [0, 0]])
    expected = loop_mlcm([[1, 1], [0, 0]], [[0, 1], [0, 0]])
    for threshold in (0.0, 0.5):
        np.testing.assert_array_equal(mlcm(preds, target, 2, threshold), expected)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float32, torch.bfloat16])
def test_takes_labels_of_any_type(dtype):
    true, predicted = random_pairs(50, 4)
    matrix = mlcm(torch.as_tensor(predicted).to(dtype), torch.as_tensor(true).to(dtype), 4)
    np.testing.assert_array_equal(matrix, loop_mlcm(true, predicted))
    assert matrix.dtype == torch.int64


def test_counts_stay_exact_under_mixed_precision():
    true, predicted = random_pairs(5000, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        matrix = ours(true, predicted)
    assert matrix.max() > 2**8
    np.testing.assert_array_equal(matrix, loop_mlcm(true, predicted))


def test_no_records_give_an_empty_matrix():
    assert torch.equal(mlcm(torch.empty(0, 3), torch.empty(0, 3), 3), torch.zeros(4, 4, dtype=torch.int64))


@pytest.mark.parametrize("rule", ["published", "order_free"])
def test_metric_accumulates_batches_and_resets(rule):
    true, predicted = random_pairs(1000, 5)
    metric = MLCM(num_labels=5, rule=rule)
    for i in range(0, 1000, 96):
        metric.update(torch.as_tensor(predicted[i : i + 96]), torch.as_tensor(true[i : i + 96]))
    np.testing.assert_array_equal(metric.compute(), loop_mlcm(true, predicted, rule))
    metric.reset()
    metric.update(torch.tensor([[0.3, 0, 0, 0, 0]]), torch.tensor([[1, 0, 0, 0, 0]]))
    assert metric.compute().sum() == metric.compute()[0, 5] == 1


def test_metric_uses_its_threshold():
    metric = MLCM(num_labels=2, threshold=0.2)
    metric.update(torch.tensor([[0.3, 0.1]]), torch.tensor([[1, 0]]))
    assert metric.compute()[0, 0] == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("rule", ["published", "order_free"])
def test_update_on_a_gpu_is_exact_and_waits_for_nothing(rule):
    true, predicted = random_pairs(70_000, 5)
    metric = MLCM(num_labels=5, rule=rule, validate_args=False).to("cuda")
    batch = torch.as_tensor(predicted, device="cuda").float(), torch.as_tensor(true, device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        with torch.autocast("cuda"):
            metric.update(*batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert metric.compute().device.type == "cuda"
    np.testing.assert_array_equal(metric.compute().cpu(), loop_mlcm(true, predicted, rule))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_labels": 0}, "num_labels"),
        ({"num_labels": 2.0}, "num_labels"),
        ({"num_labels": True}, "num_labels"),
        ({"threshold": -0.1}, "threshold"),
        ({"threshold": 1.1}, "threshold"),
        ({"threshold": float("nan")}, "threshold"),
        ({"threshold": "0.5"}, "threshold"),
        ({"rule": "paper"}, "The argument rule must be one of published, order_free"),
    ],
)
def test_refuses_impossible_arguments(arguments, message):
    arguments = {"num_labels": 2, **arguments}
    with pytest.raises(UserError, match=message):
        mlcm(torch.zeros(1, 2), torch.zeros(1, 2), **arguments)
    with pytest.raises(UserError, match=message):
        MLCM(**arguments)


@pytest.mark.parametrize(
    ("preds", "target", "message"),
    [
        ([0.1, 0.2], [0, 1], r"shape \(records, 2\).*not \(2,\)"),
        ([[0.1, 0.2, 0.3]], [[0, 1, 0]], r"shape \(records, 2\).*not \(1, 3\)"),
        ([[0.1, 0.2]], [[0, 1], [0, 1]], r"Targets must have the shape.*\(1, 2\), not \(2, 2\)"),
        ([[0.1, 0.2]], [[0, 2]], "Targets must be 0 or 1"),
        ([[0.1, 0.2]], [[0, -1]], "Targets must be 0 or 1"),
        ([[0.1, 0.2]], [[0, 0.5]], "Targets must be 0 or 1"),
        ([[0.1, 0.2]], [[0, float("nan")]], "Targets must be 0 or 1"),
        ([[0.1, 1.2]], [[0, 1]], "apply the sigmoid"),
        ([[-0.1, float("nan")]], [[0, 1]], "apply the sigmoid"),
        ([[float("inf"), 0.1]], [[0, 1]], "apply the sigmoid"),
        ([[0, 2]], [[0, 1]], "integers must be 0 or 1"),
    ],
)
def test_refuses_impossible_tensors(preds, target, message):
    preds, target = torch.tensor(preds), torch.tensor(target)
    with pytest.raises(UserError, match=message):
        mlcm(preds, target, 2)
    with pytest.raises(UserError, match=message):
        MLCM(2).update(preds, target)


def test_importing_the_metrics_leaves_the_name_of_the_function_alone():
    assert importlib.import_module("ecgexp.metrics").mlcm is mlcm
