"""The private API of other libraries works as we rely on it, and is used in one package only."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import threading
import tomllib
from importlib.metadata import version
from pathlib import Path

import mlflow
import optuna
import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.samplers import GridSampler, QMCSampler, RandomSampler
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from packaging.requirements import Requirement

import ecgexp
from ecgexp.foreign import hydra as hydra_private
from ecgexp.foreign import mlflow as mlflow_private
from ecgexp.foreign import optuna as optuna_private
from ecgexp.foreign import torch as torch_private

SOURCE = Path(ecgexp.__file__).parent
FILES = [path for path in SOURCE.rglob("*.py") if "foreign" not in path.parts]
TREES = {path: ast.parse(path.read_text()) for path in FILES}
DOCUMENTED = {"_exit"}  # of os


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("_")


def own_names(tree: ast.AST) -> set[str]:
    """Names that a module defines or assigns, as attributes too."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, (ast.Attribute, ast.Name)) and isinstance(node.ctx, ast.Store):
            found.add(node.attr if isinstance(node, ast.Attribute) else node.id)
    return found


OWN = set().union(*map(own_names, TREES.values()))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_no_other_file_uses_private_names_of_other_libraries(path):
    used = []
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.ImportFrom) and not (node.module or "").startswith(("__future__", "ecgexp")):
            used += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            used += [alias.name for alias in node.names]
        elif isinstance(node, ast.Attribute) and is_private(node.attr) and node.attr not in DOCUMENTED:
            of_itself = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            known = OWN if of_itself else own_names(TREES[path])
            if node.attr not in known:
                used.append(f"{ast.unparse(node.value)}.{node.attr}")
        elif isinstance(node, ast.Attribute) and ast.unparse(node) in ("torch.ops", "sys._getframe"):
            used.append(f"{ast.unparse(node)}._")
    assert [name for name in used if any(is_private(part) for part in name.split("."))] == []


def test_no_class_overrides_a_private_name_of_another_library():
    found = []
    for module in pkgutil.walk_packages([str(SOURCE)], "ecgexp."):
        if "foreign" in module.name or module.name.endswith("__main__"):
            continue
        for _, cls in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            if cls.__module__ != module.name:
                continue
            foreign = [base for base in cls.__mro__ if not base.__module__.startswith("ecgexp")]
            names = [name for name in vars(cls) if is_private(name) and name in OWN]
            found += [f"{cls.__qualname__}.{name}" for name in names if any(name in vars(base) for base in foreign)]
    assert found == []


@pytest.mark.parametrize("package", ["hydra-core", "mlflow", "optuna", "torch"])
def test_a_version_is_installed_that_the_bounds_allow_and_there_is_an_upper_bound(package):
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    stated = map(Requirement, [*project["dependencies"], *project["optional-dependencies"]["train"]])
    (bound,) = [one.specifier for one in stated if one.name == package]
    assert bound.contains(version(package).partition("+")[0])
    assert any(one.operator in ("<", "~=", "==") for one in bound)


# Hydra


def test_hydras_parser_reads_a_command_line():
    read = hydra_private.argument_parser().parse_args(["-m", "--config-dir", "mine", "--cfg", "job", "lr=1,2"])
    assert (read.multirun, read.config_dir, read.cfg, read.overrides) == (True, "mine", "job", ["lr=1,2"])
    for name in ("help", "hydra_help", "info", "shell_completion", "config_name"):
        assert not getattr(read, name)


def test_the_cells_of_a_grid_are_those_of_hydra_in_order():
    overrides = OverridesParser.create().parse_overrides(["a=1,2", "b=x", "c=range(0,2)"])
    assert hydra_private.grid_cells(overrides) == [[f"a={a}", "b=x", f"c={c}"] for a in (1, 2) for c in (0, 1)]
    from hydra.core.plugins import Plugins
    from hydra.plugins.sweeper import Sweeper

    assert hydra_private.GRID_SWEEPER in [cls.__name__ for cls in Plugins.instance().discover(Sweeper)]


