"""A sweep survives failures of its trials and of its own process."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pandas as pd
import psutil
import pytest
from commands import (
    LAUNCHERS,
    PLUGINS,
    SMALL,
    artifact,
    config,
    ecgexp,
    finish,
    needs,
    only,
    own_folder,
    parents,
    start,
    trials,
    until,
)

TINY = (*SMALL, "model=ribeiro", "model.width=4", "model.depth=2")
OWN = ("--config-dir", "conf", "-m", "model=trouble", *SMALL)
LONG = [pytest.param(launcher, marks=pytest.mark.full) for launcher in PLUGINS]


def results(folder: Path) -> pd.DataFrame:
    return pd.read_csv(artifact(folder, only(parents(folder)), "results.csv"))


@pytest.mark.slow
@pytest.mark.usefixtures("ray_folder")
@pytest.mark.parametrize("launcher", ["basic", "joblib", *LONG])
def test_a_failing_trial_does_not_stop_the_others(tmp_path, launcher, monkeypatch):
    needs(launcher)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    folder = own_folder(tmp_path / "study")
    small = [word for word in SMALL if not word.startswith("trainer.threads")]
    expected = {"raises": "FAILED", "diverges": "FINISHED", "killed": "FAILED", "healthy": "FINISHED"}
    words = ("--config-dir", "conf", "-m", *small, f"experiment={','.join(expected)}")
    if launcher in ("basic", "joblib"):  # whose jobs are processes that run one trial after the other
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")  # pretended: each job takes one, and keeps it
        words = (*words, "trainer.accelerator=auto")
    done = ecgexp(folder, *words, f"hydra/launcher={launcher}", *LAUNCHERS[launcher]).expect(1)
    found = {run.data.tags["experiment"]: run for run in trials(folder)}
    assert {name: run.info.status for name, run in found.items()} == expected
    assert "this net raises" in found["raises"].data.tags["error"]
    assert "SIGKILL" in found["killed"].data.tags["error"]
    for name in ("raises", "killed"):
        details = artifact(folder, found[name], "traceback.txt").read_text()
        assert ("this net raises" if name == "raises" else "SIGKILL") in details
        assert f"experiment={name}" in done.stderr
    assert found["diverges"].data.tags["diverged"] == "true"
    assert found["diverges"].data.metrics["best/val/mlcm_f1_macro"] == 0
    assert found["healthy"].data.tags["diverged"] == "false"
    threads = {run.data.tags["threads"] for run in found.values()}
    assert threads == {"2" if launcher == "basic" else "1"}, "jobs that run side by side take one thread each"
    assert only(parents(folder)).info.status == "FAILED"
    assert "Traceback" not in done.stderr
    assert "deprecated" not in done.stderr
    assert len(results(folder)) == 4


@pytest.mark.slow
def test_crash_exit_and_lack_of_memory_are_distinguished(tmp_path):
    folder = own_folder(tmp_path / "study")
    ecgexp(folder, *OWN, "model.manner=crashes,leaves,allocates,exits,none").expect(1)
    errors = {config(folder, run).model.manner: run.data.tags.get("error", "") for run in trials(folder)}
    assert "SIGSEGV" in errors["crashes"]
    assert "exit status 3" in errors["leaves"]
    assert "allocate" in errors["allocates"]
    assert "SystemExit(0)" in errors["exits"], "an exit that nobody asked for does not end the sweep"
    assert errors["none"] == ""


@pytest.mark.slow
def test_a_process_that_dies_before_its_trial_has_a_run_is_named(tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\n'ecgexp.sweeps.trial_process' in sys.orig_argv and os._exit(9)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    done = ecgexp(tmp_path / "study", "-m", *TINY, "lr=0.01,0.02").expect(1)
    for lr in ("0.01", "0.02"):
        assert f"lr={lr}  The process of the trial ended by itself with exit status 9." in done.stderr
    assert [run.info.status for run in trials(tmp_path / "study")] == ["FAILED"] * 2
    assert list(results(tmp_path / "study")["lr"]) == [0.01, 0.02]
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_trials_end_with_the_command_that_joblib_runs_them_for(tmp_path, how):
    length = ("max_epochs=100000", "early_stopping.patience=null", "scheduler=none")
    joblib = ("hydra/launcher=joblib", *LAUNCHERS["joblib"])
    process = start(tmp_path, "-m", *TINY, *length, "lr=0.001,0.002", *joblib)
    until(lambda: len(list((tmp_path / "mlruns").glob("checkpoints/*/*.ckpt"))) == 2, process)
    descendants = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(how)
    if how == signal.SIGTERM:
        process.wait(timeout=90)
    _, left = psutil.wait_procs(descendants, timeout=10)
    assert not left
    finish(process, tmp_path, timeout=90)
    assert [run.info.status for run in trials(tmp_path)] == ["KILLED"] * 2


@pytest.mark.slow
def test_divergence_alone_does_not_change_the_exit_status(tmp_path):
    folder = own_folder(tmp_path / "study")
    done = ecgexp(folder, *OWN, "model.manner=diverges,none").expect(0)
    assert "diverged" in done.stdout
    again = ecgexp(folder, *OWN, "model.manner=diverges,none").expect(0)
    assert "2 reused" in again.stderr, "a diverged trial is a result, and not tried again"


@pytest.mark.slow
def test_failures_are_retried_so_often_and_many_end_the_sweep(tmp_path):
    folder = own_folder(tmp_path / "study")
    words = (*OWN, "model.manner=raises", "lr=0.1,0.2,0.3", "sweep.max_failures=2", "sweep.max_retries=1")
    done = ecgexp(folder, *words).expect(1)
    assert "1 trial did not start because sweep.max_failures=2" in done.stderr
    assert "Error executing" not in done.stderr
    assert [run.data.tags["attempts"] for run in trials(folder)] == ["1", "1"]
    ecgexp(folder, *words).expect(1)
    assert [run.data.tags["attempts"] for run in trials(folder)] == ["2", "2"]
    ecgexp(folder, *words).expect(1)
    assert [run.data.tags["attempts"] for run in trials(folder)] == ["2", "2"]


@pytest.mark.slow
def test_a_second_start_is_refused_and_other_sweeps_reuse_what_is_trained(tmp_path):
    length = ("max_epochs=120", "early_stopping.patience=null")
    words = ("-m", *TINY, *length, "lr=0.01")
    first = start(tmp_path, *words)
    until((tmp_path / "mlruns" / "checkpoints").exists, first)
    first.send_signal(signal.SIGSTOP)  # so that it does not end meanwhile, however slow the machine is
    second = ecgexp(tmp_path, *words).expect(1)
    first.send_signal(signal.SIGCONT)
    assert "running already" in second.stderr
    assert len(second.stderr.strip().splitlines()) == 1
    finish(first, tmp_path).expect(0)

    more = ecgexp(tmp_path, "-m", *TINY, *length, "lr=0.01,0.02").expect(0)
    assert "1 reused" in more.stderr
    reused = [run for run in trials(tmp_path) if "reused_from" in run.data.tags]
    original = next(run for run in trials(tmp_path) if run.info.run_id == only(reused).data.tags["reused_from"])
    assert only(reused).data.metrics["best/val/loss"] == original.data.metrics["best/val/loss"]

    afresh = ecgexp(tmp_path, "-m", *TINY, "max_epochs=1", "lr=0.01", "resume=false").expect(0)
    again = ecgexp(tmp_path, "-m", *TINY, "max_epochs=1", "lr=0.01", "resume=false").expect(0)
    assert "reused" not in afresh.stderr + again.stderr


@pytest.mark.slow
def test_folds_of_a_cross_validation_validate_on_different_records(tmp_path):
    ecgexp(tmp_path, "-m", *SMALL, "model=linear", "dataset.val_fold=7,8,9").expect(0)
    assert len({run.data.tags["dataset_fingerprint"] for run in trials(tmp_path)}) == 3
