"""A trial that starts from trained weights and is interrupted: resumed, or told why not."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from mlflow import MlflowClient

from ecgexp import CONF
from ecgexp.config.resolvers import register_resolvers
from ecgexp.errors import UserError
from ecgexp.models import Ribeiro
from ecgexp.sweeps.trial_process import Interrupted
from ecgexp.tracking.names import File, Tag
from ecgexp.training.callbacks import Checkpoints
from ecgexp.trials.job import Job
from ecgexp.trials.run import run_trial

pytestmark = pytest.mark.slow

SMALL = (
    *("dataset.records=120", "model.width=4", "model.depth=1", "model.kernel=5", "max_epochs=4", "batch_size=16"),
    *("trainer.threads=1", "trainer.accelerator=cpu", "tracking.system_metrics=false", "tracking.log_model=none"),
)
START = ("init.run=source", "init.freeze=[stem]")


@pytest.fixture
def train(tmp_path, monkeypatch):
    register_resolvers()
    monkeypatch.chdir(tmp_path)

    def run(root: str, *overrides: str) -> str:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = compose("config", [*SMALL, f"tracking.root={root}", *overrides])
        job = Job([], {"model": "ribeiro", "dataset": "synthetic"}, str(tmp_path), str(tmp_path), 0, None, False)
        return run_trial(cfg, job).run_id

    (tmp_path / "source").mkdir()
    torch.manual_seed(1)
    net = Ribeiro(outputs=12, width=4, depth=1, kernel=5)
    torch.save(
        {f"net.{name}": value + 1 for name, value in net.state_dict().items()}, tmp_path / "source" / File.WEIGHTS
    )
    return run


def client(root: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{root / 'mlruns' / 'mlflow.db'}")


def artifacts(run_id: str, root: Path) -> Path:
    return root / "mlruns" / "artifacts" / run_id / "artifacts"


def weights(run_id: str, root: Path) -> dict[str, torch.Tensor]:
    return torch.load(artifacts(run_id, root) / File.WEIGHTS, weights_only=True)


def change(folder: Path) -> None:
    """Train the source again, as far as its file tells."""
    state = torch.load(folder / File.WEIGHTS, weights_only=True)
    torch.save({name: value + 1 for name, value in state.items()}, folder / File.WEIGHTS)


@pytest.fixture
def interrupted(tmp_path, train, monkeypatch) -> str:
    """Id of a run that was interrupted after its second epoch."""
    saved = Checkpoints.on_train_epoch_end

    def save_and_leave(self, trainer, module):
        saved(self, trainer, module)
        if trainer.current_epoch == 1:
            raise Interrupted(143)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "on_train_epoch_end", save_and_leave)
        with pytest.raises(Interrupted):
            train("broken", *START)
    store = client(tmp_path / "broken")
    (run,) = store.search_runs([one.experiment_id for one in store.search_experiments()])
    assert run.info.status == "KILLED"
    return run.info.run_id


def test_it_ends_as_if_it_had_not_been_interrupted(tmp_path, train, interrupted):
    whole = weights(train("whole", *START), tmp_path / "whole")
    assert train("broken", *START) == interrupted
    resumed = weights(interrupted, tmp_path / "broken")
    assert client(tmp_path / "broken").get_run(interrupted).data.tags[Tag.ATTEMPTS] == "2"
    assert all(torch.equal(resumed[name], value) for name, value in whole.items())
    before = torch.load(tmp_path / "source" / File.WEIGHTS, weights_only=True)
    stem = [name for name in before if name.startswith("net.stem")]
    assert len(stem) == 7 and all(torch.equal(resumed[name], before[name]) for name in stem)


def test_wherever_the_same_weights_are_it_is_resumed(tmp_path, train, interrupted):
    shutil.copytree(tmp_path / "source", tmp_path / "moved")
    assert train("broken", "init.run=moved", "init.freeze=[stem]") == interrupted


def test_other_weights_under_the_same_name_are_told_and_the_trial_starts_anew(tmp_path, train, interrupted, capsys):
    change(tmp_path / "source")
    again = train("broken", *START)
    assert again != interrupted
    tags = client(tmp_path / "broken").get_run(again).data.tags
    assert f"Run {interrupted} of this trial began from other weights of the same name" in capsys.readouterr().err
    assert tags[Tag.RESTARTED].startswith("init.run has other weights")
    assert tags[Tag.INIT_WEIGHTS] != client(tmp_path / "broken").get_run(interrupted).data.tags[Tag.INIT_WEIGHTS]


def test_weights_that_have_vanished_are_told_with_the_run_that_needs_them(tmp_path, train, interrupted):
    shutil.rmtree(tmp_path / "source")
    with pytest.raises(UserError, match=f"'source', which gives no weights: .* Run {interrupted}, which began from it"):
        train("broken", *START)


def test_another_pattern_is_another_trial(train, interrupted):
    assert train("broken", "init.run=source", "init.freeze=[stem.0]") != interrupted
    assert train("broken", "init.run=source", "init.freeze=[stem]", "init.reset=[head]") != interrupted
