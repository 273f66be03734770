import subprocess
import sys

import pytest

import ecgexp.metrics
from ecgexp.errors import UserError
from ecgexp.metrics import escape_label


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


@pytest.mark.parametrize("label", ["PRC(S)", "LAFB/LPFB", "a b", "Größe", "x.", "%"])
def test_mlflow_takes_an_escaped_label(label):
    validation = pytest.importorskip("mlflow.utils.validation")
    validation._validate_metric_name(f"best/val/mlcm_f1/{escape_label(label)}")


@pytest.mark.parametrize("label", ["", ".", ".."])
def test_refuses_a_label_that_cannot_be_escaped(label):
    with pytest.raises(UserError, match="rename"):
        escape_label(label)


def test_names_need_no_torch():
    code = "import sys, ecgexp.metrics as m; m.escape_label('NORM'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_everything_promised_can_be_imported():
    for name in ecgexp.metrics.__all__:
        assert getattr(ecgexp.metrics, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'accuracy'"):
        _ = ecgexp.metrics.accuracy
