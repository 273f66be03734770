import csv
import hashlib
import io
import logging
import zipfile
from collections import defaultdict

import numpy as np
import pytest
import torch

from ecgexp.datasets import Input, MedMNIST
from ecgexp.datasets.base import NO_PATIENTS
from ecgexp.datasets.image.medmnist_sets import SETS, SIZES, file_name
from ecgexp.errors import UserError
from ecgexp.targets import MultiClass, MultiLabel
from ecgexp.tracking.contract import Contract
from ecgexp.training.network import Network

RNG = np.random.default_rng(0)
COUNTS = {"train": 30, "val": 8, "test": 12}


def made(channels=3, size=28, classes=8, several=False):
    """Arrays of a file: random images and labels."""
    arrays = {}
    for part, count in COUNTS.items():
        shape = (count, size, size, channels) if channels == 3 else (count, size, size)
        arrays[f"{part}_images"] = RNG.integers(0, 256, shape, dtype=np.uint8)
        labels = RNG.integers(0, 2, (count, classes)) if several else RNG.permutation(count)[:, None] % classes
        arrays[f"{part}_labels"] = labels.astype(np.uint8)
    return arrays


@pytest.fixture
def file(tmp_path):
    return tmp_path / "bloodmnist.npz"


def opened(path, arrays=None, **options):
    """The data set of a file that is written first if there are arrays."""
    if arrays is not None:
        np.savez_compressed(path, **arrays)
    return MedMNIST(path.parent, **{"cache_dir": path.parent / "cache", **options})


def refusal(dataset, split="train"):
    with pytest.raises(UserError) as error:
        dataset.load(split)
    message = str(error.value)
    assert message.endswith(".") and "\n" not in message
    return message


def test_splits_are_the_parts_of_the_file(file):
    arrays = made()
    dataset = opened(file, arrays)
    for part, count in COUNTS.items():
        split = dataset.load(part)
        np.testing.assert_array_equal(split.inputs["image"][split.rows], arrays[f"{part}_images"])
        assert split.inputs["image"].dtype == np.uint8
        np.testing.assert_array_equal(split.targets.argmax(axis=1), arrays[f"{part}_labels"][:, 0])
        assert (split.targets.sum(axis=1) == 1).all()
        assert split.ids.tolist() == [f"{part}/{row}" for row in range(count)]
    assert dataset.label_names == SETS["bloodmnist"].labels


def test_the_papers_split_divides_the_training_part_in_the_order_of_the_file(file):
    arrays = made()
    dataset = opened(file, arrays, split="toffanetto2024")
    assert dataset.load("train").ids.tolist() == [f"train/{row}" for row in range(21)]
    assert dataset.load("val").ids.tolist() == [f"train/{row}" for row in range(21, 30)]
    assert dataset.load("test").ids.tolist() == [f"test/{row}" for row in range(12)]
    np.testing.assert_array_equal(
        dataset.load("val").inputs["image"][dataset.load("val").rows], arrays["train_images"][21:]
    )


def test_the_papers_split_of_a_file_that_is_sorted_by_class_is_at_random_and_told(file):
    arrays = made(classes=2)
    for part in COUNTS:
        arrays[f"{part}_labels"].sort(axis=0)
    dataset = opened(file, arrays, split="toffanetto2024", label_names=["a", "b"])
    train, val = dataset.load("train"), dataset.load("val")
    assert (len(train), len(val)) == (21, 9)
    assert sorted([*train.ids, *val.ids]) == sorted(f"train/{row}" for row in range(30))
    assert train.targets.any(axis=0).all() and val.targets.any(axis=0).all()
    np.testing.assert_array_equal(train.targets.argmax(axis=1), arrays["train_labels"][train.rows, 0])
    assert any("sorted by class" in remark for remark in dataset.remarks())
    again = opened(file, split="toffanetto2024", label_names=["a", "b"])
    np.testing.assert_array_equal(again.load("val").rows, val.rows)
    official = opened(file, label_names=["a", "b"])
    assert not any("sorted by class" in remark for remark in official.remarks())


