"""Runs, exit status and table after trials fail or are interrupted."""

from __future__ import annotations

import json
import os
import signal
import sqlite3

import pytest
from commands import (
    LINEAR,
    SMALL,
    all_runs,
    artifact,
    artifact_names,
    ecgexp,
    finish,
    once,
    only,
    own_folder,
    parents,
    start,
    trials,
    until,
)

ENDLESS = (*LINEAR, "max_epochs=100000", "early_stopping.patience=null", "scheduler=none")


@pytest.fixture(scope="module")
def failing(session_folder):
    """A sweep of four trials: one trains, one breaks, one has no validation records, one has both."""

    def run(folder):
        own_folder(folder)
        swept = ("model.breaks=true,false", "dataset.val_fold=9,99")
        return ecgexp(folder, "--config-dir", "conf", "-m", "model=breaks", *swept, *SMALL)

    return once(session_folder, "failing", run)


def by_overrides(done):
    found = {}
    for run in trials(done.folder):
        asked = dict(override.split("=") for override in json.loads(run.data.tags["overrides"]))
        found[asked["model.breaks"].lower(), asked["dataset.val_fold"]] = run
    return found


@pytest.mark.slow
def test_a_trial_that_raises_is_failed_and_the_others_finish(failing):
    status = {key: run.info.status for key, run in by_overrides(failing).items()}
    assert status == {
        ("true", "9"): "FAILED",
        ("true", "99"): "FAILED",
        ("false", "9"): "FINISHED",
        ("false", "99"): "FAILED",
    }
    assert failing.status != 0


@pytest.mark.slow
def test_a_failed_trial_has_its_error_in_a_tag_and_an_artifact(failing):
    broken = by_overrides(failing)["true", "9"]
    assert "the net of the user broke" in broken.data.tags["error"]
    trace = artifact(failing.folder, broken, "traceback.txt").read_text()
    assert "ArithmeticError: the net of the user broke" in trace
    assert 'nets.py", line' in trace
    empty = by_overrides(failing)["false", "99"]
    assert "dataset.val_fold" in empty.data.tags["error"]
    assert "\n" not in empty.data.tags["error"]


@pytest.mark.slow
def test_the_table_and_the_parent_are_there_although_trials_failed(failing):
    parent = only(parents(failing.folder))
    assert {"results.csv", "table.txt"} <= artifact_names(failing.folder, parent)
    assert artifact(failing.folder, parent, "table.txt").read_text().strip() in failing.stdout
    assert "the net of the user broke" in failing.stdout + failing.stderr
    (best,) = (line for line in failing.stdout.splitlines() if line.startswith("Best"))
    assert "model.breaks=false" in best.lower()
    assert "dataset.val_fold=9 " in best
    assert parent.info.status == "FAILED"


@pytest.mark.slow
def test_a_mistake_in_a_single_run_is_one_sentence_on_the_terminal(tmp_path):
    others = [override for override in LINEAR if not override.startswith("dataset")]
    done = ecgexp(tmp_path, *others, "dataset=ptbxl", "dataset.root=nowhere")
    assert done.status != 0
    assert "Traceback" not in done.stderr
    assert "nowhere" in done.stderr.strip().splitlines()[-1]
    run = only(all_runs(tmp_path))
    assert run.info.status == "FAILED"
    assert "nowhere" in run.data.tags["error"]


@pytest.mark.slow
def test_a_loss_that_is_no_longer_finite_is_a_result_and_not_a_failure(tmp_path):
    net = ("model=ribeiro", "model.width=4", "model.depth=2", "optimizer=sgd")
    done = ecgexp(tmp_path, "-m", "lr=0.001,1e30", *SMALL, *net).expect()
    fine, diverged = trials(tmp_path)
    assert [run.info.status for run in (fine, diverged)] == ["FINISHED"] * 2
    assert [run.data.tags["diverged"] for run in (fine, diverged)] == ["false", "true"]
    assert diverged.data.metrics["best/val/mlcm_f1_macro"] == 0
    assert "diverged" in done.stdout
    (best,) = (line for line in done.stdout.splitlines() if line.startswith("Best"))
    assert "lr=0.001" in best


@pytest.mark.slow
def test_a_single_run_that_diverges_is_finished_without_weights(tmp_path):
    own_folder(tmp_path / "study")
    words = ("--config-dir", "conf", "model=deep", "optimizer=adam", "lr=1e6", *SMALL, "tracking.log_model=best")
    done = ecgexp(tmp_path / "study", *words).expect()
    run = only(all_runs(done.folder))
    assert run.info.status == "FINISHED"
    assert run.data.tags["diverged"] == "true"
    assert run.data.metrics["best/val/mlcm_f1_macro"] == 0, "no epoch was validated with a finite loss"
    assert run.data.metrics["epochs"] == 0, "it stopped at once"
    assert "= 0.0000" in done.stdout


@pytest.mark.slow
def test_a_net_that_this_machine_computes_wrongly_in_bfloat16_is_not_trained_in_it(tmp_path):
    own_folder(tmp_path / "study")
    words = ("--config-dir", "conf", "model=wrong", *SMALL, "precision=bf16-mixed")
    done = ecgexp(tmp_path / "study", *words).expect(1)
    assert "Layer 'head' (Rolled) is computed wrongly in reduced precision" in done.stderr
    assert "Take precision=32." in done.stderr
    assert "Traceback" not in done.stderr
    run = only(all_runs(done.folder))
    assert run.info.status == "FAILED"
    assert not [name for name in run.data.metrics if name.startswith("train/")]


def metric_points(folder):
    """Points of 'val/loss', read beside the program that writes them: an MLflow client might open the store first."""
    try:
        with sqlite3.connect(f"file:{folder / 'mlruns' / 'mlflow.db'}?mode=ro", uri=True) as database:
            return database.execute("SELECT count(*) FROM metrics WHERE key = 'val/loss'").fetchone()[0]
    except sqlite3.OperationalError:
        return 0


@pytest.mark.slow
def test_ctrl_c_in_a_single_run_makes_it_killed(tmp_path):
    process = start(tmp_path, *ENDLESS)
    until(lambda: metric_points(tmp_path) > 0, process)
    process.send_signal(signal.SIGINT)
    done = finish(process, tmp_path, timeout=60)
    assert done.status == 130
    assert done.stderr.splitlines()[-1] == "Stopped. The same command resumes after the last finished epoch."
    assert "Traceback" not in done.stderr
    assert only(all_runs(tmp_path)).info.status == "KILLED"


@pytest.mark.slow
@pytest.mark.parametrize("receiver", ["process", "terminal"])
def test_ctrl_c_in_a_sweep_makes_the_trial_and_the_parent_killed(tmp_path, receiver):
    process = start(tmp_path, "-m", "lr=0.001,0.01", *ENDLESS, start_new_session=True)
    until(lambda: metric_points(tmp_path) > 0, process)
    if receiver == "process":
        process.send_signal(signal.SIGINT)
    else:  # which sends it to the command and to every process that this has started
        os.killpg(process.pid, signal.SIGINT)
    done = finish(process, tmp_path, timeout=60)
    assert done.status != 0
    assert only(trials(tmp_path)).info.status == "KILLED"
    assert only(parents(tmp_path)).info.status == "KILLED"
