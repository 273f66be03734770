"""The sweeper as a plugin of Hydra, in other applications."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
from hydra.core.plugins import Plugins
from hydra.core.utils import JobStatus
from hydra.plugins.sweeper import Sweeper
from hydra.test_utils.launcher_common_tests import LauncherTestSuite
from omegaconf import OmegaConf
from optuna.trial import FrozenTrial

from ecgexp import CONF
from ecgexp.search.study import open_storage

# What our own configuration takes from the rest of it.
ALONE = (f"hydra.searchpath=[file://{CONF}]", "hydra/sweeper=optuna", "hydra.sweeper.seed=0")
ALONE = (*ALONE, "hydra.sweeper.max_retries=0", "hydra.sweeper.max_failures=null")
ONE = (*ALONE, "hydra.sweeper.directions=[maximize]", "hydra.sweeper.study=mine")

APP = """\
import hydra
import optuna
from hydra.core.hydra_config import HydraConfig

@hydra.main(version_base="1.3", config_path=None)
def app(cfg):
    with open(f"{HydraConfig.get().runtime.output_dir}/x.txt", "w") as file:
        file.write(str(cfg.x))
    if cfg.get("how") == "raises" and cfg.x > 0.5:
        raise ValueError("too much\\nof it")
    if cfg.get("how") == "prunes" and cfg.x > 0.5:
        raise optuna.TrialPruned
    if cfg.get("how") == "several":
        return cfg.x, 1 - cfg.x
    if cfg.get("how") == "breaks":
        import sqlite3
        with sqlite3.connect("study.db") as database:
            database.execute("DROP TABLE trials")
    if cfg.get("how") == "nothing":
        return None
    return cfg.x

app()
"""


def app(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    (folder / "app.py").write_text(APP)
    command = [sys.executable, "app.py", "-m", "hydra.sweep.dir=out", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)


def trials(folder: Path) -> list[FrozenTrial]:
    storage = open_storage(str(folder / "study.journal"))
    return optuna.load_study(study_name="mine", storage=storage).get_trials()


def results(folder: Path) -> list[Any]:
    found = OmegaConf.to_container(OmegaConf.load(folder / "optimization_results.yaml"))
    assert isinstance(found, dict)
    assert found["name"] == "optuna"
    return found["best_trials"]


def test_hydra_discovers_it():
    assert {"OptunaSweeper", "StagedSweeper"} <= {plugin.__name__ for plugin in Plugins.instance().discover(Sweeper)}


def test_importing_it_imports_nothing_heavy():
    code = "import sys, hydra_plugins.ecgexp_optuna_sweeper, hydra_plugins.ecgexp_staged_sweeper; print(*sys.modules)"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"optuna", "torch", "pandas", "mlflow", "pytorch_lightning", "ecgexp.trials.run"} & set(printed)


@pytest.mark.parametrize(("launcher_name", "overrides"), [("basic", [*ONE, "hydra.sweeper.n_trials=1"])])
class TestContract:
    """Of Hydra's tests those that do not speak of the jobs of a grid."""

    test_not_sweeping_hydra_overrides = LauncherTestSuite.test_not_sweeping_hydra_overrides
    test_a_key_that_does_not_exist_is_refused = LauncherTestSuite.test_sweep_1_job_strict_and_bad_key


