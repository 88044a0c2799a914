"""Register tiles, pixels times vectors of output channels: which fit, and how channels are cut into them."""

from __future__ import annotations

from math import gcd

import numpy as np

from regroup.kernels.machine.target import Target
from regroup.kernels.templates.base import Run, ceil_div, split
from regroup.kernels.templates.parts.tail import Tail


def register_tiles(target: Target, most: int) -> list[tuple[int, int]]:
    """Return the tiles, (pixels, vectors) with up to `most` vectors, whose sums fill the registers."""
    tiles = {1: 28, 2: 14, 3: 9, 4: 6, 5: 5} if target.registers == 32 else {1: 12, 2: 6, 3: 4}
    return [(pixels, vectors) for vectors, pixels in tiles.items() if vectors <= most]


def channel_blocks(channels: int, lanes: int, vectors: int) -> list[Run]:
    """Cut a group's output channels into blocks of vectors; a partial last vector ends a run of its own."""
    blocks = split(ceil_div(channels, lanes), vectors)
    start, size, count = blocks[-1]
    if channels % lanes and count > 1:
        blocks[-1:] = [(start, size, count - 1), (start + size * (count - 1), size, 1)]
    return blocks


def valid_lanes(channels: int, run: Run, lanes: int) -> list[int]:
    """Return how many lanes hold one of a group's `channels`, for each vector of a block of a run."""
    last = channels - (run[0] + run[1] * run[2] - 1) * lanes
    return [lanes] * (run[1] - 1) + [min(lanes, last)]


def by_block(table: np.ndarray, blocks: list[Run], lanes: int) -> np.ndarray:
    """Return numbers (groups, terms, channels) as (groups, those of one block after the other)."""
    columns = [
        table[:, :, (start + i * size) * lanes : (start + (i + 1) * size) * lanes].reshape(len(table), -1)
        for start, size, count in blocks
        for i in range(count)
    ]
    return np.hstack(columns)


def term_cycles(pixels: int, vectors: int, pitch: int, tail: Tail | None) -> float:
    """Estimate the cycles of one term: multiply-adds, loads and latency, whichever is most.

    Pixels whose addresses agree in the low 12 bits share a set of the first-level cache: where they fill more
    than a part of it, they evict each other. Even a load that is hidden costs a little.
    """
    sets = 4096 // gcd(pitch * 4, 4096)
    crowd = max(0.0, pixels - max(8, 3 * sets)) / pixels
    multiplied, blended = pixels * vectors, 0
    if tail is not None:
        shared = ceil_div(pixels, tail.pixels)
        multiplied, blended = pixels * (vectors - 1) + shared, pixels - shared
    loads = pixels + vectors
    return max((multiplied + blended / 4) / 2, loads / 2 + 2 * crowd * pixels, 4.0) + 0.04 * loads
