import subprocess
import sys

import pytest

import ecgexp.metrics
from ecgexp.errors import UserError
from ecgexp.metrics import escape_label, higher_is_better, is_metric_name


@pytest.mark.parametrize(
    "name",
    [
        *("loss", "subset_accuracy", "binary_accuracy", "keras_accuracy", "auroc_macro", "ap_macro"),
        *("mlcm_precision_micro", "mlcm_recall_weighted", "mlcm_f1_macro"),
        *("f1/NORM", "mlcm_f1/NTL", "f1/PRC-S-", "f1/1AVB"),
        *("accuracy", "balanced_accuracy", "f1_macro", "recall_macro", "precision_weighted"),
        *("recall/V", "precision/PRC-S-"),
    ],
)
def test_knows_the_metrics(name):
    assert is_metric_name(name)
    assert higher_is_better(name) == (name != "loss")


@pytest.mark.parametrize(
    "name",
    [
        "",
        "f1",
        "f1/",
        "f1/PRC(S)",
        "f1/a/b",
        "f1/..",
        "loss/NORM",
        "auroc",
        "val/loss",
        "mlcm_f1_median",
        "LOSS",
        "accuracy/NORM",
        "f1_micro",
    ],
)
def test_knows_what_is_no_metric(name):
    assert not is_metric_name(name)
    with pytest.raises(UserError, match=r"There is no metric .* mlcm_f1_macro"):
        higher_is_better(name)


@pytest.mark.parametrize(
    ("name", "multilabel", "multiclass"),
    [
        *(("loss", True, True), ("auroc_macro", True, True), ("f1/V", True, True)),
        *(("mlcm_f1_macro", True, False), ("subset_accuracy", True, False), ("mlcm_f1/V", True, False)),
        *(("f1_macro", False, True), ("accuracy", False, True), ("recall/V", False, True)),
    ],
)
def test_knows_which_metrics_are_of_records_with_one_label(name, multilabel, multiclass):
    assert is_metric_name(name, multiclass=False) == multilabel
    assert is_metric_name(name, multiclass=True) == multiclass


@pytest.mark.parametrize(
    ("label", "escaped"),
    [
        *(("NORM", "NORM"), ("PRC(S)", "PRC-S-"), ("LAFB/LPFB", "LAFB-LPFB"), ("a b:c\n", "a-b-c-")),
        *(("1.5_x-y", "1.5_x-y"), ("ST–T", "ST-T")),
    ],
)
def test_escapes_a_label(label, escaped):
    assert escape_label(label) == escaped
    assert escape_label(escaped) == escaped
    assert is_metric_name(f"f1/{escaped}")


@pytest.mark.parametrize("label", ["PRC(S)", "LAFB/LPFB", "a b", "Größe", "x.", "%"])
def test_mlflow_takes_an_escaped_label(label):
    validation = pytest.importorskip("mlflow.utils.validation")
    validation._validate_metric_name(f"best/val/mlcm_f1/{escape_label(label)}")


@pytest.mark.parametrize("label", ["", ".", ".."])
def test_refuses_a_label_that_cannot_be_escaped(label):
    with pytest.raises(UserError, match="rename"):
        escape_label(label)


def test_names_need_no_torch():
    code = "import sys, ecgexp.metrics as m; m.is_metric_name('loss'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_everything_promised_can_be_imported():
    for name in ecgexp.metrics.__all__:
        assert getattr(ecgexp.metrics, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'accuracy'"):
        _ = ecgexp.metrics.accuracy
