"""Drawing of many small pictures at once: warped glyphs, textures, strokes, noise.

Points are (x, y) with y from -1 (top) to 1 and x in the same unit. Only the arithmetic that IEEE 754
rounds exactly is used, and each picture has its own `Dice`, so a picture is the same bit for bit whatever
is drawn beside it, on whatever machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from regroup.spec import Size
from regroup.training.data.randomness import Dice, uniform

Points = tuple[np.ndarray, np.ndarray]
"""x, (1, width), and y, (height, 1), of pixels; float32."""


@dataclass(frozen=True)
class Warp:
    """Affine maps, one for each picture: from the picture to a cell whose corners are at (+-1, +-1).

    Args:
        matrix: (pictures, 2, 2) float32.
        centre: where the middle of the cell comes to lie, (pictures, 2) float32, x first.
    """

    matrix: np.ndarray
    centre: np.ndarray

    @classmethod
    def random(cls, dice: Dice, half_cell: np.ndarray, centre: np.ndarray) -> Warp:
        """Return maps that stretch and shear by up to 15 % and turn by up to 15 degrees.

        Args:
            dice: what decides, one stream for each picture.
            half_cell: half the height of the cell in the picture, (pictures,).
            centre: where its middle lies, (pictures, 2).
        """
        cosine, sine = direction(dice.between(-0.13, 0.13))
        wide, slant = dice.between(0.85, 1.15), dice.between(-0.15, 0.15)
        # the inverse of rotation * shear * stretch, row by row
        rows = [[cosine + slant * sine, sine - slant * cosine], [-sine, cosine]]
        rows[0] = [entry / wide for entry in rows[0]]
        matrix = np.stack([np.stack(row, -1) for row in rows], -2) / half_cell[:, None, None]
        return cls(matrix.astype(np.float32), centre.astype(np.float32))

    def __getitem__(self, chosen: np.ndarray) -> Warp:
        return Warp(self.matrix[chosen], self.centre[chosen])

    def coverage(self, cells: np.ndarray, which: np.ndarray, points: Points) -> np.ndarray:
        """Return `cells[which]` as seen through the maps, in 0..1: (pictures, height, width) float32.

        Args:
            cells: uint8, (cells, height, width).
            which: the cell of each picture, (pictures,).
            points: the pixels to look at.
        """
        x = points[0] - self.centre[:, 0, None, None]
        y = points[1] - self.centre[:, 1, None, None]
        m = self.matrix[:, :, :, None, None]
        u, v = m[:, 0, 0] * x + m[:, 0, 1] * y, m[:, 1, 0] * x + m[:, 1, 1] * y
        return bilinear(cells, which, u, v) / np.float32(255)


def grid(size: Size) -> Points:
    """Return x, shape (1, width), and y, shape (height, 1), of the middles of the pixels."""
    height, width = size
    x = (2 * np.arange(width, dtype=np.float32) + 1 - width) / np.float32(height)
    y = (2 * np.arange(height, dtype=np.float32) + 1 - height) / np.float32(height)
    return x[None, :], y[:, None]


def bilinear(cells: np.ndarray, which: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return the values of `cells[which]` at (u, v), where a cell reaches from -1 to 1; nearest outside.

    Args:
        cells: (cells, height, width), any number type.
        which: the cell of each picture, (pictures,).
        u: positions from left to right, (pictures, height, width) float32.
        v: positions from top to bottom, likewise.
    """
    rows, columns = cells.shape[1:]
    x = np.clip((u + 1) * np.float32(columns / 2) - np.float32(0.5), 0, columns - 1)
    y = np.clip((v + 1) * np.float32(rows / 2) - np.float32(0.5), 0, rows - 1)
    left, top = (np.minimum(i.astype(np.int32), n - 2) for i, n in ((x, columns), (y, rows)))
    x -= left
    y -= top
    corner = top * columns + left + (which * (rows * columns)).astype(np.int64)[:, None, None]
    flat = cells.reshape(-1)
    upper, upper_right, lower, lower_right = (
        flat.take(corner + offset).astype(np.float32) for offset in (0, 1, columns, columns + 1)
    )
    upper += x * (upper_right - upper)
    lower += x * (lower_right - lower)
    return upper + y * (lower - upper)


def colours(dice: Dice, luminance: np.ndarray, channels: int) -> np.ndarray:
    """Return a colour of about the given luminance for each picture, (pictures, channels) in 0..1."""
    tint = dice.between(-0.3, 0.3, count=3)
    if channels == 1:
        return luminance[:, None]
    tint -= ((tint[:, 0] + tint[:, 1] + tint[:, 2]) / np.float32(3))[:, None]
    return np.clip(luminance[:, None] + tint, 0, 1)


def contrasting(dice: Dice, luminance: np.ndarray, least: float, most: float = 1.0) -> np.ndarray:
    """Return luminances that lie between the parts `least` and `most` of the way to black or white."""
    away = dice.between(least, most)
    return np.where(luminance < 0.5, luminance + (1 - luminance) * away, luminance * (1 - away))


