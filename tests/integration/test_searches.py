"""Searches through the command line: every sampler and pruner, killed, joined, stopped, and reported."""

from __future__ import annotations

import json
import random
import re
import signal
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import optuna
import pandas as pd
import psutil
import pytest
from commands import (
    LINEAR,
    SMALL,
    all_runs,
    artifact,
    artifact_names,
    ecgexp,
    finish,
    history,
    needs,
    only,
    parents,
    parents_of,
    start,
    training_among,
    trials,
    until,
)
from optuna.trial import FrozenTrial, TrialState
from trained import call

from ecgexp.search.study import counted, open_storage

pytestmark = pytest.mark.slow

SEARCH = ("-m", "hydra/sweeper=optuna")
FAST = (*LINEAR, "max_epochs=3", "dataset.records=120")
NET = (*SMALL, "model=ribeiro", "model.width=4", "model.depth=2", "dataset.records=120")
LR = "lr=tag(log, interval(1e-3, 1e-1))"
# Above any negative loss, which is reported to the study: every trial is stopped after its first epoch.
PRUNE = ("hydra/sweeper/pruner=threshold", "hydra.sweeper.pruner.lower=0")


def sweeper(**settings: object) -> list[str]:
    return [f"hydra.sweeper.{key}={value}" for key, value in settings.items()]


def study_of(folder: Path) -> list[FrozenTrial]:
    """Current trials of the single study of a folder; empty if it has not begun."""
    journals = list(folder.glob("mlruns/sweeps/*/study.journal"))
    if not journals:
        return []
    storage = open_storage(str(only(journals)))
    return [trial for study in storage.get_all_studies() for trial in storage.get_all_trials(study._study_id)]


def ended(folder: Path, *states: TrialState) -> dict[int, tuple]:
    wanted = states or (TrialState.COMPLETE, TrialState.PRUNED)
    return {
        trial.number: (trial.state, trial.values, trial.params, trial.intermediate_values)
        for trial in study_of(folder)
        if trial.state in wanted
    }


def jobs(folder: Path) -> list[int]:
    return sorted(int(run.data.tags["job"]) for run in trials(folder))


@pytest.mark.parametrize(
    ("sampler", "pruner"),
    [
        ("tpe", "asha"),
        ("gp", "hyperband"),
        ("cmaes", "median"),
        ("random", "threshold"),
        ("grid", "patient"),
        ("qmc", "none"),
        ("nsgaii", "none"),
    ],
)
def test_every_sampler_and_pruner(tmp_path, sampler, pruner):
    space = ("lr=0.001,0.01", "batch_size=range(16,49,16)") if sampler == "grid" else (LR, "batch_size=16,32")
    first = [f"{key}=2" for key in ("n_startup_trials",) if sampler in ("tpe", "gp", "cmaes")]
    startup = [f"hydra.sweeper.sampler.{word}" for word in first]
    bound = ["hydra.sweeper.pruner.lower=-9"] if pruner == "threshold" else []
    words = (*SEARCH, *FAST, *space, f"hydra/sweeper/sampler={sampler}", f"hydra/sweeper/pruner={pruner}")
    done = ecgexp(tmp_path, *words, *startup, *bound, *sweeper(n_trials=5)).expect()
    found = study_of(tmp_path)
    assert {trial.state for trial in found} <= {TrialState.COMPLETE, TrialState.PRUNED}
    assert [trial.number for trial in found] == jobs(tmp_path) == list(range(5))
    assert {trial.user_attrs["run_id"]: trial.number for trial in found} == {
        run.info.run_id: int(run.data.tags["job"]) for run in trials(tmp_path)
    }
    values = {int(run.data.tags["job"]): run.data.metrics.get("best/val/mlcm_f1_macro") for run in trials(tmp_path)}
    assert {trial.number: trial.value for trial in found if trial.state == TrialState.COMPLETE} == {
        job: value for job, value in values.items() if value is not None
    }
    assert "5/5 trials" in done.stderr
    assert "Warning" not in done.stderr


