"""Two processes that train one net on the CPU are one trial, with the numbers of one process."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from commands import (
    PARENT,
    SMALL,
    artifact,
    best_metrics,
    ecgexp,
    history,
    once,
    only,
    own_folder,
    parents,
    predictions,
    trials,
    weights,
)

pytestmark = pytest.mark.slow

SWEEP = ("--config-dir", "conf", "-m", "lr=0.01,0.1", "model=mynet", *SMALL, "tracking.log_model=best")
TWO = ("trainer=ddp", "trainer.accelerator=cpu")


@pytest.fixture(scope="module")
def alone(session_folder):
    return once(session_folder, "alone", lambda folder: ecgexp(own_folder(folder), *SWEEP)).expect()


@pytest.fixture(scope="module")
def together(session_folder):
    return once(session_folder, "together", lambda folder: ecgexp(own_folder(folder), *SWEEP, *TWO)).expect()


def test_a_sweep_has_one_parent_two_trials_and_one_table(together):
    parent = only(parents(together.folder))
    assert [run.data.tags[PARENT] for run in trials(together.folder)] == [parent.info.run_id] * 2
    assert [run.info.status for run in (parent, *trials(together.folder))] == ["FINISHED"] * 3
    table = artifact(together.folder, parent, "table.txt").read_text().strip()
    assert together.stdout.count(table) == 1


def test_the_numbers_are_those_of_one_process(alone, together):
    for one, two in zip(trials(alone.folder), trials(together.folder), strict=True):
        assert one.data.params["lr"] == two.data.params["lr"]
        for name, value in best_metrics(one).items():
            assert best_metrics(two)[name] == pytest.approx(value, abs=1e-4), name
        for metric in ("train/loss", "val/loss", "train/mlcm_f1_macro", "val/auroc_macro"):
            expected = history(alone.folder, one, metric)
            np.testing.assert_allclose(history(together.folder, two, metric), expected, atol=1e-4)


def test_best_metrics_are_those_of_the_kept_weights_in_one_process(together):
    from ecgexp.datasets import Synthetic

    folder = together.folder
    dataset = Synthetic(folder / "data" / "synthetic", cache_dir=folder / "again", records=200, workers=1)
    split = dataset.load("val")
    signals = torch.from_numpy(split.signals[split.rows]).transpose(1, 2)
    for run in trials(folder):
        kept = weights(folder, run)
        (matrix,) = (value for value in kept.values() if value.ndim == 2)
        (bias,) = (value for value in kept.values() if value.ndim == 1)
        expected = torch.sigmoid(10 * signals.std(dim=-1) @ matrix.T + bias).numpy()
        ids, true, probability, _ = predictions(folder, run)
        assert list(ids) == list(split.ids)
        np.testing.assert_allclose(probability, expected, atol=1e-5)
        clipped = expected.astype(float).clip(1e-7, 1 - 1e-7)
        loss = -np.where(true == 1, np.log(clipped), np.log1p(-clipped)).mean()
        assert run.data.metrics["best/val/loss"] == pytest.approx(loss, abs=1e-5)


def test_a_net_with_batch_statistics_and_dropout_is_measured_alike_in_training_and_after(tmp_path):
    net = ("model=ribeiro", "model.width=4", "model.depth=2")
    ecgexp(tmp_path, *SMALL, *net, *TWO).expect()
    run = only(parents(tmp_path))
    losses = history(tmp_path, run, "val/loss")
    best = int(np.argmin(losses))
    for name in ("loss", "auroc_macro", "mlcm_f1_macro", "subset_accuracy"):
        measured = history(tmp_path, run, f"val/{name}")[best]
        assert run.data.metrics[f"best/val/{name}"] == pytest.approx(measured, abs=1e-5), name
