"""A wheel, installed, run in a user's own folder with their own net, loss, optimizer and dataset."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import zipfile
from email import message_from_bytes
from importlib import metadata
from pathlib import Path

import pytest
from commands import Done, best_metrics, config, fresh, once, only, own_folder, parents, trials
from omegaconf import OmegaConf
from packaging.requirements import Requirement

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module", autouse=True)
def only_what_is_installed():
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTHONPATH", raising=False)
        yield


def run(*command):
    return subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True)


@pytest.fixture(scope="module")
def archive(session_folder, only_what_is_installed):
    """The wheel, as a file."""

    def build(folder):
        run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT)
        return Done(folder, 0, "", "")

    return only(list(once(session_folder, "archive", build).folder.glob("*.whl")))


def environment(folder, archive, borrow):
    """A Python with the wheel, and with what `borrow` puts into its folder of packages."""
    run(sys.executable, "-m", "venv", "--without-pip", folder / "venv")
    python = folder / "venv" / "bin" / "python"
    (packages,) = (folder / "venv" / "lib").glob("python*/site-packages")
    borrow(packages)
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index")
    run(*pip, archive)
    return python


@pytest.fixture(scope="module")
def wheel(session_folder, archive):
    """The wheel in an environment of its own, which borrows all other packages but not the checkout."""

    def borrow(packages):
        # The .pth files of a folder that is added so are not read: the editable install stays out.
        (packages / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")

    def install(folder):
        return fresh(folder / "elsewhere", "--cfg", "job", python=environment(folder, archive, borrow))

    return once(session_folder, "wheel", install).expect()


@pytest.fixture(scope="module")
def python(wheel):
    return wheel.folder / "venv" / "bin" / "python"


@pytest.fixture(scope="module")
def base(session_folder, archive):
    """The Python of an environment with what ``pip install ecgexp`` brings, and with nothing else."""

    def borrow(packages):
        for distribution in brought(archive):
            for name in {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
                if not (packages / name).exists():
                    (packages / name).symlink_to(distribution.locate_file(name))

    def install(folder):
        environment(folder, archive, borrow)
        return Done(folder, 0, "", "")

    return once(session_folder, "base", install).folder / "venv" / "bin" / "python"


def brought(archive):
    """The distributions that an installer brings for a wheel without extras."""
    with zipfile.ZipFile(archive) as file:
        text = file.read(only([name for name in file.namelist() if name.endswith(".dist-info/METADATA")]))
    waiting = [(line, "") for line in message_from_bytes(text).get_all("Requires-Dist")]
    found = {}
    while waiting:
        line, extra = waiting.pop()
        requirement = Requirement(line)
        applies = requirement.marker is None or requirement.marker.evaluate({"extra": extra})
        for extra in {"", *requirement.extras} if applies else ():
            if (requirement.name, extra) not in found:
                found[requirement.name, extra] = distribution = metadata.distribution(requirement.name)
                waiting += [(line, extra) for line in distribution.requires or ()]
    return found.values()


def test_the_wheel_carries_the_configuration_and_only_the_package(archive):
    with zipfile.ZipFile(archive) as file:
        names = file.namelist()
    carried = {name.removeprefix("ecgexp/conf/") for name in names if name.startswith("ecgexp/conf/")}
    assert carried == {str(path.relative_to(ROOT / "conf")) for path in (ROOT / "conf").rglob("*.yaml")}
    assert {name.split("/")[0].split("-")[0] for name in names} <= {"ecgexp", "hydra_plugins"}
    assert "ecgexp/py.typed" in names


def test_it_is_the_installed_package_that_runs(wheel, python):
    code = "import ecgexp; print(ecgexp.__file__)"
    found = subprocess.run([python, "-c", code], cwd=wheel.folder, capture_output=True, text=True, check=True)
    assert Path(found.stdout.strip()).is_relative_to(wheel.folder)


def test_help_and_configuration_are_shown_in_any_folder(wheel, python):
    cfg = OmegaConf.to_container(OmegaConf.create(wheel.stdout), resolve=False)
    assert (cfg["lr"], cfg["model"]["outputs"]) == (0.001, "${ecgexp.outputs:${target},${dataset.label_names}}")
    assert "optimizer: adam, adamw, rmsprop, sgd" in fresh(wheel.folder / "elsewhere", "--help", python=python).stdout


def test_a_users_own_net_loss_optimizer_and_dataset_are_trained(tmp_path, python):
    folder = own_folder(tmp_path / "study")
    own = ("model=mynet", "loss=focal", "optimizer=signs", "dataset=noise")
    rest = ("lr=0.01,0.1", "loss.gamma=1.5", "max_epochs=20", "trainer=cpu", "tracking.system_metrics=false")
    fresh(folder, "--config-dir", "conf", "-m", *own, *rest, python=python).expect()
    assert only(parents(folder)).info.status == "FINISHED"
    runs = trials(folder)
    assert [run.info.status for run in runs] == ["FINISHED"] * 2
    for run in runs:
        cfg = config(folder, run)
        assert cfg.model == {"_target_": "ownstudy.nets.Deviations", "leads": 2, "samples": 60, "outputs": 2}
        assert cfg.loss == {"_target_": "ownstudy.training.Focal", "gamma": 1.5}
        chosen = [run.data.tags[group] for group in ("model", "loss", "optimizer", "dataset")]
        assert chosen == ["mynet", "focal", "signs", "noise"]
        assert "f1/quiet--not-" in best_metrics(run)
    # The loud lead shows the label: a net that is trained on these data finds it.
    assert max(best_metrics(run)["auroc_macro"] for run in runs) > 0.9


def test_a_study_outside_of_the_package_is_trained_evaluated_and_reported(tmp_path, python):
    """What `test_house` does in a checkout: its own data set, net, loss, metric, statistic, callback and target."""
    folder = tmp_path / "study"
    shutil.copytree(ROOT / "tests" / "integration" / "house", folder, ignore=shutil.ignore_patterns("__pycache__"))
    own = ("dataset=graded", "model=both", "metrics=rps", "callbacks=weight_norm", "statistics=spread")
    rest = ("seed=0,1", "sweep.name=house", "max_epochs=1", "trainer=cpu", "tracking.system_metrics=false")
    done = fresh(folder, "--config-dir", "conf", "-m", *own, *rest, python=python).expect()
    assert "over 2 trials." in done.stdout
    first, _ = trials(folder)
    trust = "trust=housestudy"
    for words in (("evaluate", f"run={first.info.run_id}", "split=val", trust), ("report", "sweep=house", trust)):
        command, *arguments = words
        printed = subprocess.run(
            [python, "-m", f"ecgexp.{command}", *arguments], cwd=folder, check=True, capture_output=True, text=True
        ).stdout
        assert "grade_error" in printed


def test_a_mistake_in_ones_own_configuration_is_one_sentence(tmp_path, python):
    folder = own_folder(tmp_path / "study")
    asked = ("--config-dir", "conf", "model=mynet", "dataset=noise")
    for mistake, words in (
        ("+loss.gama=1", "loss.gama"),
        ("+dataset.colour=red", "dataset.colour"),
        ("dataset.records=many", "dataset.records"),
        ("model._target_=ownstudy.nets.Missing", "ownstudy.nets.Missing"),
    ):
        done = fresh(folder, *asked, mistake, python=python)
        assert done.status != 0
        assert words in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1


# What a notebook does with the libraries, none of which needs more than the base install.
LIBRARIES = """
import numpy as np
import torch
from ecgexp.fast import speed_up
from ecgexp.losses import BinaryCrossEntropy
from ecgexp.metrics import MLCM, mlcm_report
from ecgexp.models import Rajpurkar
from ecgexp.statistics import bootstrap, score_in_blocks, variance_components
from ecgexp.targets import MultiLabel