@pytest.mark.parametrize("launcher", ["basic", "joblib"])
def test_trials_are_jobs_with_folders_of_their_own(hydra_sweep_runner, tmp_path, launcher):
    how = ["hydra.launcher.n_jobs=2"] if launcher == "joblib" else []
    sweep = hydra_sweep_runner(
        calling_file=None,
        calling_module="hydra.test_utils.a_module",
        task_function=_foo,
        config_path="configs",
        config_name="compose.yaml",
        overrides=[*ONE, "foo=range(1,100)", "hydra.sweeper.n_trials=5", f"hydra/launcher={launcher}", *how],
        temp_dir=tmp_path,
    )
    with sweep:
        assert [result.status for result in sweep.returns] == [JobStatus.COMPLETED] * (2 if how else 1)
        assert [result.return_value for result in sweep.returns] == [0] * len(sweep.returns)
        found = trials(tmp_path)
        assert len([trial for trial in found if trial.value is not None]) == 5
        for trial in found:
            if trial.value is None:  # two workers asked for the last trial
                continue
            assert trial.value == trial.params["foo"]
            folder = tmp_path / str(trial.number)
            assert OmegaConf.load(folder / ".hydra/config.yaml").foo == trial.params["foo"]
            assert OmegaConf.load(folder / ".hydra/overrides.yaml") == [f"foo={trial.params['foo']}"]
            assert OmegaConf.load(folder / ".hydra/hydra.yaml").hydra.job.num == trial.number
            assert (folder / "a_module.log").exists() or not sweep.configure_logging
        best = max(trial.value for trial in found if trial.value is not None)
        assert results(tmp_path)[0]["values"] == [best]
        assert (tmp_path / "multirun.yaml").exists()


def _foo(cfg: Any) -> Any:
    return cfg.foo


def test_several_values_are_a_front(tmp_path):
    words = (*ONE, "+x=interval(0,1)", "+how=several", "hydra.sweeper.n_trials=6")
    done = app(tmp_path, *words, "hydra.sweeper.directions=[maximize,maximize]")
    assert done.returncode == 0, done.stderr
    found = trials(tmp_path / "out")
    assert [trial.values for trial in found] == [[trial.params["x"], 1 - trial.params["x"]] for trial in found]
    front = results(tmp_path / "out")
    assert [best["values"] for best in front] == [trial.values for trial in found], "none is beaten in both"


def test_trials_that_prune_themselves(tmp_path):
    done = app(tmp_path, *ONE, "+x=0.2,0.8", "+how=prunes", "hydra/sweeper/sampler=grid")
    assert done.returncode == 0, done.stderr
    states = {trial.params["x"]: trial.state.name for trial in trials(tmp_path / "out")}
    assert states == {0.2: "COMPLETE", 0.8: "PRUNED"}


@pytest.mark.parametrize(("how", "error"), [("raises", "ValueError: too much"), ("nothing", "returned None")])
def test_failed_trials_are_reported_and_the_command_fails(tmp_path, how, error):
    done = app(tmp_path, *ONE, "+x=0.2,0.8", f"+how={how}", "hydra/sweeper/sampler=grid")
    assert done.returncode == 1
    assert error in done.stdout + done.stderr
    failed = [trial for trial in trials(tmp_path / "out") if trial.state.name == "FAIL"]
    assert len(failed) == (1 if how == "raises" else 2)
    assert error in failed[0].user_attrs["error"]
    assert len(results(tmp_path / "out")) == (1 if how == "raises" else 0)


def test_the_same_folder_resumes_the_search_with_its_trials(tmp_path):
    words = (*ONE, "+x=interval(0,1)")
    assert app(tmp_path, *words, "hydra.sweeper.n_trials=2").returncode == 0
    kept = {path: path.read_text() for path in (tmp_path / "out").glob("*/x.txt")}
    done = app(tmp_path, *words, "hydra.sweeper.n_trials=4")
    assert done.returncode == 0, done.stderr
    assert {path: path.read_text() for path in kept} == kept
    assert {path.parent.name for path in (tmp_path / "out").glob("*/x.txt")} == {"0", "1", "2", "3"}


def test_a_space_that_cannot_be_searched_is_reported_in_one_line(tmp_path):
    done = app(tmp_path, *ONE, "+x=interval(1,0)")
    assert done.returncode == 1
    assert "The search space +x=interval(1,0) cannot be sampled" in done.stderr


def test_a_storage_that_stops_answering_is_reported(tmp_path):
    storage = f"hydra.sweeper.storage=sqlite:///{tmp_path}/study.db"
    done = app(tmp_path, *ONE, "+x=interval(0,1)", "+how=breaks", storage)
    assert done.returncode == 1
    assert "(hydra.sweeper.storage) stopped answering" in done.stderr
