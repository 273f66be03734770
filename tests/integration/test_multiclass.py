"""Records with exactly one label each, from training over report and evaluation to prediction."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
import warm
import wfdb
from commands import (
    Done,
    artifact,
    artifact_names,
    best_metrics,
    ecgexp,
    history,
    once,
    only,
    parents,
    predictions,
    trials,
)
from sklearn import metrics as oracle

pytestmark = pytest.mark.slow

CLASSES = ("quiet", "left", "right", "both")
SPREAD = {"quiet": (1, 1), "left": (3, 1), "right": (1, 3), "both": (3, 3)}
# Of each class but the last, and of the last.
RECORDS = {"train": (40, 12), "val": (12, 4), "test": (24, 6)}
CONF = """\
defaults:
  - wfdb
  - override /target@_global_.target: multiclass
  - override /loss@_global_.loss: cross_entropy
root: records
labels: [quiet, left, right, both]
label_column: label
lead_names: [A, B]
patient_column: patient
split_column: split
samples: 120
workers: 1
"""
WORDS = (
    "--config-dir", "conf", "dataset=rhythms", "model=linear", "max_epochs=4", "batch_size=16",
    "loss.class_weights=effective_number",    "trainer=cpu", "trainer.threads=1", "tracking.system_metrics=false",
)  # fmt: skip


def write_folder(folder: Path) -> None:
    (folder / "conf" / "dataset").mkdir(parents=True)
    (folder / "conf" / "dataset" / "rhythms.yaml").write_text(CONF)
    (folder / "records").mkdir()
    rng = np.random.default_rng(0)
    rows = []
    for split, (many, few) in RECORDS.items():
        for label in CLASSES:
            for number in range(few if label == CLASSES[-1] else many):
                name = f"{split}_{label}_{number}"
                signal = rng.normal(size=(120, 2)) * np.array(SPREAD[label]) * rng.uniform(0.4, 1, 2)
                wfdb.wrsamp(
                    name, fs=100, units=["mV"] * 2, sig_name=["A", "B"], p_signal=signal, fmt=["16"] * 2,
                    write_dir=str(folder / "records"),
                )  # fmt: skip
                rows.append({"record": name, "label": label, "patient": f"{split} {number // 2}", "split": split})
    pd.DataFrame(rows).to_csv(folder / "records" / "labels.csv", index=False)


@pytest.fixture(scope="module")
def sweep(session_folder) -> Done:
    def run(folder: Path) -> Done:
        folder.mkdir()
        write_folder(folder)
        return ecgexp(folder, "-m", *WORDS, "lr=0.001,0.1", "sweep.name=rhythms")

    return once(session_folder, "multiclass", run).expect()


@pytest.fixture
def folder(sweep) -> Path:
    return sweep.folder


def door(name: str, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return warm.run(f"ecgexp.{name}", folder, *words)


def expected(true, probability, counted=CLASSES) -> dict[str, float]:
    """Scores by scikit-learn; macro averages over the counted classes."""
    of, chosen = true.argmax(axis=1), probability.argmax(axis=1)
    labels = [CLASSES.index(name) for name in counted]
    options = {"labels": labels, "average": "macro", "zero_division": 0}
    return {
        "accuracy": oracle.accuracy_score(of, chosen),
        "f1_macro": oracle.f1_score(of, chosen, **options),
        "precision_macro": oracle.precision_score(of, chosen, **options),
        "recall_macro": oracle.recall_score(of, chosen, **options),
        "auroc_macro": np.mean([oracle.roc_auc_score(true[:, k], probability[:, k]) for k in labels]),
        "ap_macro": np.mean([oracle.average_precision_score(true[:, k], probability[:, k]) for k in labels]),
        **{
            f"recall/{name}": oracle.recall_score(of == k, chosen == k, zero_division=0)
            for k, name in enumerate(CLASSES)
        },
    }


def best(folder):
    return max(trials(folder), key=lambda run: run.data.metrics["best/val/f1_macro"])


def test_the_dataset_brings_its_loss_and_the_objective_follows(folder, sweep):
    assert only(parents(folder)).data.tags["objective"] == "best/val/f1_macro"
    for run in trials(folder):
        assert run.info.status == "FINISHED"
        assert run.data.tags["loss"] == "cross_entropy"
        assert run.data.params["loss._target_"] == "ecgexp.losses.CrossEntropy"
        assert run.data.params["target._target_"] == "ecgexp.targets.MultiClass"
        assert json.loads(artifact(folder, run, "data.json").read_text())["target"] == {
            "_target_": "ecgexp.targets.MultiClass"
        }
    heading = next(line for line in sweep.stdout.splitlines() if "val/f1_macro" in line)
    assert heading.split()[3:8] == ["val/f1_macro", "val/recall_macro", "val/accuracy", "val/auroc_macro", "val/loss"]


def test_metrics_are_those_of_scikit_learn_and_there_is_a_point_per_epoch(folder):
    weights = 3 * [(1 - 0.9999) / (1 - 0.9999**40)] + [(1 - 0.9999) / (1 - 0.9999**12)]
    for run in trials(folder):
        _, true, probability, labels = predictions(folder, run)
        assert tuple(labels) == CLASSES
        np.testing.assert_allclose(probability.sum(axis=1), 1, atol=1e-6)
        wanted, metrics = expected(true, probability), best_metrics(run)
        assert {name: metrics[name] for name in wanted} == pytest.approx(wanted, abs=1e-5)
        of = true.argmax(axis=1)
        loss = oracle.log_loss(of, probability, sample_weight=np.array(weights)[of], labels=range(4))
        assert metrics["loss"] == pytest.approx(loss, rel=1e-4)
        for split in ("train", "val"):
            for name in ("loss", "f1_macro", "balanced_accuracy", "recall/both", "auroc_macro"):
                assert len(history(folder, run, f"{split}/{name}")) == 4
        assert not [name for name in run.data.metrics if "mlcm" in name]


def test_the_confusion_matrix_is_a_table_and_a_picture(folder):
    run = best(folder)
    _, true, probability, _ = predictions(folder, run)
    table = pd.read_csv(artifact(folder, run, "confusion_val.csv"), index_col=0)
    assert tuple(table.columns) == tuple(table.index) == CLASSES
    wanted = oracle.confusion_matrix(true.argmax(axis=1), probability.argmax(axis=1), labels=range(4))
    np.testing.assert_array_equal(table, wanted)
    assert "confusion_val.png" in artifact_names(folder, run)


def test_the_report_has_intervals_for_the_macro_f1_of_the_classes(folder):
    done = door("report", folder, "sweep=rhythms", "out=report")
    assert done.returncode == 0, done.stderr
    assert "f1_macro" in done.stdout
    results = pd.read_csv(folder / "report" / "results.csv")
    for name in ("f1_macro", "auroc_macro"):
        value, low, high = (results[f"best/val/{name}{end}"] for end in ("", "_low", "_high"))
        assert (low <= value).all() and (value <= high).all() and (low < high).any()
    page = (folder / "report" / "report.html").read_text()
    assert "<h2>Confusion matrices in validation</h2>" in page
    assert "mlcm" not in page and "Multi-label" not in page
    assert (folder / "report" / "confusion_best.png").is_file()


def test_the_evaluation_leaves_small_classes_out_of_macro_averages_and_reports_them(folder):
    run = best(folder)
    words = (f"run={run.info.run_id}", "split=test")
    refused = door("evaluate", folder, *words, "thresholds=tuned")
    assert refused.returncode == 1
    assert "leave out thresholds=tuned" in refused.stderr and refused.stderr.count("\n") == 1
    done = door("evaluate", folder, *words)
    assert done.returncode == 0, done.stderr
    assert "test-set access number 1" in done.stdout  # the refused one was none
    assert "Without both (fewer than 20 records):" in done.stdout

    place = artifact(folder, run, "evaluation/test")
    table = pd.read_parquet(place / "predictions_test.parquet")
    true, probability = (table[[f"{what}/{name}" for name in CLASSES]].to_numpy() for what in ("true", "probability"))
    assert true.sum(axis=0).tolist() == [24, 24, 24, 6]
    run = best(folder)
    logged = {name.removeprefix("test/"): value for name, value in run.data.metrics.items()}
    wanted = expected(true, probability, CLASSES[:3])
    assert {name: logged[name] for name in wanted} == pytest.approx(wanted, abs=1e-5)
    assert logged["f1_macro_low"] <= logged["f1_macro"] <= logged["f1_macro_high"]
    for name in ("f1_macro", "recall_macro", "balanced_accuracy", "auroc_macro"):
        assert run.data.tags[f"labels_left_out/test/{name}"] == "both"
    labels = pd.read_csv(place / "labels.csv", index_col=0)
    assert labels["positives"].to_dict() == dict(zip(CLASSES, (24, 24, 24, 6), strict=True))
    assert labels.loc["both", "recall"] == pytest.approx(wanted["recall/both"])
    assert {"confusion_test.csv", "confusion_test.png", "calibration.csv"} <= {path.name for path in place.iterdir()}

    assert door("report", folder, "sweep=rhythms", "out=after").returncode == 0
    assert "without both" in (folder / "after" / "report.html").read_text()


def test_prediction_gives_the_probabilities_of_the_validation_and_the_most_probable_class(folder):
    run = best(folder)
    ids, _, probability, _ = predictions(folder, run)
    records = [f"records/{name}" for name in ids[:5]]
    done = door("predict", folder, f"run={run.info.run_id}", "format=json", *records)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["threshold"] is None
    for entry, row in zip(answer["records"], probability, strict=False):
        assert list(entry["probabilities"].values()) == pytest.approx(row.tolist(), abs=1e-5)
        assert entry["predicted"] == [CLASSES[row.argmax()]]
    table = door("predict", folder, f"run={run.info.run_id}", *records).stdout
    assert [line.split()[-1] for line in table.splitlines()[1:]] == [CLASSES[row.argmax()] for row in probability[:5]]


def test_the_logged_model_gives_the_same_probabilities(folder):
    mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlruns' / 'mlflow.db'}")
    run = best(folder)
    model = mlflow.pytorch.load_model(f"models:/{run.outputs.model_outputs[0].model_id}")
    ids, _, probability, _ = predictions(folder, run)
    signals = np.stack([wfdb.rdrecord(str(folder / "records" / name)).p_signal.T for name in ids[:3]])
    with torch.no_grad():
        given = model(torch.from_numpy(signals.astype(np.float32)))
    np.testing.assert_allclose(given, probability[:3], atol=1e-4)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["loss=bce"], "choose loss=cross_entropy"),
        (["target=multilabel"], "choose loss=bce, or target=multiclass"),
        (["objective=best/val/mlcm_f1_macro"], "best/val/f1_macro"),
    ],
)
def test_what_does_not_fit_together_is_refused_before_training(folder, words, message):
    before = len(trials(folder))
    rest = [word for word in WORDS if word.partition(".")[0] != "loss"]
    done = ecgexp(folder, *rest, *words)
    assert done.status == 1
    assert message in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert len(trials(folder)) == before


def test_a_net_that_diverges_is_wrong_everywhere(tmp_path):
    write_folder(tmp_path)
    done = ecgexp(tmp_path, "-m", *WORDS, "optimizer=sgd", "lr=1e38", "sweep.name=diverging").expect()
    assert "diverged" in done.stdout
    run = only(trials(tmp_path))
    assert best_metrics(run)["f1_macro"] == best_metrics(run)["accuracy"] == 0
    table = pd.read_csv(artifact(tmp_path, run, "confusion_val.csv"), index_col=0)
    assert table["NPL"].tolist() == [12, 12, 12, 4]
    assert door("report", tmp_path, "sweep=diverging", "out=diverging").returncode == 0
