"""Searches by stages through the command line: in parallel, with seeds, killed, with failures, and reported."""

from __future__ import annotations

import json
import re
from statistics import fmean

import pandas as pd
import psutil
import pytest
from commands import (
    LAUNCHERS,
    LINEAR,
    SMALL,
    all_runs,
    artifact,
    ecgexp,
    finish,
    needs,
    only,
    own_folder,
    parents,
    start,
    training_among,
    trials,
    until,
)
from mlflow.entities import Run
from trained import call, is_one_sentence

pytestmark = pytest.mark.slow

F1 = "best/val/mlcm_f1_macro"
STAGED = ("-m", "hydra/sweeper=staged")
FAST = (*LINEAR, "max_epochs=1", "dataset.records=100")


def stages(*keys: str) -> str:
    return f"hydra.sweeper.stages=[{','.join(f'{{{one}}}' for one in keys)}]"


def settings(run: Run) -> dict[str, str]:
    return dict(word.split("=", 1) for word in json.loads(run.data.tags["overrides"]))


def path_by_hand(runs: list[Run], values: list[dict[str, list[str]]], seeds: list[str]) -> list[dict[str, str]]:
    """Coordinate search over the finished runs: means over seeds, then fewer weights, then the order of the values."""
    known = [(settings(run), run.data.metrics) for run in runs if run.info.status == "FINISHED"]
    at = {key: options[0] for stage in values for key, options in stage.items()}
    path = []
    for stage in values:
        ((key, options),) = stage.items()
        ranked = []
        for place, option in enumerate(options):
            wanted = {**at, key: option}
            found = [metrics for words, metrics in known if wanted.items() <= words.items()]
            assert len(found) == len(seeds)
            ranked.append((-fmean(one[F1] for one in found), found[0]["parameters"], place))
        at[key] = options[min(ranked)[2]]
        path.append({key: at[key]})
    return path


def chosen(said: str) -> list[str]:
    return re.findall(r"^Stage \d of \d chose (.*?): ", said, re.M)


def test_killed_and_started_again_it_comes_to_the_path_that_its_trials_say(tmp_path, monkeypatch, capsys):
    values = [{"model": ["linear", "constant"]}, {"lr": ["0.001", "0.1"]}]
    listed = stages(*(f"{key}:[{','.join(options)}]" for one in values for key, options in one.items()))
    words = [word for word in FAST if not word.startswith("model")]
    words = [*STAGED, *words, listed, "seed=0,1", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]

    def done() -> list[Run]:
        return [run for run in trials(tmp_path) if run.info.status == "FINISHED"]

    process = start(tmp_path, *words)
    until(lambda: (tmp_path / "mlruns/mlflow.db").exists() and len(done()) >= 3, process)
    for one in [psutil.Process(process.pid), *training_among(psutil.Process(process.pid).children(recursive=True))]:
        one.kill()
    finish(process, tmp_path)
    before = {run.info.run_id for run in done()}
    again = ecgexp(tmp_path, *words).expect()
    found = trials(tmp_path)
    assert before <= {run.info.run_id for run in found if run.info.status == "FINISHED"}
    assert {run.info.status for run in found} == {"FINISHED"}
    assert len(found) == len({run.data.tags["identity"] for run in found}) == 2 * (2 + 1), "none was trained twice"
    expected = path_by_hand(found, values, ["0", "1"])
    assert chosen(again.stderr) == [f"{key}={value}" for stage in expected for key, value in stage.items()]
    assert "6/6 trials" in again.stderr
    parent = only(parents(tmp_path))
    results = pd.read_csv(artifact(tmp_path, parent, "results.csv"))
    assert results["stage"].tolist() == [1] * 4 + [2] * 2
    best = {key: value for stage in expected for key, value in stage.items()}
    best_run = only([run for run in found if run.info.run_id == parent.data.tags["best_run_id"]])
    assert best.items() <= settings(best_run).items()

    assert call(monkeypatch, "report", tmp_path) == 0
    said = capsys.readouterr().out
    assert all(f"Stage {number} of 2 chose" in said for number in (1, 2))
    folder = only(list((tmp_path / "reports").iterdir()))
    page = (folder / "report.html").read_text()
    assert all(f"Stage {number} of 2" in page and (folder / f"stage_{number}.png").is_file() for number in (1, 2))
    best_again = ecgexp(tmp_path, "--config-dir", str(folder), "-m", "experiment=best", "seed=0,1").expect()
    assert "2 reused" in best_again.stderr


