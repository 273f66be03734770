"""Where things are written, whatever folder the command or Hydra works in."""

from __future__ import annotations

import pytest
from commands import LINEAR, all_runs, artifact_names, ecgexp, finish, only, parents, start, trials

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