def test_grey_images_have_one_channel(file):
    arrays = made(channels=1, classes=2)
    dataset = opened(file.with_name("pneumoniamnist.npz"), arrays, name="pneumoniamnist")
    split = dataset.load("train")
    assert split.inputs["image"].shape == (30, 28, 28, 1)
    np.testing.assert_array_equal(split.inputs["image"][..., 0], arrays["train_images"])
    assert dataset.inputs[0].shape == (1, 28, 28)
    assert dataset.inputs[0].coordinates["channel"] == ("grey",)


def test_several_labels_are_read_as_they_are_and_need_their_target(file):
    arrays = made(channels=1, classes=14, several=True)
    chest = file.with_name("chestmnist.npz")
    dataset = opened(chest, arrays, name="chestmnist")
    np.testing.assert_array_equal(dataset.load("val").targets, arrays["val_labels"])
    dataset = opened(chest, name="chestmnist")
    dataset.target = MultiLabel(dataset.label_names)
    assert len(dataset.load("train")) == 30
    dataset = opened(chest, name="chestmnist")
    dataset.target = MultiClass(dataset.label_names)
    assert "target=multilabel loss=bce" in refusal(dataset)


@pytest.mark.parametrize("size", SIZES)
def test_the_file_goes_by_name_and_size(file, size):
    name = "bloodmnist.npz" if size == 28 else f"bloodmnist_{size}.npz"
    assert file_name("bloodmnist", size) == name
    message = refusal(MedMNIST(file.parent, size=size, cache_dir=file.parent))
    assert name in message and "make data DATASET=bloodmnist" in message
    assert (f"SIZE={size}" in message) == (size != 28)


def test_a_file_of_your_own(file):
    arrays = made(channels=1, size=20, classes=3)
    own = file.with_name("own.npz")
    options = {"file": own, "size": 20, "channels": 1, "label_names": ["a", "b", "c"]}
    dataset = opened(own, arrays, **options)
    assert dataset.load("train").targets.shape == (30, 3)
    assert any("not the published bloodmnist" in remark for remark in dataset.remarks())
    assert dataset.summary()["published"] is False
    with pytest.raises(UserError, match=r"dataset\.size.*dataset\.file"):
        MedMNIST(file.parent, size=20, cache_dir=file.parent)


def test_a_published_file_is_known_by_its_checksum(file, monkeypatch):
    opened(file, made())
    dataset = opened(file)
    dataset.md5 = hashlib.md5(file.read_bytes()).hexdigest()
    assert dataset.summary()["published"] is True
    assert dataset.remarks() == [NO_PATIENTS]


def test_test_images_are_read_only_when_asked_for(file):
    arrays = made()
    np.savez(file, **arrays)
    content = bytearray(file.read_bytes())
    place = content.find(arrays["test_images"].tobytes())
    content[place + 5] ^= 1  # the archive notices when this part is read
    file.write_bytes(content)
    dataset = opened(file)
    dataset.prepare()
    assert dataset.summary()["test"] == {"records": 12}
    assert "cannot be read" in refusal(dataset, "test")


# --- what the net gets


@pytest.mark.parametrize("normalize", ["unit", "none", "scalar", "per_channel"])
def test_the_network_normalises(file, normalize):
    arrays = made()
    dataset = opened(file, arrays, normalize=normalize)
    pixels = arrays["train_images"].astype(np.float64)
    if normalize == "unit":
        wanted = pixels / 255
    elif normalize == "none":
        wanted = pixels
    else:
        over = (0, 1, 2) if normalize == "per_channel" else None
        wanted = (pixels - pixels.mean(over)) / pixels.std(over)
    network = Network(torch.nn.Flatten(), dataset.normalization())
    found = network(torch.from_numpy(arrays["train_images"]).permute(dataset.inputs[0].order))
    np.testing.assert_allclose(found, wanted.transpose(0, 3, 1, 2).reshape(30, -1), rtol=1e-4, atol=1e-5)


def test_the_contract_carries_fixed_statistics(file):
    dataset = opened(file, made())
    contract = Contract.of(dataset, {"_target_": "ecgexp.targets.MultiClass"})
    again = Contract.from_json(contract.to_json())
    assert again == contract
    assert again.inputs[0].statistics == (0.0, 255.0)
    with pytest.raises(UserError, match=r"input 'image' with statistics=\(0.0, 255.0\), but the data have None"):
        contract.check_data(opened(file, normalize="none"))


