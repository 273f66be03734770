"""Images in the files of MedMNIST: ``.npz`` archives with images and labels of three parts."""

from __future__ import annotations

import hashlib
import logging
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ecgexp.datasets.base import CHANNELS, IMAGE, ImageDataset, ImageNormalization, Split, SplitName
from ecgexp.datasets.cache import cached_array, create_array
from ecgexp.datasets.files import Sources
from ecgexp.datasets.image.identical import Identical, described, identical_images
from ecgexp.datasets.image.medmnist_sets import SETS, SIZES, Name, file_name
from ecgexp.datasets.paths import absent
from ecgexp.datasets.reading import hash_of
from ecgexp.errors import UserError, summarised

logger = logging.getLogger(__name__)

FORMAT = 1
"""Part of each key of the cache: raise it when the same file gives other images."""
TRAINED = 0.7
"""Share of the official training part that Toffanetto 2024 trains on; the rest of it validates."""
SHUFFLE = 0
"""Seed of the order in which the images of a file that is sorted by class are divided."""
CHUNK = 1 << 24
"""Bytes of images that are read at a time."""

PaperSplit = Literal["official", "toffanetto2024"]


@dataclass(frozen=True)
class _Part:
    """A part of a file.

    Attributes
    ----------
    images : uint8 array, (images, height, width, channels)
        Memory-mapped.
    targets : uint8 array, (images, labels)
    hashes : list of str
        Hash of each image.
    published : bool or None
        Whether the file is the published one; None where none is published.
    """

    images: NDArray[np.uint8]
    targets: NDArray[np.uint8]
    hashes: list[str]
    published: bool | None