def test_the_outcome_of_a_job_is_returned_without_output(capfd):
    error = ValueError("no")
    done, failed = JobReturn(status=JobStatus.COMPLETED), JobReturn(status=JobStatus.FAILED)
    done.return_value, failed.return_value = 1.5, error
    assert hydra_private.outcome(done) == 1.5
    assert hydra_private.outcome(failed) is error
    assert capfd.readouterr() == ("", "")


# PyTorch


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_gradient_of_relu_follows_its_output(dtype):
    output = torch.tensor([[-1.0, 0.0, 2.0], [3.0, float("nan"), 0.0]], dtype=dtype).t()
    upstream = torch.arange(1.0, 7.0, dtype=dtype).reshape(3, 2)
    found = torch_private.relu_gradient(upstream, output)
    assert found.tolist() == [[0, 2], [0, 4], [5, 0]]
    assert found.dtype == dtype and upstream.sum() == 21


def test_one_graph_serves_all_batch_sizes_and_many_graphs_are_allowed():
    from torch._dynamo.testing import CompileCounter

    torch._dynamo.reset()
    torch._dynamo.config.recompile_limit = 8
    torch_private.allow_graphs(64)
    assert torch._dynamo.config.recompile_limit == 64
    counter = CompileCounter()

    def double(x):
        return x * 2

    compiled = torch.compile(double, backend=counter)
    for batch in (5, 3, 7):
        x = torch.ones(batch, 4)
        torch_private.any_batch_size(x)
        assert compiled(x).sum() == 8 * batch
    assert counter.frame_count == 1
    for width in range(5, 25):  # past the limit of 8
        x = torch.ones(2, *[1] * (width - 4), 4)
        torch_private.any_batch_size(x)
        compiled(x)
    assert counter.frame_count > 8
    torch._dynamo.reset()


# MLflow


def test_tables_are_made_that_a_client_works_with(tmp_path):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    mlflow_private.create_tables(uri, tmp_path.as_uri())
    client = mlflow.MlflowClient(uri)
    run = client.create_run("0")
    client.log_metric(run.info.run_id, "a", 1.0)
    assert client.get_run(run.info.run_id).data.metrics == {"a": 1.0}


def test_the_monitor_measures_until_it_is_to_stop(tmp_path):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    mlflow_private.create_tables(uri, tmp_path.as_uri())
    run = mlflow.MlflowClient(uri).create_run("0")
    seen, enough = [], threading.Event()

    class Kept(mlflow_private.Monitor):
        def monitor(self):
            while (measured := self.measure()) is not None:
                seen.append(measured)
                enough.set()

    monitor = Kept(run.info.run_id, 0.01, resume_logging=True, tracking_uri=uri)
    monitor.start()
    assert enough.wait(60)
    monitor.finish()
    assert monitor.measure() is None
    assert [step for _, step in seen] == list(range(len(seen)))
    assert "system/cpu_utilization_percentage" in seen[0][0]
    assert mlflow.MlflowClient(uri).get_run(run.info.run_id).data.metrics == {}


# Optuna


def test_a_storage_and_its_ids_take_states_of_trials():
    study = optuna.create_study()
    trial = study.ask()
    storage = optuna_private.storage_of(study)
    assert optuna_private.id_of(trial) == optuna_private.id_of(study.trials[0])
    storage.set_trial_user_attr(optuna_private.id_of(trial), "key", 1)
    storage.set_trial_state_values(optuna_private.id_of(trial), TrialState.PRUNED)
    (found,) = study.get_trials()
    assert (found.state, found.user_attrs) == (TrialState.PRUNED, {"key": 1})


