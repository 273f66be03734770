"""The requirements of torchmetrics for its own metrics, applied to the MLCM; for functions, those without a state."""

from __future__ import annotations

import pickle
from functools import partial

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from matplotlib.figure import Figure
from test_mlcm import loop_mlcm
from torchmetrics import MetricCollection

from ecgexp.errors import UserError
from ecgexp.metrics import MLCM, confusion_matrix, mlcm

BATCHES, RECORDS, LABELS = 4, 32, 5
RULES = pytest.mark.parametrize("rule", ["published", "order_free"])


def batches(kind="multilabel"):
    """Predictions and targets of all batches: (batches, records, labels) each."""
    generator = torch.Generator().manual_seed(7)
    preds = torch.rand(BATCHES, RECORDS, LABELS, generator=generator)
    if kind == "multilabel":
        return preds, (torch.rand(preds.shape, generator=generator) < 0.4).int()
    classes = torch.randint(LABELS, (BATCHES, RECORDS), generator=generator)
    return preds.softmax(dim=-1), torch.nn.functional.one_hot(classes, LABELS)


def reference(preds, target, rule="published"):
    """The MLCM by a loop over records, of one batch or of several together."""
    flat = preds.reshape(-1, LABELS), target.reshape(-1, LABELS)
    return torch.as_tensor(loop_mlcm(flat[1].numpy(), (flat[0] > 0.5).int().numpy(), rule))


@RULES
@pytest.mark.parametrize("dist_sync_on_step", [False, True])
def test_forward_gives_the_batch_and_compute_all_batches(rule, dist_sync_on_step):
    preds, target = batches()
    metric = pickle.loads(pickle.dumps(MLCM(LABELS, rule=rule, dist_sync_on_step=dist_sync_on_step)))
    other = metric.clone()
    for one_preds, one_target in zip(preds, target, strict=True):
        assert torch.equal(metric(one_preds, one_target), reference(one_preds, one_target, rule))
        other.update(one_preds, one_target)
        assert torch.equal(metric.compute(), other.compute())
    assert torch.equal(metric.compute(), reference(preds, target, rule))


def test_it_can_be_scripted_cloned_pickled_and_hashed_and_saves_no_state():
    metric = MLCM(LABELS)
    torch.jit.script(metric)
    clone = metric.clone()
    assert clone is not metric and type(clone) is MLCM and hash(metric) != hash(clone)
    assert metric.state_dict() == {}
    metric.persistent(True)
    assert list(metric.state_dict()) == ["matrix"]


def test_a_pickled_metric_continues_to_count():
    preds, target = batches()
    metric = MLCM(LABELS)
    metric.update(preds[0], target[0])
    metric = pickle.loads(pickle.dumps(metric))
    metric.update(preds[1], target[1])
    assert torch.equal(metric.compute(), reference(preds[:2], target[:2]))


@pytest.mark.parametrize(
    ("name", "value"), [("is_differentiable", False), ("higher_is_better", None), ("full_state_update", False)]
)
def test_what_it_says_of_itself_is_there_and_cannot_be_changed(name, value):
    metric = MLCM(LABELS)
    assert getattr(metric, name) is value
    if name != "full_state_update":
        with pytest.raises(RuntimeError):
            setattr(metric, name, not value)


def test_no_gradient_comes_through_as_it_says():
    preds, target = batches()
    preds.requires_grad = True
    assert MLCM(LABELS)(preds[0], target[0]).requires_grad is MLCM.is_differentiable
    assert not mlcm(preds[0], target[0], LABELS).requires_grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_it_takes_probabilities_of_any_precision(dtype):
    preds, target = batches()
    preds = preds.to(dtype)
    expected = reference(preds, target)
    metric = MLCM(LABELS)
    for one_preds, one_target in zip(preds, target.to(dtype), strict=True):
        metric(one_preds, one_target)
    assert torch.equal(metric.compute(), expected)
    assert torch.equal(mlcm(preds.flatten(0, 1), target.flatten(0, 1), LABELS), expected)
    soft, one_hot = batches("multiclass")
    assert confusion_matrix(soft[0].to(dtype), one_hot[0].to(dtype)).sum() == RECORDS


def test_counts_stay_whole_numbers_whatever_precision_is_set():
    metric = MLCM(1)
    for cast in (metric.half, metric.double, partial(metric.set_dtype, torch.float16)):
        cast()
        assert metric.matrix.dtype == torch.int64
    for _ in range(3):
        metric.update(torch.ones(2049, 1), torch.ones(2049, 1))
    assert metric.compute()[0, 0] == 3 * 2049


def test_a_computed_value_does_not_change_when_counting_continues():
    preds, target = batches()
    metric = MLCM(LABELS)
    metric.update(preds[0], target[0])
    first = metric.compute()
    metric.update(preds[1], target[1])
    assert torch.equal(first, reference(preds[0], target[0]))
    assert torch.equal(metric.compute(), reference(preds[:2], target[:2]))


