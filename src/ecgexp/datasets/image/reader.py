"""Read an image file as pixels of one size and number of channels, or refuse it with one clear sentence."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from ecgexp.datasets.paths import unreadable
from ecgexp.datasets.reading import RecordError
from ecgexp.errors import summarised

if TYPE_CHECKING:
    from PIL.Image import Image

FORMAT = 1
"""Part of each cache key: raise it when `read_image` returns other pixels for the same files."""
FORMATS = ("JPEG", "PNG", "TIFF")
SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff")
_ORIENTATION = 0x0112  # the EXIF tag
_PLAIN = ("1", "L", "LA", "P", "PA", "RGB", "RGBA")

Resize = Literal["cover", "stretch"]


def read_image(
    path: Path, *, channels: int, height: int, width: int, crop: int | None = None, resize: Resize = "cover"
) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """Read a JPEG, PNG or TIFF file, crop and resize it.

    A rotation that EXIF notes is applied. Then the `crop` is cut from the middle, and the rest is resized (bicubic,
    with antialiasing). Palettes are resolved, one bit per pixel becomes 0 and 255, opaque alpha is dropped, and colour
    and grey are converted into each other; each of these steps is noted.

    Parameters
    ----------
    path : Path
        The file.
    channels : {1, 3}
        Grey or colour.
    height, width : int
        Of the result, in pixels.
    crop : int, optional
        Side of a square in the middle of the image, in its own pixels, that is kept.
    resize : {'cover', 'stretch'}
        'cover': keep the ratio of the sides, and crop what is beyond the wanted ratio, on both sides equally.
        'stretch': change the ratio.

    Returns
    -------
    uint8 array, (height, width, channels)
    tuple of str
        How the image was adapted.

    Raises
    ------
    RecordError
        If the file is missing or damaged, in another format, smaller than the crop, or in a mode that has no single
        meaning as 8 bits of grey or colour (CMYK, 16 bits, transparent pixels), or has several images.
    """
    import PIL.Image

    notes: list[str] = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PIL.Image.DecompressionBombWarning)
            with PIL.Image.open(path, formats=FORMATS) as opened:
                opened.load()
                image = _upright(_plain(opened, path, notes), opened, notes)
        image = _coloured(image, channels, notes)
        image = _resized(image, path, (width, height), crop, resize)
    except PIL.UnidentifiedImageError as error:
        raise RecordError(path, "it is no JPEG, PNG or TIFF image, or its head is damaged") from error
    except PIL.Image.DecompressionBombError as error:
        raise RecordError(path, f"it has too many pixels ({summarised(error)})") from error
    except RecordError:
        raise
    except Exception as error:  # a decoder may raise anything on damaged data
        if isinstance(error, OSError) and error.errno is not None:
            raise RecordError(path, unreadable(path, error)) from error
        raise RecordError(path, f"it is truncated or damaged ({summarised(error).rstrip('.')})") from error
    return np.asarray(image, dtype=np.uint8).reshape(height, width, channels), tuple(notes)


def _plain(image: Image, path: Path, notes: list[str]) -> Image:
    """The image in 8 bits of grey or colour."""
    if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
        raise RecordError(path, f"it holds {image.n_frames} images")  # type: ignore[attr-defined]
    if image.mode not in _PLAIN:
        what = "CMYK colours" if image.mode == "CMYK" else f"pixels in mode {image.mode}"
        raise RecordError(path, f"it has {what} where 8 bits of grey or RGB are read (convert it)")
    if image.format == "TIFF" and image.mode == "RGB" and max(image.tag_v2.get(258, (8,))) > 8:  # type: ignore[attr-defined]
        raise RecordError(path, "it has more than 8 bits per pixel and channel (convert it)")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if np.asarray(image.getchannel("A")).min() < 255:
            raise RecordError(path, "it has transparent pixels (lay it over a background)")
        notes.append("opaque alpha dropped")
        return image.convert("RGB")
    if image.mode == "P":
        notes.append("palette resolved")
        return image.convert("RGB")
    if image.mode == "1":
        notes.append("one bit per pixel widened")
        return image.convert("L")
    return image


def _upright(image: Image, opened: Image, notes: list[str]) -> Image:
    """The image as its EXIF orientation shows it."""
    import PIL.Image

    turn = PIL.Image.Transpose
    turned = {
        2: turn.FLIP_LEFT_RIGHT, 3: turn.ROTATE_180, 4: turn.FLIP_TOP_BOTTOM, 5: turn.TRANSPOSE, 6: turn.ROTATE_270,
        7: turn.TRANSVERSE, 8: turn.ROTATE_90,
    }.get(opened.getexif().get(_ORIENTATION, 1))  # fmt: skip
    if turned is None:
        return image
    notes.append("rotated by its EXIF data")
    return image.transpose(turned)


def _coloured(image: Image, channels: int, notes: list[str]) -> Image:
    if channels == 1 and image.mode != "L":
        notes.append("colour made grey")
        return image.convert("L")
    if channels == 3 and image.mode != "RGB":
        notes.append("grey repeated as colour")
        return image.convert("RGB")
    return image


def _resized(image: Image, path: Path, size: tuple[int, int], crop: int | None, resize: Resize) -> Image:
    """The middle of the image in a size, (width, height)."""
    import PIL.Image

    across, down = image.size
    if crop is not None:
        if min(across, down) < crop:
            raise RecordError(path, f"it has {across} x {down} pixels, less than dataset.crop={crop}")
        left, top = (across - crop) // 2, (down - crop) // 2
        image = image.crop((left, top, left + crop, top + crop))
        across = down = crop
    if resize == "stretch":
        return image.resize(size, PIL.Image.Resampling.BICUBIC)
    share = min(across / size[0], down / size[1])
    beyond, above = (across - share * size[0]) / 2, (down - share * size[1]) / 2
    box = (beyond, above, across - beyond, down - above)
    return image.resize(size, PIL.Image.Resampling.BICUBIC, box=box)