def test_an_input_without_fixed_statistics_has_the_contract_of_before():
    signal = Input("signal", ("lead", "time"), (2, 8), coordinates={"lead": ("I", "II")}, rate=100.0, unit="mV")
    assert "statistics" not in Contract((signal,), ("a",), {}).to_json()["inputs"][0]


def test_an_input_has_fixed_or_computed_statistics():
    with pytest.raises(ValueError, match="not both"):
        Input("image", ("row",), (3,), normalize_over=("row",), statistics=(0.0, 1.0))
    with pytest.raises(ValueError, match="above 0"):
        Input("image", ("row",), (3,), statistics=(0.0, 0.0))


# --- images that are there twice, and patients


def test_identical_images_are_listed_and_told(file, caplog):
    arrays = made()
    arrays["train_images"][7] = arrays["train_images"][3]
    arrays["train_labels"][7] = arrays["train_labels"][3]
    arrays["train_images"][9] = arrays["train_images"][4]
    arrays["train_labels"][9], arrays["train_labels"][4] = 0, 5
    arrays["val_images"][2] = arrays["train_images"][11]
    arrays["val_labels"][2] = arrays["train_labels"][11]
    arrays["test_images"][1] = arrays["train_images"][12]
    dataset = opened(file, arrays)
    with caplog.at_level(logging.WARNING):
        dataset.prepare()
    found = dataset.summary()["identical"]
    names = dataset.label_names
    assert [(group["records"], group["splits"], group["differ"]) for group in found] == [
        (["train/3", "train/7"], ["train"], False),
        (["train/4", "train/9"], ["train"], True),
        (["train/11", "val/2"], ["train", "val"], False),
    ]
    assert found[1]["labels"] == [names[0], names[5]]
    assert "3 images are there more than once" in caplog.text
    assert "1 of them in both splits (train/11 and val/2)" in caplog.text
    assert "1 of them under different labels (train/4 and train/9)" in caplog.text
    with caplog.at_level(logging.WARNING):
        dataset.load("test")
    assert "1 test images are also in training or validation, the first as train/12 = test/1" in caplog.text
    assert all("test" not in group["splits"] for group in dataset.summary()["identical"])


def test_it_says_that_no_patients_are_known(file):
    dataset = opened(file, made())
    assert NO_PATIENTS in dataset.remarks()
    assert dataset.summary()["patients_known"] is False


def test_the_fingerprint_is_what_training_sees(file):
    arrays = made()
    first = opened(file, arrays).fingerprint()
    assert opened(file, {**arrays, "test_images": arrays["test_images"] // 2}).fingerprint() == first
    assert opened(file, {**arrays, "val_images": arrays["val_images"] // 2}).fingerprint() != first
    assert opened(file, {**arrays, "train_labels": 7 - arrays["train_labels"]}).fingerprint() != first


# --- files that are no such files


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"train_images": None}, ("no train_images",)),
        ({"train_labels": None}, ("no train_labels",)),
        ({"train_images": np.zeros((30, 28, 28), np.uint8)}, ("28 x 28 pixels in 1 channel", "in 3 channels")),
        ({"train_images": np.zeros((30, 64, 64, 3), np.uint8)}, ("64 x 64", "dataset.size")),
        ({"train_images": np.zeros((30, 28, 28, 28), np.uint8)}, ("28 channels",)),
        ({"train_images": np.zeros((30, 28, 28, 3), np.float32)}, ("float32", "uint8")),
        ({"train_images": np.zeros((30, 784), np.uint8)}, ("(30, 784)",)),
        ({"train_images": np.asfortranarray(np.zeros((30, 28, 28, 3), np.uint8))}, ("plain rows",)),
        ({"train_images": np.array([{}] * 30)}, ("plain rows",)),
        ({"train_labels": np.full((30, 1), 8)}, ("class 8", "row 0", "8 names")),
        ({"train_labels": np.full((30, 1), -1)}, ("class -1",)),
        ({"train_labels": np.zeros((29, 1), np.uint8)}, ("30 rows",)),
        ({"train_labels": np.zeros((30, 1), np.float32)}, ("whole numbers",)),
        ({"train_labels": np.full((30, 8), 2)}, ("0 and 1",)),
        ({"train_labels": np.zeros((30, 3), np.uint8)}, ("3 labels per image",)),
    ],
)
def test_arrays_that_do_not_fit_are_refused(file, change, words):
    arrays = {key: value for key, value in {**made(), **change}.items() if value is not None}
    message = refusal(opened(file, arrays))
    assert all(word in message for word in (*words, str(file)))


