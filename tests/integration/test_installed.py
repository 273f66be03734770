"""A wheel, installed, run in a user's own folder with their own net, loss, optimizer and dataset."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from commands import best_metrics, config, ecgexp, once, only, own_folder, parents, trials
from omegaconf import OmegaConf

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module", autouse=True)
def only_what_is_installed():
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTHONPATH", raising=False)
        yield


@pytest.fixture(scope="module")
def wheel(session_folder, only_what_is_installed):
    """The wheel in an environment of its own, which borrows all other packages but not the checkout."""

    def install(folder):
        def run(*command):
            subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True)

        run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT)
        run(sys.executable, "-m", "venv", "--without-pip", folder / "venv")
        python = folder / "venv" / "bin" / "python"
        (packages,) = (folder / "venv" / "lib").glob("python*/site-packages")
        # The .pth files of a folder that is added so are not read: the editable install stays out.
        (packages / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
        pip = (sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index")
        run(*pip, only(list(folder.glob("*.whl"))))
        return ecgexp(folder / "elsewhere", "--cfg", "job", python=python)

    return once(session_folder, "wheel", install).expect()


@pytest.fixture(scope="module")
def python(wheel):
    return wheel.folder / "venv" / "bin" / "python"


def test_the_wheel_carries_the_configuration_and_only_the_package(wheel):
    with zipfile.ZipFile(only(list(wheel.folder.glob("*.whl")))) as archive:
        names = archive.namelist()
    carried = {name.removeprefix("ecgexp/conf/") for name in names if name.startswith("ecgexp/conf/")}
    assert carried == {str(path.relative_to(ROOT / "conf")) for path in (ROOT / "conf").rglob("*.yaml")}
    assert {name.split("/")[0].split("-")[0] for name in names} <= {"ecgexp", "hydra_plugins"}


def test_it_is_the_installed_package_that_runs(wheel, python):
    code = "import ecgexp; print(ecgexp.__file__)"
    found = subprocess.run([python, "-c", code], cwd=wheel.folder, capture_output=True, text=True, check=True)
    assert Path(found.stdout.strip()).is_relative_to(wheel.folder)


def test_help_and_configuration_are_shown_in_any_folder(wheel, python):
    cfg = OmegaConf.to_container(OmegaConf.create(wheel.stdout), resolve=False)
    assert (cfg["lr"], cfg["model"]["classes"]) == (0.001, "${dataset.classes}")
    assert "optimizer: adam, adamw, rmsprop, sgd" in ecgexp(wheel.folder / "elsewhere", "--help", python=python).stdout


def test_a_users_own_net_loss_optimizer_and_dataset_are_trained(tmp_path, python):
    folder = own_folder(tmp_path / "study")
    own = ("model=mynet", "loss=focal", "optimizer=signs", "dataset=noise")
    rest = ("lr=0.01,0.1", "loss.gamma=1.5", "max_epochs=20", "trainer=cpu", "tracking.system_metrics=false")
    ecgexp(folder, "--config-dir", "conf", "-m", *own, *rest, python=python).expect()
    assert only(parents(folder)).info.status == "FINISHED"
    runs = trials(folder)
    assert [run.info.status for run in runs] == ["FINISHED"] * 2
    for run in runs:
        cfg = config(folder, run)
        assert cfg.model == {"_target_": "ownstudy.nets.Deviations", "leads": 2, "samples": 60, "classes": 2}
        assert cfg.loss == {"_target_": "ownstudy.training.Focal", "gamma": 1.5}
        chosen = [run.data.tags[group] for group in ("model", "loss", "optimizer", "dataset")]
        assert chosen == ["mynet", "focal", "signs", "noise"]
        assert "f1/quiet--not-" in best_metrics(run)
    # The loud lead tells the label: a net that is really trained on these data finds it.
    assert max(best_metrics(run)["auroc_macro"] for run in runs) > 0.9


def test_a_mistake_in_ones_own_configuration_is_one_sentence(tmp_path, python):
    folder = own_folder(tmp_path / "study")
    asked = ("--config-dir", "conf", "model=mynet", "dataset=noise")
    for mistake, words in (
        ("+loss.gama=1", "loss.gama"),
        ("+dataset.colour=red", "dataset.colour"),
        ("dataset.records=many", "dataset.records"),
        ("model._target_=ownstudy.nets.Missing", "ownstudy.nets.Missing"),
    ):
        done = ecgexp(folder, *asked, mistake, python=python)
        assert done.status != 0
        assert words in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
