"""A folder of your own images: a sub-folder for each class, or a table of labels."""

from __future__ import annotations

import logging
import os
import posixpath
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ecgexp.datasets.base import ImageDataset, ImageNormalization, SplitName
from ecgexp.datasets.files import Sources
from ecgexp.datasets.image.identical import Identical, described, identical_images
from ecgexp.datasets.image.medmnist import check_channels
from ecgexp.datasets.image.reader import FORMAT, SUFFIXES, Resize, read_image
from ecgexp.datasets.labelled import SPLITS, Label, LabelledFolder, Share
from ecgexp.datasets.paths import absent
from ecgexp.datasets.reading import Kind, Readings, read_cached
from ecgexp.datasets.recordset import Labels, Records
from ecgexp.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

WORTH_A_PROCESS = 1000
"""With fewer images, starting one more process takes longer than it saves."""
_DIGITS = 32  # of the hash of a file; in its place stands the reason why a file cannot be read


class ImageFolder(LabelledFolder, ImageDataset):
    """JPEG, PNG and TIFF files of any size, cropped and resized to one size.

    The class of an image is the sub-folder of `root` that it is in, or `labels_csv` names the labels. Files that are
    equal byte for byte are found before the splits are made, and are always divided together. Two of them with
    different labels, or in two splits of the `split_column`, are bad (see `on_bad_record`).

    Parameters
    ----------
    root : path
        The folder of the images.
    height, width : int
        To which each image is resized, in pixels.
    channels : {1, 3}
        Grey or colour.
    crop : int, optional
        Side of a square in the middle of each image, in its own pixels, that is kept before it is resized.
    resize : {'cover', 'stretch'}
        See `ecgexp.datasets.image.reader.read_image`.
    labels_csv : path, optional
        Table with one row per image; relative to `root` unless absolute. By default each sub-folder is a class.
    labels : list of str or int, optional
        The labels, in order. By default the names of the sub-folders, sorted; needed with `labels_csv`.
    label_names : list of str, optional
        In place of `labels`: the labels that a configuration has resolved.
    file_column : str
        Column with the image: its path in `root`, or its name if that is unique in all sub-folders.
    label_column : str, optional
        Column with the labels of an image, as text. None: each label has a column of 0 and 1 with its name.
    separator : str
        Text between two labels in `label_column`.
    group_column : str, optional
        Column with the patient, or whatever else must be in one split. By default each image counts as a separate
        group, and the report says that a split by patient was not possible.
    split_column : str, optional
        Column with train, val or test. By default groups are split at random so that each label has its share in each
        split (see `stratified_split`).
    fractions : three floats
        Shares of the train, validation and test splits, if there is no `split_column`.
    split_seed : int
        Same seed, same splits.
    normalize
        See `ImageDataset`.
    cache_dir, on_bad_record, workers
        See `RecordSet`.

    Raises
    ------
    UserError
        If there is no folder, no sub-folder or no label, a label is named twice, or `fractions` are not three shares
        that sum to 1.
    """

    patient_key = "group_column"

    def __init__(
        self,
        root: str | Path,
        *,
        cache_dir: str | Path,
        height: int = 64,
        width: int = 64,
        channels: int = 3,
        crop: Annotated[int, Field(ge=1)] | None = None,
        resize: Resize = "cover",
        labels_csv: str | Path | None = None,
        labels: list[Label] | None = None,
        label_names: Sequence[str] | None = None,
        file_column: str = "file",
        label_column: str | None = "label",
        separator: Annotated[str, Field(min_length=1)] = ";",
        group_column: str | None = None,
        split_column: str | None = None,
        fractions: list[Share] = [0.7, 0.1, 0.2],  # noqa: B006 - only read
        split_seed: Annotated[int, Field(ge=0)] = 0,
        normalize: ImageNormalization = "unit",
        on_bad_record: Literal["raise", "skip"] = "raise",
        workers: Annotated[int, Field(ge=1)] | None = None,
    ) -> None:
        check_channels(channels)
        self.by_folder = labels_csv is None
        names = list(map(str, label_names or labels or ()))
        if not names:
            names = folder_labels(root, labels_csv)
        super().__init__(
            root,
            table="" if labels_csv is None else labels_csv,
            labels=names,
            record_column=file_column,
            label_column=label_column,
            separator=separator,
            patient_column=None if self.by_folder else group_column,
            split_column=None if self.by_folder else split_column,
            fractions=fractions,
            split_seed=split_seed,
            cache_dir=cache_dir,
            on_bad_record=on_bad_record,
            workers=workers,
        )
        self.height, self.width, self.channels = height, width, channels
        self.crop, self.resize, self.normalize = crop, resize, normalize
        for key, value in (("group_column", group_column), ("split_column", split_column)):
            if self.by_folder and value is not None:
                raise UserError(f"Config key 'dataset.{key}' needs a table: name one with dataset.labels_csv.")

    def prepare(self) -> None:
        """Read the images of the train and validation splits into the cache and check them."""
        super().prepare()
        for remark in self._remarks():
            logger.warning(remark)

    def remarks(self) -> list[str]:
        """Sentences on the data; see `Dataset.remarks`."""
        return [*super().remarks(), *self._remarks()]

    def identical(self) -> list[Identical]:
        """Groups of images in training and validation that have the same pixels once they are resized."""
        loaded = {name: self._load(name) for name in ("train", "val")}
        splits = {name: one.split for name, one in loaded.items()}
        return identical_images(splits, {name: one.hashes for name, one in loaded.items()}, self.label_names)

    def _remarks(self) -> list[str]:
        return described(self.identical())

    def metadata(self, split: SplitName) -> pd.DataFrame | None:
        """Columns ``age``, ``sex``, ``site`` and ``device`` of the table of labels, as far as it has them."""
        return None if self.by_folder else super().metadata(split)

    @staticmethod
    def check_arguments(
        root: str, labels: Sequence[str] | None = None, labels_csv: str | None = None, **others: Any
    ) -> None:
        """Refuse arguments that leave the labels open, before anything is read.

        Raises
        ------
        UserError
            If there are neither labels nor sub-folders.
        """
        if not labels:
            folder_labels(root, labels_csv)

    # --- which images there are

    @cached_property
    def _files(self) -> list[str]:
        """Paths of all images in the folder, sorted."""
        if not self.root.is_dir():
            raise UserError(f"The folder {absent(self.root)}: set dataset.root to the folder of your images.")
        images: list[str] = []
        others: list[str] = []
        for folder, folders, files in os.walk(self.root, followlinks=True):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in (name for name in files if not name.startswith(".")):
                path = Path(folder, name).relative_to(self.root).as_posix()
                (images if path.lower().endswith(SUFFIXES) else others).append(path)
        others = sorted(set(others) - {os.path.relpath(self.table, self.root)})
        if others:
            logger.info(
                "%s: %d files are no %s, and not read; the first is %s.",
                *(self.root, len(others), ", ".join(SUFFIXES), others[0]),
            )
        if not images:
            raise UserError(f"The folder {self.root} has no image ({', '.join(SUFFIXES)}): set dataset.root.")
        return sorted(images)

    def _read_records(self) -> Records:
        if not self.by_folder:
            return super()._read_records()
        files = self._files
        above = [file for file in files if "/" not in file]
        if above:
            raise UserError(
                f"{len(above)} images are directly in {self.root}, the first is {above[0]}, where each sub-folder is a "
                "class: move them, or name a table with dataset.labels_csv."
            )
        unknown = sorted({_class_of(file) for file in files} - set(self.label_names))
        if unknown:
            raise UserError(
                f"The sub-folder {unknown[0]} of {self.root} is not in dataset.labels ({', '.join(self.label_names)}): "
                "add it, or move the folder away."
            )
        names = np.array(files)
        return self._split(Records(names, names, names, names))

    def _read_labels(self, records: Records) -> Labels:
        if not self.by_folder:
            found = super()._read_labels(records)
            hint = "target=multilabel loss=bce takes any number of labels"
            more = set(self.target.problems(found.targets)) if hasattr(self, "target") else set()
            return Labels(
                found.targets, {i: f"{text}; {hint}" if i in more else text for i, text in found.problems.items()}
            )
        classes = [self.label_names.index(_class_of(file)) for file in records.files.tolist()]
        return Labels(np.eye(len(self.label_names), dtype=np.uint8)[classes])

    def _name(self, text: str) -> str:
        path = text.replace("\\", "/").strip()
        return posixpath.normpath(path) if path else ""

    def _locate(self, names: list[str]) -> list[str]:
        there = set(self._files)
        by_name = defaultdict(list)
        for file in self._files:
            by_name[posixpath.basename(file)].append(file)
        found, rows = [], dict[str, str]()
        for name in names:
            places = [name] if name in there else by_name.get(name, [name])
            if len(places) > 1:
                raise UserError(
                    f"Image {name} is in several folders of {self.root} ({', '.join(places)}): give its path in the "
                    "table."
                )
            other = rows.setdefault(places[0], name)
            if other != name:
                raise UserError(f"{self.table} has one image twice, as {other} and as {name}: keep one of the rows.")
            found += places
        unlisted = len(there - set(found))
        if unlisted:
            logger.info("%s: %d images are not in %s, and not read.", self.root, unlisted, self.table.name)
        return found

    # --- equal files

    def _digests(self, records: Records) -> list[str]:
        """Hash of the bytes of each file; a file that is missing has one of its own."""
        contents = self._sources.contents
        found = ((file, contents.get(file, "")) for file in records.files.tolist())
        return [digest if len(digest) == _DIGITS else file for file, digest in found]

    @cached_property
    def _sources(self) -> Sources:
        """All images, also those that are in no table."""
        return Sources(self.root, self._files, self.cache_dir, ("",))

    def _together(self, records: Records) -> NDArray[np.str_]:
        """Groups, joined where they have equal files."""
        return _joined(records.patients.tolist(), self._digests(records))

    def _conflicts(self, records: Records, labels: Labels) -> dict[int, str]:
        """Images that are also there with other labels, or in a split that is further from training."""
        everywhere: dict[str, dict[str, str]] = defaultdict(dict)
        for record, split, digest in zip(
            self._records.ids.tolist(), self._records.splits.tolist(), self._digests(self._records), strict=True
        ):
            everywhere[digest].setdefault(split, record)
        problems: dict[int, str] = {}
        same: dict[str, list[int]] = defaultdict(list)
        for i, (split, digest) in enumerate(zip(records.splits.tolist(), self._digests(records), strict=True)):
            same[digest].append(i)
            for other in SPLITS[SPLITS.index(split) + 1 :]:
                if other in everywhere[digest]:
                    problems[i] = f"it is the same image as {everywhere[digest][other]}, which is in the {other} split"
        for group in same.values():
            for i in group:
                differing = [j for j in group if (labels.targets[j] != labels.targets[i]).any()]
                if differing:
                    named = " and ".join(np.array(self.label_names)[labels.targets[differing[0]] == 1].tolist())
                    problems[i] = (
                        f"it is the same image as {records.ids[differing[0]]}, which has "
                        f"{f'the label {named}' if named else 'no label'}"
                    )
        return problems

    # --- pixels

    def _read_arrays(self, files: list[str]) -> Readings:
        layout: dict[str, Any] = {
            "channels": self.channels, "height": self.height, "width": self.width, "crop": self.crop,
            "resize": self.resize,
        }  # fmt: skip
        shape = (self.height, self.width, self.channels)
        settings = ["images", FORMAT, layout, files]
        kind = Kind(partial(read_image, **layout), shape, np.uint8, settings, WORTH_A_PROCESS)
        return read_cached(self.root, files, kind, self._sources, self.cache_dir, self.workers)

    def _facts(self) -> Iterator[Any]:
        yield (self.channels, self.height, self.width)

    def _empty_split_advice(self, name: str) -> str:
        if not self.by_folder:
            return super()._empty_split_advice(name)
        return f"it needs more images in {self.root} or a larger share in dataset.fractions"


