"""A resumed training gives the same result as an uninterrupted one, bit for bit on a CPU."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from mlflow import MlflowClient

from ecgexp import CONF
from ecgexp.config.resolvers import register_resolvers
from ecgexp.errors import UserError
from ecgexp.sweeps.trial_process import Interrupted
from ecgexp.training.callbacks import Checkpoints, _write
from ecgexp.training.module import TrainingModule
from ecgexp.trials.job import Job
from ecgexp.trials.run import run_trial

# Small, with dropout, and so hasty that validation gets worse, the plateau fires and patience ends.
HASTY = (
    "dataset.records=200",
    "model.width=4",
    "model.depth=2",
    "lr=0.03",
    "batch_size=16",
    "early_stopping.patience=3",
    "max_epochs=40",
    "trainer.threads=1",
    "trainer.accelerator=cpu",
    "tracking.system_metrics=false",
    "tracking.log_model=none",
)


@pytest.fixture
def train(tmp_path, monkeypatch):
    register_resolvers()
    monkeypatch.chdir(tmp_path)

    def run(root: str, *overrides: str):
        with initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = compose("config", [*HASTY, f"tracking.root={root}", *overrides])
        job = Job([], {"model": "ribeiro", "dataset": "synthetic"}, str(tmp_path), str(tmp_path), 0, None, False)
        return run_trial(cfg, job)

    return run


def recorded(root: Path, run_id: str):
    client = MlflowClient(f"sqlite:///{root / 'mlruns' / 'mlflow.db'}")
    run = client.get_run(run_id)
    history = {
        key: [(point.step, point.value) for point in client.get_metric_history(run_id, key)]
        for key in run.data.metrics
        if "seconds" not in key
    }
    weights = torch.load(client.download_artifacts(run_id, "weights.pt"), weights_only=True)
    return run, history, weights


def assert_equal(one, other):
    assert one[1] == other[1]
    assert one[2].keys() == other[2].keys()
    assert all(torch.equal(one[2][key], other[2][key]) for key in one[2])


def interrupt_after_checkpoint(monkeypatch, epoch: int):
    saved = Checkpoints.on_train_epoch_end

    def save_and_leave(self, trainer, module):
        saved(self, trainer, module)
        if trainer.current_epoch == epoch:
            raise Interrupted(143)

    monkeypatch.setattr(Checkpoints, "on_train_epoch_end", save_and_leave)


def interrupt_in_step(monkeypatch, epoch: int, step: int):
    original = TrainingModule.training_step

    def leave(self, batch, batch_idx):
        if (self.current_epoch, batch_idx) == (epoch, step):
            raise Interrupted(143)
        return original(self, batch, batch_idx)

    monkeypatch.setattr(TrainingModule, "training_step", leave)


@pytest.mark.slow
def test_interrupted_after_every_epoch_it_ends_equal(tmp_path, monkeypatch, train):
    plateau = "scheduler.schedule.patience=1"
    whole = recorded(tmp_path / "whole", train("whole", plateau).run_id)
    validation = [value for _, value in whole[1]["val/loss"]]
    rates = [value for _, value in whole[1]["lr"]]
    epochs = len(validation)
    assert 4 < epochs < 40, "early stopping has to trigger"
    assert len(set(rates)) > 1, "the plateau has to fire"
    assert max(validation[1:]) > validation[0] or validation.index(min(validation)) < epochs - 1
    for epoch in range(epochs):
        with monkeypatch.context() as patch:
            interrupt_after_checkpoint(patch, epoch)
            with pytest.raises(Interrupted):
                train("broken", plateau)
    resumed = recorded(tmp_path / "broken", train("broken", plateau).run_id)
    assert resumed[0].info.status == "FINISHED"
    assert resumed[0].data.tags["attempts"] == str(epochs + 1)
    assert_equal(resumed, whole)


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        ("scheduler=one_cycle", "optimizer=sgd"),
        ("scheduler=cosine", "optimizer=rmsprop"),
        ("scheduler=none", "optimizer=adamw", "monitor=val/mlcm_f1_macro"),
    ],
    ids=lambda overrides: overrides[0],
)
def test_interrupted_again_and_again_it_ends_equal(tmp_path, monkeypatch, train, overrides):
    overrides = ("max_epochs=6", "early_stopping.patience=null", *overrides)
    whole = recorded(tmp_path / "whole", train("whole", *overrides).run_id)
    for epoch, step in [(0, 3), (1, 0), (3, 5), (5, 2)]:
        with monkeypatch.context() as patch:
            interrupt_in_step(patch, epoch, step)
            with pytest.raises(Interrupted):
                train("broken", *overrides)
    resumed = recorded(tmp_path / "broken", train("broken", *overrides).run_id)
    assert resumed[0].data.tags["attempts"] == "5"
    assert_equal(resumed, whole)


@pytest.mark.slow
def test_interrupted_where_not_each_epoch_was_worth_writing_it_ends_equal(tmp_path, monkeypatch, train):
    whole = recorded(tmp_path / "whole", train("whole", "max_epochs=6").run_id)
    create = Checkpoints.__init__
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "__init__", lambda self, *args: create(self, *args[:3], share=1e-9))
        interrupt_in_step(patch, 4, 2)
        with pytest.raises(Interrupted):
            train("broken", "max_epochs=6")
    (state,) = (tmp_path / "broken" / "mlruns" / "checkpoints").glob("*/last.ckpt")
    assert torch.load(state, weights_only=True)["epoch"] == 0 < int(whole[0].data.tags["best_epoch"])
    resumed = recorded(tmp_path / "broken", train("broken", "max_epochs=6").run_id)
    assert_equal(resumed, whole)


@pytest.mark.slow
def test_a_damaged_checkpoint_starts_the_trial_again_and_is_no_failure_of_it(tmp_path, monkeypatch, train):
    whole = recorded(tmp_path / "whole", train("whole", "max_epochs=3").run_id)
    with monkeypatch.context() as patch:
        interrupt_in_step(patch, 2, 1)
        with pytest.raises(Interrupted):
            train("broken", "max_epochs=3")
    (state,) = (tmp_path / "broken" / "mlruns" / "checkpoints").glob("*/last.ckpt")
    state.write_bytes(state.read_bytes()[:-1000])
    resumed = recorded(tmp_path / "broken", train("broken", "max_epochs=3").run_id)
    assert resumed[0].info.status == "FINISHED"
    assert resumed[0].data.tags["attempts"] == "1"
    assert resumed[0].data.tags["restarted"] == "its checkpoint was damaged"
    assert_equal(resumed, whole)


@pytest.mark.slow
def test_the_final_weights_are_the_best_whether_or_not_they_were_written(tmp_path, monkeypatch, train):
    whole = recorded(tmp_path / "whole", train("whole", "max_epochs=6").run_id)
    create = Checkpoints.__init__
    monkeypatch.setattr(Checkpoints, "__init__", lambda self, *args: create(self, *args[:3], share=1e-9))
    assert_equal(recorded(tmp_path / "rare", train("rare", "max_epochs=6").run_id), whole)


@pytest.mark.slow
def test_a_finished_single_trial_is_trained_again_and_is_equal(tmp_path, train):
    first = recorded(tmp_path / "same", train("same", "max_epochs=2").run_id)
    second = recorded(tmp_path / "same", train("same", "max_epochs=2").run_id)
    assert first[0].info.run_id != second[0].info.run_id
    assert_equal(first, second)


@pytest.mark.slow
def test_a_full_disk_is_reported_and_does_not_change_the_last_checkpoint(tmp_path, monkeypatch, train):
    saved = Checkpoints.on_train_epoch_end

    def save_to_a_full_disk(self, trainer, module):
        if trainer.current_epoch == 1:
            (self.folder / "last.ckpt.part").symlink_to("/dev/full")
        saved(self, trainer, module)

    monkeypatch.setattr(Checkpoints, "on_train_epoch_end", save_to_a_full_disk)
    with pytest.raises(UserError, match=r"last\.ckpt cannot be written: .*No space left"):
        train("full", "max_epochs=3")
    (state,) = (tmp_path / "full" / "mlruns" / "checkpoints").glob("*/last.ckpt")
    assert torch.load(state, weights_only=True)["epoch"] == 0


@pytest.mark.slow
def test_a_trial_interrupted_while_it_writes_its_checkpoint_is_killed_and_resumed(tmp_path, monkeypatch, train):
    whole = recorded(tmp_path / "whole", train("whole", "max_epochs=3").run_id)
    save = torch.save

    class Stopped(io.BytesIO):
        def write(self, content):
            if self.tell():
                raise Interrupted(143)
            return super().write(content)

    def stop(content, file):
        save(content, Stopped() if content.get("epoch") == 1 else file)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", stop)
        with pytest.raises(Interrupted):
            train("broken", "max_epochs=3")
    client = MlflowClient(f"sqlite:///{tmp_path / 'broken' / 'mlruns' / 'mlflow.db'}")
    (run,) = client.search_runs(["1"])
    assert run.info.status == "KILLED"
    assert_equal(recorded(tmp_path / "broken", train("broken", "max_epochs=3").run_id), whole)


@pytest.mark.parametrize("context", [None, ValueError("something else")])
def test_an_error_of_torch_itself_in_a_write_is_not_replaced(tmp_path, monkeypatch, context):
    error = RuntimeError("what torch says")
    error.__context__ = context

    def fail(content, file):
        raise error

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(RuntimeError, match="what torch says"):
        _write({}, tmp_path / "last.ckpt")
    assert not list(tmp_path.iterdir())


LONG_AGO = {"process_started": "1.0", "heartbeat": "1.0"}


@pytest.mark.slow
@pytest.mark.parametrize("host", ["here", "elsewhere"])
def test_a_run_whose_process_died_does_not_stay_running_and_is_gone_on_with(tmp_path, monkeypatch, train, host):
    whole = recorded(tmp_path / "whole", train("whole", "max_epochs=3").run_id)
    with monkeypatch.context() as patch:
        interrupt_in_step(patch, 2, 1)
        with pytest.raises(Interrupted):
            train("killed", "max_epochs=3")
    client = MlflowClient(f"sqlite:///{tmp_path / 'killed' / 'mlruns' / 'mlflow.db'}")
    (run,) = client.search_runs(["1"])
    # As SIGKILL leaves it: running, in the name of a process that is no more.
    client.update_run(run.info.run_id, status="RUNNING")
    for key, value in (LONG_AGO | {"host": host if host == "elsewhere" else run.data.tags["host"]}).items():
        client.set_tag(run.info.run_id, key, value)
    resumed = recorded(tmp_path / "killed", train("killed", "max_epochs=3").run_id)
    assert resumed[0].info.run_id == run.info.run_id
    assert_equal(resumed, whole)


@pytest.mark.parametrize("wrong", ["objective=best/val/f1/NOPE", "monitor=val/mlcm_f1/NOPE"])
def test_a_metric_of_a_label_that_the_data_lack_is_refused_before_training(train, wrong):
    with pytest.raises(UserError, match="the labels are NORM, STTC, CD, MI, HYP"):
        train("refused", wrong)