@pytest.mark.parametrize("harm", ["truncated", "no archive", "empty", "bytes", "longer", "shorter"])
def test_damaged_files_are_refused(file, harm):
    arrays = made()
    np.savez_compressed(file, **arrays)
    content = file.read_bytes()
    if harm == "truncated":
        file.write_bytes(content[: len(content) // 2])
    elif harm == "no archive":
        file.write_bytes(b"\x93NUMPY" + content)
        file.write_bytes(file.read_bytes()[:3000])
    elif harm == "empty":
        file.write_bytes(b"")
    elif harm == "bytes":
        place = len(content) // 3
        file.write_bytes(content[:place] + bytes(64) + content[place + 64 :])
    else:
        with zipfile.ZipFile(file, "w") as archive:
            for name, array in arrays.items():
                stream = io.BytesIO()
                np.save(stream, array)
                data = stream.getvalue()
                if name == "train_images":
                    data = data + b"x" if harm == "longer" else data[:-1]
                archive.writestr(f"{name}.npy", data)
    message = refusal(opened(file))
    assert str(file) in message and "cannot be read" in message


def test_an_unknown_set_or_number_of_channels_is_refused(file):
    with pytest.raises(UserError, match=r"dataset\.name.*'mnist'.*bloodmnist"):
        opened(file, name="mnist")  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"dataset\.channels.*2"):
        opened(file, channels=2)


# --- the table of sets


def test_each_set_has_a_checksum_for_each_size():
    assert len(SETS) == 12
    digests = [md5 for published in SETS.values() for md5 in published.md5]
    assert len(set(digests)) == len(digests) == 48
    assert all(len(md5) == 32 and int(md5, 16) for md5 in digests)
    labels = {name: len(published.labels) for name, published in SETS.items()}  # from the paper of MedMNIST v2
    assert labels == {
        "pathmnist": 9, "chestmnist": 14, "dermamnist": 7, "octmnist": 4, "pneumoniamnist": 2, "retinamnist": 5,
        "breastmnist": 2, "bloodmnist": 8, "tissuemnist": 8, "organamnist": 11, "organcmnist": 11, "organsmnist": 11,
    }  # fmt: skip


# --- real cells


@pytest.mark.slow
def test_the_real_cells_have_the_known_counts_and_pairs(pbc_folder, tmp_path):
    dataset = MedMNIST(tmp_path, file=pbc_folder / "pbc28.npz", cache_dir=tmp_path)
    found = dataset.summary()
    assert [found[part]["records"] for part in ("train", "val", "test")] == [11_959, 1_712, 3_421]
    with (pbc_folder / "pbc_index.csv").open() as opened_index:
        pairs = defaultdict(set)
        for row in csv.DictReader(opened_index):
            if row["duplicate_group"]:
                pairs[row["duplicate_group"]].add(f"{row['split']}/{row['row']}")
    assert len(pairs) == 17
    assert {frozenset(group["records"]) for group in found["identical"]} == set(map(frozenset, pairs.values()))
    differing = [group for group in found["identical"] if group["differ"]]
    assert [group["labels"] for group in differing] == [["eosinophil", "neutrophil"]]


@pytest.mark.slow
def test_the_papers_split_of_the_real_cells_has_its_numbers(pbc_folder, tmp_path):
    dataset = MedMNIST(tmp_path, file=pbc_folder / "pbc28.npz", cache_dir=tmp_path, split="toffanetto2024")
    assert [len(dataset.load(split)) for split in ("train", "val")] == [8_371, 3_588]
    assert all(dataset.load(split).targets.any(axis=0).all() for split in ("train", "val"))
