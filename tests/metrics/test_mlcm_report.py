import re

import numpy as np
import pytest
import torch

from ecgexp.errors import UserError
from ecgexp.metrics import mlcm, mlcm_report

SCORES = ("precision", "recall", "f1")


def random_matrix(labels=5, unlabelled=False, seed=0, records=400):
    rng = np.random.default_rng(seed)
    true, predicted = (rng.random((2, records, labels)) < 0.35).astype(int)
    if not unlabelled:
        true[true.sum(axis=1) == 0, 0] = 1
    return mlcm(torch.as_tensor(predicted), torch.as_tensor(true), labels)


def quotient(a, b):
    return a / b if b else 0.0


def loop_report(matrix):
    """Per label and average by plain loops over the cells of the matrix."""
    size = len(matrix)
    rows = []
    for k in range(size):
        tp = int(matrix[k][k])
        fp = sum(int(matrix[i][k]) for i in range(size) if i != k)
        fn = sum(int(matrix[k][j]) for j in range(size) if j != k)
        scores = quotient(tp, tp + fp), quotient(tp, tp + fn), quotient(2 * tp, 2 * tp + fp + fn)
        rows.append((tp, fp, fn, *scores, tp + fn))
    kept = rows if rows[-1][6] > 0 else rows[:-1]
    tp, fp, fn = (sum(row[i] for row in rows) for i in range(3))
    micro = quotient(tp, tp + fp), quotient(tp, tp + fn), quotient(2 * tp, 2 * tp + fp + fn)
    averages = {}
    for i, score in enumerate(SCORES):
        averages[f"{score}_micro"] = micro[i]
        averages[f"{score}_macro"] = sum(row[3 + i] for row in kept) / len(kept)
        averages[f"{score}_weighted"] = quotient(sum(row[3 + i] * row[6] for row in kept), sum(row[6] for row in kept))
    return rows, averages


def check(matrix):
    rows, averages = loop_report(matrix)
    report = mlcm_report(matrix)
    for i, score in enumerate(SCORES):
        np.testing.assert_allclose(getattr(report, score), [row[3 + i] for row in rows], rtol=1e-12)
    np.testing.assert_array_equal(report.support, [row[6] for row in rows])
    assert report.averages.keys() == averages.keys()
    for name, value in averages.items():
        assert report.averages[name] == pytest.approx(value, rel=1e-12), name


@pytest.mark.parametrize("labels", [1, 2, 5, 71])
@pytest.mark.parametrize("unlabelled", [False, True])
def test_equals_a_report_by_loops(labels, unlabelled):
    check(random_matrix(labels, unlabelled))


def test_zero_divided_by_zero_is_zero():
    check(torch.zeros(4, 4, dtype=torch.int64))
    never_predicted = torch.tensor([[3, 0, 1], [2, 0, 0], [0, 0, 0]])
    check(never_predicted)
    assert mlcm_report(never_predicted).precision[1] == 0


def test_by_hand():
    # Label 0: tp 3, fp 2, fn 1 + 1 (NPL). Label 1: tp 4, fp 1, fn 2. Every record has a label.
    report = mlcm_report(torch.tensor([[3, 1, 1], [2, 4, 0], [0, 0, 0]]), ["NORM", "MI"])
    assert report.label_names == ("NORM", "MI", "NTL")
    np.testing.assert_allclose(report.precision[:2], [3 / 5, 4 / 5])
    np.testing.assert_allclose(report.recall[:2], [3 / 5, 4 / 6])
    np.testing.assert_allclose(report.f1[:2], [6 / 10, 8 / 11])
    assert report.support.tolist() == [5, 6, 0]
    assert report.counted.tolist() == [True, True, False]
    assert report.averages["f1_macro"] == pytest.approx((6 / 10 + 8 / 11) / 2)
    assert report.averages["f1_weighted"] == pytest.approx((5 * 6 / 10 + 6 * 8 / 11) / 11)
    assert report.averages["recall_micro"] == pytest.approx(7 / 11)


def test_ntl_counts_in_the_averages_where_a_record_has_no_label():
    with_ntl = mlcm_report(torch.tensor([[3, 0, 0], [0, 4, 0], [1, 0, 1]]))
    assert with_ntl.counted.tolist() == [True, True, True]
    assert with_ntl.averages["recall_macro"] == pytest.approx((1 + 1 + 0.5) / 3)


@pytest.mark.parametrize("unlabelled", [False, True])
def test_equals_the_public_package(unlabelled, monkeypatch, capsys):
    package = pytest.importorskip("mlcm.mlcm", reason="the public package mlcm is in the extra 'dev'")
    monkeypatch.setattr(np, "float", float, raising=False)
    matrix = random_matrix(unlabelled=unlabelled).numpy()
    with np.errstate(invalid="ignore"):
        one_vs_rest = package.stats(matrix, False)
    printed = capsys.readouterr().out
    report = mlcm_report(matrix)

    tp, fp, fn = one_vs_rest[:, 1, 1], one_vs_rest[:, 0, 1], one_vs_rest[:, 1, 0]
    np.testing.assert_array_equal(report.support, tp + fn)
    np.testing.assert_allclose(report.f1[:-1], (2 * tp / (2 * tp + fp + fn))[:-1])
    for average in ("micro", "macro", "weighted"):
        values = re.search(rf"{average} avg\s+([\d.]+)\s+([\d.]+)\s+([\d.]+)", printed).groups()
        for score, value in zip(SCORES, values, strict=True):
            assert float(value) == pytest.approx(report.averages[f"{score}_{average}"], abs=0.00501)


def test_scores_a_stack_of_matrices_like_each_of_them():
    matrices = [random_matrix(unlabelled=seed % 2 == 1, seed=seed) for seed in range(6)]
    stacked = mlcm_report(torch.stack(matrices).reshape(2, 3, 6, 6))
    for i, matrix in enumerate(matrices):
        single, at = mlcm_report(matrix), divmod(i, 3)
        for score in SCORES:
            np.testing.assert_array_equal(getattr(stacked, score)[at], getattr(single, score))
        for name, value in single.averages.items():
            assert stacked.averages[name][at] == value


def test_takes_lists_and_arrays():
    cells = [[3, 1, 1], [2, 4, 0], [0, 0, 0]]
    f1 = mlcm_report(torch.tensor(cells)).f1
    np.testing.assert_array_equal(mlcm_report(cells).f1, f1)
    np.testing.assert_array_equal(mlcm_report(np.array(cells)).f1, f1)


@pytest.mark.parametrize("shape", [(3,), (3, 4), (1, 1)])
def test_refuses_what_is_not_square(shape):
    with pytest.raises(UserError, match="shape"):
        mlcm_report(torch.zeros(shape, dtype=torch.int64))


def test_refuses_another_number_of_names():
    with pytest.raises(UserError, match="2 labels got 3 label names"):
        mlcm_report(torch.zeros(3, 3, dtype=torch.int64), ["a", "b", "NTL"])