class NpzDataset(ImageDataset):
    """Images and labels of a MedMNIST file.

    The file holds uint8 images ``train_images``, ``val_images`` and ``test_images``, (n, height, width) or
    (n, height, width, 3), and labels ``train_labels`` and so on: (n, 1) with the index of a class, or (n, labels) of 0
    and 1. Records are named by part and row, such as 'train/12'. Test images are read only by ``load("test")``.

    Parameters
    ----------
    file : Path
        The file.
    label_names : sequence of str
        Names of the classes or labels, in order.
    channels : {1, 3}
        Grey or colour.
    size : int
        Height and width of an image in pixels.
    cache_dir : path
        Folder for the cache of images.
    split : {'official', 'toffanetto2024'}
        'official': the parts of the file. 'toffanetto2024': the first 70 % of the training part train, its last 30 %
        validate, and the validation part is left aside, as in Toffanetto 2024. Where a file is sorted by class, unlike
        the published ones, the images are taken in a random order; `remarks` says so.
    normalize : {'unit', 'none', 'scalar', 'per_channel'}
        See `ImageDataset`.
    md5 : str, optional
        Checksum of the published file.

    Raises
    ------
    UserError
        If `channels` is neither 1 nor 3.
    """

    patients_known = False

    def __init__(
        self,
        file: Path,
        *,
        label_names: Sequence[str],
        channels: int,
        size: int,
        cache_dir: str | Path,
        split: PaperSplit,
        normalize: ImageNormalization,
        md5: str | None = None,
    ) -> None:
        check_channels(channels)
        self.file, self.cache_dir = file.expanduser(), Path(cache_dir).expanduser()
        self.label_names = tuple(map(str, label_names))
        self.channels, self.height, self.width = channels, size, size
        self.split, self.normalize, self.md5 = split, normalize, md5
        self._parts: dict[str, _Part] = {}
        self._loaded: dict[SplitName, Split] = {}

    def prepare(self) -> None:
        """Read the images of the train and validation splits into the cache."""
        self.load("train")
        self.load("val")
        for remark in self._remarks():
            logger.warning(remark)

    def load(self, split: SplitName) -> Split:
        """Images of one split, in the order of the file.

        Raises
        ------
        UserError
            If the file is missing or damaged, or its images or labels are not those that the configuration says.
        """
        if split not in self._loaded:
            self._loaded[split] = self._select(split)
            self._report(split)
        return self._loaded[split]

    def remarks(self) -> list[str]:
        """Sentences on the data; see `Dataset.remarks`."""
        return [*super().remarks(), *self._remarks()]

    def _remarks(self) -> list[str]:
        remarks = [f"{self.file.name}: {sentence}" for sentence in described(self.identical())]
        if self._is_shuffled():
            remarks.append(
                f"{self.file.name} is sorted by class, so that its first 70 % lack classes: "
                "dataset.split=toffanetto2024 took its training images in a random order."
            )
        return remarks

    def identical(self) -> list[Identical]:
        """Groups of identical images in training and validation."""
        return identical_images(*self._compared(("train", "val")), self.label_names)

    def summary(self) -> dict[str, Any]:
        """What a run records about its data, JSON-able.

        Returns
        -------
        dict
            ``train`` and ``val``: ``records``, ``patients`` (each image counts as one) and ``labels`` (images per
            label). ``test``: only ``records``. ``patients_known``: false. ``remarks``: see `remarks`. ``identical``:
            see `identical_images`. ``file``: its name; ``published``: whether it is the published one, None where none
            is published.
        """
        return {
            **super().summary(),
            "test": {"records": self._length("test")},
            "identical": self.identical(),
            "file": self.file.name,
            "published": self._part("train").published,
        }

    def fingerprint(self) -> str:
        """Hash of the data that training uses: ids, targets and images of the train and validation splits."""
        digest = hashlib.sha256()
        splits, hashes = self._compared(("train", "val"))
        for name, split in splits.items():
            digest.update(repr((name, self.label_names, *self._facts())).encode())
            for lines in (split.ids.tolist(), hashes[name]):
                digest.update("\n".join(lines).encode() + b"\0")
            digest.update(np.ascontiguousarray(split.targets).tobytes())
        return digest.hexdigest()[:16]

    def _compared(self, names: Sequence[SplitName]) -> tuple[dict[str, Split], dict[str, list[str]]]:
        """Splits and the hashes of their images."""
        splits: dict[str, Split] = {name: self.load(name) for name in names}
        parts = {name: self._part(self._source(name)) for name in names}
        return splits, {name: [parts[name].hashes[row] for row in splits[name].rows] for name in names}

    def _source(self, split: SplitName) -> str:
        """The part of the file that has the images of a split."""
        return "train" if split == "val" and self.split == "toffanetto2024" else split

    def _is_shuffled(self) -> bool:
        """Whether the paper's split of this file would lack classes, since it is sorted by class."""
        if self.split != "toffanetto2024":
            return False
        classes = self._part("train").targets.argmax(axis=1)
        return len(classes) > 1 and bool((np.diff(classes.astype(np.int64)) >= 0).all())

    def _select(self, split: SplitName) -> Split:
        source = self._source(split)
        part = self._part(source)
        rows = np.arange(len(part.images))
        if self.split == "toffanetto2024" and split != "test":
            if self._is_shuffled():
                rows = np.random.default_rng(SHUFFLE).permutation(rows)
            trained = int(TRAINED * len(rows))
            rows = np.sort(rows[:trained] if split == "train" else rows[trained:])
        if not rows.size:
            raise UserError(f"The {split} split of {self.file} is empty: choose another dataset.split or file.")
        ids = np.array([f"{source}/{row}" for row in rows.tolist()])
        targets = part.targets[rows]
        if hasattr(self, "target"):
            for row, problem in self.target.problems(targets).items():
                raise UserError(
                    f"Image {ids[row]} of {self.file} does not fit target={self.target.kind}: {problem}. Set "
                    "target=multilabel loss=bce for images with any number of labels."
                )
        return Split({IMAGE: part.images}, rows, targets, ids, ids)

    def _report(self, split: SplitName) -> None:
        counts = self._counts(self._loaded[split])
        labels = ", ".join(f"{label} {count}" for label, count in counts["labels"].items())
        logger.info("%s: %d images: %s", split, counts["records"], labels)
        for label in (label for label, count in counts["labels"].items() if not count):
            logger.warning("The %s split has no image of %s: results for it have no meaning.", split, label)
        if split == "test":
            self._report_test()

    def _report_test(self) -> None:
        """Tell which test images are in another split, too."""
        groups = identical_images(*self._compared(("train", "val", "test")), self.label_names)
        shared = [group["records"] for group in groups if "test" in group["splits"] and len(group["splits"]) > 1]
        if shared:
            logger.warning(
                "%s: %d test images are also in training or validation, the first as %s: results are too good.",
                *(self.file, len(shared), " = ".join(shared[0])),
            )

    def _part(self, name: str) -> _Part:
        if name not in self._parts:
            self._check_file()
            sources = Sources(self.file.parent, [self.file.name], self.cache_dir, ("",))
            settings = ["npz", FORMAT, name, self.inputs[0].stored_shape, len(self.label_names)]
            images, facts = cached_array(self.cache_dir, sources, settings, lambda path: self._read(path, name))
            published = None if self.md5 is None else facts["md5"] == self.md5
            targets = np.array(facts["targets"], dtype=np.uint8)
            self._parts[name] = _Part(images, targets, facts["hashes"], published)
        return self._parts[name]

    def _check_file(self) -> None:
        if not self.file.is_file():
            raise UserError(f"The file {absent(self.file)}: {self._advice()}.")

    def _advice(self) -> str:
        return "set dataset.file to your copy"

    def _length(self, name: str) -> int:
        """Number of images of a part, from the head of the file."""
        with self._opened(f"{name}_images") as (_, shape, _):
            return shape[0]

    def _read(self, path: Path, name: str) -> dict[str, Any]:
        """Write the images of a part to a file; return its targets and hashes, and the checksum of the source."""
        with self._opened(f"{name}_labels") as (stream, shape, dtype):
            labels = np.frombuffer(stream.read(), dtype).reshape(shape)
        shape_of_one = self.inputs[0].stored_shape
        with self._opened(f"{name}_images") as (stream, shape, dtype):
            self._check_images(name, shape, dtype)
            targets = self._targets(name, labels, shape[0])
            array = create_array(path, (shape[0], *shape_of_one), np.uint8)
            logger.info("Reading %d images of %s into the cache %s.", shape[0], self.file, self.cache_dir)
            size = int(np.prod(shape_of_one))
            hashes: list[str] = []
            for start in range(0, shape[0], max(CHUNK // size, 1)):
                count = min(max(CHUNK // size, 1), shape[0] - start)
                images = np.frombuffer(_exactly(stream, count * size), np.uint8).reshape(count, *shape_of_one)
                array[start : start + count] = images
                hashes += map(hash_of, images)
            if stream.read(1):  # reading to the end compares the checksum in the archive
                raise ValueError("it is longer than it says")
        array.flush()
        with self.file.open("rb") as file:
            md5 = hashlib.file_digest(file, "md5").hexdigest()
        return {"targets": targets.tolist(), "hashes": hashes, "md5": md5}

    def _check_images(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        wanted = (self.height, self.width, self.channels)
        if dtype != np.uint8 or len(shape) not in (3, 4):
            raise UserError(
                f"{self.file} holds {name}_images of the shape {shape} and type {dtype}, where uint8 images "
                "(n, height, width) or (n, height, width, 3) are read: convert them."
            )
        found = (*shape[1:3], shape[3] if len(shape) == 4 else 1)
        if found != wanted:
            raise UserError(
                f"{self.file} holds {name}_images of {_in_words(found)}, but the configuration says "
                f"{_in_words(wanted)}: correct dataset.size, dataset.channels or dataset.name, or name another file."
            )

    def _targets(self, name: str, labels: NDArray[Any], images: int) -> NDArray[np.uint8]:
        known = len(self.label_names)
        labels = labels[:, None] if labels.ndim == 1 else labels
        if labels.dtype.kind not in "bui" or labels.ndim != 2 or len(labels) != images:
            raise UserError(
                f"{self.file} holds {name}_labels of the shape {labels.shape} and type {labels.dtype}, where {images} "
                "rows of whole numbers are read: one class or one 0/1 column per label."
            )
        if labels.shape[1] == known > 1:
            if not np.isin(labels, (0, 1)).all():
                raise UserError(f"{self.file} holds other values than 0 and 1 in {name}_labels: correct them.")
            return labels.astype(np.uint8)
        if labels.shape[1] != 1:
            raise UserError(
                f"{self.file} holds {labels.shape[1]} labels per image, but dataset.label_names has {known}: correct "
                "dataset.name or dataset.label_names."
            )
        classes = labels[:, 0].astype(np.int64)
        wrong = np.flatnonzero((classes < 0) | (classes >= known))
        if wrong.size:
            raise UserError(
                f"{self.file} holds the class {classes[wrong[0]]} in row {wrong[0]} of {name}_labels, but "
                f"dataset.label_names has {known} names: correct dataset.name or dataset.label_names."
            )
        return np.eye(known, dtype=np.uint8)[classes]

    @contextmanager
    def _opened(self, member: str) -> Iterator[tuple[IO[bytes], tuple[int, ...], np.dtype[Any]]]:
        """An array of the file: its bytes, shape and type.

        Raises
        ------
        UserError
            If the file has no such array or is damaged, also while its bytes are read.
        """
        try:
            with zipfile.ZipFile(self.file) as archive:
                if f"{member}.npy" not in archive.namelist():
                    raise UserError(f"{self.file} holds no {member}: it is no file of MedMNIST, so name another one.")
                with archive.open(f"{member}.npy") as stream:
                    version = np.lib.format.read_magic(stream)
                    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else _read_header_2
                    shape, fortran, dtype = read(stream)
                    if fortran or dtype.hasobject:
                        raise ValueError(f"{member} is not stored as plain rows")
                    yield stream, shape, dtype
        except (
            zipfile.BadZipFile,
            zlib.error,
            OSError,
            ValueError,
            EOFError,
            NotImplementedError,
            RuntimeError,
        ) as error:
            raise UserError(f"{self.file} cannot be read ({summarised(error)}): restore it.") from error


class MedMNIST(NpzDataset):
    """A published 2-D set of MedMNIST v3 (Yang et al. 2023), or a file of your own in its format.

    Ordinal sets (retinamnist) are read as classes. Images of chestmnist have any number of labels, so that it needs
    ``target=multilabel loss=bce``.

    Parameters
    ----------
    root : path
        Folder of the published files, such as ``bloodmnist.npz`` or ``bloodmnist_64.npz``.
    name : str
        The set.
    size : {28, 64, 128, 224}
        Height and width in pixels; of a file of your own any number.
    file : path, optional
        A file to read in place of the published one.
    label_names : sequence of str, optional
        Names of the labels; by default those of the set.
    channels : {1, 3}, optional
        Grey or colour; by default as in the set.
    cache_dir, split, normalize
        See `NpzDataset`.

    Raises
    ------
    UserError
        If no file of this size is published.

    References
    ----------
    Yang et al. 2023, MedMNIST v2 - A large-scale lightweight benchmark for 2D and 3D biomedical image classification,
    Sci Data 10:41; files: https://zenodo.org/records/10519652.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        name: Name = "bloodmnist",
        size: Annotated[int, Field(ge=1)] = 28,
        file: str | Path | None = None,
        label_names: Sequence[str] | None = None,
        channels: int | None = None,
        cache_dir: str | Path,
        split: PaperSplit = "official",
        normalize: ImageNormalization = "unit",
    ) -> None:
        if name not in SETS:
            raise UserError(f"Config key 'dataset.name' is {name!r}: the 2-D sets are {', '.join(SETS)}.")
        if size not in SIZES and file is None:
            raise UserError(
                f"Config key 'dataset.size' is {size}: published are {', '.join(map(str, SIZES))}, and dataset.file "
                "names a file of another size."
            )
        self.name, self.size, published = name, size, SETS[name]
        super().__init__(
            Path(root, file_name(name, size)) if file is None else Path(file),
            label_names=published.labels if label_names is None else label_names,
            channels=published.channels if channels is None else channels,
            size=size,
            cache_dir=cache_dir,
            split=split,
            normalize=normalize,
            md5=dict(zip(SIZES, published.md5, strict=True)).get(size, ""),
        )

    def _advice(self) -> str:
        more = "" if self.size == SIZES[0] else f" SIZE={self.size}"
        return (
            f"download it with `make data DATASET={self.name}{more}`, or set dataset.root or dataset.file to your copy"
        )

    def _remarks(self) -> list[str]:
        published = file_name(self.name, self.size)
        if self._part("train").published:
            return super()._remarks()
        remark = f"{self.file.name} is not the published {published}: results on it do not compare with published ones."
        return [remark, *super()._remarks()]


def check_channels(channels: int) -> None:
    """Refuse a number of channels that is neither 1 nor 3.

    Raises
    ------
    UserError
        If it is neither.
    """
    if channels not in CHANNELS:
        raise UserError(f"Config key 'dataset.channels' is {channels!r}: images are grey (1) or colour (3).")


def _in_words(size: tuple[int, ...]) -> str:
    return f"{size[0]} x {size[1]} pixels in {size[2]} channel{'s' * (size[2] != 1)}"


def _exactly(stream: IO[bytes], size: int) -> bytes:
    data = stream.read(size)
    if len(data) < size:
        raise ValueError("it is shorter than it says")
    return data


def _read_header_2(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    shape, fortran, dtype = np.lib.format.read_array_header_2_0(stream)
    return shape, fortran, dtype