def textures(dice: Dice, points: Points) -> np.ndarray:
    """Return gradients, stripes, checks and clouds: (pictures, height, width) in 0..1."""
    kind = dice.below(4)
    angle, frequency = direction(dice.between(-1, 1)), dice.between(1, 6)
    phases, edge = dice.between(0, 2, count=2), dice.between(1, 6)
    clouds = dice.between(0, 1, count=25).reshape(-1, 5, 5)
    grain = dice.between(0, 1, count=121).reshape(-1, 11, 11)
    x, y = points
    result = np.empty((len(dice), y.shape[0], x.shape[1]), np.float32)

    gradient, striped, checked, cloudy = (np.flatnonzero(kind == k) for k in range(4))
    result[gradient] = np.clip(_along(angle[:, gradient], points) / 2 + np.float32(0.5), 0, 1)
    result[striped] = _waves(angle, frequency, phases[:, 0], edge, striped, points)
    one = _waves(angle, frequency, phases[:, 0], edge, checked, points)
    right_angle = np.stack([-angle[1], angle[0]])
    other = _waves(right_angle, frequency, phases[:, 1], edge, checked, points)
    result[checked] = one + other - 2 * one * other
    shape = result[cloudy].shape
    u, v = np.broadcast_to(x / x.max(), shape), np.broadcast_to(y / y.max(), shape)
    coarse, fine = (bilinear(cells, cloudy, u, v) for cells in (clouds, grain))
    result[cloudy] = (2 * coarse + fine) / 3
    return result


def direction(tangent: np.ndarray) -> np.ndarray:
    """Return cosine and sine, (2, pictures), of angles given by the tangent of their half."""
    square = tangent * tangent
    return np.stack([1 - square, 2 * tangent]) / (1 + square)


def _along(angle: np.ndarray, points: Points) -> np.ndarray:
    """Return how far each point lies in the direction of `angle`."""
    cosine, sine = angle[:, :, None, None]
    return points[0] * cosine + points[1] * sine


def _waves(
    angle: np.ndarray,
    frequency: np.ndarray,
    phase: np.ndarray,
    edge: np.ndarray,
    chosen: np.ndarray,
    points: Points,
) -> np.ndarray:
    """Return triangular waves for the chosen pictures; the larger `edge`, the more they are stripes."""
    frequency, phase, edge = (v[chosen][:, None, None] for v in (frequency, phase, edge))
    position = _along(angle[:, chosen], points) * frequency + phase
    wave = np.abs(position - 2 * np.floor(position / 2) - 1)
    return np.clip((wave - np.float32(0.5)) * edge + np.float32(0.5), 0, 1)


def strokes(dice: Dice, points: Points) -> np.ndarray:
    """Return one straight stroke for each picture: its coverage, (pictures, height, width) in 0..1."""
    angle = direction(dice.between(-1, 1))
    offset, width = (v[:, None, None] for v in (dice.between(-0.9, 0.9), dice.between(0.02, 0.08)))
    middle, half = (v[:, None, None] for v in (dice.between(-1, 1), dice.between(0.2, 0.8)))
    across = np.abs(_along(angle, points) - offset)
    along = np.abs(_along(np.stack([-angle[1], angle[0]]), points) - middle)
    sharpness = np.float32(len(points[1]) / 2)  # one pixel of soft edge
    return np.clip(np.minimum(width - across, half - along) * sharpness + np.float32(0.5), 0, 1)


def blend(canvas: np.ndarray, coverage: np.ndarray, colour: np.ndarray) -> None:
    """Paint `colour`, (pictures, channels), over `canvas`, (pictures, channels, height, width), in place."""
    canvas += coverage[:, None] * (colour[:, :, None, None] - canvas)


def noise(dice: Dice, shape: tuple[int, ...]) -> np.ndarray:
    """Return grain of mean 0 and standard deviation 0.41 for each picture: (pictures, *shape) float32."""
    table = _grain()
    count = int(np.prod(shape))
    starts = dice.below(len(table))
    table = np.concatenate([table, np.resize(table, count)])
    return np.stack([table[start : start + count] for start in starts]).reshape(-1, *shape)


@cache
def _grain() -> np.ndarray:
    numbers = np.arange(1 << 18)
    return (uniform(1, numbers) - uniform(2, numbers)).astype(np.float32)


def background(dice: Dice, luminance: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Return textured grounds with strokes across: float32, (pictures, channels, height, width) in 0..1."""
    channels = shape[0]
    points = grid(shape[1:])
    spread = dice.between(0, 0.15)
    dark, light = (colours(dice, np.clip(luminance + s, 0, 1), channels) for s in (-spread, spread))
    texture = textures(dice, points)
    canvas = dark[:, :, None, None] + texture[:, None] * (light - dark)[:, :, None, None]
    for _ in range(2):
        colour = colours(dice, contrasting(dice, luminance, 0.1, 0.6), channels)
        blend(canvas, strokes(dice, points) * dice.chance(0.4)[:, None, None], colour)
    return canvas


def finished(dice: Dice, canvas: np.ndarray) -> np.ndarray:
    """Return a canvas, (pictures, channels, height, width) in 0..1, under noise and as uint8."""
    strength = dice.between(0, 0.2)[:, None, None, None]
    noisy = canvas + noise(dice, canvas.shape[1:]) * strength
    return np.rint(np.clip(noisy, 0, 1) * 255).astype(np.uint8)
