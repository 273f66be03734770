"""The command line's answers before anything is trained."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from omegaconf import OmegaConf
from trained import is_one_sentence

from ecgexp import CONF
from ecgexp.cli import main
from ecgexp.commands.plan import plan
from ecgexp.config.resolvers import register_resolvers
from ecgexp.config.schema import check
from ecgexp.errors import UserError

HEAVY = ("torch", "mlflow", "pytorch_lightning", "pandas", "matplotlib")


def first_refusal(*overrides: str) -> str:
    register_resolvers()
    with pytest.raises(UserError) as refused:
        for cfg in plan(CONF, get_args_parser().parse_args(overrides)).configurations:
            check(cfg)
    return str(refused.value)


@pytest.mark.parametrize("arguments", [["--help"], ["--cfg", "job"], ["--info", "defaults"]])
def test_help_and_configuration_import_nothing_heavy(arguments):
    code = (
        "import sys\n"
        f"sys.argv = ['ecgexp', *{arguments!r}]\n"
        "from ecgexp.cli import main\n"
        "try: main()\n"
        "except SystemExit as stop: assert not stop.code\n"
        f"print('HEAVY:', [m for m in {HEAVY!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "HEAVY: []"
    assert "ribeiro" in done.stdout.lower()


@pytest.mark.slow
def test_the_process_of_a_sweep_waits_for_nothing_that_only_training_needs(tmp_path):
    code = (
        "import sys\n"
        "from ecgexp import CONF\n"
        "from hydra._internal.utils import get_args_parser\n"
        "from ecgexp.config.resolvers import register_resolvers\n"
        "from ecgexp.commands.plan import plan\n"
        "from ecgexp.config.schema import check\n"
        "register_resolvers()\n"
        "for cfg in plan(CONF, get_args_parser().parse_args(['-m', 'lr=0.1,0.2'])).configurations: check(cfg)\n"
        "import ecgexp.config.build, ecgexp.tracking.restore, ecgexp.sweeps.session, ecgexp.sweeps.supervisor\n"
        "heavy = ('pytorch_lightning', 'lightning_fabric', 'torchmetrics', 'torch._dynamo', 'scipy.signal', 'optuna')\n"
        "print('HEAVY:', [m for m in heavy if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == "HEAVY: []"


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("foo=1", "foo"),
        ("+foo=1", "foo"),
        ("+model.foo=1", "model.foo"),
        ("+optimizer.foo=1", "optimizer.foo"),
        ("+dataset.foo=1", "dataset.foo"),
        ("+trainer.foo=1", "trainer.foo"),
        ("+tracking.foo=1", "tracking.foo"),
        ("lr=abc", "lr"),
        ("lr=0", "lr"),
        ("lr=-0.1", "lr"),
        ("lr=nan", "lr"),
        ("batch_size=0", "batch_size"),
        ("batch_size=1.5", "batch_size"),
        ("max_epochs=0", "max_epochs"),
        ("target.threshold=1.5", "target.threshold"),
        ("target.threshold=-0.1", "target.threshold"),
        ("seed=-1", "seed"),
        ("precision=17", "precision"),
        ("objective=best/val/foo", "objective"),
        ("objective=val/loss", "objective"),
        ("objective=best/test/loss", "objective"),
        ("monitor=best/val/loss", "monitor"),
        ("early_stopping.patience=0", "early_stopping.patience"),
        ("tracking.log_model=some", "tracking.log_model"),
        ("scheduler.interval=day", "scheduler.interval"),
        ("model=nonet", "ribeiro"),
        ("model._target_=nowhere.Net", "nowhere.Net"),
        ("model.dropout=1.5", "model.dropout"),
        ("model.dropout=much", "model.dropout"),
        ("dataset.labels=heart", "dataset.labels"),
        ("dataset.sampling_rate=250", "dataset.sampling_rate"),
        ("dataset.samples=0", "dataset.samples"),
        ("dataset.normalize=maybe", "dataset.normalize"),
        ("loss.pos_weight=7", "loss.pos_weight"),
        ("trainer.devices=0", "trainer.devices"),
        ("trainer.devices=3", "trainer.devices"),
        ("trainer.threads=0", "trainer.threads"),
        ("lr=[0.1", "[0.1"),
        ("lr=0.1,0.2", "-m"),
        ("+lr2=1", "lr2"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_one_sentence(override, words):
    sentence = first_refusal(override)
    assert words in sentence
    assert "\n" not in sentence
    assert len(sentence) < 250


GROUPS = sorted(path.name for path in CONF.iterdir() if path.is_dir() and path.name != "hydra")


@pytest.mark.parametrize("group", [*GROUPS, "hydra/launcher", "hydra/sweeper"])
@pytest.mark.parametrize("more", ["", ",other"])
def test_a_group_set_to_null_is_refused_with_what_there_is_to_choose_from(group, more):
    word = f"{group}=null{more}"
    sentence = first_refusal("-m", word, "seed=1,2")
    assert sentence.startswith(f"{word}: null is no option of the group {group}: leave it out, or choose from ")
    assert is_one_sentence(sentence.replace(": ", ", "))


def test_a_group_set_to_null_is_refused_wherever_it_stands(tmp_path, capsys, monkeypatch):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "one.yaml").write_text("a: 1\n")
    assert "choose from one" in first_refusal("--config-dir", str(tmp_path), "+mine=null")
    (tmp_path / "experiment").mkdir()
    grid = "# @package _global_\nhydra:\n  sweeper:\n    params:\n      experiment: null,leandro2023_quick\n"
    (tmp_path / "experiment" / "grid.yaml").write_text(grid)
    assert "null is no option" in first_refusal("--config-dir", str(tmp_path), "-m", "experiment=grid")
    monkeypatch.setattr(sys, "argv", ["ecgexp", "experiment=null", "--cfg", "job"])
    with pytest.raises(SystemExit, match="null is no option of the group experiment"):
        main()


@pytest.mark.parametrize(
    ("first", "second"), [("lr=0.1", "lr=0.01,0.02"), ("lr=0.1,0.2", "++lr=0.3"), ("lr=0.1,0.2", "lr=range(1,3)")]
)
def test_a_key_with_several_values_that_is_given_twice_is_refused(first, second):
    for words in ((first, second), (second, first)):
        sentence = first_refusal("-m", *words)
        assert "The key 'lr' is given twice" in sentence
        assert all(word in sentence for word in words)
    register_resolvers()
    plan(CONF, get_args_parser().parse_args(["lr=0.1", "lr=0.2"]))  # of which Hydra takes the last


def test_a_range_without_a_step_is_refused():
    assert "step of a range cannot be 0" in first_refusal("-m", "batch_size=range(8,16,0)")


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["max_epochs=range(4,1)"], "max_epochs=range(4,1) gives no value"),
        (["model=glob(none*)"], "model=glob(none*) gives no value"),
        (["model=linear", "model=glob(none*)"], "model=glob(none*) gives no value"),
        (["seed=glob(*)"], "seed=glob(*) gives no value"),
        (["hydra/sweeper=optuna", "seed=glob(*)"], "seed=glob(*) gives no value"),
        (["hydra/sweeper=optuna", "seed=range(3,1)"], "seed=range(3,1) gives no value"),
        (["hydra=null"], "hydra=null: leave it out, or set keys of it, such as hydra.sweep.dir=FOLDER."),
        (["lr=range(nan,1)"], "lr=range(nan,1): the ends"),
        (["lr=range(0,1e9)"], "lr=range(0,1e9) gives 1,000,000,000 values"),
        (["hydra/sweeper=optuna", "lr=range(0,1e9)"], "lr=range(0,1e9) gives"),
        (["model=0,linear"], "model=0,linear: this is no option of the group model"),
        (["~dataset=[a]"], "~dataset=[a]: this is no option"),
        (["hydra.sweeper=auto"], "'hydra.sweeper' has no class to run"),
        (["hydra.launcher=1"], "'hydra.launcher' has no class to run"),
        (["+hydra.sweeper=[]", "lr=1,2"], "hydra.sweeper"),
        (["lr=\ufeff"], "Hydra cannot read lr="),
    ],
)
def test_what_no_sweep_can_be_made_of_is_refused(words, named):
    sentence = first_refusal("-m", *words)
    assert sentence.startswith(named) or named in sentence
    assert is_one_sentence(sentence.replace("\ufeff", ""))


def test_a_search_over_very_many_whole_numbers_is_read_at_once():
    register_resolvers()
    words = ["-m", "hydra/sweeper=optuna", "seed=range(0,1000000000)"]
    found = plan(CONF, get_args_parser().parse_args(words))
    assert [cfg.seed for cfg in found.configurations] == [0, 999999999]


@pytest.mark.slow
def test_another_sweeper_of_the_same_name_is_named(tmp_path):
    package = tmp_path / "hydra_plugins" / "hydra_optuna_sweeper"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "sweeper.py").write_text(  # what that package does
        "from dataclasses import dataclass\n"
        "from hydra.core.config_store import ConfigStore\n"
        "from hydra.plugins.sweeper import Sweeper\n"
        "class OptunaSweeper(Sweeper):\n"
        "    def setup(self, **_): pass\n"
        "    def sweep(self, arguments): pass\n"
        "@dataclass\n"
        "class TPESamplerConfig:\n"
        "    _target_: str = 'optuna.samplers.TPESampler'\n"
        "    seed: int = 1\n"
        "ConfigStore.instance().store(group='hydra/sweeper/sampler', name='tpe', node=TPESamplerConfig, provider='x')\n"
    )
    command = [sys.executable, "-m", "ecgexp", "-m", "hydra/sweeper=optuna", "lr=interval(0.1,1)"]
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert "pip uninstall hydra-optuna-sweeper" in done.stderr.splitlines()[-1]


@pytest.mark.slow
def test_a_torch_that_cannot_be_loaded_is_named_as_the_cause(tmp_path):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text(
        "raise OSError('libtorch_cpu.so: cannot open shared object file')\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    command = [sys.executable, "-m", "ecgexp"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    (sentence,) = done.stderr.splitlines()
    assert "libtorch_cpu.so: cannot open shared object file" in sentence
    assert is_one_sentence(sentence)


@pytest.mark.slow
def test_a_full_disk_is_reported_in_one_sentence(tmp_path):
    (tmp_path / "out" / ".hydra").mkdir(parents=True)
    (tmp_path / "out" / ".hydra" / "config.yaml").symlink_to("/dev/full")
    command = [sys.executable, "-m", "ecgexp", "hydra.run.dir=out"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "No space left on device" in done.stderr
    assert "once there is room, the same command resumes" in done.stderr


@pytest.mark.parametrize(
    "overrides",
    [
        ("-m", "lr=0.1,-1"),
        ("-m", "lr=0.1,0.01", "batch_size=32,0"),
        ("-m", "model=linear,nonet"),
    ],
)
def test_every_value_of_a_sweep_is_checked_before_the_first_trial(overrides):
    assert "-1" in (sentence := first_refusal(*overrides)) or "batch_size" in sentence or "nonet" in sentence


@pytest.mark.slow
@pytest.mark.parametrize(
    "axis",
    [
        "lr=0.1,1,1e-3",
        "early_stopping.patience=3,null,5",
        "monitor=val/loss,val/auroc_macro",
        "precision=32,bf16-mixed",
        "objective=best/val/loss,'best/val/auroc_macro'",
        "model=ribeiro,rajpurkar,linear",
        "resume=true,false",
        "trainer.devices=1,2",
        "model.outputs=3,${dataset.leads}",
    ],
)
def test_each_value_of_a_sweep_is_as_composed_anew(axis):
    register_resolvers()
    key, values = axis.split("=")
    found = plan(CONF, get_args_parser().parse_args(["-m", axis])).configurations
    with initialize_config_dir(str(CONF), version_base="1.3"):
        composed = [compose("config", [f"{key}={value}"]) for value in values.split(",")]
    assert [OmegaConf.to_container(cfg) for cfg in found] == [OmegaConf.to_container(cfg) for cfg in composed]


def test_a_key_that_only_the_swept_options_have_can_be_set_and_swept():
    register_resolvers()
    words = ["-m", "model=recurrent,convblocks", "model.hidden=16", "model.heads=2,4"]
    configurations = plan(CONF, get_args_parser().parse_args(words)).configurations
    for cfg in configurations:
        check(cfg)
    assert sorted((cfg.model._target_.rsplit(".")[-1], cfg.model.heads) for cfg in configurations) == [
        ("ConvBlocks", 2), ("Recurrent", 2), ("Recurrent", 4)
    ]  # fmt: skip
    assert {cfg.model.hidden for cfg in configurations} == {16}


def test_a_grid_in_an_experiment_file_is_seen_and_the_command_line_wins_over_it(tmp_path):
    register_resolvers()
    (tmp_path / "experiment").mkdir()
    grid = "# @package _global_\nhydra:\n  sweeper:\n    params:\n      lr: 0.1,-1\n      seed: 0,1\n"
    (tmp_path / "experiment" / "grid.yaml").write_text(grid)
    asked = ["--config-dir", str(tmp_path), "-m", "experiment=grid"]
    assert "lr" in first_refusal(*asked)
    args = get_args_parser().parse_args([*asked, "lr=0.5"])
    asked = plan(CONF, args)
    assert [(cfg.lr, cfg.seed) for cfg in asked.configurations] == [(0.5, 0), (0.5, 1)]
    assert asked.cells == [["lr=0.5", "seed=0", "experiment=grid"], ["lr=0.5", "seed=1", "experiment=grid"]]


def test_a_search_in_an_experiment_file_is_read_as_it_would_be_from_the_command_line(tmp_path):
    register_resolvers()
    (tmp_path / "experiment").mkdir()
    space = "      model: glob(ri*)\n      max_epochs: 7\n      early_stopping.patience: null\n"
    (tmp_path / "experiment" / "found.yaml").write_text(
        f"# @package _global_\nhydra:\n  sweeper:\n    params:\n{space}"
    )
    words = ["--config-dir", str(tmp_path), "-m", "experiment=found", "hydra/sweeper=optuna"]
    asked = plan(CONF, get_args_parser().parse_args(words))
    assert asked.search.axes["model"].distribution.choices == ("ribeiro", "ribeiro_original")
    assert {(cfg.max_epochs, cfg.early_stopping.patience) for cfg in asked.configurations} == {(7, None)}


@pytest.mark.slow
@pytest.mark.parametrize("group", ["dataset", "model", "loss", "optimizer", "scheduler", "trainer", "tracking"])
def test_every_option_of_every_group_composes_and_passes_the_check(group):
    register_resolvers()
    options = sorted(path.stem for path in (CONF / group).glob("*.yaml"))
    assert options
    more = {
        "wfdb": ["dataset.labels=[AF]", "dataset.labels_csv=labels.csv"],
        "cross_entropy": ["dataset=mitbih"],
    }
    more |= {name: ["dataset=synthetic_cells"] for name in ("alexnet", "cnn", "densenet_small", "resnet18")}
    more |= {name: ["model=cnn"] for name in ("synthetic_cells", "medmnist")}
    more |= {"images": ["model=cnn", "dataset.labels=[cat,dog]"]}
    for option in options:
        args = get_args_parser().parse_args([f"{group}={option}", *more.get(option, [])])
        for cfg in plan(CONF, args).configurations:
            check(cfg)
            assert cfg.model.outputs == len(cfg.dataset.label_names)


@pytest.mark.slow
@pytest.mark.parametrize("experiment", sorted(path.stem for path in (CONF / "experiment").glob("*.yaml")))
def test_every_experiment_composes_and_passes_the_check(experiment):
    register_resolvers()
    source = ["init.run=RUN"] if experiment == "toffanetto2024_64" else []  # the weights that it starts from
    for cfg in plan(CONF, get_args_parser().parse_args(["-m", f"experiment={experiment}", *source])).configurations:
        check(cfg)


def test_a_model_takes_its_shape_from_the_dataset():
    register_resolvers()
    args = get_args_parser().parse_args(["dataset=ptbxl", "dataset.sampling_rate=500", "dataset.labels=rhythm"])
    (cfg,) = plan(CONF, args).configurations
    assert (cfg.model.leads, cfg.model.samples, cfg.model.outputs) == (12, 5000, 12)


def test_a_launcher_whose_package_is_missing_is_refused_with_the_way_to_get_it(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if "ray" in name else found(name, *rest))
    assert "pip install 'ecgexp[ray]'" in first_refusal("-m", "hydra/launcher=ray", "lr=0.1,0.2")


@pytest.mark.parametrize(
    ("launcher", "setting", "sentence"),
    [
        ("joblib", "prefer=threads", "Trials run in processes"),
        ("joblib", "require=sharedmem", "Trials run in processes"),
        ("submitit_local", "tasks_per_node=2", "give trainer=ddp"),
        ("submitit_local", "nodes=2", "give trainer=ddp"),
    ],
)
def test_jobs_that_are_no_single_process_are_refused(launcher, setting, sentence):
    if launcher != "joblib":
        pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    assert sentence in first_refusal("-m", "lr=0.1,0.2", f"hydra/launcher={launcher}", f"hydra.launcher.{setting}")
