"""What images a network takes, and how one in a file becomes its input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regroup.errors import DataError
from regroup.files.documents import require
from regroup.training.data import images
from regroup.training.data.images import Crop, Resample

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor, nn

    from regroup.training import DataSet


MOST_CHANNELS = 1024
"""Channels that the images of a network in a file may have."""

MOST_PIXELS = 1 << 26
"""Pixels that they may have."""


def require_images(
    shape: Sequence[int], mean: Sequence[float], std: Sequence[float], part: float, where: str = ""
) -> None:
    """Require of what a file says of images that there can be such.

    Args:
        shape: what should be (channels, height, width).
        mean: as for `ImageInput`.
        std: likewise.
        part: likewise.
        where: what comes before the names of the fields in messages.

    Raises:
        DocumentError: there cannot; says which field is wrong.
    """
    sides = len(shape) == 3 and all(side >= 1 for side in shape)
    small = sides and shape[0] <= MOST_CHANNELS and prod(shape[1:]) <= MOST_PIXELS
    allowed = f"[channels, height, width] of at most {MOST_CHANNELS} channels and {MOST_PIXELS} pixels"
    require(small, f"{where}shape", list(shape), allowed)
    each = f"for each of {shape[0]} channels"
    require(len(mean) == shape[0], f"{where}mean", list(mean), f"one number {each}")
    right = len(std) == shape[0] and all(level > 0 for level in std)
    require(right, f"{where}std", list(std), f"one positive number {each}")
    require(0 < part <= 1, f"{where}part", part, "above 0, and at most 1")


@dataclass(frozen=True)
class ImageInput:
    """The images that a network takes: their shape, and how they are cut out of a file and normalised.

    >>> wanted = ImageInput.of(regroup.create_model("shufflenet_v2_050"))
    >>> wanted.shape, wanted.mean
    ((3, 224, 224), (0.485, 0.456, 0.406))

    Args:
        shape: (channels, height, width).
        mean: of each channel, with pixels in 0 .. 1; it is subtracted.
        std: of each channel; what remains is divided by it.
        part: how much of each side of an image in a file is shown.
        crop: what is shown of an image of other proportions.
        resample: name of Pillow's filter for other sizes.
    """

    shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    part: float = 1.0
    crop: Crop = "center"
    resample: Resample = "bicubic"

    @classmethod
    def of(cls, model: nn.Module, shape: tuple[int, int, int] | None = None) -> ImageInput:
        """Return what a model of timm's, or one that says it as they do, was made for; else ImageNet's.

        Args:
            model: with a `pretrained_cfg`, or without.
            shape: of the images, where the model is asked for others than it says.
        """
        from timm.data import resolve_data_config

        wanted: dict[str, Any] = resolve_data_config(
            {} if shape is None else {"input_size": shape}, model=model
        )
        channels, height, width = wanted["input_size"]
        part = height / int(height / wanted["crop_pct"])  # timm resizes to whole pixels, then crops
        mean, std = (_for(channels, wanted[name]) for name in ("mean", "std"))
        return cls((channels, height, width), mean, std, part, wanted["crop_mode"], wanted["interpolation"])

    @classmethod
    def on(cls, data: DataSet) -> ImageInput:
        """Return how a data set's test images are shown to a network."""
        shown = data.part, data.crop, data.resample
        return cls(data.shape, tuple(data.mean), tuple(data.std), *shown)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the images."""
        return self.shape[1:]

    def read(self, path: str | Path) -> Tensor:
        """Return the image in a file as the network wants it: float32, (1, channels, height, width).

        Raises:
            DataError: no image can be read there.
        """
        return self.picture(path)[1]

    def picture(self, path: str | Path) -> tuple[Image.Image, Tensor]:
        """Return the picture in a file, mode L or RGB, and what `read` makes of it; errors as there."""
        from regroup.training.data import images

        if self.shape[0] not in (1, 3):
            reason = f"an image file has 1 or 3 channels; the network's images have {self.shape[0]}"
            raise DataError(path, reason)
        found = images.read_image(Path(path), self.shape[0])
        return found, images.normalised(self.pixels(found), self.mean, self.std)

    def pixels(self, picture: Image.Image) -> Tensor:
        """Return what is shown of a picture, mode L or RGB: uint8, (its channels, height, width)."""
        if self.crop == "border":
            fill = tuple(round(255 * level) for level in self.mean)
            return images.letterbox(picture, self.size, self.part, fill, resample=self.resample)
        squash = self.crop == "squash"
        return images.fit(picture, self.size, self.part, squash=squash, resample=self.resample)

    def to_config(self, classes: Sequence[str]) -> dict[str, Any]:
        """Return this as timm's `pretrained_cfg` says it, by which its transforms are made.

        Args:
            classes: names of the network's classes.
        """
        return {
            "num_classes": len(classes),
            "label_names": tuple(classes),
            "input_size": self.shape,
            "mean": self.mean,
            "std": self.std,
            "crop_pct": self.part,
            "crop_mode": self.crop,
            "interpolation": self.resample,
        }


def _for(channels: int, levels: Sequence[float]) -> tuple[float, ...]:
    """Return a level for each channel: ImageNet's three are three colours', whose mean is grey's."""
    if len(levels) == channels:
        return tuple(levels)
    return (sum(levels) / len(levels),) * channels