@pytest.mark.usefixtures("ray_folder")
@pytest.mark.parametrize("launcher", ["joblib", pytest.param("ray", marks=pytest.mark.full)])
def test_workers_of_a_launcher_share_the_study(tmp_path, launcher):
    needs(launcher)
    how = {"joblib": ["hydra.launcher.n_jobs=2"], "ray": ["+hydra.launcher.ray.init.num_cpus=2"]}[launcher]
    words = (*SEARCH, *FAST, LR, f"hydra/launcher={launcher}", *how, "hydra/sweeper/pruner=asha")
    done = ecgexp(tmp_path, *words, *sweeper(n_trials=8, workers=2)).expect()
    found = counted(study_of(tmp_path))
    assert len(found) == 8
    assert {trial.state for trial in found} <= {TrialState.COMPLETE, TrialState.PRUNED}
    assert len({trial.user_attrs["process"]["pid"] for trial in found}) == 2
    assert jobs(tmp_path) == [trial.number for trial in found]
    assert {run.info.status for run in all_runs(tmp_path)} == {"FINISHED"}
    assert "8/8 trials" in done.stderr


def test_no_worker_waits_for_a_longer_trial(tmp_path, capsys):
    net = [word for word in NET if not word.startswith("max_epochs")]
    words = (*SEARCH, *net, "max_epochs=1,40", "early_stopping.patience=null", "seed=range(0,1000)")
    workers = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hydra/sweeper/sampler=random")
    ecgexp(tmp_path, *words, *workers, *sweeper(n_trials=10)).expect()
    found = study_of(tmp_path)
    spans = [(trial.datetime_start.timestamp(), trial.datetime_complete.timestamp()) for trial in found]
    by_worker: dict[int, list[tuple[float, float]]] = {}
    for trial, span in zip(found, spans, strict=True):
        by_worker.setdefault(trial.user_attrs["process"]["pid"], []).append(span)
    assert len(by_worker) == 2
    # Until there is no further trial to begin, each is busy from the first that it begins.
    last_begun = max(begin for begin, _ in spans)
    busy = possible = 0.0
    for own in by_worker.values():
        possible += last_begun - min(begin for begin, _ in own)
        busy += sum(min(end, last_begun) - begin for begin, end in own)
    lengths = sorted(end - begin for begin, end in spans)
    with capsys.disabled():
        print(f"\nworkers busy {busy / possible:.1%}; trials of {lengths[0]:.1f} to {lengths[-1]:.1f} s")
    assert busy / possible > 0.9
    assert len({len(own) for own in by_worker.values()}) <= 2


def family(command: psutil.Process) -> tuple[list[psutil.Process], list[psutil.Process]]:
    """Workers of the search, and the processes that train for them."""
    training = training_among(command.children(recursive=True))
    return parents_of(training), training


def kill_all(command: psutil.Process) -> None:
    everyone = [command, *command.children(recursive=True)]  # a trial that dies before its command has failed
    for one in everyone:
        with suppress(psutil.NoSuchProcess):
            one.kill()


