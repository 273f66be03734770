"""Two processes that train one net on the CPU are one trial, with the numbers of one process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import (
    PARENT,
    SMALL,
    Done,
    all_runs,
    artifact,
    best_metrics,
    ecgexp,
    finish,
    history,
    once,
    only,
    own_folder,
    parents,
    predictions,
    start,
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


def test_best_metrics_are_those_of_the_best_weights_in_one_process(together):
    from ecgexp.datasets import Synthetic

    folder = together.folder
    dataset = Synthetic(folder / "data" / "synthetic", cache_dir=folder / "again", records=200, workers=1)
    split = dataset.load("val")
    signals = torch.from_numpy(split.inputs["signal"][split.rows]).transpose(1, 2)
    for run in trials(folder):
        kept = {name: value for name, value in weights(folder, run).items() if name.startswith("net.")}
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


def test_a_divergence_that_one_process_sees_first_is_a_result(tmp_path):
    folder = own_folder(tmp_path / "study")
    done = ecgexp(folder, "--config-dir", "conf", "model=overflows", *SMALL, *TWO).expect()
    run = only(all_runs(folder))
    assert (run.info.status, run.data.tags["diverged"]) == ("FINISHED", "true")
    assert run.data.metrics["epochs"] == 0
    assert "Traceback" not in done.stderr


def test_a_process_that_dies_is_named_instead_of_what_the_other_sees_of_it(tmp_path):
    folder = own_folder(tmp_path / "study")
    ecgexp(folder, "--config-dir", "conf", "-m", "model=exits", *SMALL, *TWO).expect(1)
    assert only(trials(folder)).data.tags["error"] == (
        "RuntimeError: Training process 1 failed; its error is shown above."
    )


ALONE = ("--config-dir", "conf", "model=mynet", *SMALL)


def torchrun(folder: Path, *arguments: str) -> Done:
    """The command, once for each of two processes, as torchrun starts it."""
    process = start(folder, *arguments, python=run_by("torch.distributed.run", folder.with_name("torchrun")))
    return finish(process, folder)


def run_by(module: str, script: Path) -> Path:
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -m {module} --standalone --nproc-per-node=2 "$@"\n')
    script.chmod(0o755)
    return script


def srun(folder: Path, *arguments: str) -> Done:
    """The environment that srun sets."""
    step = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_JOB_ID": str(20000 + os.getpid() % 10000), "SLURM_NODEID": "0"}
    processes: list[subprocess.Popen[str]] = []
    for rank in ("0", "1"):
        words = ("--unset=LOCAL_RANK", f"SLURM_PROCID={rank}", f"SLURM_LOCALID={rank}")
        own = [*words, *(f"{name}={value}" for name, value in step.items()), sys.executable]
        script = folder.with_name(f"srun{rank}")
        script.write_text(f'#!/bin/sh\nexec env {" ".join(own)} "$@"\n')
        script.chmod(0o755)
        processes.append(start(folder, *arguments, python=script))
    first, second = (finish(process, folder) for process in processes)
    assert (second.status, second.stdout) == (0, ""), second.stderr
    return first


@pytest.mark.parametrize("launch", [srun, pytest.param(torchrun, marks=pytest.mark.full)])
def test_processes_of_another_launcher_train_one_net_and_record_it_once(tmp_path, alone, launch):
    folder = own_folder(tmp_path / "study")
    done = launch(folder, *ALONE, "lr=0.01", *TWO).expect()
    run = only(all_runs(folder))
    assert run.info.status == "FINISHED"
    (same,) = (trial for trial in trials(alone.folder) if trial.data.params["lr"] == "0.01")
    for name, value in best_metrics(same).items():
        assert best_metrics(run)[name] == pytest.approx(value, abs=1e-4), name
    np.testing.assert_allclose(history(folder, run, "train/loss"), history(alone.folder, same, "train/loss"), atol=1e-4)
    assert done.stdout.count(run.info.run_id) == 1
    assert len(list(folder.glob("outputs/*/*"))) == 1
    assert not list(folder.glob("*.log"))


def test_the_others_leave_where_the_first_finds_that_it_cannot_train(tmp_path):
    done = srun(tmp_path / "study", *SMALL[1:], *TWO, "model=linear", "dataset=ptbxl", "dataset.root=nowhere").expect(1)
    assert "nowhere" in done.stderr.strip().splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert only(all_runs(done.folder)).info.status == "FAILED"
