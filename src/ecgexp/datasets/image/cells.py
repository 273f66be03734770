"""Generated blood cells: a generator that writes a MedMNIST file, and the data set that reads it.

The cells are drawn from a seed, after the look of stained blood smears. They serve to try the software without real
data: **results on them have no clinical meaning.**
"""

from __future__ import annotations

import hashlib
import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from tqdm import tqdm

from ecgexp.datasets.base import ImageNormalization
from ecgexp.datasets.image.medmnist import NpzDataset, PaperSplit
from ecgexp.datasets.image.medmnist_sets import SETS
from ecgexp.datasets.splits import stratified_classes
from ecgexp.errors import UserError

logger = logging.getLogger(__name__)

VERSION: Final = 1
"""Raise it when the same options give another file."""
MOST_IMAGES: Final = 1_000_000
LARGEST: Final = 512
LABELS: Final = SETS["bloodmnist"].labels
PARTS: Final = {"train": 0.7, "val": 0.1, "test": 0.2}
_BLOCK: Final = 256  # images that share a random stream; another value gives other images from the same seed
_SHARES: Final = (1218, 3117, 1551, 2895, 1214, 1420, 3329, 2348)  # images per class in BloodMNIST

# Equal files from equal seeds on every machine: only arithmetic that IEEE 754 defines to the bit is used (no sine,
# exponential or sum over an axis, whose last digit depends on the processor), and the file is not compressed.
_Floats = NDArray[Any]  # float32
_Range = tuple[float, float]
_Colour = tuple[int, int, int]


@dataclass(frozen=True)
class _Look:
    """How the cells of a class look: ranges, lengths in widths of the image or in radii of the cell.

    Attributes
    ----------
    radius : pair of float
        Of the cell.
    irregular : float
        How far its outline differs from an ellipse.
    cytoplasm : colours
        Two, between which each cell's lies.
    nucleus : colours
        Likewise.
    discs, disc, step, curl : pairs of float
        The nucleus is a chain of discs: their number (0: none), radius and distance, and the sine of the angle between
        one link and the next.
    notch : pair of float
        Depth of a notch in the nucleus.
    granules, granule : pairs of float
        Their number and radius.
    grain : colours
        Of the granules.
    above : bool
        Granules also cover the nucleus.
    vacuoles : int
        Most light spots in the cytoplasm.
    """

    radius: _Range
    irregular: float
    cytoplasm: tuple[_Colour, _Colour]
    nucleus: tuple[_Colour, _Colour] = ((96, 52, 140), (48, 22, 92))
    discs: _Range = (1, 1)
    disc: _Range = (0.5, 0.6)
    step: _Range = (0.5, 0.5)
    curl: _Range = (0, 0)
    notch: _Range = (0, 0)
    granules: _Range = (0, 0)
    granule: _Range = (0.07, 0.11)
    grain: tuple[_Colour, _Colour] = ((60, 24, 90), (90, 40, 120))
    above: bool = False
    vacuoles: int = 0


