"""Glyphs: letters and digits drawn on the fly, as many and as large as wanted, without a download.

A character in a random font, slightly warped, in ink that stands out against a textured ground, among
strokes and neighbours that are cut off by the border, under noise. Fonts of the test split are never
trained on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from regroup.errors import ConfigError
from regroup.spec import Size
from regroup.training.data.augmentation import Augmentation
from regroup.training.data.dataset import DataSet, RememberingSplit, digest_of
from regroup.training.data.drawing import (
    Warp,
    background,
    blend,
    colours,
    contrasting,
    finished,
    grid,
)
from regroup.training.data.fonts import CAPITAL, CHARACTERS, TEST_FONTS, TRAIN_FONTS, atlas, atlas_level
from regroup.training.data.randomness import Dice
from regroup.training.data.sources import data_sets

_MEMORY = 512 << 20  # bytes up to which what was drawn is kept for the next epoch
_PIXELS = 1 << 15  # drawn at once: the arrays of a piece stay in the cache


def glyphs(
    image: Size | None = None,
    *,
    channels: int = 3,
    classes: str = CHARACTERS,
    count: int = 200,
    seed: int = 0,
) -> DataSet:
    """Return drawn characters; shape (channels, height, width), 32 x 32 unless `image` says otherwise.

    Args:
        image: (height, width), at least 8 each.
        channels: 3 for colour, 1 for grey.
        classes: the characters to tell apart, of `fonts.CHARACTERS`.
        count: training images of each class; the test split has a fifth of it.
        seed: what the drawings depend on.

    Raises:
        ConfigError: an argument out of range.
    """
    size = image or (32, 32)
    check_drawing(size, channels, classes)
    if count < 1:
        raise ConfigError("count", count, "1 or more images of each class")
    shape = channels, size[0], size[1]
    train = GlyphSplit(TRAIN_FONTS, classes, count, shape, (seed, 0))
    test = GlyphSplit(TEST_FONTS, classes, -(-count // 5), shape, (seed, 1))
    return DataSet(
        name="glyphs",
        classes=tuple(classes),
        shape=train.shape,
        train=train,
        test=test,
        mean=(0.5,) * channels,
        std=(0.26,) * channels,
        augmentation=Augmentation("affine"),
    )


def check_drawing(size: Size, channels: int, classes: str) -> None:
    """Raise ConfigError if glyphs of this size, these channels and these classes cannot be drawn."""
    if min(size) < 8:
        raise ConfigError("image", size, "8 pixels or more each way", "smaller glyphs cannot be read")
    if channels not in (1, 3):
        raise ConfigError("channels", channels, "1 (grey) or 3 (colour)")
    if not set(classes) <= set(CHARACTERS) or len(set(classes)) != len(classes):
        raise ConfigError("classes", classes, f"different characters of {CHARACTERS}")


class GlyphSplit(RememberingSplit):
    """Image i shows class i modulo the number of classes, drawn from (key, i) alone.

    Args:
        fonts: file names, without ending, of fonts of matplotlib.
        classes: characters.
        count: images of each class.
        shape: (channels, height, width).
        key: what the drawings depend on.
    """

    def __init__(
        self,
        fonts: tuple[str, ...],
        classes: str,
        count: int,
        shape: tuple[int, int, int],
        key: Sequence[int],
    ) -> None:
        self.labels = torch.arange(count * len(classes)) % len(classes)
        self.shape, self._key = shape, tuple(key)
        self._fonts = fonts
        self._characters = np.array([CHARACTERS.index(c) for c in classes])
        self._remember(_MEMORY)

    def digest(self) -> str:
        drawn = super().digest()  # of other releases of the fonts, images differ
        return digest_of(drawn, self._key, self._fonts, self._characters.tolist())

    def read(self, indices: Tensor) -> Tensor:
        piece = max(1, _PIXELS // math.prod(self.shape[1:]))
        return torch.cat([torch.from_numpy(self._draw(part.numpy())) for part in indices.split(piece)])

    def _draw(self, indices: np.ndarray) -> np.ndarray:
        dice = Dice(*self._key, indices)
        luminance = dice.between(0.1, 0.9)
        ink = colours(dice, contrasting(dice, luminance, 0.55), self.shape[0])
        canvas = background(dice, luminance, self.shape)
        first = dice.below(len(self._fonts)) * len(CHARACTERS)  # of the font that an image uses
        self._draw_neighbours(dice, canvas, first, luminance)
        reach = np.float32(min(1, self.shape[2] / self.shape[1]))
        centre = np.stack([dice.between(-0.15, 0.15) * reach, dice.between(-0.15, 0.15)], -1)
        warp = Warp.random(dice, dice.between(0.55, 0.75) * reach / CAPITAL, centre)
        shown = first + self._characters[indices % len(self._characters)]
        blend(canvas, warp.coverage(self._cells(), shown, grid(self.shape[1:])), ink)
        return finished(dice, canvas)

    def _draw_neighbours(
        self, dice: Dice, canvas: np.ndarray, first: np.ndarray, luminance: np.ndarray
    ) -> None:
        """Draw a character to the left or to the right in half of the images, as in a line of text."""
        beside = np.float32(self.shape[2] / self.shape[1]) * dice.between(0.95, 1.25)
        centre = np.stack([np.where(dice.chance(0.5), -beside, beside), dice.between(-0.15, 0.15)], -1)
        warp = Warp.random(dice, dice.between(0.5, 0.7) / CAPITAL, centre)
        shown = first + dice.below(len(CHARACTERS))
        ink = colours(dice, contrasting(dice, luminance, 0.3, 0.7), self.shape[0])
        some = np.flatnonzero(dice.chance(0.5))
        part = canvas[some]
        blend(part, warp[some].coverage(self._cells(), shown[some], grid(self.shape[1:])), ink[some])
        canvas[some] = part

    def _cells(self) -> np.ndarray:
        return atlas(self._fonts, atlas_level(0.7 * self.shape[1]))


data_sets.add("glyphs", glyphs)
