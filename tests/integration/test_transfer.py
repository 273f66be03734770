"""Trials that start from trained weights, from the command line: what is loaded, told, kept, and refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
import warm
from commands import SMALL as LITTLE
from commands import (
    Done,
    all_runs,
    artifact,
    artifact_names,
    best_metrics,
    ecgexp,
    once,
    store_client,
    trials,
    weights,
)
from hydra import compose, initialize_config_dir
from mlflow.entities import Run

from ecgexp import CONF
from ecgexp.config.resolvers import register_resolvers
from ecgexp.config.schema import check
from ecgexp.errors import UserError
from ecgexp.tracking.restore import read_source
from ecgexp.trials.identity import cell
from ecgexp.trials.start import check_starts

pytestmark = pytest.mark.slow

SMALL = (*LITTLE, "dataset.records=100")
NET = ("model=ribeiro", "model.width=4", "model.depth=2", "model.kernel=5")
TWO = ("trainer=ddp", "trainer.accelerator=cpu")  # processes
LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")


@pytest.fixture(scope="module")
def many(session_folder) -> Done:
    """A net of all 71 labels."""
    return once(session_folder, "many", lambda folder: ecgexp(folder, *SMALL, *NET, "dataset.labels=all")).expect()


@pytest.fixture
def folder(tmp_path, many) -> Path:
    """A copy of that store and its data."""
    copied = tmp_path / "study"
    shutil.copytree(many.folder, copied)
    return copied


def source(folder: Path) -> Run:
    return next(run for run in all_runs(folder) if run.data.params["dataset.labels"] == "all")


def latest(folder: Path) -> Run:
    return all_runs(folder)[-1]


def files(folder: Path, run: Run) -> Path:
    return folder / "mlruns" / "artifacts" / run.info.run_id / "artifacts"


def net(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value for name, value in state.items() if name.startswith("net.")}


def equal(folder: Path, run: Run) -> set[str]:
    """Names of weights and statistics that are as the source has them."""
    before, after = net(weights(folder, source(folder))), net(weights(folder, run))
    fits = {name for name in after if before[name].shape == after[name].shape}
    return {name for name in fits if torch.equal(before[name], after[name])}


@pytest.mark.parametrize("how", [("fast=false",), ("precision=bf16-mixed", *TWO)])
def test_71_labels_to_5_with_a_frozen_beginning(folder, how):
    run_id = source(folder).info.run_id
    done = ecgexp(folder, *SMALL, *NET, f"init.run={run_id}", "init.freeze=[stem,blocks.0]", *how).expect()
    run = latest(folder)
    names = set(net(weights(folder, run)))
    frozen = {name for name in names if name.startswith(("net.stem.", "net.blocks.0."))}
    assert equal(folder, run) == frozen
    trained = sum(value.numel() for name, value in weights(folder, run).items()
                  if name in names - frozen and "running" not in name and "num_batches" not in name)  # fmt: skip
    assert run.data.metrics["trained_parameters"] == trained < run.data.metrics["parameters"]
    note = run.data.tags["init_note"]
    assert done.stderr.count(note) == 1
    assert f"Starts from run {run_id}" in note
    assert "Anew: head (head.weight is 5 x" in note and "and 71 x" in note
    assert f"{trained:,} of " in note
    listed = json.loads(artifact(folder, run, "init.json").read_text())
    assert (listed["run"], listed["weights"]) == (run_id, run.data.tags["init_weights"])
    assert set(listed["anew"]) == {"head"}
    assert {f"net.{name}" for name in listed["frozen"]} == frozen
    assert "labels" in json.loads(artifact(folder, run, "data.json").read_text())


def test_the_net_begins_with_the_weights_and_a_folder_of_weights_alone_says_that_nothing_is_compared(folder):
    alone = folder / "alone"
    alone.mkdir()
    shutil.copy(files(folder, source(folder)) / "weights.pt", alone)
    # A learning rate that changes nothing that float32 can tell
    still = ("lr=1e-30", "optimizer=sgd", "max_epochs=1")
    done = ecgexp(folder, *SMALL, *NET, f"init.run={alone}", *still).expect()
    run = latest(folder)
    moved = {"running_mean", "running_var", "num_batches_tracked"}  # not frozen
    names = {name for name in net(weights(folder, run)) if name.rpartition(".")[2] not in moved}
    assert equal(folder, run) == {name for name in names if not name.startswith("net.head")}
    assert "does not say which records the weights were trained on, so nothing is compared" in done.stderr
    assert "init_run" not in run.data.tags
    assert "init.json" in artifact_names(folder, run)


def test_what_it_gives_can_be_evaluated_predicted_exported_and_started_from(folder):
    run_id = source(folder).info.run_id
    ecgexp(folder, *SMALL, *NET, f"init.run={run_id}", "init.freeze=[stem]", "tracking.log_model=best").expect()
    run = latest(folder)
    models = store_client(folder).search_logged_models([run.info.experiment_id])
    assert [model.source_run_id for model in models] == [run.info.run_id]
    done = warm.run("ecgexp.evaluate", folder, f"run={run.info.run_id}", "split=val")
    assert done.returncode == 0, done.stderr
    again = all_runs(folder)[-1].data.metrics["val/loss"]
    assert again == pytest.approx(best_metrics(run)["loss"], abs=1e-5)
    (record, *_) = sorted((folder / "data").rglob("*_lr.hea"))
    done = warm.run("ecgexp.predict", folder, f"run={run.info.run_id}", f"record={record.with_suffix('')}")
    assert done.returncode == 0, done.stderr
    ecgexp(folder, *SMALL, *NET, f"init.run={run.info.run_id}", "init.freeze=[blocks]", "init.reset=[stem]").expect()
    assert (
        "Anew: stem.0 (init.reset names it), stem.1.0 (init.reset names it)." in latest(folder).data.tags["init_note"]
    )


def test_a_sweep_over_sources_has_a_row_for_each_and_the_same_weights_are_one_training(folder):
    run = source(folder)
    copied = folder / "elsewhere"
    shutil.copytree(files(folder, run), copied)
    sweep = ("-m", *SMALL, "max_epochs=1", *NET, f"init.run={run.info.run_id},{copied}", "init.freeze=[],[stem]")
    done = ecgexp(folder, *sweep).expect()
    rows = trials(folder)
    assert len(rows) == 4
    by_freeze: dict[str, set[str]] = {}
    for row in rows:
        overrides = dict(text.split("=", 1) for text in json.loads(row.data.tags["overrides"]))
        by_freeze.setdefault(overrides["init.freeze"], set()).add(row.data.tags["identity"])
    assert [len(found) for found in by_freeze.values()] == [1, 1]
    assert sum("reused_from" in row.data.tags for row in rows) == 2
    assert "Starts from" in done.stdout
    report = warm.run("ecgexp.report", folder)
    assert report.returncode == 0, report.stderr
    (page,) = (folder / "reports").glob("*/report.html")
    assert "Anew: head" in page.read_text()
    before = len(all_runs(folder))
    ecgexp(folder, *sweep).expect()
    assert len(all_runs(folder)) == before, "the same command trains nothing again"


def test_without_init_a_trial_is_the_one_that_it_was_before_there_was_such_a_key():
    config = {"dataset": {}, "trainer": {}, "lr": 0.1}
    assert cell({**config, "init": {"run": None, "freeze": [], "reset": []}}) == cell(config)
    assert cell({**config, "init": {"run": "a", "freeze": [], "reset": []}}) != cell(config)


def own_records(folder: Path, leads: tuple[str, ...]) -> tuple[str, ...]:
    """The generated records as a user's own folder of records, with two labels."""
    (root,) = (folder / "data" / "synthetic").glob("v*")
    records = sorted(path.with_suffix("").relative_to(root) for path in root.rglob("*_lr.hea"))[:80]
    table = pd.DataFrame({"record": map(str, records)})
    table["A"], table["B"] = table.index % 2, table.index % 3 == 0
    table.astype({"B": int}).to_csv(root / "labels.csv", index=False)
    named = f"dataset.lead_names=[{','.join(leads)}]"
    return ("dataset=wfdb", f"dataset.root={root}", "dataset.labels=[A,B]", named)


