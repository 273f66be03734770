import csv
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from ecgexp.datasets import ImageFolder
from ecgexp.datasets.image.reader import read_image
from ecgexp.datasets.reading import RecordError
from ecgexp.errors import UserError
from ecgexp.targets import MultiClass, MultiLabel

RNG = np.random.default_rng(0)


def picture(size=(40, 30), mode="RGB", seed=0):
    """An image whose pixels are smooth, as JPEG keeps them, and different for each seed."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).convert(mode)


class Folder:
    def __init__(self, root: Path) -> None:
        self.root, self.rows, self.columns = root, [], ("file", "label")
        root.mkdir()

    def add(self, file, seed=None, **save):
        path = self.root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(seed=len(list(self.root.rglob("*.*"))) if seed is None else seed).save(path, **save)
        return path

    def classes(self, names=("cat", "dog"), each=10):
        for name in names:
            for i in range(each):
                self.add(f"{name}/{i:02d}.png", seed=hash((name, i)) % 2**32)
        return self

    def table(self, text):
        (self.root / "labels.csv").write_text(text)

    def dataset(self, **options):
        return ImageFolder(self.root, **{"cache_dir": self.root.parent / "cache", "workers": 1, **options})

    def labelled(self, **options):
        return self.dataset(**{"labels_csv": "labels.csv", "labels": ["cat", "dog"], **options})


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path / "images")


def refusal(dataset, split="train"):
    with pytest.raises(UserError) as error:
        (dataset() if callable(dataset) else dataset).load(split)
    message = str(error.value)
    assert message.endswith(".") and "\n" not in message
    return message


def pixels(path, **options):
    return read_image(Path(path), **{"channels": 3, "height": 30, "width": 40, **options})


# --- a sub-folder for each class


def test_each_sub_folder_is_a_class(folder):
    folder.classes(("dog", "cat"))
    dataset = folder.dataset(height=12, width=16)
    assert dataset.label_names == ("cat", "dog")
    splits = [dataset.load(name) for name in ("train", "val", "test")]
    assert [len(split) for split in splits] == [14, 2, 4]
    for split in splits:
        assert split.inputs["image"].shape[1:] == (12, 16, 3)
        assert [record.split("/")[0] for record in split.ids] == [
            dataset.label_names[label] for label in split.targets.argmax(axis=1)
        ]
        assert split.targets[:, 0].sum() == len(split) / 2  # stratified
    ids = np.concatenate([split.ids for split in splits])
    assert len(set(ids)) == 20
    for split in splits:
        first = pixels(folder.root / split.ids[0], height=12, width=16)[0]
        np.testing.assert_array_equal(split.inputs["image"][split.rows[0]], first)


def test_labels_may_be_named_and_ordered(folder):
    folder.classes()
    assert folder.dataset(labels=["dog", "cat"]).label_names == ("dog", "cat")
    assert "dog of" in refusal(folder.dataset(labels=["cat"]))


def test_other_files_are_told_and_not_read(folder, caplog):
    folder.classes()
    (folder.root / "cat" / "notes.txt").write_text("no image")
    (folder.root / "cat" / ".hidden.png").write_bytes(b"no")
    with caplog.at_level(logging.INFO):
        assert len(folder.dataset().load("train")) == 14
    assert "1 files are no .jpg" in caplog.text and "cat/notes.txt" in caplog.text


def test_images_outside_of_the_sub_folders_are_refused(folder):
    folder.classes()
    folder.add("stray.png")
    assert "stray.png" in refusal(folder.dataset())


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda root: shutil.rmtree(root), "missing"),
        (lambda root: None, "no sub-folder"),
        (lambda root: [(root / name).mkdir() for name in ("train", "test")], "dataset.split_column"),
        (lambda root: (root / "cat").mkdir(), "no image"),
    ],
)
def test_a_folder_without_classes_or_images_is_refused(folder, make, words):
    make(folder.root)
    assert words in refusal(folder.dataset)


# --- a table


def some(folder, count=10, columns="file,label", more=lambda i: ""):
    """Images and the rows of their table."""
    for i in range(count):
        folder.add(f"{i:02d}.png", seed=i)
    lines = [f"{i:02d}.png,{'cat' if i % 2 else 'dog'}{more(i)}" for i in range(count)]
    folder.table("\n".join([columns, *lines]) + "\n")


def test_a_table_names_files_labels_groups_and_splits(folder):
    parts = ("train", "train", "train", "val", "test")
    some(folder, columns="file,label,who,part", more=lambda i: f",p{i // 2},{parts[i // 2]}")
    dataset = folder.labelled(group_column="who", split_column="part")
    train = dataset.load("train")
    assert train.ids.tolist() == [f"{i:02d}.png" for i in range(6)]
    assert train.patients.tolist() == ["p0", "p0", "p1", "p1", "p2", "p2"]
    assert train.targets.tolist() == [[0, 1], [1, 0]] * 3
    assert dataset.load("test").ids.tolist() == ["08.png", "09.png"]
    assert dataset.patients_known and dataset.remarks() == []
    assert dataset.summary()["test"] == {"records": 2}


def test_groups_are_never_divided(folder):
    some(folder, 40, columns="file,label,who", more=lambda i: f",p{i // 4}")
    dataset = folder.labelled(group_column="who")
    found = [set(dataset.load(name).patients) for name in ("train", "val", "test")]
    assert not (found[0] & found[1] or found[0] & found[2] or found[1] & found[2])


def test_a_group_in_two_splits_is_refused(folder):
    some(folder, columns="file,label,who,part", more=lambda i: f",same,{'train' if i < 8 else 'val'}")
    assert "more than one split" in refusal(folder.labelled(group_column="who", split_column="part"))


def test_without_groups_it_says_so(folder):
    some(folder)
    dataset = folder.labelled()
    assert dataset.summary()["patients_known"] is False
    assert any("split by patient was not possible" in remark for remark in dataset.summary()["remarks"])


def test_files_may_be_named_without_their_folder_where_that_is_unique(folder):
    for i in range(4):
        folder.add(f"a/b/{i}.png", seed=i)
    folder.table("file,label\n0.png,cat\n1.png,dog\na/b/2.png,cat\n./a//b/3.png,dog\n")
    assert len(folder.labelled(fractions=[1, 0, 0]).load("train")) == 4
    folder.add("c/0.png", seed=9)
    assert "several folders" in refusal(folder.labelled())
    folder.table("file,label\n1.png,cat\na/b/1.png,dog\n")
    assert "twice" in refusal(folder.labelled())


def test_images_that_the_table_does_not_name_are_told(folder, caplog):
    some(folder)
    folder.add("more.png", seed=99)
    with caplog.at_level(logging.INFO):
        folder.labelled().load("train")
    assert "1 images are not in labels.csv" in caplog.text


def test_several_labels_need_their_target(folder):
    some(folder, more=lambda i: ";cat" if i % 2 == 0 else "")
    dataset = folder.labelled()
    dataset.target = MultiLabel(dataset.label_names)
    assert dataset.load("train").targets.sum(axis=1).max() == 2
    dataset = folder.labelled()
    dataset.target = MultiClass(dataset.label_names)
    message = refusal(dataset)
    assert "cat and dog" in message and "target=multilabel loss=bce" in message


def test_labels_may_be_columns_of_0_and_1(folder):
    some(folder, columns="file,x,cat,dog", more=lambda i: f",{i % 2},1")
    dataset = folder.labelled(label_column=None)
    assert dataset.load("train").targets[:, 1].all()


def test_an_unknown_label_is_refused_or_listed(folder):
    some(folder, columns="file,label,part", more=lambda i: f"{'fish' * (i == 0)},{'train' if i < 8 else 'val'}")
    message = refusal(folder.labelled(split_column="part"))
    assert "'dogfish'" in message and "dataset.labels" in message
    found = folder.labelled(split_column="part", on_bad_record="skip").summary()["train"]
    assert [entry["record"] for entry in found["bad"]] == ["00.png"] and found["records"] == 7


def test_a_table_needs_labels_and_groups_need_a_table(folder):
    some(folder)
    with pytest.raises(UserError, match=r"dataset\.labels' is missing"):
        folder.dataset(labels_csv="labels.csv")
    for i in range(2):
        folder.add(f"cat/{i}.png")
    with pytest.raises(UserError, match=r"dataset\.group_column.*dataset\.labels_csv"):
        folder.dataset(group_column="who")


# --- images that are there twice


def test_equal_files_are_divided_together_and_listed(folder):
    folder.classes(each=20)
    for i in range(10):
        shutil.copy(folder.root / f"cat/{i:02d}.png", folder.root / f"cat/copy{i:02d}.png")
    for seed in range(5):
        dataset = folder.dataset(split_seed=seed)
        found = [set(dataset.load(name).ids) for name in ("train", "val", "test")]
        for i in range(10):
            pair = {f"cat/{i:02d}.png", f"cat/copy{i:02d}.png"}
            assert any(pair <= ids for ids in found)
        listed = dataset.summary()["identical"]
        assert all(not group["differ"] and len(group["splits"]) == 1 for group in listed)
        assert len(listed) == sum(f"cat/{i:02d}.png" in found[0] | found[1] for i in range(10))


@pytest.mark.parametrize("on_bad_record", ["raise", "skip"])
def test_an_image_under_two_labels(folder, on_bad_record):
    folder.classes()
    shutil.copy(folder.root / "cat/03.png", folder.root / "dog/copy.png")
    dataset = folder.dataset(fractions=[0.8, 0.2, 0], on_bad_record=on_bad_record)
    if on_bad_record == "raise":
        messages = [refusal(dataset, name) for name in ("train", "val") if holds(dataset, name)]
        assert "it is the same image as" in messages[0] and "has the label" in messages[0]
        return
    found = dataset.summary()
    bad = sorted(entry["record"] for name in ("train", "val") for entry in found[name]["bad"])
    assert bad == ["cat/03.png", "dog/copy.png"]
    assert found["train"]["records"] + found["val"]["records"] == 19
    assert found["identical"] == []


def holds(dataset, name):
    """Whether a split of a data set cannot be loaded."""
    try:
        dataset.load(name)
    except UserError:
        return True
    return False


def test_an_image_in_two_splits_is_refused_or_left_out_of_the_one_nearer_to_training(folder):
    parts = ["train"] * 5 + ["val"] * 3 + ["test"] * 2
    some(folder, columns="file,label,part", more=lambda i: f",{parts[i]}")
    shutil.copy(folder.root / "01.png", folder.root / "05.png")
    shutil.copy(folder.root / "07.png", folder.root / "09.png")
    options = {"split_column": "part"}
    message = refusal(folder.labelled(**options))
    assert "01.png" in message and "same image as 05.png, which is in the val split" in message
    dataset = folder.labelled(**options, on_bad_record="skip")
    assert dataset.load("train").ids.tolist() == ["00.png", "02.png", "03.png", "04.png"]
    assert dataset.load("val").ids.tolist() == ["05.png", "06.png"]  # 07 is a test image, too
    assert dataset.load("test").ids.tolist() == ["08.png", "09.png"]
    assert [entry["record"] for entry in dataset.summary()["val"]["bad"]] == ["07.png"]


def test_equal_pixels_in_other_files_are_told(folder, caplog):
    parts = ["train"] * 8 + ["val"] * 2
    some(folder, columns="file,label,part", more=lambda i: f",{parts[i]}")
    Image.open(folder.root / "01.png").save(folder.root / "09.png", compress_level=1, pnginfo=None)
    assert (folder.root / "01.png").read_bytes() != (folder.root / "09.png").read_bytes()
    dataset = folder.labelled(split_column="part")
    with caplog.at_level(logging.WARNING):
        dataset.prepare()
    assert "1 of them in both splits (01.png and 09.png)" in caplog.text


# --- single files


def save(tmp_path, image, name="a.png", **options):
    image.save(tmp_path / name, **options)
    return tmp_path / name


def test_formats_and_modes_that_have_one_meaning(tmp_path):
    image = picture()
    plain = np.asarray(image)
    for name in ("a.png", "a.tif"):
        found, notes = pixels(save(tmp_path, image, name))
        np.testing.assert_array_equal(found, plain)
        assert notes == ()
    found, _ = pixels(save(tmp_path, image, "a.jpg", quality=95))
    assert np.abs(found.astype(int) - plain).mean() < 4
    found, notes = pixels(save(tmp_path, image, "a.jpg", quality=95), channels=1)
    assert found.shape == (30, 40, 1) and notes == ("colour made grey",)
    np.testing.assert_allclose(found[..., 0], plain @ [0.299, 0.587, 0.114], atol=12)
    grey = picture(mode="L")
    found, notes = pixels(save(tmp_path, grey))
    np.testing.assert_array_equal(found, np.repeat(np.asarray(grey)[..., None], 3, 2))
    assert notes == ("grey repeated as colour",)
    np.testing.assert_array_equal(pixels(save(tmp_path, grey), channels=1)[0][..., 0], np.asarray(grey))
    palette = image.quantize(16)
    found, notes = pixels(save(tmp_path, palette))
    np.testing.assert_array_equal(found, np.asarray(palette.convert("RGB")))
    assert notes == ("palette resolved",)
    opaque = image.convert("RGBA")
    found, notes = pixels(save(tmp_path, opaque))
    np.testing.assert_array_equal(found, plain)
    assert notes == ("opaque alpha dropped",)
    found, notes = pixels(save(tmp_path, grey.convert("1")), channels=1)
    assert set(np.unique(found)) == {0, 255} and notes == ("one bit per pixel widened",)


@pytest.mark.parametrize("turn", range(1, 9))
def test_exif_rotation_is_applied(tmp_path, turn):
    """The corner that is marked comes where EXIF's table says: 1 top left, 2 top right, 3 bottom right, and so on."""
    image = Image.new("L", (40, 30))
    ImageDraw.Draw(image).rectangle((0, 0, 9, 9), fill=255)
    exif = Image.Exif()
    exif[0x0112] = turn
    path = save(tmp_path, image, "a.jpg", exif=exif, quality=95)
    found, notes = read_image(path, channels=1, height=30, width=40, resize="stretch")
    corners = {1: (0, 0), 2: (0, -1), 3: (-1, -1), 4: (-1, 0), 5: (0, 0), 6: (0, -1), 7: (-1, -1), 8: (-1, 0)}
    bright = {corner: found[corner][0] > 128 for corner in ((0, 0), (0, -1), (-1, 0), (-1, -1))}
    assert [corner for corner, is_bright in bright.items() if is_bright] == [corners[turn]]
    assert ("rotated by its EXIF data" in notes) == (turn > 1)