def test_distributions_say_what_they_contain():
    assert optuna_private.contains(FloatDistribution(0, 1), 0.5)
    assert not optuna_private.contains(FloatDistribution(0, 1), 1.5)
    assert not optuna_private.contains(FloatDistribution(0, 1), "much")
    assert optuna_private.contains(CategoricalDistribution(("a", "b")), "a")
    assert not optuna_private.contains(CategoricalDistribution(("a", "b")), "c")


def test_a_trial_takes_the_cell_of_a_grid_that_it_is_given():
    grid = {"x": [1, 2, 3], "y": ["a", "b"]}

    class Given(GridSampler):
        def before_trial(self, study, trial):
            if not optuna_private.settings_are_given(trial):
                optuna_private.take_cell(self, study, trial, trial.number)

    sampler = Given(grid, seed=0)
    assert optuna_private.grid_size(sampler) == 6
    study = optuna.create_study(sampler=sampler)
    axes = {name: CategoricalDistribution(values) for name, values in grid.items()}
    seen = {tuple(study.ask(axes).params.values()) for _ in range(6)}
    assert seen == {(x, y) for x in grid["x"] for y in grid["y"]}
    study.enqueue_trial({"x": 1, "y": "b"})
    assert study.ask(axes).params == {"x": 1, "y": "b"}
    assert "grid_id" not in study.trials[-1].system_attrs


def test_a_sequence_gives_the_point_that_is_asked_for():
    def points(numbers):
        sampler = QMCSampler(seed=0, scramble=True)
        study = optuna.create_study(sampler=sampler)
        axes = {"x": FloatDistribution(0, 1), "y": FloatDistribution(0, 1)}
        study.tell(study.ask(axes), 0.0)  # the first one is drawn at random
        found = []
        for number in numbers:
            optuna_private.take_point(sampler, number)
            trial = study.ask(axes)
            found.append(tuple(trial.params.values()))
            study.tell(trial, 0.0)
        return found

    first = points([0, 1, 2, 1])
    assert first[1] == first[3] and len(set(first)) == 3
    assert points([2, 0]) == [first[2], first[0]]


def test_parameters_outside_of_a_sequence_are_drawn_by_the_sampler_that_is_given():
    def drawn(seed):
        sampler = QMCSampler(seed=0)
        study = optuna.create_study(sampler=sampler)
        optuna_private.draw_others_with(sampler, RandomSampler(seed))
        return study.ask().suggest_categorical("net", list(range(1000)))

    assert drawn(1) == drawn(1) != drawn(2)


def test_a_sampler_does_not_see_the_trial_that_is_left_out(monkeypatch):
    study = optuna.create_study()
    for value in range(3):
        study.tell(study.ask(), value)
    without = optuna_private.WithoutTrial(study, 1)
    for how in ({}, {"use_cache": True}, {"deepcopy": False, "states": (TrialState.COMPLETE,)}):
        assert [trial.number for trial in without._get_trials(**how)] == [0, 2]
    assert without.direction == study.direction
    # and samplers read trials by the name that it overrides
    reads = []
    monkeypatch.setattr(without, "_get_trials", lambda *args, **how: reads.append(how) or [])
    sampler = optuna.samplers.TPESampler(n_startup_trials=0, multivariate=True, seed=0)
    number = study.ask().number
    sampler.sample_relative(without, study.trials[number], {"x": FloatDistribution(0, 1)})
    assert reads


def test_a_journal_counts_the_lines_it_has_read_and_its_read_method_can_be_overridden(tmp_path):
    reads = []

    class Watched(optuna_private.WatchedJournal):
        def read(self):
            reads.append(1)
            super().read()

    path = tmp_path / "journal.log"
    study = optuna.create_study(storage=Watched(JournalFileBackend(str(path))), study_name="one")
    study.tell(study.ask(), 1.0)
    assert reads
    before = len(reads)
    again = Watched(JournalFileBackend(str(path)))
    assert len(reads) > before
    assert again.lines_read == path.read_bytes().count(b"\n") > 0