def test_records_of_ones_own_of_another_rate_and_length_start_from_the_convolutions(folder):
    small = [word for word in SMALL if not word.startswith("dataset")]
    own = (*own_records(folder, LEADS), "dataset.sampling_rate=125", "dataset.samples=600")
    done = ecgexp(folder, *small, *NET, *own, f"init.run={source(folder).info.run_id}", "init.freeze=[stem]").expect()
    run = latest(folder)
    assert {name for name in equal(folder, run) if name.startswith("net.stem")} == {
        name for name in net(weights(folder, run)) if name.startswith("net.stem")
    }
    assert (
        "The data differ from those of the source: samples 600, there 1000; rate 125 Hz, there 100 Hz." in done.stderr
    )
    assert run.data.tags["init_note"] in done.stderr


def test_as_many_leads_in_another_order_are_refused(folder):
    small = [word for word in SMALL if not word.startswith("dataset")]
    own = own_records(folder, ("II", "I", *LEADS[2:]))
    done = ecgexp(folder, *small, *NET, *own, f"init.run={source(folder).info.run_id}").expect(1)
    assert "the data have them in another order, II, I, III" in done.stderr and "Traceback" not in done.stderr


def test_validation_records_that_the_source_was_trained_on_are_told_and_test_records_refused(folder):
    run_id = source(folder).info.run_id
    done = ecgexp(folder, *SMALL, *NET, f"init.run={run_id}", "dataset.val_fold=1", "dataset.test_fold=2").expect()
    assert "so that scores in validation are too high" in done.stderr
    run = latest(folder)
    done = warm.run("ecgexp.evaluate", folder, f"run={run.info.run_id}", "split=test")
    assert done.returncode == 1
    assert "test records were trained on" in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("init.run=0123abcd",), "There is no run 0123abcd"),
        (("init.run=models:/none/1",), "There is no models:/none/1"),
        (("init.run=nowhere/at/all",), "is not a folder"),
        (("init.freeze=[stem]",), "there are no weights to start from"),
        (("init.run=SOURCE", "init.freeze=[conv]"), "'conv', which is no part of the net"),
        (("init.run=SOURCE", "init.freeze=stem"), "'init.freeze'"),
        (("init.run=SOURCE", "+init.froze=[stem]"), "Unknown config key 'init.froze'"),
        (("init.run=SOURCE", "init.freeze=[*]", "dataset.labels=all"), "leaves nothing to train"),
        (("init.run=SOURCE", "model=linear"), "Nothing of these weights can be loaded"),
    ],
)
def test_what_cannot_be_is_refused_before_a_run_begins(many, monkeypatch, words, said):
    monkeypatch.chdir(many.folder)
    register_resolvers()
    net = [] if "model=linear" in words else NET
    given = [*SMALL, *net, *(word.replace("SOURCE", source(many.folder).info.run_id) for word in words)]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", given)
    with pytest.raises(UserError) as refused:
        check(cfg)
        check_starts([cfg])
    assert said in str(refused.value)


def test_each_value_of_a_sweep_is_tried_before_its_first_trial(folder):
    before, run_id = len(all_runs(folder)), source(folder).info.run_id
    done = ecgexp(folder, "-m", *SMALL, *NET, f"init.run={run_id}", "init.reset=[],[tail]").expect(1)
    assert "'tail', which is no part of the net" in done.stderr and "Traceback" not in done.stderr
    assert len(all_runs(folder)) == before


def test_the_folder_of_a_stranger_is_read_as_tensors_and_its_config_builds_nothing(folder):
    run = source(folder)
    strange = folder / "strange"
    shutil.copytree(files(folder, run), strange)
    (strange / "checksums.txt").unlink()
    text = (strange / "config.yaml").read_text()
    (strange / "config.yaml").write_text(text.replace("ecgexp.models.Ribeiro", "os.system"))
    ecgexp(folder, *SMALL, *NET, f"init.run={strange}").expect()
    torch.save({"net.stem.0.weight": Trap()}, strange / "weights.pt")
    with pytest.raises(UserError, match="something other than weights"):
        read_source(strange)
    assert not Path("trapped").exists()


class Trap:
    """Unpickling it would make a folder."""

    def __reduce__(self):
        return (Path.mkdir, (Path("trapped"),))
