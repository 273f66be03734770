from itertools import product

import pytest
import torch

from ecgexp.errors import UserError
from ecgexp.metrics import mlcm
from ecgexp.metrics.confusion import mlcm_marginals


@pytest.mark.parametrize("rule", ["published", "order_free"])
def test_each_record_adds_the_diagonal_and_the_sums_of_its_own_matrix(rule):
    # Every pair of true and predicted sets of four labels.
    sets = list(product((0, 1), repeat=4))
    target, preds = (torch.tensor(side) for side in zip(*product(sets, sets), strict=True))
    hits, true, predicted = mlcm_marginals(preds, target, 4, rule=rule)
    for record in range(len(target)):
        matrix = mlcm(preds[[record]], target[[record]], 4, rule=rule)
        assert hits[record].tolist() == matrix.diagonal().tolist()
        assert true[record].tolist() == matrix.sum(dim=1).tolist()
        assert predicted[record].tolist() == matrix.sum(dim=0).tolist()


def test_probabilities_are_treated_as_by_the_matrix():
    preds = torch.tensor([[0.5, 0.6], [float("nan"), 0.4]])
    hits, true, predicted = mlcm_marginals(preds, torch.tensor([[1, 1], [1, 0]]), 2, threshold=0.55)
    assert hits.tolist() == [[0, 1, 0], [0, 0, 0]]
    assert true.tolist() == [[1, 1, 0], [1, 0, 0]]
    assert predicted.tolist() == [[0, 1, 1], [0, 0, 1]]


@pytest.mark.parametrize(("preds", "threshold"), [(torch.zeros(3, 2), 2.0), (torch.zeros(3, 1), 0.5)])
def test_a_wrong_argument_is_refused_as_by_the_matrix(preds, threshold):
    with pytest.raises(UserError):
        mlcm_marginals(preds, torch.zeros(3, 2), 2, threshold=threshold)