_LOOKS: Final = {
    "basophil": _Look(
        (0.22, 0.30), 0.10, ((196, 150, 190), (140, 96, 160)), discs=(2, 3), disc=(0.44, 0.58), step=(0.5, 0.7),
        curl=(0.3, 0.8), granules=(26, 44), granule=(0.09, 0.14), above=True,
    ),
    "eosinophil": _Look(
        (0.23, 0.31), 0.07, ((224, 150, 146), (196, 116, 126)), discs=(2, 3), disc=(0.33, 0.44), step=(0.62, 0.85),
        curl=(0.2, 0.8), granules=(24, 40), granule=(0.07, 0.11), grain=((206, 92, 84), (176, 70, 80)),
    ),
    "erythroblast": _Look(
        (0.15, 0.25), 0.10, ((190, 172, 196), (150, 132, 176)), nucleus=((72, 34, 104), (36, 16, 70)),
        disc=(0.46, 0.72),
    ),
    "immature granulocyte": _Look(
        (0.25, 0.35), 0.08, ((222, 182, 200), (160, 134, 192)), nucleus=((116, 64, 152), (72, 36, 118)),
        disc=(0.60, 0.78), notch=(0.0, 0.5), granules=(6, 24), granule=(0.05, 0.09),
        grain=((150, 84, 140), (110, 50, 120)),
    ),
    "lymphocyte": _Look(
        (0.18, 0.26), 0.09, ((172, 164, 212), (128, 122, 190)), nucleus=((92, 48, 132), (50, 24, 92)),
        disc=(0.74, 0.92), notch=(0.0, 0.2),
    ),
    "monocyte": _Look(
        (0.26, 0.35), 0.20, ((190, 174, 200), (150, 136, 184)), nucleus=((112, 62, 146), (74, 40, 118)),
        disc=(0.56, 0.74), notch=(0.4, 0.8), granules=(0, 8), granule=(0.04, 0.07),
        grain=((150, 100, 160), (120, 70, 140)), vacuoles=3,
    ),
    "neutrophil": _Look(
        (0.23, 0.31), 0.07, ((230, 194, 196), (204, 166, 188)), discs=(3, 6), disc=(0.25, 0.36), step=(0.28, 0.52),
        curl=(0.3, 0.8), granules=(8, 24), granule=(0.04, 0.07), grain=((186, 128, 160), (150, 96, 140)),
    ),
    "platelet": _Look(
        (0.07, 0.14), 0.16, ((176, 142, 190), (128, 96, 160)), discs=(0, 0), granules=(4, 12), granule=(0.12, 0.2),
        grain=((110, 60, 140), (86, 40, 120)),
    ),
}  # fmt: skip
_MOST_DISCS: Final = 6
_NEIGHBOURS: Final = 8
_SMEARS: Final = ((254, 228, 202), (226, 222, 236))  # background of most slides, and of a few
_RED_CELLS: Final = ((220, 184, 172), (190, 152, 152))