def test_a_value_that_fails_is_left_out_and_tried_again(tmp_path):
    own_folder(tmp_path / "own")
    words = ("--config-dir", "conf", *STAGED, *SMALL, "dataset.records=120", "max_epochs=1", "model=trouble")
    given = stages("model.manner:[none,raises]", "optimizer:[sgd,adam]")
    done = ecgexp(tmp_path / "own", *words, given, "sweep.max_retries=1").expect(1)
    assert chosen(done.stderr)[0] == "model.manner=none"
    assert "It left out model.manner=raises (failed: ValueError: this net raises)." in done.stderr
    assert "The sweep is not complete: the trials listed above failed." in done.stderr
    assert len(chosen(done.stderr)) == 2
    again = ecgexp(tmp_path / "own", *words, given, "sweep.max_retries=1").expect(1)
    failed = only([run for run in trials(tmp_path / "own") if run.info.status == "FAILED"])
    assert failed.data.tags["attempts"] == "2"
    assert chosen(again.stderr) == chosen(done.stderr)

    ended = ecgexp(tmp_path / "own", *words, stages("model.manner:[raises]", "optimizer:[sgd,adam]")).expect(1)
    last = ended.stderr.strip().splitlines()[-1]
    assert last.startswith(
        "Stage 1 ended the search, since none of its settings has a result: model.manner=raises failed"
    )
    assert is_one_sentence(last)
    assert "Stage 2" not in ended.stderr


@pytest.mark.full
@pytest.mark.usefixtures("ray_folder")
@pytest.mark.parametrize("launcher", ["submitit_local", "ray"])
def test_stages_run_under_other_launchers(tmp_path, launcher):
    needs(launcher)
    words = (*STAGED, *FAST, stages("lr:[0.1,0.01]", "optimizer:[sgd,adam]"), f"hydra/launcher={launcher}")
    done = ecgexp(tmp_path, *words, *LAUNCHERS[launcher]).expect()
    assert "3/3 trials" in done.stderr
    assert len(chosen(done.stderr)) == 2
    assert {run.info.status for run in trials(tmp_path)} == {"FINISHED"}


def test_one_standard_error_needs_no_more_trials(tmp_path):
    net = (*SMALL, "model=ribeiro", "model.depth=2", "dataset.records=200", "max_epochs=1")
    given = stages("model.width:[8,4]", "batch_size:[32,64]")
    best = ecgexp(tmp_path, *STAGED, *net, given).expect()
    cheap = ecgexp(tmp_path, *STAGED, *net, given, "hydra.sweeper.rule=one_se").expect()
    assert len(chosen(best.stderr)) == len(chosen(cheap.stderr)) == 2
    assert len(parents(tmp_path)) == 2, "another rule is another search"
    first = [run for run in all_runs(tmp_path) if settings_of(run).get("model.width") == "8"]
    assert {"reused_from" in run.data.tags for run in first} == {False, True}


def settings_of(run: Run) -> dict[str, str]:
    return settings(run) if "overrides" in run.data.tags else {}


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (["lr:[0.1,0.2]", "model.nonsense:[1,2]"], "nonsense"),
        (["lr:[0.1,0.2]", "optimizer:[sgd,nonsense]"], "optimizer=nonsense"),
        (["lr:[0.1,-1]"], "'lr'"),
        (["optimizer:[sgd,3]"], "optimizer=3"),
        # Each is fine with what the stages begin with, but not after the other one.
        (["model.hidden:[64,60]", "model.heads:[4,8]"], "cannot share equally"),
        (["model:[recurrent,linear]", "model.cell:[gru,lstm]"], "model.cell"),
    ],
)
def test_what_a_later_stage_cannot_train_is_refused_before_the_first(tmp_path, given, named):
    words = [word for word in FAST if not word.startswith("model")]
    net = [] if given[0].startswith("model:") else ["model=recurrent"]
    refused = ecgexp(tmp_path, *STAGED, *words, *net, stages(*given)).expect(1)
    assert named in refused.stderr
    assert is_one_sentence(only(refused.stderr.strip().splitlines()))
    assert not (tmp_path / "mlruns").exists()