def folder_labels(root: str | Path, labels_csv: str | Path | None) -> list[str]:
    """Names of the classes where none are configured: the sub-folders, sorted.

    Raises
    ------
    UserError
        If there is no such folder, or a table says the labels.
    """
    if labels_csv is not None:
        raise UserError(
            f"Config key 'dataset.labels' is missing: name the labels in {labels_csv}, such as 'dataset.labels=[A,B]'."
        )
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise UserError(f"The folder {absent(folder)}: set dataset.root to the folder of your images.")
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not names:
        raise UserError(
            f"The folder {folder} has no sub-folder, where each class has one: name a table with dataset.labels_csv."
        )
    if set(names) <= {*SPLITS, "valid", "validation"}:
        raise UserError(
            f"The sub-folders of {folder} are {', '.join(names)}, where each is a class: write a table with the "
            "columns file, label and split, and name it with dataset.labels_csv and dataset.split_column."
        )
    return names


def _class_of(file: str) -> str:
    return file.partition("/")[0]


def _joined(groups: list[str], digests: list[str]) -> NDArray[np.str_]:
    """Groups, those that share a digest under one name: (records,)."""
    above: dict[str, str] = {}

    def top(name: str) -> str:
        while above.get(name, name) != name:
            name = above[name]
        return name

    first: dict[str, str] = {}
    for group, digest in zip(groups, digests, strict=True):
        one, other = top(group), top(first.setdefault(digest, group))
        above[max(one, other)] = min(one, other)
    return np.array([top(group) for group in groups])
