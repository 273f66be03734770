"""The GPU benchmark in miniature, on a CPU, since a GPU may be available only for minutes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from itertools import product
from pathlib import Path

import pytest

gpu = pytest.importorskip("benchmarks.gpu", reason="an installed package comes without the benchmarks")
from benchmarks import bench  # noqa: E402

SCRIPT = Path(bench.__file__).with_name("gpu.sh")
# of two nets, by batch size: seconds of an epoch, the first one's surplus, what else a trial takes
EPOCHS = {"ribeiro": {16: 4.0, 64: 1.0, 256: 0.25}, "rajpurkar": {16: 8.0, 64: 2.0, 256: 0.5}}
FIRSTS = {16: 60.0, 64: 3.0, 256: 1.0}
RESTS = {16: 2.0, 64: 2.0, 256: 2.0}


@pytest.fixture(autouse=True)
def results(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "RESULTS", tmp_path / "results")
    for name in ("CUDA_VISIBLE_DEVICES", "JAX_PLATFORMS"):  # which the benchmark sets, for this test alone
        monkeypatch.setenv(name, "")
    return tmp_path / "results"


def written(results) -> dict[str, dict]:
    (path,) = results.rglob("*.json")
    return {
        f"{figure['figure']} | {figure['peer_name'].split(' ')[0]}": figure for figure in json.loads(path.read_text())
    }


@pytest.mark.full
@pytest.mark.slow
def test_training_is_raced_and_the_figures_are_written(results, monkeypatch):
    monkeypatch.setattr(gpu, "matrix_rate", lambda dtype, threads: 1e12)
    words = ["--nets", "ribeiro", "--precisions", "fp32", "--batch-sizes", "16", "--records", "32", "--runs", "1"]
    gpu.main(["train", "--device", "cpu", *words])
    figures = written(results)
    train = "ribeiro fp32 batch 16, train"
    assert {f"{train} | {peer}" for peer in ("torch", "keras", "uncompiled", "matrix-rate")} <= figures.keys()
    assert all(figure["ours"] > 0 for name, figure in figures.items() if "first" not in name)
    limit = figures[f"{train} | matrix-rate"]
    assert limit["ratio"] == pytest.approx(limit["ours"] * gpu.flops("ribeiro") / 1e12)
    assert 2.5e9 < gpu.flops("ribeiro") < 2.7e9  # three times 0.89 GFLOP, without the gradient of the signals


@pytest.mark.full
@pytest.mark.slow
def test_trials_are_run_by_the_command_line_and_their_costs_written(results):
    words = ["--nets", "ribeiro", "--batch-sizes", "16", "--records", "64", "--epochs", "2", "--at-once", "2"]
    gpu.main(["trials", "--device", "cpu", *words])
    costs = {
        what: written(results)[f"{gpu.cost(what, 'ribeiro', 'bf16', 16, 2, 64)} | "] for what in (gpu.EPOCH, gpu.REST)
    }
    assert all(figure["ours"] > 0 and figure["unit"] == "s" for figure in costs.values())


def measure(results, together: int, device: str = "a GPU", nets=tuple(gpu.SIGNAL_NETS)) -> None:
    parts = {gpu.FIRST: FIRSTS, gpu.REST: RESTS}
    figures = [
        bench.figure("gpu", gpu.cost(what, net, "bf16", size, together, 21_799), seconds, unit="s", device=device)
        for net in nets
        for what, by_size in {gpu.EPOCH: EPOCHS[net], **parts}.items()
        for size, seconds in by_size.items()
    ]
    bench.finish(figures)


def test_the_projection_is_the_sum_over_the_grid(results):
    measure(results, together=4)
    gpu.main(["project", "--epochs", "40"])
    figures = written(results)
    found = figures["projected: 90 trials of 40 epochs on 21,799 records in bf16, 4 at once | "]
    # An epoch's seconds go with its steps here, so the two batch sizes between are known exactly: 2.0 and 0.5 s.
    ribeiro = 60 + 9 / 4 * (5 * (2 + 2) + 40 * (4 + 2 + 1 + 0.5 + 0.25))
    rajpurkar = 60 + 9 / 4 * (5 * (2 + 2) + 40 * (8 + 4 + 2 + 1 + 0.5))
    assert found["ours"] == pytest.approx((ribeiro + rajpurkar) / 60)
    assert (found["unit"], found["device"]) == ("min", "a GPU")
    assert not any("1 at once" in name for name in figures if name.startswith("projected"))


def test_what_was_measured_on_another_device_is_not_projected_from(results):
    measure(results, together=4, device="an older GPU")
    measure(results, together=1, nets=["ribeiro"])
    with pytest.raises(SystemExit, match=r"both nets are measured on a GPU yet"):
        gpu.main(["project", "--epochs", "40"])
    measure(results, together=1)
    gpu.main(["project", "--epochs", "40"])
    (name,) = (name for name in written(results) if name.startswith("projected"))
    assert "1 at once" in name


def test_the_steps_of_the_script_cover_what_is_to_be_measured():
    listed = subprocess.run(["bash", SCRIPT, "steps"], capture_output=True, text=True, check=True).stdout.splitlines()
    assert [line.split()[0] for line in listed] == [str(n) for n in range(1, len(listed) + 1)]
    steps = [gpu.parse(line.split()[1:]) for line in listed]
    trained = {
        cell
        for step in steps
        if step.run is gpu.train
        for cell in product(step.nets, step.precisions, step.batch_sizes)
    }
    assert trained == set(product(gpu.SIGNAL_NETS, gpu.PRECISIONS, (16, 64, 256)))
    tried = {
        cell for step in steps if step.run is gpu.trials for cell in product(step.nets, step.batch_sizes, step.at_once)
    }
    assert tried == set(product(gpu.SIGNAL_NETS, (16, 64, 256), (1, 2, 4)))
    assert steps[-1].run is gpu.project


def test_a_step_of_the_script_hands_its_figures_out(tmp_path):
    (tmp_path / "benchmarks").mkdir()
    shutil.copy(SCRIPT, tmp_path / "benchmarks")
    python = tmp_path / "python3"
    python.write_text('#!/bin/sh\nmkdir -p benchmarks/results; echo "$@" > benchmarks/results/one.json; exit 3\n')
    python.chmod(0o755)
    (tmp_path / "ecgexp-site").mkdir()  # the packages are there
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "TMPDIR": str(tmp_path)}
    words = ["bash", "benchmarks/gpu.sh", "step", ".wheels", "2", "out"]
    assert subprocess.run(words, cwd=tmp_path, env=environment).returncode == 3
    (figures,) = (tmp_path / "out").iterdir()
    assert figures.read_text().startswith("-m benchmarks.gpu train --nets rajpurkar")


@pytest.mark.parametrize(
    "words", ["", "step", "step .wheels 0 out", "step .wheels 12 out", "step .wheels one out", "run .wheels", "collect"]
)
def test_wrong_arguments_of_the_script_are_answered_with_how_it_is_used(words):
    done = subprocess.run(["bash", SCRIPT, *words.split()], capture_output=True, text=True)
    assert done.returncode == 2
    assert "benchmarks/gpu.sh step .wheels 1 RESULTS" in done.stderr


def test_without_measured_trials_there_is_nothing_to_project():
    with pytest.raises(SystemExit, match=r"benchmarks\.gpu trials"):
        gpu.main(["project"])


def test_without_a_gpu_nothing_is_timed_in_its_name(monkeypatch):
    monkeypatch.setattr(gpu.torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="--device cpu"):
        gpu.main(["train"])
