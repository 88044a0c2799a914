"""Reading one image file: whatever it is called and however it is stored, it comes out as L or RGB.

Orientation in EXIF is applied; 16-bit grey is scaled to 8; transparent pixels become white; of animations
the first frame counts; colour profiles are ignored. Whatever goes wrong is a `DataError` naming the file.
"""

from __future__ import annotations

import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from regroup.errors import DataError
from regroup.spec import Size

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif"}
    | {".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".jp2", ".avif"}
)
"""Endings of the names of files that count as images; their contents decide the format."""


class ImageFacts(NamedTuple):
    """What a look at a file told.

    Attributes:
        size: height and width in its right orientation; (0, 0) if it cannot be read.
        problem: why it cannot be used; "" if it can.
    """

    size: Size
    problem: str


def read_image(path: Path, channels: int) -> Image.Image:
    """Return the image in a file, mode L for one channel, RGB for three, in its right orientation.

    Raises:
        DataError: it cannot be read; names the file and the reason.
    """
    with calm_decoders(), _opened(path) as image:
        return _flattened(_oriented(image), "L" if channels == 1 else "RGB")


def inspect_image(path: Path) -> ImageFacts:
    """Decode a file, as fast as its format allows, and return its size and what is wrong with it.

    To be called inside `calm_decoders`.
    """
    from PIL import Image

    try:
        with _opened(path) as image:
            width, height = image.size
            turned = _orientation(image) >= 5
            image.draft(None, (1, 1))  # decodes all of a JPEG, but computes an eighth of its rows and columns
            image.load()
            if image.mode[0] in "IF":
                _flattened(image, "L")
            if image.format == "PNG":  # decoding passes over wrong checksums
                with Image.open(path) as again:
                    again.verify()
        return ImageFacts((width, height) if turned else (height, width), "")
    except DataError as error:
        return ImageFacts((0, 0), error.reason)


def fit(image: Image.Image, size: Size, part: float = 1.0) -> Tensor:
    """Return the middle of an image, as uint8 (channels, height, width) of `size`.

    Args:
        image: mode L or RGB.
        size: (height, width) to return.
        part: of the largest centred rectangle with the proportions of `size`, how much of each side is kept.
    """
    from PIL import Image

    height, width = size
    if image.size != (width, height):
        scale = part * min(image.width / width, image.height / height)
        left, top = (image.width - scale * width) / 2, (image.height - scale * height) / 2
        box = (left, top, left + scale * width, top + scale * height)
        image = image.resize((width, height), Image.Resampling.BICUBIC, box=box)
    pixels = np.array(image).reshape(height, width, -1)
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())


@contextmanager
def calm_decoders() -> Iterator[None]:
    """Silence warnings of odd metadata inside the block, and make that of too many pixels an error.

    The filters of warnings belong to the whole process: enter it in one thread only.
    """
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Open an image file; whatever its decoder raises inside the block becomes a DataError."""
    from PIL import Image

    try:
        _check_file(path)
        with Image.open(path) as image:
            yield image
    except DataError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise DataError(path, f"has more than {Image.MAX_IMAGE_PIXELS} pixels") from None
    except Image.UnidentifiedImageError:
        beginning = path.read_bytes()[:12]
        raise DataError(path, f"cannot be recognised as an image: it begins with {beginning!r}") from None
    except OSError as error:
        raise DataError(path, error.strerror or str(error)) from error
    except Exception as error:  # decoders raise whatever their parsing trips over
        raise DataError(path, f"cannot be decoded ({type(error).__name__}: {error})") from error


def _check_file(path: Path) -> None:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
        raise DataError(path, "is not a file")
    if status.st_size == 0:
        raise DataError(path, "is empty (0 bytes)")


def _orientation(image: Image.Image) -> int:
    with suppress(Exception):  # an unreadable EXIF block turns nothing
        return image.getexif().get(0x0112, 1)
    return 1


def _oriented(image: Image.Image) -> Image.Image:
    from PIL import ImageOps

    return ImageOps.exif_transpose(image) if 2 <= _orientation(image) <= 8 else image


def _flattened(image: Image.Image, mode: str) -> Image.Image:
    """Return the image in `mode`, with 16 bits scaled to 8 and transparency laid on white."""
    from PIL import Image

    if image.mode.startswith("I"):
        pixels = np.asarray(image).astype(np.int64)
        if pixels.min() < 0 or pixels.max() > 0xFFFF:
            raise ValueError(f"grey values from {pixels.min()} to {pixels.max()}, not of 16 bits")
        image = Image.fromarray((pixels >> 8).astype(np.uint8))
    elif image.mode == "F":
        raise ValueError("grey values are floating-point numbers of no known range")
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(mode)
