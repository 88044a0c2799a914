"""Where a tensor of one image lies in memory, and the zeros around it.

>>> x = View.nhwc(56, 56, 64, halo=Halo(1, 1, 1, 1))
>>> x.row_pitch, x.pixel_pitch, x.first, x.floats
(3712, 64, -3776, 215296)
>>> x.slice(16, 32).offset
16
"""

from __future__ import annotations

from dataclasses import dataclass, replace

ARENA, WEIGHTS = 0, 1
"""Buffers that every program has; the network's inputs and outputs follow as 2, 3, ..."""


@dataclass(frozen=True)
class Halo:
    """Pixels around a tensor that are allocated and hold zero, so that no kernel tests a border."""

    top: int = 0
    left: int = 0
    bottom: int = 0
    right: int = 0

    def __bool__(self) -> bool:
        return any((self.top, self.left, self.bottom, self.right))

    def union(self, other: Halo) -> Halo:
        """Return the halo that is wide enough for both."""
        return Halo(
            max(self.top, other.top),
            max(self.left, other.left),
            max(self.bottom, other.bottom),
            max(self.right, other.right),
        )


@dataclass(frozen=True)
class View:
    """A float32 tensor (height, width, channels) of one image within a buffer.

    All sizes are in floats. The element (y, x, c) lies at
    `offset + y * row_pitch + x * pixel_pitch + c * channel_pitch`; `offset` is that of (0, 0, 0), the
    halo lies around it. A slice of channels is a view with the same pitches, so a concatenation is
    several views of one tensor. A vector (gates, logits) is a view of 1x1 pixels.

    Kernels never touch floats that belong neither to the view nor to its halo: the channels between
    `channels` and `pixel_pitch` may be another tensor's.
    """

    height: int
    width: int
    channels: int
    row_pitch: int
    pixel_pitch: int
    channel_pitch: int = 1
    halo: Halo = Halo()
    buffer: int = ARENA
    offset: int = 0

    @classmethod
    def nhwc(cls, height: int, width: int, channels: int, *, halo: Halo = Halo(), pitch: int = 0) -> View:
        """Return a dense channels-last tensor whose allocation would start at 0 - see `placed`.

        Args:
            height: pixels.
            width: pixels.
            channels: channels.
            halo: zero pixels around; a pixel right of one row may be one left of the next.
            pitch: floats from pixel to pixel, `channels` by default.
        """
        pitch = pitch or channels
        return cls(height, width, channels, (width + halo.left + halo.right) * pitch, pitch, 1, halo)

    @classmethod
    def nchw(cls, height: int, width: int, channels: int, *, buffer: int = ARENA, offset: int = 0) -> View:
        """Return a dense tensor in PyTorch's layout: what a network reads first and writes last."""
        return cls(height, width, channels, width, 1, height * width, Halo(), buffer, offset)

    @classmethod
    def vector(cls, channels: int, *, buffer: int = ARENA, offset: int = 0) -> View:
        """Return `channels` floats in a row."""
        return cls(1, 1, channels, channels, channels, 1, Halo(), buffer, offset)

    @property
    def first(self) -> int:
        """Offset of the first float of the halo (or tensor), relative to `offset`: zero or negative."""
        return -(self.halo.top * self.row_pitch + self.halo.left * self.pixel_pitch)

    @property
    def last(self) -> int:
        """Offset of the last float of the halo (or tensor), relative to `offset`."""
        y, x = self.height - 1 + self.halo.bottom, self.width - 1 + self.halo.right
        return y * self.row_pitch + x * self.pixel_pitch + (self.channels - 1) * self.channel_pitch

    @property
    def floats(self) -> int:
        """Floats from the first to the last, halo included: what an allocation needs."""
        return self.last - self.first + 1

    def placed(self, start: int, buffer: int = ARENA) -> View:
        """Return this view with its allocation (halo included) starting at float `start`."""
        return replace(self, buffer=buffer, offset=start - self.first)

    def slice(self, start: int, channels: int) -> View:
        """Return the view of `channels` channels from `start` on."""
        return replace(self, offset=self.offset + start * self.channel_pitch, channels=channels)

    def geometry(self) -> View:
        """Return this view moved to the origin: all that generated code depends on."""
        return replace(self, buffer=ARENA, offset=0)
