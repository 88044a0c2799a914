"""A last vector that few output channels would fill, shared by several pixels.

24 output channels are one vector and half of one. Two pixels' halves lie side by side in one vector: its
weights are repeated, its input is one pixel's number in the lower lanes and the other's in the upper.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from regroup.kernels.language.code import Code, Value


@dataclass(frozen=True)
class Tail:
    """How a partial vector is shared.

    Attributes:
        channels: output channels of each pixel in it.
        pixels: pixels that share it; each has `lanes // pixels` lanes.
        lanes: lanes of a vector.
    """

    channels: int
    pixels: int
    lanes: int

    @classmethod
    def of(cls, channels: int, lanes: int) -> Tail | None:
        """Return how to share the last vector of `channels`; None if it is full, or more than half full."""
        rest = channels % lanes
        if channels < lanes or rest == 0 or rest > lanes // 2:
            return None
        return cls(rest, 4 if rest <= lanes // 4 else 2, lanes)

    @property
    def slot(self) -> int:
        """Lanes of one pixel."""
        return self.lanes // self.pixels

    def repeat(self, vectors: np.ndarray) -> np.ndarray:
        """Return weights (..., lanes) with their first `channels` lanes repeated for each pixel."""
        first = vectors[..., : self.slot].copy()
        return np.concatenate([first] * self.pixels, axis=-1)

    def join(self, code: Code, inputs: list[Value]) -> Value:
        """Return a vector of each pixel's input in its lanes; fewer pixels leave lanes to the first."""
        joined = inputs[0]
        for i, one in enumerate(inputs[1:], 1):
            lanes = range(i * self.slot, (i + 1) * self.slot)
            joined = code.select(code.lane_mask(lanes), one, joined)
        return joined

    def part(self, code: Code, total: Value, pixel: int) -> Value:
        """Return one pixel's channels, moved to the first lanes."""
        if pixel == 0:
            return total
        start = pixel * self.slot
        picks = [start + i if i < self.channels else -1 for i in range(self.lanes)]
        return code.permute(total, picks)
