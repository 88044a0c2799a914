"""Glyph scenes: several characters in one image, with boxes and masks, to detect and to segment.

>>> scenes = glyph_scenes((96, 128), count=10)
>>> image, target = scenes.train[0]
>>> image.shape, sorted(target)
(torch.Size([3, 96, 128]), ['area', 'boxes', 'image_id', 'iscrowd', 'labels', 'masks', 'semantic'])
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from regroup.errors import ConfigError
from regroup.spec import Size
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
from regroup.training.data.glyphs import check_drawing
from regroup.training.data.randomness import Dice

Target = dict[str, Tensor]
"""What an image shows, in the format of torchvision's detection models.

boxes (glyphs, 4) float32 x1, y1, x2, y2 in pixels; labels (glyphs,) int64, from 1; masks (glyphs, height,
width) uint8; area (glyphs,) float32; iscrowd (glyphs,) int64, 0; image_id int64; and semantic (height,
width) int64, the label of each pixel or 0.
"""

_LEAST_PIXELS = 8  # a glyph of which less is inside the image is not drawn


@dataclass(frozen=True)
class Scenes:
    """A data set of scenes.

    Attributes:
        classes: name of each label; the first is the background.
        train: scenes to learn from.
        test: scenes to measure with, in fonts that `train` does not have.
    """

    classes: tuple[str, ...]
    train: SceneSplit
    test: SceneSplit


def glyph_scenes(
    image: Size = (128, 128),
    *,
    channels: int = 3,
    classes: str = CHARACTERS,
    count: int = 500,
    most: int = 6,
    seed: int = 0,
) -> Scenes:
    """Return scenes of one to `most` characters that do not touch each other.

    Args:
        image: (height, width), at least 32 each.
        channels: 3 for colour, 1 for grey.
        classes: the characters that occur, of `fonts.CHARACTERS`.
        count: training scenes; there is a fifth as many to test with.
        most: largest number of characters in a scene; where they do not fit there are fewer.
        seed: what the drawings depend on.

    Raises:
        ConfigError: an argument out of range.
    """
    check_drawing(image, channels, classes)
    for name, value, least in (("image", min(image), 32), ("count", count, 1), ("most", most, 1)):
        if value < least:
            raise ConfigError(name, value, f"{least} or more")
    shape = channels, image[0], image[1]
    return Scenes(
        classes=("background", *classes),
        train=SceneSplit(TRAIN_FONTS, classes, count, most, shape, (seed, 2)),
        test=SceneSplit(TEST_FONTS, classes, -(-count // 5), most, shape, (seed, 3)),
    )


def collate(samples: Sequence[tuple[Tensor, Target]]) -> tuple[list[Tensor], list[Target]]:
    """Return images and targets as the two lists that torchvision's detection models take."""
    return [image for image, _ in samples], [target for _, target in samples]


class SceneSplit(Dataset):
    """Scene i is drawn from (key, i) alone.

    Args:
        fonts: file names, without ending, of fonts of matplotlib.
        classes: characters.
        count: number of scenes.
        most: largest number of characters in one.
        shape: (channels, height, width).
        key: what the drawings depend on.
    """

    def __init__(
        self,
        fonts: tuple[str, ...],
        classes: str,
        count: int,
        most: int,
        shape: tuple[int, int, int],
        key: Sequence[int],
    ) -> None:
        self.shape, self._count, self._most, self._key = shape, count, most, tuple(key)
        self._fonts = fonts
        self._characters = np.array([CHARACTERS.index(c) for c in classes])

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> tuple[Tensor, Target]:
        """Return an image, float32 (channels, height, width) in 0..1, and its target."""
        index = range(self._count)[index]
        dice = Dice(*self._key, [index])
        luminance = dice.between(0.1, 0.9)
        canvas = background(dice, luminance, self.shape)
        labels, masks = self._place(dice, canvas, luminance)
        image = torch.from_numpy(finished(dice, canvas)[0]).float().div_(255)
        return image, _target(index, labels, masks)

    def _place(self, dice: Dice, canvas: np.ndarray, luminance: np.ndarray) -> tuple[list[int], np.ndarray]:
        """Draw glyphs where they fit; return their labels and masks, (glyphs, height, width) bool."""
        wanted, tries = 1 + int(dice.below(self._most)[0]), 0
        labels, masks = [], []
        taken = np.zeros(self.shape[1:], bool)
        while not labels or (len(labels) < wanted and tries < 10 * wanted):
            tries += 1
            label = int(dice.below(len(self._characters))[0])
            coverage = self._coverage(dice, self._characters[label])
            ink = colours(dice, contrasting(dice, luminance, 0.55), self.shape[0])
            mask = coverage[0] > 0.5
            if mask.sum() < _LEAST_PIXELS or _touches(mask, taken) or _reaches_border(mask):
                continue
            blend(canvas, coverage, ink)
            taken |= mask
            labels.append(label + 1)
            masks.append(mask)
        return labels, np.stack(masks)

    def _coverage(self, dice: Dice, character: int) -> np.ndarray:
        """Return a character somewhere in the picture: (1, height, width) in 0..1."""
        _, height, width = self.shape
        capital = dice.between(0.12, 0.4) * min(height, width) / height
        shown = dice.below(len(self._fonts)) * len(CHARACTERS) + character
        centre = np.stack([dice.between(-0.85, 0.85) * width / height, dice.between(-0.85, 0.85)], -1)
        warp = Warp.random(dice, capital / np.float32(CAPITAL), centre)
        cells = atlas(self._fonts, atlas_level(float(capital[0]) * height))
        return warp.coverage(cells, shown, grid((height, width)))


def _touches(mask: np.ndarray, taken: np.ndarray) -> bool:
    """Return whether something is drawn in the box of the mask, or one pixel beside it."""
    rows, columns = _box(mask)
    return bool(
        taken[max(rows.start - 1, 0) : rows.stop + 1, max(columns.start - 1, 0) : columns.stop + 1].any()
    )


def _reaches_border(mask: np.ndarray) -> bool:
    return bool(mask[[0, -1]].any() or mask[:, [0, -1]].any())


def _box(mask: np.ndarray) -> tuple[slice, slice]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def _target(index: int, labels: list[int], masks: np.ndarray) -> Target:
    boxes = [(c.start, r.start, c.stop, r.stop) for r, c in map(_box, masks)]
    semantic = (masks * np.array(labels)[:, None, None]).sum(0)  # masks do not overlap
    return {
        "boxes": torch.tensor(boxes, dtype=torch.float32),
        "labels": torch.tensor(labels),
        "masks": torch.from_numpy(masks.astype(np.uint8)),
        "area": torch.from_numpy(masks.sum((1, 2))).float(),
        "iscrowd": torch.zeros(len(labels), dtype=torch.int64),
        "image_id": torch.tensor(index),
        "semantic": torch.from_numpy(semantic).long(),
    }
