"""The places of files, in any working folder of the command or of Hydra."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from commands import (
    LINEAR,
    SENTENCE,
    SMALL,
    all_runs,
    artifact_names,
    ecgexp,
    finish,
    only,
    own_folder,
    parents,
    start,
    store_client,
    trials,
    until,
)
from mlflow import MlflowClient

ODD = """it's 50%20 a?b#c & $HOME "q" [x],=y {z} \\ ä* ~"""

pytestmark = pytest.mark.slow


def test_hydras_working_directory_does_not_move_the_store(tmp_path):
    ecgexp(tmp_path, "-m", "lr=0.001,0.01", *LINEAR, "max_epochs=1", "hydra.job.chdir=true").expect()
    assert (tmp_path / "mlruns" / "mlflow.db").is_file()
    assert [path.parent.relative_to(tmp_path).parts[0] for path in tmp_path.rglob("mlflow.db")] == ["mlruns"]
    assert len(trials(tmp_path)) == 2
    assert "results.csv" in artifact_names(tmp_path, only(parents(tmp_path)))
    assert (tmp_path / "data" / "cache").is_dir()


def test_tracking_root_moves_the_whole_store_and_a_relative_dataset_root_is_that_of_the_command(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    ecgexp(
        here,
        *LINEAR,
        "max_epochs=1",
        "tracking.log_model=best",
        "tracking.root=../there",
        "dataset.root=../data",
        "cache_dir=../c",
    ).expect()
    assert not (here / "mlruns").exists()
    run = only(all_runs(there))
    assert run.info.status == "FINISHED"
    assert run.info.artifact_uri.startswith((there / "mlruns" / "artifacts").as_uri())
    assert list((there / "mlruns").glob("artifacts/**/MLmodel"))
    assert (tmp_path / "data").is_dir()
    assert (tmp_path / "c").is_dir()
    assert sorted(path.name for path in here.iterdir()) in (["outputs"], [])


def test_two_runs_started_at_once_in_a_fresh_folder_both_finish(tmp_path):
    both = [start(tmp_path, *LINEAR, "max_epochs=1", f"seed={seed}") for seed in (0, 1)]
    for process in both:
        finish(process, tmp_path).expect()
    assert [run.info.status for run in all_runs(tmp_path)] == ["FINISHED"] * 2
    assert len({run.info.experiment_id for run in all_runs(tmp_path)}) == 1


def paths(folder: Path) -> dict[str, int]:
    """Files of a folder, with the time of their last change."""
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_a_copied_sweep_is_resumed_in_the_copy_with_all_its_trials_and_does_not_change_the_original(sentence, tmp_path):
    before, copy = paths(sentence.folder), tmp_path / "copy"
    shutil.copytree(sentence.folder, copy)
    net = ("model=ribeiro", "model.width=4", "model.depth=2")
    done = ecgexp(copy, *SENTENCE, *SMALL, *net, "tracking.log_model=best").expect()
    assert f"from now on its artifacts are those in {copy / 'mlruns'}." in done.stderr
    table = [line.split() for line in done.stdout.splitlines()]
    assert table[:6] == [line.split() for line in sentence.stdout.splitlines()][:6], "nothing is trained again"
    assert paths(sentence.folder) == before
    for run in all_runs(copy):
        assert run.info.artifact_uri.startswith((copy / "mlruns" / "artifacts").as_uri())
        assert artifact_names(copy, run)


def test_a_folder_of_any_name_holds_project_data_and_store_and_the_printed_commands_work(tmp_path):
    odd = own_folder(tmp_path / ODD)
    swept = ("--config-dir", str(odd / "conf"), "-m", "lr=0.01,0.02", *LINEAR, "max_epochs=1", "hydra/sweeper=optuna")
    done = ecgexp(odd, *swept, "hydra.sweeper.n_trials=2").expect()
    assert len(trials(odd)) == 2
    assert {path.name for path in odd.iterdir()} == {"conf", "ownstudy", "data", "mlruns", "multirun"}
    ui = re.search(r"^Look at it: (.*)$", done.stdout, re.M)[1]
    assert len(MlflowClient(pasted(ui, "mlflow")[2]).search_runs(["1"])) == 3

    elsewhere = tmp_path / "elsewhere"
    root = "tracking.root='" + str(odd).replace("'", r"\'") + "'"  # as Hydra's grammar wants it
    done = ecgexp(elsewhere, "-m", *LINEAR, "max_epochs=1", root, "seed=1").expect()
    report = re.search(r"^Report: (.*)$", done.stdout, re.M)[1]
    words = pasted(report, "python")
    subprocess.run([sys.executable, *words], cwd=elsewhere, check=True, capture_output=True)
    assert list(elsewhere.glob("reports/*/report.html"))
    assert {path.name for path in tmp_path.iterdir()} == {ODD, "elsewhere"}


def pasted(command: str, program: str) -> list[str]:
    """Arguments that a program gets where a command is pasted into a shell."""
    script = f"""{program}() {{ printf '%s\\n' "$@"; }}; {command}"""
    return subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout.splitlines()


@pytest.mark.parametrize(
    ("place", "words", "key"),
    [
        ("outputs", (), "hydra.run.dir"),
        ("multirun", ("-m",), "hydra.sweep.dir"),
        ("out/0", ("-m", "hydra.sweep.dir=out"), "out/0 cannot be written: File exists"),
        ("mlruns", ("-m",), "tracking.root"),
        ("data", (), "dataset.root"),
    ],
)
def test_an_obstacle_in_place_of_an_output_folder_is_reported_in_a_sentence(tmp_path, place, words, key):
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).write_text("in the way")
    done = ecgexp(tmp_path, *words, *LINEAR, "lr=0.1", "max_epochs=1").expect(1)
    assert "Traceback" not in done.stdout + done.stderr
    assert key in done.stderr.strip().splitlines()[-1]
    assert (tmp_path / place).read_text() == "in the way"


def test_a_run_that_is_deleted_while_it_trains_stops_and_its_trial_stays_in_the_table(tmp_path):
    endless = ("max_epochs=100000", "early_stopping.patience=null", "scheduler=none")
    process = start(tmp_path, "-m", "lr=0.01", *LINEAR, *endless)
    until(lambda: (tmp_path / "mlruns" / "mlflow.db").is_file(), process)
    client = store_client(tmp_path)
    until(lambda: bool(trials(tmp_path)) and "val/loss" in trials(tmp_path)[0].data.metrics, process)
    deleted = only(trials(tmp_path)).info.run_id
    client.delete_run(deleted)
    done = finish(process, tmp_path, timeout=120).expect(1)
    assert "Traceback" not in done.stdout + done.stderr
    message = f"Run {deleted} was deleted in the MLflow store"
    assert message in done.stderr
    stands_in = only(trials(tmp_path))
    assert (stands_in.info.status, stands_in.info.run_id != deleted) == ("FAILED", True)
    assert stands_in.data.tags["error"].startswith(message)
    assert stands_in.data.tags["attempts"] == "1"