def problem(path, **options):
    with pytest.raises(RecordError) as error:
        pixels(path, **options)
    return error.value.problem


def test_images_without_one_meaning_are_refused(tmp_path):
    image = picture()
    assert "CMYK" in problem(save(tmp_path, image.convert("CMYK"), "a.jpg"))
    half = image.convert("RGBA")
    half.putpixel((3, 3), (1, 2, 3, 100))
    assert "transparent" in problem(save(tmp_path, half))
    deep = Image.fromarray(RNG.integers(0, 60_000, (30, 40), dtype=np.uint16))
    for name in ("a.png", "a.tif"):
        assert "8 bits" in problem(save(tmp_path, deep, name))
    assert "mode F" in problem(save(tmp_path, Image.fromarray(np.zeros((30, 40), np.float32)), "a.tif"))
    path = save(tmp_path, image, "a.tif", save_all=True, append_images=[image])
    assert "2 images" in problem(path)
    assert "crop=50" in problem(save(tmp_path, image), crop=50)
    path = save(tmp_path, image, "b.gif")
    shutil.copy(path, tmp_path / "b.png")
    assert "no JPEG, PNG or TIFF" in problem(tmp_path / "b.png")


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.8])
def test_truncated_files_are_refused(tmp_path, name, share):
    noise = Image.fromarray(RNG.integers(0, 256, (60, 80, 3), dtype=np.uint8))
    path = save(tmp_path, noise, name)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert any(words in problem(path) for words in ("truncated or damaged", "no JPEG, PNG or TIFF"))


