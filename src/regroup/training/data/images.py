"""Reading one image file: whatever it is called and however it is stored, it comes out as L or RGB.

Orientation in EXIF is applied; 16-bit grey is scaled to 8; transparent pixels become white; of animations
the first frame counts; colour profiles are ignored. Whatever goes wrong is a `DataError` naming the file.

Training, the look at every file before it and `regroup run` all read here. Size and kind of a file, its
format and the number of its pixels are known before anything is decoded, and what is resized is resized to
the target at once, so that no file takes more than two gigabytes.
"""

from __future__ import annotations

import ctypes
import functools
import io
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from regroup.errors import DataError
from regroup.files.reading import open_file
from regroup.spec import Size

if TYPE_CHECKING:
    from PIL import Image

Crop = Literal["center", "squash", "border"]
"""What is shown of an image: the largest middle of the right proportions ("center"); the whole, whose
proportions change ("squash"); the whole with bars beside it ("border")."""

Resample = Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]
"""Pillow's filters for images of other sizes."""

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif"}
    | {".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".jp2", ".avif"}
)
"""Endings of the names of files that count as images; their contents decide the format."""

MOST_PIXELS = 89_478_485
"""Pixels that an image may have: a quarter of a gigabyte in RGB, Pillow's own limit."""

_MOST_BYTES = 1 << 30
_NOWHERE = logging.NullHandler()
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF")  # others run programs


class _Bounded(io.BufferedReader):
    """A file that makes no room for more than it has: decoders ask for as much as a damaged length says."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > io.DEFAULT_BUFFER_SIZE:
            size = min(size, max(0, os.fstat(self.fileno()).st_size - self.tell()))
        return super().read(size)


class ImageFacts(NamedTuple):
    """What a look at a file told.

    Attributes:
        size: height and width in its right orientation; (0, 0) if it cannot be read.
        problem: why it cannot be used; "" if it can.
        lasting: whether it lies in the content of the file, not in the system that could not read it.
        digest: hash of that content; "" if nobody asked.
    """

    size: Size
    problem: str
    lasting: bool = True
    digest: str = ""


def read_image(path: Path, channels: int) -> Image.Image:
    """Return the image in a file, mode L for one channel, RGB for three, in its right orientation.

    Raises:
        DataError: it cannot be read; names the file and the reason.
    """
    with calm_decoders():
        with _opened(path) as image:
            png = image.format == "PNG"
            found = _flattened(_oriented(image), "L" if channels == 1 else "RGB")
        if png:
            _check_sums(path)
        return found


def read_levels(path: Path) -> np.ndarray:
    """Return the levels of a grey or palette image, as its file has them: uint8 (height, width).

    Raises:
        DataError: it cannot be read, or is neither; names the file and the reason.
    """
    with calm_decoders(), _opened(path) as image:
        if image.mode not in ("P", "L", "1"):
            raise DataError(
                path, f"is an image of mode {image.mode}: a mask is a palette or grey image of 8 bits"
            )
        return np.array(image.convert("L") if image.mode == "1" else image, np.uint8)


def inspect_image(path: Path) -> ImageFacts:
    """Decode a file, as fast as its format allows, and return its size and what is wrong with it.

    To be called inside `calm_decoders`.
    """
    try:
        with _opened(path) as image:
            width, height = image.size
            turned = _orientation(image) >= 5
            image.draft(None, (1, 1))  # decodes all of a JPEG, but computes an eighth of its rows and columns
            image.load()
            if image.mode[0] in "IF":
                _flattened(image, "L")
            png = image.format == "PNG"
        if png:
            _check_sums(path)
        return ImageFacts((width, height) if turned else (height, width), "")
    except DataError as error:
        cause = error.__cause__
        passing = isinstance(cause, MemoryError) or (isinstance(cause, OSError) and cause.errno is not None)
        return ImageFacts((0, 0), error.reason, lasting=not passing)


def fit(
    image: Image.Image, size: Size, part: float = 1.0, *, squash: bool = False, resample: Resample = "bicubic"
) -> Tensor:
    """Return the middle of an image, as uint8 (channels, height, width) of `size`.

    Args:
        image: mode L or RGB.
        size: (height, width) to return.
        part: of the largest centred rectangle with the proportions of `size`, how much of each side is kept.
        squash: ... of the whole image, whose proportions change.
        resample: name of Pillow's filter.
    """
    height, width = size
    if image.size != (width, height):
        scales = image.width / width, image.height / height
        across, down = (part * (scale if squash else min(scales)) for scale in scales)
        left, top = (image.width - across * width) / 2, (image.height - down * height) / 2
        box = (left, top, left + across * width, top + down * height)
        image = image.resize((width, height), _filter(resample), box=box)
    return _as_tensor(image)


def letterbox(
    image: Image.Image, size: Size, part: float, fill: tuple[int, ...], *, resample: Resample = "bicubic"
) -> Tensor:
    """Return all of an image with bars beside it, then the middle of that: uint8 (channels, height, width).

    Args:
        image: mode L or RGB.
        size: (height, width) to return.
        part: of the image with its bars, how much of each side is kept.
        fill: colour of the bars.
        resample: name of Pillow's filter.
    """
    from PIL import Image

    height, width = size
    scale = min(width / image.width, height / image.height) / part
    inner = max(1, round(scale * image.width)), max(1, round(scale * image.height))
    canvas = Image.new(image.mode, (width, height), fill if len(fill) > 1 else fill[0])
    image = image.resize(inner, _filter(resample))
    canvas.paste(image, ((width - image.width) // 2, (height - image.height) // 2))
    return _as_tensor(canvas)


def normalised(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Return uint8 (channels, height, width) as a network wants it: float32, (1, channels, height, width)."""
    shift, scale = torch.tensor([mean, std])[:, :, None, None]
    return ((pixels / 255 - shift) / scale)[None]


