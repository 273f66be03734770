"""``python -m ecgexp.convert_keras``: the weights of a Keras file become a run like one that was trained."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import wfdb
from commands import all_runs, artifact, artifact_names, config, ecgexp, only, parents, predictions, trials
from keras_files import Layer, write_keras2, write_weights3
from scipy.special import expit, softmax
from trained import call, is_one_sentence

pytestmark = pytest.mark.slow
SETTINGS = (
    *("model=mlp", "model.hidden=[6]", "dataset.records=240", "trainer=cpu", "trainer.threads=1"),
    *("tracking.system_metrics=false", "tracking.log_model=none"),
)
LABELS = ("NORM", "STTC", "CD", "MI", "HYP")


def layers(last: str = "sigmoid", hidden: str = "relu", outputs: int = 5) -> list[Layer]:
    """A net of Keras for signals of 1,000 samples in 12 leads."""
    rng = np.random.default_rng(0)

    def dense(inputs, units, activation):
        kernel, bias = rng.normal(0, 0.05, (inputs, units)), rng.normal(0, 0.05, units)
        arrays = {"kernel": kernel.astype(np.float32), "bias": bias.astype(np.float32)}
        return Layer("Dense", {"activation": activation}, arrays)

    return [Layer("Flatten"), dense(12_000, 6, hidden), dense(6, outputs, last)]


def probabilities(signal: np.ndarray) -> np.ndarray:
    """What that net says of a signal (samples, leads)."""
    _, first, second = (layer.arrays for layer in layers())
    hidden = np.maximum(signal.ravel() @ first["kernel"] + first["bias"], 0)
    return expit(hidden @ second["kernel"] + second["bias"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with the file, and the run that was made of it."""
    made = tmp_path_factory.mktemp("converted")
    write_keras2(made / "published.h5", layers())
    with pytest.MonkeyPatch.context() as patch:
        assert call(patch, "convert_keras", made, "file=published.h5", *SETTINGS, "sweep.name=both") == 0
    return made


def converted(folder: Path):
    return only([run for run in trials(folder) if "converted_from" in run.data.tags])


def test_predict_says_what_the_keras_net_says(folder, monkeypatch, capsys):
    record = next((folder / "data" / "synthetic").glob("v*/records100/00000/*.hea")).with_suffix("")
    assert (
        call(monkeypatch, "predict", folder, f"run={converted(folder).info.run_id}", f"record={record}", "format=json")
        == 0
    )
    said = json.loads(capsys.readouterr().out)["records"][0]["probabilities"]
    signal = wfdb.rdrecord(str(record)).p_signal
    assert [said[label] for label in LABELS] == pytest.approx(probabilities(signal).tolist(), abs=1e-5)


def test_the_run_says_where_its_weights_come_from(folder):
    run = converted(folder)
    assert run.info.status == "FINISHED"
    assert run.data.tags["converted_from"].startswith("published.h5 ")
    assert config(folder, run).converted.file == "published.h5"
    assert run.data.metrics["epochs"] == 0 and run.data.metrics["parameters"] == 12_000 * 6 + 6 + 6 * 5 + 5
    assert "learning_curves.png" not in artifact_names(folder, run)
    for said in ("published.h5 were converted, not trained here", "NORM, STTC, CD, MI, HYP", "It is assumed"):
        assert said in run.data.tags["warning"]


def test_evaluate_and_report_take_it_and_say_so(folder, monkeypatch, capsys):
    run = converted(folder)
    assert call(monkeypatch, "evaluate", folder, f"run={run.info.run_id}", "split=val") == 0
    assert "The weights of published.h5 were converted" in capsys.readouterr().out
    assert call(monkeypatch, "report", folder, "sweep=both", "out=report") == 0
    assert "The weights of published.h5 were converted" in capsys.readouterr().out
    assert "published.h5 were converted" in (folder / "report" / "report.html").read_text()


def test_the_same_command_again_uses_the_same_run(folder, monkeypatch, capsys):
    before = len(all_runs(folder))
    assert call(monkeypatch, "convert_keras", folder, "file=published.h5", *SETTINGS, "sweep.name=both") == 0
    said = capsys.readouterr().out
    assert "converted before" in said and converted(folder).info.run_id in said
    assert "dense    ->  hidden.0" in said
    assert len(all_runs(folder)) == before


def test_no_training_takes_it_for_its_own(folder):
    """A sweep of the same settings trains its trial, and its table has both."""
    ecgexp(folder, "-m", *SETTINGS, "max_epochs=1", "seed=0,1", "sweep.name=both").expect(0)
    assert len(parents(folder)) == 1
    trained = [run for run in trials(folder) if "converted_from" not in run.data.tags]
    assert [run.data.metrics["epochs"] for run in trained] == [1, 1]
    identities = {run.data.tags["identity"] for run in trials(folder)}
    assert len(identities) == 3
    results = artifact(folder, only(parents(folder)), "results.csv").read_text()
    assert converted(folder).info.run_id in results


def test_images_are_flattened_as_keras_does(tmp_path, monkeypatch):
    """Row, column, channel: logistic regression on the pixels, computed by numpy from the file of the images."""
    rng = np.random.default_rng(1)
    kernel, bias = rng.normal(0, 0.1, (28 * 28 * 3, 8)).astype(np.float32), rng.normal(0, 1, 8).astype(np.float32)
    layer = Layer("Dense", {"activation": "softmax"}, {"kernel": kernel, "bias": bias})
    write_keras2(tmp_path / "pixels.h5", [Layer("Flatten"), layer])
    words = ("model=mlp", "model.hidden=[]", "dataset=synthetic_cells", "dataset.images=200", *SETTINGS[3:])
    assert call(monkeypatch, "convert_keras", tmp_path, "file=pixels.h5", *words) == 0
    images = np.load(next(tmp_path.rglob("synthetic*/**/*.npz")))["val_images"] / 255
    logits = images.reshape(len(images), -1) @ kernel + bias
    _, _, found, _ = predictions(tmp_path, converted(tmp_path))
    np.testing.assert_allclose(found, softmax(logits, axis=1), atol=1e-5)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ((), "Exactly one file of weights is converted"),
        (("file=a.h5", "file=b.h5"), "Exactly one file of weights is converted"),
        (("file=missing.h5",), "There is no file missing.h5"),
        (("file=published.h5", "lr=0.1,0.2"), "lr=0.1,0.2 gives several values"),
        (("file=published.h5", "model.width=3"), "model.width"),
        (
            ("file=published.h5", "model.hidden=[7]"),
            "Layer 'dense' of published.h5 is a dense layer from 12000 to 6 values",
        ),
        (
            ("file=published.h5", "model.activation=sigmoid"),
            "published.h5 has the activation relu, but the net sigmoid",
        ),
        (("file=softmax.h5",), "softmax.h5 ends with the activation softmax"),
        (("file=four.weights.h5",), "Layer 'dense_1' of four.weights.h5 is a dense layer from 6 to 4 values"),
        (("file=notes.txt",), "notes.txt is damaged or no file of Keras"),
    ],
)
def test_what_cannot_be_converted_is_said_and_not_recorded(folder, words, named, monkeypatch):
    write_keras2(folder / "softmax.h5", layers(last="softmax"))
    write_weights3(folder / "four.weights.h5", layers(outputs=4))
    (folder / "notes.txt").write_text("notes")
    before = len(all_runs(folder))
    said = call(monkeypatch, "convert_keras", folder, *SETTINGS, *words)
    assert is_one_sentence(said) and named in said
    assert len(all_runs(folder)) == before
