"""Images, from a file of generated cells to the report, an evaluation and a prediction."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import warm
from omegaconf import OmegaConf
from PIL import Image
from trained import Trained, call, is_one_sentence

from ecgexp.datasets import SyntheticCells
from ecgexp.tracking.restore import load_folder
from ecgexp.tracking.trust import own_folders

pytestmark = pytest.mark.slow
NO_PATIENTS = "a split by patient was not possible"
GENERATED = "Generated blood cells"


def train(folder: Path, *words: str) -> Trained:
    """A sweep of one trial."""
    settings = ("trainer=cpu", "trainer.threads=1", "tracking.system_metrics=false", "max_epochs=2", "lr=0.001")
    done = warm.run("ecgexp", folder, "-m", *settings, *words)
    assert done.returncode == 0, done.stderr + done.stdout
    (data,) = folder.glob("mlruns/artifacts/*/artifacts/data.json")
    return Trained(folder, data.parts[-3])


@pytest.fixture(scope="module")
def cells(tmp_path_factory) -> Trained:
    return train(
        tmp_path_factory.mktemp("cells"), "dataset=synthetic_cells", "dataset.images=400", "model=mlp", "lr=0.001"
    )


def test_the_run_holds_what_is_known_of_the_images(cells):
    data = json.loads((cells.artifacts / "data.json").read_text())
    (image,) = data["inputs"]
    assert (image["name"], image["axes"], image["shape"]) == ("image", ["channel", "row", "column"], [3, 28, 28])
    assert image["statistics"] == [0.0, 255.0]
    assert data["counts"]["patients_known"] is False and data["counts"]["test"]["records"] == 81
    assert data["counts"]["train"]["records"] + data["counts"]["val"]["records"] == 319
    restored = load_folder(cells.artifacts)
    assert float(restored.network.state_dict()["std_image"]) == 255


def test_the_report_says_that_the_images_are_generated_and_have_no_patients(cells, monkeypatch, capsys):
    assert call(monkeypatch, "report", cells.folder) == 0
    text = next(cells.folder.rglob("report.html")).read_text()
    assert GENERATED in text and NO_PATIENTS in text
    assert "validation records, labels basophil" in text  # and of how many patients is not said
    assert NO_PATIENTS in capsys.readouterr().out


def test_an_evaluation_says_so_too(cells, monkeypatch, capsys):
    assert call(monkeypatch, "evaluate", cells.folder, f"run={cells.run_id}", "split=test") == 0
    out = capsys.readouterr().out
    assert "test split: 81 records, " in out and GENERATED in out and NO_PATIENTS in out
    (found,) = cells.folder.rglob("predictions_test.parquet")
    assert "patient" not in pd.read_parquet(found).columns


def test_predictions_for_files_are_those_of_the_validation(cells, tmp_path, monkeypatch, capsys):
    table = pd.read_parquet(cells.artifacts / "predictions_val.parquet")
    (file,) = cells.folder.glob("data/synthetic_cells/*.npz")
    with np.load(file) as opened:
        images = opened["val_images"]
    paths = []
    for name in table["id"][:5]:
        paths.append(tmp_path / f"{name.replace('/', '_')}.png")
        Image.fromarray(images[int(name.split("/")[1])]).save(paths[-1])
    (tmp_path / "bad.png").write_bytes(paths[0].read_bytes()[:60])
    words = (f"run={cells.run_id}", "format=json", *paths, tmp_path / "bad.png")
    assert call(monkeypatch, "predict", cells.folder, *words) == 1
    said = capsys.readouterr()
    *entries, bad = json.loads(said.out)["records"]
    columns = [name for name in table if name.startswith("probability/")]
    found = [[entry["probabilities"][name.removeprefix("probability/")] for name in columns] for entry in entries]
    np.testing.assert_allclose(found, table[columns][:5], atol=1e-6)
    assert "truncated" in bad["error"] or "no JPEG" in bad["error"]
    assert "crop=N" in said.err  # a file of small images does not say how they were cut


@pytest.mark.parametrize("words", [("plot=a.png",), ("uncalibrated=assume",), ("crop=x",), ("crop=0",)])
def test_predict_refuses_keys_that_do_not_fit_images(cells, words, tmp_path, monkeypatch):
    Image.new("RGB", (30, 30)).save(tmp_path / "a.png")
    assert is_one_sentence(
        call(monkeypatch, "predict", cells.folder, f"run={cells.run_id}", tmp_path / "a.png", *words)
    )


def test_a_folder_of_photographs_of_mixed_sizes(tmp_path, monkeypatch, capsys):
    """Trained, reported and predicted with the crop of its data set."""
    rng = np.random.default_rng(0)
    for label, tone in (("dark", 60), ("light", 180)):
        folder = tmp_path / "photographs" / label
        folder.mkdir(parents=True)
        for i in range(30):
            size = (*rng.integers(40, 90, 2), 3)
            pixels = rng.integers(0, 60, size) + tone
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.jpg")
    words = ("dataset=images", "dataset.root=photographs", "dataset.height=16", "dataset.width=16", "dataset.crop=32")
    trained = train(tmp_path, *words, "model=mlp", "batch_size=8")
    path = tmp_path / "photographs/light/0.jpg"
    assert call(monkeypatch, "predict", tmp_path, f"run={trained.run_id}", "format=json", path) == 0
    said = capsys.readouterr()
    (entry,) = json.loads(said.out)["records"]
    assert set(entry["probabilities"]) == {"dark", "light"} and said.err == ""
    Image.new("RGB", (20, 20)).save(tmp_path / "small.png")
    assert call(monkeypatch, "predict", tmp_path, f"run={trained.run_id}", tmp_path / "small.png") == 1
    assert "dataset.crop=32" in capsys.readouterr().err


def test_generated_cells_of_a_strangers_run_are_not_written_elsewhere(cells, tmp_path, monkeypatch):
    monkeypatch.chdir(cells.folder)
    cfg = load_folder(cells.artifacts).cfg
    OmegaConf.update(cfg, "dataset.root", str(tmp_path / "elsewhere"))
    assert own_folders(cfg).dataset.root == "data/synthetic_cells"
    assert SyntheticCells.__name__ in cfg.dataset["_target_"]
