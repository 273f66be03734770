import hashlib

import numpy as np
import pytest

from ecgexp.datasets import SyntheticCells
from ecgexp.datasets.image.cells import LABELS, draw_cells, generate
from ecgexp.errors import UserError

# Of 100 cells of 16 pixels, seed 0, whatever the machine.
KNOWN = "dc0d26c7bc4c51929cd6d7aaad23d7d22eee769fe9f71dc778e0279943d734ab"


def cells(tmp_path, **options):
    return SyntheticCells(tmp_path, **{"cache_dir": tmp_path / "cache", "images": 200, **options})


def test_equal_options_give_an_equal_file_on_every_machine(tmp_path):
    for name in ("a", "b"):
        generate(tmp_path / name, 100, 0, 16)
    found = hashlib.sha256((tmp_path / "a").read_bytes()).hexdigest()
    assert (tmp_path / "b").read_bytes() == (tmp_path / "a").read_bytes()
    assert found == KNOWN


def test_other_seeds_give_other_cells(tmp_path):
    first, other = cells(tmp_path), cells(tmp_path, generator_seed=1)
    assert first.fingerprint() != other.fingerprint()
    assert first.file != other.file


@pytest.mark.parametrize("size", [8, 28, 50])
def test_the_file_is_read_like_a_published_one(tmp_path, size):
    dataset = cells(tmp_path, size=size)
    dataset.prepare()
    sizes = {name: len(dataset.load(name)) for name in ("train", "val", "test")}
    assert sum(sizes.values()) == 200 and abs(sizes["train"] - 140) < 8 and abs(sizes["test"] - 40) < 8
    assert dataset.load("train").inputs["image"].shape[1:] == (size, size, 3)
    with np.load(dataset.file) as file:
        assert set(file.files) == {f"{part}_{what}" for part in sizes for what in ("images", "labels")}
        assert file["train_images"].dtype == np.uint8 and file["train_labels"].shape == (sizes["train"], 1)


def test_each_class_is_in_each_split_and_as_often_as_in_bloodmnist(tmp_path):
    dataset = cells(tmp_path, images=2000)
    counts = sum(dataset.load(name).targets.sum(axis=0, dtype=int) for name in ("train", "val", "test"))
    shares = np.array([1218, 3117, 1551, 2895, 1214, 1420, 3329, 2348]) / 17_092
    np.testing.assert_allclose(counts / 2000, shares, atol=1e-3)
    assert all(dataset.load(name).targets.any(axis=0).all() for name in ("train", "val", "test"))
    assert dataset.identical() == []


def test_it_says_that_the_cells_are_generated(tmp_path):
    assert "enerated" in str(cells(tmp_path).warning)


def of(label, images=64, size=32):
    return draw_cells(np.full(images, LABELS.index(label)), size, np.random.default_rng(3)).astype(float)


def test_the_classes_differ_as_cells_do():
    """Measured in the middle of the image, where no neighbour is."""
    middle = {label: of(label)[:, 10:22, 10:22].reshape(64, -1, 3) for label in LABELS}
    darkness = {label: 255 - pixels.mean(axis=(1, 2)).mean() for label, pixels in middle.items()}
    assert darkness["platelet"] < min(value for label, value in darkness.items() if label != "platelet")
    redness = {label: (pixels[..., 0] - pixels[..., 2]).mean() for label, pixels in middle.items()}
    large = ("basophil", "immature granulocyte", "monocyte", "neutrophil")
    assert redness["eosinophil"] > max(redness[label] for label in large)
    # of a round nucleus the centre is dark
    centre = {label: of(label)[:, 14:18, 14:18].mean() for label in ("lymphocyte", "neutrophil")}
    assert centre["lymphocyte"] < centre["neutrophil"]


def test_a_changed_file_is_refused_and_a_missing_one_made_again(tmp_path):
    dataset = cells(tmp_path)
    first = dataset.fingerprint()
    with dataset.file.open("r+b") as file:
        file.seek(5000)
        file.write(b"changed")
    with pytest.raises(UserError, match="has changed since it was generated"):
        cells(tmp_path).load("train")
    dataset.file.unlink()
    assert cells(tmp_path).fingerprint() == first


@pytest.mark.parametrize(
    ("options", "words"),
    [({"images": 5}, "images"), ({"size": 4}, "size"), ({"size": 1000}, "size"), ({"generator_seed": -1}, "seed")],
)
def test_impossible_options_are_refused(tmp_path, options, words):
    with pytest.raises(UserError, match=words):
        cells(tmp_path, **options)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file.*dataset\.root"):
        cells(tmp_path / "file").load("train")