def draw_cells(classes: NDArray[np.int64], size: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Draw one cell for each class, with red cells around it that the border may cut.

    Parameters
    ----------
    classes : int array, (images,)
        Indices in `LABELS`.
    size : int
        Height and width in pixels.
    rng : numpy.random.Generator
        Source of all variation.

    Returns
    -------
    uint8 array, (images, size, size, 3)
    """
    canvas = _Canvas(len(classes), size, rng)
    looks = [_LOOKS[LABELS[one]] for one in classes.tolist()]
    canvas.background()
    for _ in range(_NEIGHBOURS):
        canvas.red_cell()
    canvas.dark_neighbour()
    canvas.cell(looks)
    return canvas.finished()


class _Canvas:
    """Images that are drawn at once; positions are from 0 to 1 in both directions."""

    def __init__(self, images: int, size: int, rng: np.random.Generator) -> None:
        self.images, self.size, self.rng = images, size, rng
        axis = ((np.arange(size) + 0.5) / size).astype(np.float32)
        self.x, self.y = np.broadcast_to(axis, (size, size))[None], np.broadcast_to(axis[:, None], (size, size))[None]
        self.pixels = np.zeros((images, size, size, 3), np.float32)

    # --- chance

    def uniform(self, low: float | _Floats, high: float | _Floats) -> _Floats:
        """A number per image."""
        drawn = self.rng.random(self.images, dtype=np.float32)
        return np.asarray(low + (high - low) * drawn, dtype=np.float32)

    def direction(self) -> tuple[_Floats, _Floats]:
        """A vector of length 1 per image."""
        x, y = self.uniform(-1, 1), self.uniform(-1, 1)
        length = np.sqrt(x * x + y * y) + np.float32(1e-6)
        return x / length, y / length

    def between(self, colours: NDArray[np.float32]) -> _Floats:
        """A colour between two for each image: (images, 2, 3) to (images, 3)."""
        share = self.uniform(0, 1)[:, None]
        return colours[:, 0] * (1 - share) + colours[:, 1] * share

    def clouds(self, cells: int) -> _Floats:
        """Smooth noise from -1 to 1 with so many cells along a side: (images, size, size)."""
        grid = self.rng.random((self.images, cells + 2, cells + 2), dtype=np.float32) * 2 - 1
        place = (np.arange(self.size) + 0.5) * (cells / self.size)
        low = place.astype(np.int64)
        share = (place - low).astype(np.float32)
        share = share * share * (3 - 2 * share)
        rows = grid[:, low] * (1 - share)[:, None] + grid[:, low + 1] * share[:, None]
        return rows[:, :, low] * (1 - share) + rows[:, :, low + 1] * share

    # --- shapes

    def disc(self, x: _Floats, y: _Floats, radius: _Floats, warp: tuple[_Floats, _Floats] | None = None) -> _Floats:
        """How far each pixel lies within a disc, from 0 to 1, with a soft border of one and a half pixels."""
        across, down = self.x - _each(x), self.y - _each(y)
        if warp is not None:
            across, down = across + warp[0], down + warp[1]
        distance = np.sqrt(across * across + down * down)
        return _covered((_each(radius) - distance) * np.float32(self.size / 1.5))

    def paint(self, colour: _Floats, cover: _Floats) -> None:
        """Lay a colour, (images, 3) or (images, size, size, 3), over the images where `cover` is above 0."""
        colour = colour[:, None, None] if colour.ndim == 2 else colour
        self.pixels += (colour - self.pixels) * cover[..., None]

    def spot(
        self,
        colour: _Floats,
        place: tuple[_Floats, _Floats],
        radius: _Floats,
        opacity: _Floats | float,
        pale: _Floats | None = None,
        rows: NDArray[np.int64] | None = None,
        within: _Floats | None = None,
    ) -> None:
        """Lay a small disc over some of the images; only the pixels around it are computed.

        Parameters
        ----------
        colour, place, radius, opacity : arrays
            Of each image.
        pale : array, optional
            Share of the radius that is a pale centre.
        rows : int array, optional
            The images to draw on; by default all.
        within : array, (images, size, size), optional
            Share of each pixel that can be covered.
        """
        rows = np.arange(self.images) if rows is None else rows
        x, y, radius = place[0][rows], place[1][rows], radius[rows]
        side = min(2 * int(np.ceil(radius.max(initial=0) * self.size + 1)) + 1, self.size)
        down, across = (_window(middle, side, self.size) for middle in (y, x))
        centre = (np.float32(0.5) + across) / np.float32(self.size) - x[:, None]
        height = (np.float32(0.5) + down) / np.float32(self.size) - y[:, None]
        distance = np.sqrt((centre * centre)[:, None, :] + (height * height)[:, :, None])
        soft = np.float32(self.size / 1.5)
        cover = _covered((_each(radius) - distance) * soft)
        if pale is not None:
            cover = cover * (1 - np.float32(0.6) * _covered((_each(radius * pale[rows]) - distance) * soft))
        cover = cover * (_each(opacity[rows]) if isinstance(opacity, np.ndarray) else np.float32(opacity))
        pixels = rows[:, None, None], down[:, :, None], across[:, None, :]
        if within is not None:
            cover = cover * within[pixels]
        under = self.pixels[pixels]
        self.pixels[pixels] = under + (colour[rows][:, None, None] - under) * cover[..., None]

    # --- what is drawn

    def background(self) -> None:
        """A smear, lit unevenly."""
        other = self.uniform(0, 1) < 0.1
        colour = np.where(other[:, None], _SMEARS[1], _SMEARS[0]).astype(np.float32)
        self.pixels += colour[:, None, None] + 5 * self.clouds(2)[..., None]

    def red_cell(self) -> None:
        """A red cell with a pale centre, outside of the middle."""
        colour = self.between(_pairs([_RED_CELLS] * self.images))
        place = self._around(0.32, 0.85)  # from about 0.6 on it is not in the image
        self.spot(colour, place, self.uniform(0.11, 0.16), self.uniform(0.7, 1), self.uniform(0.25, 0.65))

    def dark_neighbour(self) -> None:
        """In a tenth of the images, the border cuts another white cell or a platelet."""
        colour = self.between(_pairs([((130, 90, 160), (60, 30, 100))] * self.images))
        place, radius = self._around(0.5, 0.62), self.uniform(0.05, 0.14)
        self.spot(colour, place, radius, 1.0, rows=np.flatnonzero(self.uniform(0, 1) < 0.1))

    def _around(self, nearest: float, farthest: float) -> tuple[_Floats, _Floats]:
        """A place at some distance from the middle."""
        across, down = self.direction()
        far = self.uniform(nearest, farthest)
        return np.float32(0.5) + far * across, np.float32(0.5) + far * down

    def cell(self, looks: list[_Look]) -> None:
        """The cell in the middle: cytoplasm, nucleus, vacuoles and granules."""
        x, y = self.uniform(0.42, 0.58), self.uniform(0.42, 0.58)
        radius = self._from([look.radius for look in looks])
        irregular = radius * np.array([look.irregular for look in looks], np.float32)
        warp = _each(irregular) * self.clouds(3), _each(irregular) * self.clouds(3)
        whole = self.disc(x, y, radius, warp)
        cytoplasm = self.between(_pairs([look.cytoplasm for look in looks]))
        texture = 1 + np.float32(0.07) * self.clouds(self._cells(7))
        self.paint(cytoplasm[:, None, None] * texture[..., None], whole)
        nucleus = self._nucleus(looks, x, y, radius, warp) * whole
        colour = self.between(_pairs([look.nucleus for look in looks]))
        chromatin = 1 + np.float32(0.22) * self.clouds(self._cells(12))
        self.paint(colour[:, None, None] * chromatin[..., None], nucleus)
        self._vacuoles(looks, x, y, radius, whole)
        self._granules(looks, x, y, radius, whole, nucleus)

    def _nucleus(
        self, looks: list[_Look], x: _Floats, y: _Floats, radius: _Floats, warp: tuple[_Floats, _Floats]
    ) -> _Floats:
        """Cover of a chain of discs, less a notch."""
        number = np.floor(self._from([(look.discs[0], look.discs[1] + 0.999) for look in looks]))
        disc = radius * self._from([look.disc for look in looks])
        step = radius * self._from([look.step for look in looks])
        sine = self._from([look.curl for look in looks])
        cosine = np.sqrt(1 - sine * sine)
        along, across = self.direction()
        ahead = along, across
        here = np.zeros_like(x), np.zeros_like(x)
        places = [here]
        for _ in range(_MOST_DISCS - 1):
            here = here[0] + step * along, here[1] + step * across
            along, across = along * cosine - across * sine, along * sine + across * cosine
            places.append(here)
        middle = [np.zeros_like(x), np.zeros_like(x)]
        for i, place in enumerate(places):
            for axis in (0, 1):
                middle[axis] = middle[axis] + place[axis] * (i < number) / np.maximum(number, 1)
        cover = np.zeros((self.images, self.size, self.size), np.float32)
        off = np.maximum(radius - 2 * disc, 0) * np.float32(0.3)
        x, y = x + off * self.uniform(-1, 1), y + off * self.uniform(-1, 1)
        for i, place in enumerate(places):
            here = x + place[0] - middle[0], y + place[1] - middle[1]
            size = disc * self.uniform(0.85, 1.15) * (i < number)
            if (i < number).any():
                cover = np.maximum(cover, self.disc(*here, size, warp) * _each((i < number).astype(np.float32)))
        depth = self._from([look.notch for look in looks])
        away = disc * (np.float32(1.45) - depth)
        notch = self.disc(x + away * ahead[0], y + away * ahead[1], disc * np.float32(0.55), warp)
        return cover * (1 - notch * _each((depth > 0.1).astype(np.float32)))

    def _vacuoles(self, looks: list[_Look], x: _Floats, y: _Floats, radius: _Floats, whole: _Floats) -> None:
        light = np.full((self.images, 3), (236, 218, 226), np.float32)
        for i in range(max(look.vacuoles for look in looks)):
            has = np.array([look.vacuoles > i for look in looks]) & (self.uniform(0, 1) < 0.3)
            across, down = self.direction()
            far, size = radius * self.uniform(0.3, 0.8), radius * self.uniform(0.08, 0.16)
            place = x + far * across, y + far * down
            self.spot(light, place, size, 1.0, rows=np.flatnonzero(has), within=whole)

    def _granules(
        self, looks: list[_Look], x: _Floats, y: _Floats, radius: _Floats, whole: _Floats, nucleus: _Floats
    ) -> None:
        number = self._from([look.granules for look in looks])
        size = radius * self._from([look.granule for look in looks])
        colour = self.between(_pairs([look.grain for look in looks]))
        above = np.array([look.above for look in looks], np.float32)
        free = whole * (1 - nucleus * _each(1 - above))
        for i in range(int(number.max(initial=0)) + 1):
            across, down = self.direction()
            far = radius * np.sqrt(self.uniform(0, 0.92))
            place = x + far * across, y + far * down
            self.spot(colour, place, size, 0.85, rows=np.flatnonzero(i < number), within=free)

    def finished(self) -> NDArray[np.uint8]:
        """The images with their staining, light and noise, rounded."""
        stain = np.stack([self.uniform(0.88, 1.14) for _ in range(3)], axis=1)
        depth = self.uniform(0.8, 1.15)[:, None] * stain
        light = self.uniform(0.9, 1.02)
        dark = (255 - self.pixels) * depth[:, None, None]
        noise = self.rng.random(self.pixels.shape, dtype=np.float32) * 10 - 5
        found = (255 - dark) * _each(light)[..., None] + noise
        return np.clip(np.floor(found + np.float32(0.5)), 0, 255).astype(np.uint8)

    def _from(self, ranges: list[_Range]) -> _Floats:
        """A number for each image from its range."""
        low, high = np.array(ranges, np.float32).T
        return self.uniform(low, high)

    def _cells(self, wanted: int) -> int:
        return max(min(wanted, self.size), 1)


def generate(path: Path, images: int, seed: int, size: int, progress: bool = False) -> None:
    """Write generated cells as a MedMNIST file: 70 % for training, 10 % for validation, 20 % for the test.

    Parameters
    ----------
    path : Path
        Of the file; equal options give an equal file.
    images : int
        Number of images.
    seed : int
        Seed of the generator.
    size : int
        Height and width in pixels.
    progress : bool
        Show a bar.
    """
    rng = np.random.default_rng([seed, VERSION])
    shares = np.array(_SHARES) * images // sum(_SHARES)
    counts = shares + (np.arange(len(shares)) < images - shares.sum())
    classes = rng.permutation(np.repeat(np.arange(len(LABELS)), counts))
    part = stratified_classes(classes, list(PARTS.values()), seed)
    drawn = np.empty((images, size, size, 3), np.uint8)
    with tqdm(total=images, desc="drawing cells", unit="image", disable=None if progress else True) as bar:
        for block, start in enumerate(range(0, images, _BLOCK)):
            rows = slice(start, start + _BLOCK)
            drawn[rows] = draw_cells(classes[rows], size, np.random.default_rng([seed, VERSION, block]))
            bar.update(len(classes[rows]))
    arrays = {}
    for number, name in enumerate(PARTS):
        arrays[f"{name}_images"] = drawn[part == number]
        arrays[f"{name}_labels"] = classes[part == number, None].astype(np.uint8)
    with path.open("wb") as file:
        np.savez(file, **arrays)


class SyntheticCells(NpzDataset):
    """Generated blood cells of eight classes, written as a MedMNIST file and read like a published one.

    The classes are those of BloodMNIST, with its shares, and differ as cells do: in size, in the nucleus (round,
    notched, lobed, band-like or absent), in granules (red, dark or none) and in the colour of the cytoplasm. Red cells
    around them are cut by the border, and staining and light vary. Results on these images have no clinical meaning.

    Parameters
    ----------
    root : path
        Folder for the generated files; each is named by its options and `VERSION`.
    images : int
        Number of images; 70 % train, 10 % validate, 20 % test.
    generator_seed : int
        Seed of the generator; it is independent of the seed of a trial.
    size : int
        Height and width in pixels.
    cache_dir, split, normalize
        See `ecgexp.datasets.MedMNIST`.

    Raises
    ------
    UserError
        If an argument is out of its range.
    """

    warning = "Generated blood cells: these numbers mean nothing clinically."

    def __init__(
        self,
        root: str | Path,
        *,
        cache_dir: str | Path,
        images: Annotated[int, Field(ge=100, le=MOST_IMAGES)] = 4000,
        generator_seed: Annotated[int, Field(ge=0)] = 0,
        size: Annotated[int, Field(ge=8, le=LARGEST)] = 28,
        split: PaperSplit = "official",
        normalize: ImageNormalization = "unit",
    ) -> None:
        for key, value, low, high in (("images", images, 100, MOST_IMAGES), ("size", size, 8, LARGEST)):
            if not low <= value <= high:
                raise UserError(f"Config key 'dataset.{key}' is {value}: give a number from {low} to {high}.")
        if generator_seed < 0:
            raise UserError(f"Config key 'dataset.generator_seed' is {generator_seed}: give a number of at least 0.")
        self.images, self.generator_seed = images, generator_seed
        name = f"v{VERSION}-{images}-seed{generator_seed}-{size}px.npz"
        super().__init__(
            Path(root, name),
            label_names=LABELS,
            channels=3,
            size=size,
            cache_dir=cache_dir,
            split=split,
            normalize=normalize,
        )

    def _check_file(self) -> None:
        """Generate the file where it is missing; refuse one that has changed since."""
        sum_file = self.file.with_suffix(".sha256")
        if not self.file.exists():
            self._generate(sum_file)
        elif sum_file.exists() and sum_file.read_text() != _sum_of(self.file):
            raise UserError(
                f"{self.file} has changed since it was generated: remove it; the next start generates it again."
            )

    def _generate(self, sum_file: Path) -> None:
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            # Write to a temporary folder and move it, so that no process sees an incomplete file.
            with tempfile.TemporaryDirectory(prefix=f".{self.file.stem}-", dir=self.file.parent) as temporary:
                finished = Path(temporary, self.file.name)
                generate(finished, self.images, self.generator_seed, self.height, progress=True)
                sum_file.write_text(_sum_of(finished))
                finished.replace(self.file)
        except OSError as error:
            raise UserError(
                f"The generated cells cannot be written to {self.file.parent} ({error.strerror}): set dataset.root to "
                "a folder that you can write to."
            ) from error


def _sum_of(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest() + "\n"


def _each(numbers: _Floats) -> _Floats:
    """A number per image, for its pixels."""
    return numbers[:, None, None]


def _window(middle: _Floats, side: int, size: int) -> NDArray[np.int64]:
    """Indices of `side` pixels around each of some places, inside of the image: (places, side)."""
    start = np.floor(middle * np.float32(size)).astype(np.int64) - side // 2
    return np.clip(start, 0, size - side)[:, None] + np.arange(side)


def _covered(distance: _Floats) -> _Floats:
    return np.clip(distance + np.float32(0.5), 0, 1)


def _pairs(colours: list[tuple[_Colour, _Colour]]) -> _Floats:
    return np.array(colours, np.float32)
