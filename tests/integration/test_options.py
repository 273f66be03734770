"""Every option of the config groups trains, and options that only change the execution change no number."""

from __future__ import annotations

import math

import pytest
from commands import LINEAR, SMALL, best_metrics, ecgexp, history, only, parents, predictions, trials

pytestmark = pytest.mark.slow


def finished(folder, expected):
    runs = trials(folder)
    assert [run.info.status for run in runs] == ["FINISHED"] * expected
    for run in runs:
        assert math.isfinite(run.data.metrics["best/val/loss"])
    return runs


def test_every_optimizer_and_loss_trains(tmp_path):
    swept = ("optimizer=adam,sgd,rmsprop,adamw", "loss.pos_weight=none,inverse_frequency")
    ecgexp(tmp_path, "-m", *swept, *LINEAR, "max_epochs=1").expect()
    runs = finished(tmp_path, 8)
    # Other weights of the labels give other losses, and other optimizers other nets.
    assert len({run.data.metrics["best/val/loss"] for run in runs}) == 8


def test_every_scheduler_changes_the_learning_rate_as_documented(tmp_path):
    swept = "scheduler=plateau,cosine,one_cycle,step,none"
    ecgexp(tmp_path, "-m", swept, *LINEAR, "max_epochs=3", "lr=0.01").expect()
    rates = {run.data.tags["scheduler"]: history(tmp_path, run, "lr") for run in finished(tmp_path, 5)}
    for constant in ("plateau", "step", "none"):  # none of them has a reason to act within three epochs
        assert rates[constant] == pytest.approx([0.01] * 3)
    assert rates["cosine"] == sorted(rates["cosine"], reverse=True)
    start, middle, end = rates["one_cycle"]  # at the beginning of each epoch
    assert start == pytest.approx(0.01 / 25)
    assert start < middle > end


def test_the_learning_rate_of_an_epoch_is_the_one_that_it_was_trained_with(tmp_path):
    steps = ("scheduler=step", "scheduler.schedule.step_size=1", "scheduler.schedule.gamma=0.1")
    ecgexp(tmp_path, *LINEAR, *steps, "lr=0.01", "max_epochs=3").expect()
    assert history(tmp_path, only(parents(tmp_path)), "lr") == pytest.approx([0.01, 0.001, 0.0001])


def test_every_net_trains_an_epoch(tmp_path):
    rest = (*SMALL, "max_epochs=1")
    ecgexp(tmp_path, "-m", "model=ribeiro,rajpurkar", "model.width=4", *rest).expect()
    ecgexp(tmp_path, "-m", "model=ribeiro_original,rajpurkar_original,linear,constant", *rest).expect()
    runs = {run.data.tags["model"]: run for run in finished(tmp_path, 6)}
    _, true, probability, _ = predictions(tmp_path, runs["constant"])
    assert (probability == probability[0]).all()
    assert probability[0] == pytest.approx(true.mean(axis=0), abs=0.2)  # prevalences: those of training
    assert best_metrics(runs["constant"])["auroc_macro"] == pytest.approx(0.5)


def test_reading_from_the_memory_map_and_half_precision(tmp_path):
    net = ("model=ribeiro", "model.width=4", "model.depth=2")
    numbers = {}
    for budget in ("8.0", "0.0"):  # in two folders, for to a sweep these are the same trial
        folder = tmp_path / budget
        ecgexp(folder, "-m", "precision=32,bf16-mixed", f"memory_budget={budget}", *SMALL, *net).expect()
        numbers |= {(run.data.params["precision"], budget): best_metrics(run) for run in finished(folder, 2)}
    for precision in ("32", "bf16-mixed"):
        assert numbers[precision, "8.0"] == numbers[precision, "0.0"]
    assert numbers["32", "8.0"]["loss"] != numbers["bf16-mixed", "8.0"]["loss"]
    assert numbers["32", "8.0"]["loss"] == pytest.approx(numbers["bf16-mixed", "8.0"]["loss"], rel=0.1)


def test_an_impossible_value_ends_the_command_with_one_sentence_before_anything_is_made(tmp_path):
    done = ecgexp(tmp_path, "-m", "lr=0.01,-1")
    assert done.status != 0
    assert "lr" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