def test_reset_forgets_and_a_merged_state_counts():
    preds, target = batches()
    metric, other = MLCM(LABELS), MLCM(LABELS)
    metric.update(preds[0], target[0])
    metric.reset()
    assert metric.matrix.sum() == 0 and not metric.update_called
    metric.update(preds[1], target[1])
    other.update(preds[2], target[2])
    metric.merge_state(other)
    assert torch.equal(metric.compute(), reference(preds[1:3], target[1:3]))


def test_in_a_collection_each_keeps_its_own_counts():
    preds, target = batches()
    rules = ("published", "order_free")
    together = MetricCollection({rule: MLCM(LABELS, rule=rule) for rule in rules})
    for one_preds, one_target in zip(preds, target, strict=True):
        together.update(one_preds, one_target)
    found = together.compute()
    assert all(torch.equal(found[rule], reference(preds, target, rule)) for rule in rules)


def test_unknown_arguments_are_refused_as_torchmetrics_does():
    with pytest.raises(ValueError, match="Unexpected keyword arguments"):
        MLCM(LABELS, wrong=1)


# --- plots


@pytest.mark.parametrize("labels", [1, 2, 30, 300])
def test_the_plot_names_rows_and_columns_and_is_bounded(labels):
    metric = MLCM(labels)
    metric.update(torch.ones(3, labels), torch.ones(3, labels))
    names = [f"label {number}" for number in range(labels)]
    figure, axes = metric.plot(labels=names)
    assert isinstance(figure, Figure) and axes.figure is figure
    rows, columns = ([text.get_text() for text in axis.get_ticklabels()] for axis in (axes.yaxis, axes.xaxis))
    assert rows[0] == columns[0] == "label 0" and len(rows) == len(columns) <= 25
    assert len(axes.texts) == (0 if labels > 24 else (labels + 1) ** 2)
    if labels <= 24:
        assert rows == [*names, "NTL"] and columns == [*names, "NPL"]
        assert axes.texts[0].get_text() == "3"


def test_the_plot_uses_the_given_axes():
    metric = MLCM(2)
    axes = Figure().subplots()
    value = metric(torch.ones(3, 2), torch.ones(3, 2))
    figure, same = metric.plot(value, ax=axes, add_text=False, cmap="Blues")
    assert same is axes and figure is axes.figure and not axes.texts


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"val": torch.zeros(2, 2)}, r"val must be a matrix of shape \(3, 3\)"),
        ({"val": [torch.zeros(3, 3)] * 2}, "val must be a matrix"),
        ({"labels": ["a", "b", "NTL"]}, "labels must be 2 names, without NTL and NPL, not 3"),
    ],
)
def test_what_cannot_be_plotted_is_refused_in_a_sentence(arguments, message):
    metric = MLCM(2)
    metric.update(torch.ones(3, 2), torch.ones(3, 2))
    with pytest.raises(UserError, match=message):
        metric.plot(**arguments)


# --- two processes


def check_rank(rank, world_size, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world_size)
    preds, target = batches()
    for rule in ("published", "order_free"):
        for on_step in (False, True):
            metric = pickle.loads(pickle.dumps(MLCM(LABELS, rule=rule, dist_sync_on_step=on_step)))
            for first in range(0, BATCHES, world_size):
                value = metric(preds[first + rank], target[first + rank])
                seen = slice(first, first + world_size) if on_step else slice(first + rank, first + rank + 1)
                assert torch.equal(value, reference(preds[seen], target[seen], rule))
            assert torch.equal(metric.compute(), reference(preds, target, rule))
            own = reference(preds[rank::world_size], target[rank::world_size], rule)
            assert torch.equal(metric.matrix, own)  # after the result each process has its own counts again
            metric.sync()
            with pytest.raises(Exception, match="sync"):
                metric(preds[0], target[0])
            metric.unsync()
            assert torch.equal(metric.matrix, own)
    alone = MLCM(LABELS, sync_on_compute=False)
    alone.update(preds[rank], target[rank])
    assert torch.equal(alone.compute(), reference(preds[rank], target[rank]))
    (folder / f"{rank}.done").touch()
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_agree_at_each_step_and_at_the_end(tmp_path):
    mp.spawn(check_rank, args=(2, tmp_path), nprocs=2)
    assert len(list(tmp_path.glob("*.done"))) == 2


# --- the functions


def test_the_functions_give_the_batch_they_were_given():
    preds, target = batches()
    for one_preds, one_target in zip(preds, target, strict=True):
        assert torch.equal(mlcm(one_preds, one_target, LABELS), reference(one_preds, one_target))
    soft, one_hot = batches("multiclass")
    for one_soft, one_target in zip(soft, one_hot, strict=True):
        expected = np.zeros((LABELS, LABELS + 1), dtype=np.int64)
        for true, predicted in zip(one_target.argmax(1).tolist(), one_soft.argmax(1).tolist(), strict=True):
            expected[true, predicted] += 1
        np.testing.assert_array_equal(confusion_matrix(one_soft, one_target), expected)