@pytest.mark.parametrize(
    ("victims", "n_trials"),
    [(["trial"], 5), pytest.param(["everything", "worker", "trial"], 16, marks=pytest.mark.full)],
    ids=["one", "all"],
)
def test_a_search_killed_at_random_moments_is_resumed_with_every_finished_trial(tmp_path, victims, n_trials):
    chance = random.Random(1)
    words = (*SEARCH, *NET, "max_epochs=6", LR, "batch_size=16,32", "hydra/sweeper/pruner=asha")
    words = (*words, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", *sweeper(n_trials=n_trials))
    kept: dict[int, tuple] = {}
    for count, victim in enumerate(victims):
        process = start(tmp_path, *words)
        command = psutil.Process(process.pid)
        goal = 1 + 2 * count
        until(lambda goal=goal, command=command: len(ended(tmp_path)) >= goal and bool(family(command)[1]), process)
        moment = time.monotonic() + chance.uniform(0, 1)
        until(lambda moment=moment: time.monotonic() >= moment, process)
        until(lambda: bool(ended(tmp_path, TrialState.RUNNING)), process)
        workers, training = family(command)
        if victim != "everything":
            with suppress(psutil.NoSuchProcess, IndexError):
                chance.choice(workers if victim == "worker" else training).kill()
            done = finish(process, tmp_path)
            assert "Traceback" not in done.stderr
            if victim == "worker":
                assert done.status != 0
        kill_all(command) if process.poll() is None else None
        process.communicate()
        now = ended(tmp_path)
        assert kept.items() <= now.items()
        kept = now
    ecgexp(tmp_path, *words).expect()
    now = ended(tmp_path)
    assert {number: now[number] for number in kept} == kept, "nothing that was finished has changed"
    found = study_of(tmp_path)
    assert len(counted(found)) == n_trials
    assert {trial.state for trial in counted(found)} <= {TrialState.COMPLETE, TrialState.PRUNED}
    assert not [trial for trial in found if trial.state == TrialState.RUNNING]
    assert [trial.number for trial in found] == list(range(len(found)))
    # Only a trial whose own process was killed has failed, and is tried again under a number of its own.
    assert len(found) >= n_trials
    assert {run.info.status for run in all_runs(tmp_path)} == {"FINISHED"}
    assert len(jobs(tmp_path)) == len(set(jobs(tmp_path))) == n_trials


@pytest.mark.parametrize("kills", [(3,), pytest.param((1, 3, 5), marks=pytest.mark.full)], ids=len)
def test_a_search_that_is_killed_ends_as_one_that_is_not(tmp_path, kills):
    words = (*SEARCH, *NET, "max_epochs=3", LR, "batch_size=16,32", "monitor=val/auroc_macro")
    words = (*words, "hydra/sweeper/pruner=asha", "hydra.sweeper.sampler.n_startup_trials=2", *sweeper(n_trials=6))
    ecgexp(tmp_path / "whole", *words).expect()
    folder = tmp_path / "killed"
    for begun in kills:
        process = start(folder, *words)
        until(lambda begun=begun: len(study_of(folder)) >= begun and bool(ended(folder, TrialState.RUNNING)), process)
        kill_all(psutil.Process(process.pid))
        process.communicate()
    ecgexp(folder, *words).expect()
    assert ended(folder) == ended(tmp_path / "whole")
    assert jobs(folder) == list(range(6))


def test_a_damaged_line_of_the_study_is_reported_at_every_start_and_another_search_reuses_the_trials(tmp_path):
    words = (*SEARCH, *FAST, LR, *sweeper(n_trials=2))
    ecgexp(tmp_path, *words).expect()
    found = ended(tmp_path)
    journal = only(list(tmp_path.glob("mlruns/sweeps/*/study.journal")))
    lines = journal.read_bytes().splitlines(keepends=True)
    lines[4] = b"x" + lines[4]
    journal.write_bytes(b"".join(lines))
    for _ in range(2):
        refused = ecgexp(tmp_path, *words).expect(1)
        assert "study.journal is damaged in line 5" in only(refused.stderr.strip().splitlines())
    journal.unlink()
    done = ecgexp(tmp_path, *words, "sweep.name=other").expect()
    assert "2 reused" in done.stderr
    assert {number: told[:3] for number, told in ended(tmp_path).items()} == {
        number: told[:3] for number, told in found.items()
    }


def test_the_report_of_one_trial(tmp_path, monkeypatch):
    ecgexp(tmp_path, *SEARCH, *FAST, LR, *sweeper(n_trials=1)).expect()
    assert call(monkeypatch, "report", tmp_path, "out=report") == 0
    assert (tmp_path / "report" / "search_reports.png").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_search_puts_its_trial_back(tmp_path, number):
    words = (*SEARCH, *NET, "max_epochs=60", "early_stopping.patience=null", LR, *sweeper(n_trials=2))
    process = start(tmp_path, *words)
    until(lambda: any((tmp_path / "mlruns").glob("checkpoints/*/last.ckpt")), process)
    process.send_signal(number)
    done = finish(process, tmp_path, timeout=60).expect(128 + number)
    assert "Traceback" not in done.stderr
    assert "Not complete: 2 of the 2 trials have no result." in done.stdout
    (first,) = study_of(tmp_path)
    assert first.state == TrialState.WAITING
    assert first.user_attrs["run_id"] == only(trials(tmp_path)).info.run_id
    assert only(trials(tmp_path)).info.status == "KILLED"
    ecgexp(tmp_path, *words).expect()
    assert [trial.state.name for trial in study_of(tmp_path)] == ["COMPLETE", "COMPLETE"]
    assert study_of(tmp_path)[0].params == first.params
    assert jobs(tmp_path) == [0, 1]
    gone_on = next(run for run in trials(tmp_path) if run.data.tags["job"] == "0")
    assert len(history(tmp_path, gone_on, "val/loss")) == 60
    assert gone_on.data.tags["attempts"] == "2"


def test_a_pruned_trial_has_its_metrics_so_far_and_counts_nowhere_else(tmp_path, monkeypatch):
    ecgexp(tmp_path, *SEARCH, *FAST, "lr=0.01,0.02", *PRUNE, *sweeper(n_trials=3)).expect()
    assert [trial.state for trial in study_of(tmp_path)] == [TrialState.PRUNED] * 3
    assert [trial.value for trial in study_of(tmp_path)] == [None] * 3
    assert {trial.user_attrs["reported"] for trial in study_of(tmp_path)} == {"-val/loss"}
    for run in trials(tmp_path):
        assert run.info.status == "FINISHED"
        assert run.data.tags["pruned"] == "true"
        assert "reused_from" not in run.data.tags
        assert len(history(tmp_path, run, "val/loss")) == run.data.metrics["epochs"] == 1
        assert not [name for name in run.data.metrics if name.startswith("best/")]
    parent = only(parents(tmp_path))
    assert parent.info.status == "FINISHED"
    assert call(monkeypatch, "report", tmp_path, "out=report") == 0
    assert "pruned" in (tmp_path / "report" / "report.html").read_text()

    ecgexp(tmp_path, "-m", *FAST, "lr=0.01,0.02").expect()
    grid = [run for run in trials(tmp_path) if run.data.tags["mlflow.parentRunId"] != parent.info.run_id]
    assert all("reused_from" not in run.data.tags and run.data.metrics["epochs"] == 3 for run in grid)


def test_a_setting_that_is_proposed_again_is_a_trial_that_is_not_trained_again(tmp_path, monkeypatch):
    words = (*SEARCH, *FAST, "lr=0.01,0.02", "hydra/sweeper/sampler=random", *sweeper(n_trials=5))
    done = ecgexp(tmp_path, *words).expect()
    assert jobs(tmp_path) == list(range(5))
    reused = [run for run in trials(tmp_path) if "reused_from" in run.data.tags]
    assert len(reused) == 3
    assert "3 reused" in done.stderr
    values = {trial.params["lr"]: trial.value for trial in study_of(tmp_path)}
    assert all(trial.value == values[trial.params["lr"]] for trial in study_of(tmp_path))
    before = ended(tmp_path)

    more = ecgexp(tmp_path, *words[:-1], *sweeper(n_trials=7)).expect()
    assert before.items() <= ended(tmp_path).items()
    assert jobs(tmp_path) == list(range(7))
    assert only(parents(tmp_path))
    assert "7/7 trials" in more.stderr

    ecgexp(tmp_path, *words, "resume=false").expect()
    assert len(parents(tmp_path)) == 2
    latest = parents(tmp_path)[-1].info.run_id
    assert len([run for run in trials(tmp_path) if run.data.tags["mlflow.parentRunId"] == latest]) == 5
    assert len(list((tmp_path / "mlruns/sweeps").glob("*/study.journal"))) == 2


def test_several_objectives_have_a_front_in_the_report(tmp_path, monkeypatch):
    objective = "objective=[best/val/mlcm_f1_macro,parameters]"
    space = ("model.width=range(2,9,2)", LR)
    rest = (*space, "hydra/sweeper/sampler=nsgaii", "sweep.name=front", *sweeper(n_trials=6))
    net = [word for word in NET if not word.startswith("model.width")]
    words = (*SEARCH, *net, "max_epochs=1", objective, *rest)
    done = ecgexp(tmp_path, *words).expect()
    assert " parameters " in done.stdout
    assert all(len(trial.values) == 2 for trial in study_of(tmp_path))
    sizes = {run.data.params["model.width"]: run.data.metrics["parameters"] for run in trials(tmp_path)}
    assert {trial.params["model.width"]: trial.values[1] for trial in study_of(tmp_path)} == {
        int(width): size for width, size in sizes.items()
    }
    assert call(monkeypatch, "report", tmp_path, "out=report") == 0
    page = (tmp_path / "report" / "report.html").read_text()
    assert "Pareto" in page
    refused = ecgexp(tmp_path, *words, "hydra/sweeper/pruner=median").expect(1)
    assert "cannot prune" in only(refused.stderr.strip().splitlines())
    before = only(parents(tmp_path))
    refused = ecgexp(tmp_path, *SEARCH, *net, "max_epochs=1", "objective=best/val/loss", *rest).expect(1)
    assert "directions" in only(refused.stderr.strip().splitlines())
    assert not refused.stdout
    after = only(parents(tmp_path))
    assert (after.data.tags, after.data.metrics) == (before.data.tags, before.data.metrics), "nothing changes"


def test_the_report_shows_what_the_search_did(tmp_path, monkeypatch):
    words = (*SEARCH, *NET, "max_epochs=4", LR, "batch_size=16,32", "hydra/sweeper/pruner=median")
    ecgexp(tmp_path, *words, *sweeper(n_trials=8), "hydra.sweeper.pruner.n_startup_trials=2").expect()
    assert "study.json" in artifact_names(tmp_path, only(parents(tmp_path)))
    assert call(monkeypatch, "report", tmp_path, "out=report") == 0
    page = (tmp_path / "report" / "report.html").read_text()
    names = {path.stem for path in (tmp_path / "report").rglob("*.png")}
    for name in ("history", "reports", "slices", "parallel", "importances"):
        assert any(name in found for found in names), (name, names)
    assert "epochs" in page
    pruned = [trial for trial in study_of(tmp_path) if trial.state == TrialState.PRUNED]
    assert pruned
    listed = page.partition("<h2>Pruned trials</h2>")[2].partition("</table>")[0]
    assert listed.count("<tr>") == 1 + len(pruned)
    for trial in pruned:
        reported = f"{max(trial.intermediate_values.values()):.3f}".replace("-", "\N{MINUS SIGN}")
        assert f'<td data-name="reported">{reported}</td>' in listed
    assert len(pd.read_csv(artifact(tmp_path, only(parents(tmp_path)), "results.csv"))) == 8


def test_a_trial_that_fails_is_listed_and_tried_again_by_the_next_start(tmp_path):
    (tmp_path / "spaces.py").write_text("def space(trial):\n    trial.suggest_categorical('model.width', [4, -4])\n")
    words = (*SEARCH, *NET, "max_epochs=1", "hydra/sweeper/sampler=random")
    settings = sweeper(n_trials=4, space="spaces.space", enqueue="[{model.width:4},{model.width:-4}]")
    for attempt in (1, 2):
        done = ecgexp(tmp_path, *words, *settings).expect(1)
        assert "Traceback" not in done.stderr
        assert re.search(r"Trial \d failed: ", done.stderr)
        assert "model.width=-4" in done.stderr
        found = counted(study_of(tmp_path))
        assert len(found) == 4
        failed = [trial for trial in found if trial.state == TrialState.FAIL]
        assert failed
        assert {trial.user_attrs.get("attempt", 1) for trial in failed} == {attempt}
    assert only(parents(tmp_path)).info.status == "FAILED"


@pytest.mark.parametrize(
    ("body", "message"),
    [("raise KeyError('heads')", "heads"), ("return {'model.nonsense': 3}", "model.nonsense"), ("return 3", "space")],
)
def test_a_space_that_does_not_work_ends_the_search_with_a_sentence(tmp_path, body, message):
    (tmp_path / "spaces.py").write_text(f"def space(trial):\n    trial.suggest_int('batch_size', 8, 16)\n    {body}\n")
    done = ecgexp(tmp_path, *SEARCH, *FAST, *sweeper(n_trials=3, space="spaces.space")).expect(1)
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_conditional_space_has_keys_that_some_trials_lack(tmp_path):
    (tmp_path / "spaces.py").write_text(
        "def space(trial):\n"
        "    if trial.params['optimizer'] == 'sgd':\n"
        "        return {'optimizer.momentum': trial.suggest_float('momentum', 0.1, 0.9)}\n"
    )
    words = (*SEARCH, *FAST, "optimizer=sgd,adam", *sweeper(n_trials=6, space="spaces.space"))
    ecgexp(tmp_path, *words).expect()
    for trial in study_of(tmp_path):
        assert ("momentum" in trial.params) == (trial.params["optimizer"] == "sgd")
    by_job = {int(run.data.tags["job"]): run for run in trials(tmp_path)}
    for trial in study_of(tmp_path):
        momentum = by_job[trial.number].data.params.get("optimizer.momentum")
        assert (momentum and float(momentum)) == trial.params.get("momentum")


def test_a_second_command_joins_in_the_same_folder(tmp_path):
    words = (*SEARCH, *NET, "max_epochs=8", "early_stopping.patience=null", LR, *sweeper(n_trials=8))
    first, second = start(tmp_path, *words), start(tmp_path, *words)  # at once
    done = [finish(process, tmp_path).expect() for process in (first, second)]
    assert sum("Joining the search" in one.stderr for one in done) == 1
    found = counted(study_of(tmp_path))
    assert len(found) == 8
    assert {trial.state for trial in found} == {TrialState.COMPLETE}
    assert len(Counter(trial.user_attrs["process"]["pid"] for trial in found)) == 2
    assert only(parents(tmp_path)).info.status == "FINISHED"
    table = pd.read_csv(artifact(tmp_path, only(parents(tmp_path)), "results.csv"))
    assert len(table) == 8
    assert set(table["status"]) == {"FINISHED"}


def test_a_second_folder_joins_through_a_database(request, tmp_path):
    storage = request.getfixturevalue("database").replace("/mlflow?", "/postgres?")
    place = tmp_path / "one"
    uri = f"tracking.uri=sqlite:///{tmp_path / 'shared.db'}"
    words = (*SEARCH, *NET, "max_epochs=45", "early_stopping.patience=null", LR, "tracking=server", uri)
    words = (*words, *sweeper(n_trials=8), "dataset.root=" + str(tmp_path / "data"))
    with_storage = (*words, f"hydra.sweeper.storage='{storage}'")
    first = start(place, *with_storage)
    until(lambda: any(place.glob("mlruns/checkpoints/*/last.ckpt")), first)
    refused = ecgexp(tmp_path / "other", *words).expect(1)
    assert "hydra.sweeper.storage=URL" in only(refused.stderr.strip().splitlines())
    second = ecgexp(tmp_path / "other", *with_storage).expect()
    finish(first, place).expect()
    assert "Joining the search" in second.stderr
    names = optuna.get_all_study_names(storage)
    found = counted(optuna.load_study(study_name=only(names), storage=storage).get_trials())
    assert len(found) == 8
    assert {trial.state for trial in found} == {TrialState.COMPLETE}
    assert len({trial.user_attrs["process"]["pid"] for trial in found}) == 2


def test_what_cannot_be_searched_is_refused_before_anything_is_made(tmp_path):
    done = ecgexp(tmp_path, *SEARCH, *FAST, "lr=interval(1,0)").expect(1)
    assert "lr=interval(1,0)" in only(done.stderr.strip().splitlines())
    assert not (tmp_path / "mlruns").exists()
    ecgexp(tmp_path, *SEARCH, *FAST, "lr=0.01,0.02", "sweep.name=mine", *sweeper(n_trials=1)).expect()
    other = ecgexp(tmp_path, *SEARCH, *FAST, "lr=0.01,0.03", "sweep.name=mine", *sweeper(n_trials=2)).expect(1)
    assert "sweep.name=NAME" in other.stderr
    assert "Traceback" not in other.stderr
    assert json.loads(only(trials(tmp_path)).data.tags["overrides"])
