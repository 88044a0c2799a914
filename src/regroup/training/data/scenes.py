"""Glyph scenes: several characters in one image, with boxes and masks, to detect and to segment.

>>> data = regroup.load_data("scenes", image=(64, 96), task="segment", count=10)
>>> data.classes, len(data.train), len(data.test)
(('background', 'A', 'B', 'C', 'D', 'E', 'F'), 10, 2)
>>> image, mask = data.train[0]
>>> image.shape, mask.shape
(torch.Size([3, 64, 96]), torch.Size([64, 96]))
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from regroup.errors import ConfigError
from regroup.spec import Size
from regroup.training.data.dataset import DataSet, digest_of
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
from regroup.training.data.sources import data_sets
from regroup.training.data.targets import Target, TargetSplit

_LEAST_PIXELS = 8  # a glyph of which less is inside the image is not drawn


def scenes(
    image: Size | None = None,
    *,
    task: str = "segment",
    channels: int = 3,
    classes: str = "ABCDEF",
    count: int = 1000,
    most: int = 4,
    seed: int = 0,
) -> DataSet:
    """Return scenes of one to `most` characters that do not touch each other, in 128 x 128 by default.

    Those to test with are in fonts that are not trained on.

    Args:
        image: (height, width), at least 32 each.
        task: "segment" or "detect".
        channels: 3 for colour, 1 for grey.
        classes: the characters that occur, of `fonts.CHARACTERS`.
        count: training scenes; there is a fifth as many to test with.
        most: largest number of characters in a scene; where they do not fit there are fewer.
        seed: what the drawings depend on.

    Raises:
        ConfigError: an argument out of range.
    """
    height, width = image or (128, 128)
    check_drawing((height, width), channels, classes)
    for name, value, least in (("image", min(height, width), 32), ("count", count, 1), ("most", most, 1)):
        if value < least:
            raise ConfigError(name, value, f"{least} or more")
    if task not in ("segment", "detect"):
        raise ConfigError("task", task, "'segment' or 'detect' with the data set 'scenes'")
    shape = channels, height, width
    train, test = (
        SceneSplit(fonts, classes, number, most, shape, key, task)
        for fonts, number, key in ((TRAIN_FONTS, count, (seed, 2)), (TEST_FONTS, -(-count // 5), (seed, 3)))
    )
    return DataSet(
        name="scenes",
        classes=("background", *classes),
        shape=shape,
        train=train,
        test=test,
        mean=(0.5,) * channels,
        std=(0.26,) * channels,
        crop="squash",
        task=task,
    )


class SceneSplit(TargetSplit):
    """Scene i is drawn from (key, i) alone.

    Args:
        fonts: file names, without ending, of fonts of matplotlib.
        classes: characters.
        count: number of scenes.
        most: largest number of characters in one.
        shape: (channels, height, width).
        key: what the drawings depend on.
        task: of the targets.
    """

    def __init__(
        self,
        fonts: tuple[str, ...],
        classes: str,
        count: int,
        most: int,
        shape: tuple[int, int, int],
        key: Sequence[int],
        task: str = "segment",
    ) -> None:
        self.shape, self.task, self._most, self._key = shape, task, most, tuple(key)
        self._fonts = fonts
        self._characters = np.array([CHARACTERS.index(c) for c in classes])
        self._remember(count)

    def sample(self, index: int) -> tuple[Tensor, Target]:
        """Return an image, uint8 (channels, height, width), and all of its target, masks too."""
        dice = Dice(*self._key, [range(len(self))[index]])
        luminance = dice.between(0.1, 0.9)
        canvas = background(dice, luminance, self.shape)
        labels, masks = self._place(dice, canvas, luminance)
        return torch.from_numpy(finished(dice, canvas)[0]), _target(labels, masks)

    def digest(self) -> str:
        drawn = super().digest()  # of other releases of the fonts, images differ
        return digest_of(drawn, self._key, self._fonts, self._characters.tolist(), self._most)

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


def _target(labels: list[int], masks: np.ndarray) -> Target:
    boxes = [(c.start, r.start, c.stop, r.stop) for r, c in map(_box, masks)]
    semantic = (masks * np.array(labels)[:, None, None]).sum(0)  # masks do not overlap
    return {
        "boxes": torch.tensor(boxes, dtype=torch.float32),
        "labels": torch.tensor(labels),
        "masks": torch.from_numpy(masks.astype(np.uint8)),
        "area": torch.from_numpy(masks.sum((1, 2))).float(),
        "iscrowd": torch.zeros(len(labels), dtype=torch.int64),
        "size": torch.tensor(masks.shape[1:]),
        "semantic": torch.from_numpy(semantic).long(),
    }


data_sets.add("scenes", scenes)