def _filter(name: Resample) -> Image.Resampling:
    from PIL import Image

    return Image.Resampling[name.upper()]


def _as_tensor(image: Image.Image) -> Tensor:
    pixels = np.array(image).reshape(image.height, image.width, -1)
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())


@contextmanager
def calm_decoders() -> Iterator[None]:
    """Silence warnings of odd metadata inside the block, and what decoders print by themselves.

    The filters of warnings belong to the whole process: enter it in one thread only.
    """
    logging.getLogger("PIL").addHandler(_NOWHERE)  # else what Pillow logs is printed, where nobody listens
    library = _libtiff()
    before = library.TIFFSetErrorHandler(None) if library else None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if library:
            library.TIFFSetErrorHandler(before)


@functools.cache
def _libtiff() -> ctypes.CDLL | None:
    """Return the libtiff that Pillow has loaded into this process, where the system tells of it."""
    from PIL import Image

    Image.init()
    with suppress(OSError, AttributeError):
        for line in Path("/proc/self/maps").read_text().splitlines():
            if "/libtiff" in line:
                library = ctypes.CDLL(line.split(maxsplit=5)[5])
                library.TIFFSetErrorHandler.argtypes = [ctypes.c_void_p]
                library.TIFFSetErrorHandler.restype = ctypes.c_void_p
                return library
    return None


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Open an image file; whatever its decoder raises inside the block becomes a DataError."""
    from PIL import Image

    Image.init()
    beginning, too_many = b"", f"has more than {MOST_PIXELS} pixels"
    try:
        with _Bounded(io.FileIO(open_file(path, most=_MOST_BYTES))) as file:
            beginning = file.read(12)
            if not beginning:
                raise DataError(path, "is empty (0 bytes)")
            with Image.open(file, formats=[name for name in _FORMATS if name in Image.OPEN]) as image:
                if image.width * image.height > MOST_PIXELS:
                    raise DataError(path, too_many)
                yield image
    except DataError:
        raise
    except Image.DecompressionBombError:
        raise DataError(path, too_many) from None
    except Image.UnidentifiedImageError:
        raise DataError(path, f"cannot be recognised as an image: it begins with {beginning!r}") from None
    except OSError as error:
        raise DataError(path, error.strerror or str(error)) from error
    except MemoryError as error:
        raise DataError(path, "needs more memory than there is") from error
    except Exception as error:  # decoders raise whatever their parsing trips over
        raise DataError(path, f"cannot be decoded ({type(error).__name__}: {error})") from error


def _check_sums(path: Path) -> None:
    """Look at the checksums of a PNG file, which decoding passes over."""
    with _opened(path) as image:
        image.verify()


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
        pixels = np.asarray(image)
        if pixels.min() < 0 or pixels.max() > 0xFFFF:
            raise ValueError(f"grey values from {pixels.min()} to {pixels.max()}, not of 16 bits")
        image = Image.fromarray((pixels >> 8).astype(np.uint8))
    elif image.mode == "F":
        raise ValueError("grey values are floating-point numbers of no known range")
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(mode)