def test_missing_files_and_bombs_are_refused(tmp_path, monkeypatch):
    assert "missing" in problem(tmp_path / "none.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    assert "too many pixels" in problem(save(tmp_path, picture()))


def test_a_bad_image_is_refused_or_left_out_counted_and_listed(folder):
    folder.classes()
    path = folder.root / "cat/05.png"
    path.write_bytes(path.read_bytes()[:100])
    options = {"fractions": [1, 0, 0]}
    message = refusal(folder.dataset(**options))
    assert "cat/05.png" in message and "truncated" in message and "dataset.on_bad_record=skip" in message
    dataset = folder.dataset(**options, on_bad_record="skip")
    assert len(dataset.load("train")) == 19
    assert "cat/05.png" not in dataset.load("train").ids


def test_adapted_images_are_counted(folder):
    folder.classes()
    for i in range(3):
        picture(mode="L", seed=i).save(folder.root / f"cat/grey{i}.png")
    found = folder.dataset(fractions=[0.5, 0.5, 0]).summary()
    assert sum(found[name]["adapted"].get("grey", 0) for name in ("train", "val")) == 3


# --- crop and size


def test_the_crop_is_the_middle_in_the_images_own_pixels(tmp_path):
    image = picture((41, 30))
    found, _ = pixels(save(tmp_path, image), crop=20, height=20, width=20)
    np.testing.assert_array_equal(found, np.asarray(image)[5:25, 10:30])


def test_cover_keeps_the_ratio_and_stretch_does_not(tmp_path):
    """A circle remains one, or becomes an ellipse."""
    image = Image.new("L", (80, 40))
    ImageDraw.Draw(image).ellipse((30, 10, 50, 30), fill=255)
    path = save(tmp_path, image)

    def extent(resize):
        found, _ = read_image(path, channels=1, height=40, width=40, resize=resize)
        bright = found[..., 0] > 128
        return bright.any(axis=0).sum(), bright.any(axis=1).sum()

    across, down = extent("cover")
    assert abs(across - 21) <= 1 and abs(down - 21) <= 1
    across, down = extent("stretch")
    assert abs(across - 10.5) <= 1 and abs(down - 21) <= 1


def test_another_size_or_file_is_read_anew(folder):
    folder.classes()
    options = {"fractions": [1, 0, 0]}
    first = folder.dataset(**options, height=8, width=8).load("train")
    assert folder.dataset(**options, height=9, width=8).load("train").inputs["image"].shape[1:] == (9, 8, 3)
    picture(seed=12345).save(folder.root / "cat/00.png")
    again = folder.dataset(**options, height=8, width=8).load("train")
    assert (again.inputs["image"][again.rows[0]] != first.inputs["image"][first.rows[0]]).any()


# --- real images


@pytest.mark.slow
def test_the_real_cells_come_out_as_published(pbc_folder):
    """Centre of 200 x 200, bicubic to 28 x 28: pixel by pixel what the file with the small images holds."""
    with (pbc_folder / "pbc_index.csv").open() as file:
        rows = {row["file"]: row for row in csv.DictReader(file)}
    with np.load(pbc_folder / "pbc28.npz") as file:
        images = {part: file[f"{part}_images"] for part in ("train", "val", "test")}
    paths = sorted((pbc_folder / "originals").glob("*.jpg"))
    assert len(paths) == 66
    for path in paths:
        row = rows[path.name.split("__")[1]]
        found, _ = read_image(path, channels=3, height=28, width=28, crop=200)
        np.testing.assert_array_equal(found, images[row["split"]][int(row["row"])])


@pytest.mark.slow
def test_photographs_of_mixed_sizes(flowers_folder, tmp_path):
    with (flowers_folder / "labels.csv").open() as file:
        rows = list(csv.DictReader(file))
    dataset = ImageFolder(
        flowers_folder, labels_csv="labels.csv", labels=sorted({row["class"] for row in rows}), label_column="class",
        height=32, width=32, cache_dir=tmp_path, workers=1,
    )  # fmt: skip
    sizes = [len(dataset.load(name)) for name in ("train", "val", "test")]
    assert sizes == [952, 136, 272]
    assert all((dataset.load(name).targets.sum(axis=0) == size // 17).all() for name, size in (("train", 952),))
    assert {tuple(group["records"]) for group in dataset.identical()} <= {("image_0422.jpg", "image_0469.jpg")}