torch.manual_seed(0)
targets = torch.tensor([[1, 0], [0, 1], [1, 1], [0, 0]])
logits = speed_up(Rajpurkar(leads=2, samples=256, outputs=2))(torch.randn(4, 2, 256))
BinaryCrossEntropy()(logits, targets.float()).backward()
metric = MLCM(num_labels=2)
metric.update(logits.sigmoid().detach(), targets)
assert 0 <= mlcm_report(metric.compute()).averages["f1_macro"] <= 1
target = MultiLabel(["AF", "SB"])
measured = target.measure(target.activation()(logits.detach()), targets)
assert measured.metrics["mlcm_f1_macro"] == mlcm_report(metric.compute()).averages["f1_macro"]
hits = np.arange(100) % 4 > 0
scorer = lambda weights: score_in_blocks([lambda block: block @ hits / block.sum(axis=1)], weights)
found = bootstrap([scorer], np.ones((100, 0)), np.arange(100) // 2, ["accuracy"], resamples=50)
assert found.scores["accuracy"].values == 0.75
assert variance_components({"a": [0.1, 0.2], "b": [0.3, 0.4]}).within_sd > 0
"""


def test_the_libraries_work_without_the_framework(base, tmp_path):
    run(sys.executable, "-m", "pip", "--python", base, "check")
    subprocess.run([base, "-c", LIBRARIES], cwd=tmp_path, check=True, capture_output=True, text=True)


@pytest.mark.parametrize(
    "command",
    [
        ("-m", "ecgexp", "-m", "lr=0.1,0.2"),
        ("-m", "ecgexp", "--help"),
        ("ecgexp",),
        ("-m", "ecgexp.evaluate", "run=1", "split=val"),
        ("-m", "ecgexp.predict", "run=1", "record=a"),
        ("-m", "ecgexp.report"),
        ("-m", "ecgexp.tracking"),
        ("-m", "ecgexp.datasets.download"),
    ],
    ids=" ".join,
)
def test_without_the_framework_a_command_names_the_missing_packages_in_a_sentence(base, tmp_path, command):
    words = [base, *command] if command[0] == "-m" else [base.with_name(command[0]), *command[1:]]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    (sentence,) = done.stderr.splitlines()
    assert sentence.startswith("This command needs packages that are not installed (hydra, ")
    assert sentence.endswith("run pip install 'ecgexp[train]'.")
    assert list(tmp_path.iterdir()) == []
