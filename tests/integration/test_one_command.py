"""What `python -m ecgexp -m optimizer=sgd,adam lr=0.001,0.01` leaves behind, read through MLflow."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from commands import (
    LABELS,
    METRICS,
    PARENT,
    all_runs,
    artifact,
    artifact_names,
    best_metrics,
    config,
    history,
    only,
    parents,
    predictions,
    published_mlcm,
    store_client,
    trials,
    weights,
)
from omegaconf import OmegaConf
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

EPOCHS = 2
PNG = b"\x89PNG\r\n"


@pytest.fixture
def folder(sentence):
    return sentence.folder


def leaves(values, prefix=""):
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(value)


def test_one_parent_and_its_four_trials_are_finished(folder):
    parent = only(parents(folder))
    assert [run.data.tags[PARENT] for run in trials(folder)] == [parent.info.run_id] * 4
    assert {run.info.status for run in all_runs(folder)} == {"FINISHED"}
    assert {(run.data.params["optimizer._target_"], run.data.params["lr"]) for run in trials(folder)} == {
        (f"torch.optim.{optimizer}", lr) for optimizer in ("SGD", "Adam") for lr in ("0.001", "0.01")
    }
    assert "optimizer=sgd,adam lr=0.001,0.01" in parent.info.run_name


def test_runs_are_in_the_store_of_the_folder_the_command_was_started_in(folder):
    client = store_client(folder)
    for run in all_runs(folder):
        assert Path(run.info.artifact_uri.removeprefix("file://")).is_relative_to(folder / "mlruns" / "artifacts")
    experiment = client.get_experiment(all_runs(folder)[0].info.experiment_id)
    for model in client.search_logged_models([experiment.experiment_id]):
        place = Path(model.artifact_location.removeprefix("file://"))
        assert place.is_relative_to(folder / "mlruns" / "artifacts")


def test_every_metric_has_a_point_per_epoch_and_a_value_for_the_best_weights(folder):
    for run in trials(folder):
        for split in ("train", "val"):
            for name in METRICS:
                assert len(history(folder, run, f"{split}/{name}")) == EPOCHS, name
            assert set(METRICS) <= best_metrics(run, split).keys()


def test_the_saved_weights_are_those_of_the_best_epoch(folder):
    for run in trials(folder):
        losses = history(folder, run, "val/loss")
        best = int(np.argmin(losses))
        assert run.data.metrics["best/val/loss"] == pytest.approx(losses[best], rel=1e-5)
        at_best = history(folder, run, "val/mlcm_f1_macro")[best]
        assert run.data.metrics["best/val/mlcm_f1_macro"] == pytest.approx(at_best, rel=1e-5)


def test_parameters_are_the_whole_composed_configuration(folder):
    for run in trials(folder):
        flat = dict(leaves(OmegaConf.to_container(config(folder, run), resolve=True)))
        assert run.data.params == flat
        assert {"dataset.records", "model.width", "scheduler.interval", "tracking.root", "seed"} <= flat.keys()


def test_tags_name_the_choice_of_every_group_and_where_the_result_comes_from(folder):
    def commit(*arguments):
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    for run in trials(folder):
        tags = run.data.tags
        groups = ("dataset", "model", "loss", "scheduler", "trainer", "tracking")
        chosen = {group: tags[group] for group in groups}
        expected = ("synthetic", "ribeiro", "bce", "plateau", "cpu", "local")
        assert chosen == dict(zip(groups, expected, strict=True))
        assert f"optimizer={tags['optimizer']}" in json.loads(tags["overrides"])
        assert tags["git_commit"] == commit("rev-parse", "HEAD")
        assert tags["git_dirty"] == "false"
        assert (tags["seed"], tags["precision"], tags["threads"], tags["device"]) == ("0", "32", "1", "cpu")
        assert tags["host"]
    assert len({run.data.tags["dataset_fingerprint"] for run in trials(folder)}) == 1
    assert len({run.data.tags["config_hash"] for run in trials(folder)}) == 4


def test_each_trial_records_its_configuration_overrides_and_environment(folder):
    for run in trials(folder):
        cfg = config(folder, run)
        overrides = list(OmegaConf.load(artifact(folder, run, "overrides.yaml")))
        assert f"lr={cfg.lr}" in overrides
        assert overrides == json.loads(run.data.tags["overrides"])
        packages = artifact(folder, run, "environment.txt").read_text().splitlines()
        assert f"torch=={torch.__version__}" in packages
        assert f"mlflow=={mlflow.__version__}" in packages
        assert {"mlcm_val.png", "learning_curves.png"} <= artifact_names(folder, run)
        for picture in ("mlcm_val.png", "learning_curves.png"):
            assert artifact(folder, run, picture).read_bytes().startswith(PNG)


def test_predictions_name_each_validation_record_and_give_the_reported_metrics(folder):
    database = pd.read_csv(next(folder.glob("data/synthetic/*/ptbxl_database.csv")), dtype={"ecg_id": str})
    fold = database.set_index("ecg_id").strat_fold
    for run in trials(folder):
        ids, true, probability, labels = predictions(folder, run)
        assert tuple(labels) == LABELS
        assert ids.is_unique
        assert (fold[ids] == 9).all()
        found = best_metrics(run)
        predicted = probability > 0.5
        clipped = probability.astype(float).clip(1e-7, 1 - 1e-7)
        expected = {
            "loss": -np.where(true == 1, np.log(clipped), np.log1p(-clipped)).mean(),
            "subset_accuracy": (predicted == true).all(axis=1).mean(),
            "binary_accuracy": (predicted == true).mean(),
            "keras_accuracy": (probability.argmax(axis=1) == true.argmax(axis=1)).mean(),
            "auroc_macro": roc_auc_score(true, probability, average="macro"),
            "ap_macro": average_precision_score(true, probability, average="macro"),
        }
        single = f1_score(true, predicted, average=None, zero_division=0)
        expected |= {f"f1/{label}": value for label, value in zip(labels, single, strict=True)}
        for name, value in expected.items():
            assert found[name] == pytest.approx(value, abs=1e-5), name


def test_the_confusion_matrix_is_that_of_the_predictions_and_gives_the_reported_f1(folder):
    for run in trials(folder):
        _, true, probability, labels = predictions(folder, run)
        written = pd.read_csv(artifact(folder, run, "mlcm_val.csv"), index_col=0)
        assert list(written.index) == [*labels, "NTL"]
        assert list(written.columns) == [*labels, "NPL"]
        matrix = published_mlcm(true, probability > 0.5)
        np.testing.assert_array_equal(written.to_numpy(), matrix)
        totals = matrix.sum(axis=0) + matrix.sum(axis=1)
        f1 = 2 * np.diag(matrix) / np.maximum(totals, 1)
        found = best_metrics(run)
        assert matrix[-1].sum() == 0  # each record has a label, which leaves NTL out of the mean
        assert found["mlcm_f1_macro"] == pytest.approx(f1[:-1].mean())
        assert found["mlcm_f1_micro"] == pytest.approx(np.trace(matrix) / matrix.sum())
        for label, value in zip(labels, f1, strict=False):
            assert found[f"mlcm_f1/{label}"] == pytest.approx(value)


def test_weights_load_without_pickle(folder):
    for run in trials(folder):
        assert all(isinstance(value, torch.Tensor) for value in weights(folder, run).values())


def test_the_run_of_the_sweep_has_results_table_and_heat_map(folder):
    parent = only(parents(folder))
    assert {"results.csv", "table.txt", "heat_map.png"} <= artifact_names(folder, parent)
    assert artifact(folder, parent, "heat_map.png").read_bytes().startswith(PNG)
    results = pd.read_csv(artifact(folder, parent, "results.csv")).set_index("run_id")
    for run in trials(folder):
        row = results.loc[run.info.run_id]
        assert row["status"] == "FINISHED"
        assert row["optimizer"] == run.data.tags["optimizer"]
        assert row["lr"] == float(run.data.params["lr"])
        for name, value in best_metrics(run).items():
            assert row[f"best/val/{name}"] == pytest.approx(value)


def test_the_terminal_shows_the_table_the_best_trial_and_how_to_open_the_ui(sentence):
    parent = only(parents(sentence.folder))
    table = artifact(sentence.folder, parent, "table.txt").read_text().strip()
    assert table in sentence.stdout
    assert sentence.stdout.count(table) == 1
    best = max(trials(sentence.folder), key=lambda run: run.data.metrics["best/val/mlcm_f1_macro"])
    (line,) = (line for line in sentence.stdout.splitlines() if line.startswith("Best"))
    assert f"optimizer={best.data.tags['optimizer']}" in line
    assert f"lr={best.data.params['lr']}" in line
    assert f"{best.data.metrics['best/val/mlcm_f1_macro']:.4f}" in line
    assert f"sqlite:///{sentence.folder / 'mlruns' / 'mlflow.db'}" in sentence.stdout


def test_each_trial_of_the_table_shows_its_own_values(sentence):
    table = artifact(sentence.folder, only(parents(sentence.folder)), "table.txt").read_text().splitlines()
    for run in trials(sentence.folder):
        cells = (run.data.tags["optimizer"], run.data.params["lr"], f"{run.data.metrics['best/val/mlcm_f1_macro']:.4f}")
        assert sum(set(cells) <= set(line.split()) for line in table) == 1


def test_only_the_best_trial_has_a_logged_model_and_it_answers_like_the_trial(folder, tmp_path):
    client = store_client(folder)
    experiment = all_runs(folder)[0].info.experiment_id
    model = only(client.search_logged_models([experiment]))
    best = max(trials(folder), key=lambda run: run.data.metrics["best/val/mlcm_f1_macro"])
    assert model.source_run_id == best.info.run_id

    place = Path(model.artifact_location.removeprefix("file://"))
    files = [path.name for path in place.rglob("*") if path.is_file()]
    assert "input_example.json" in files
    assert "requirements.txt" in files
    assert not [name for name in files if name.endswith((".pkl", ".pickle", ".pth", ".pt"))]

    mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlruns' / 'mlflow.db'}")
    signature = mlflow.models.get_model_info(model.model_uri).signature
    assert signature.inputs.inputs[0].shape == (-1, 12, 1000)
    assert signature.outputs.inputs[0].shape == (-1, 5)

    from ecgexp.datasets import Synthetic

    data = Synthetic(folder / "data" / "synthetic", cache_dir=tmp_path, records=200, workers=1).load("val")
    signals = torch.from_numpy(data.inputs["signal"][data.rows]).transpose(1, 2).contiguous()
    ids, _, probability, _ = predictions(folder, best)
    assert list(ids) == list(data.ids)
    with torch.no_grad():
        # a copy, since MLflow writes a file beside the model that it loads, and other tests share this folder
        answered = mlflow.pytorch.load_model(model.model_uri, dst_path=str(tmp_path))(signals).numpy()
    np.testing.assert_allclose(answered, probability, atol=1e-6)
