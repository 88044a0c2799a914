"""Where the channels of a value lie: a channel order, a slice, a concatenation is a place, not work.

>>> slab = Slab(8, 8, channels=6)
>>> x = Place(slab, (0, 1, 2, 3, 4, 5))
>>> x.select((0, 3, 1, 4, 2, 5)).select((0, 1)).channels
(0, 3)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, overload

from regroup.kernels.problems.view import ARENA, Halo, View

NO_HALO = Halo()

_T = TypeVar("_T")


class _once(Generic[_T]):  # used like a function
    """A property that is computed once for each object.

    `functools.cached_property` holds a lock meanwhile in Python 3.11. A process that is forked while another
    thread computes would wait for it for ever.
    """

    def __init__(self, compute: Callable[[Any], _T]) -> None:
        self._compute = compute
        self.__doc__ = compute.__doc__

    @overload
    def __get__(self, one: None, kind: type) -> _once[_T]: ...

    @overload
    def __get__(self, one: object, kind: type) -> _T: ...

    def __get__(self, one: object, kind: type) -> Any:
        if one is None:
            return self
        value = vars(one)[self._compute.__name__] = self._compute(one)
        return value


@dataclass(eq=False)
class Slab:
    """A tensor in memory, channels last: one value, or all that are concatenated with one another.

    Attributes:
        height: pixels.
        width: pixels.
        channels: channels of all its values.
        halo: zeros around, wide enough for every reader.
        buffer: the arena, or an input or output of the network.
        planar: it is in PyTorch's layout (inputs and outputs that are images).
        start: where in the buffer; the arena's allocator sets it.
    """

    height: int
    width: int
    channels: int = 0
    halo: Halo = NO_HALO
    buffer: int = ARENA
    planar: bool = False
    start: int = 0

    def view(self) -> View:
        """Return all its channels."""
        if self.planar:
            return View.nchw(self.height, self.width, self.channels, buffer=self.buffer)
        view = View.nhwc(self.height, self.width, self.channels, halo=self.halo)
        return view.placed(self.start, self.buffer)


@dataclass(frozen=True)
class Place:
    """Channel i of a value is channel `channels[i]` of `slab`.

    A `flat` place is an image as one vector, in PyTorch's order: number i is float `channels[i]` counted
    from the slab's first pixel.
    """

    slab: Slab
    channels: tuple[int, ...]
    flat: bool = False

    def select(self, channels: tuple[int, ...]) -> Place:
        """Return the place of some channels, in another order."""
        return Place(self.slab, tuple(self.channels[c] for c in channels), self.flat)

    def flattened(self) -> Place:
        """Return the place of the image as a vector."""
        view, (height, width) = self.slab.view(), (self.slab.height, self.slab.width)
        pixels = [y * view.row_pitch + x * view.pixel_pitch for y in range(height) for x in range(width)]
        return Place(self.slab, tuple(p + c for c in self.channels for p in pixels), flat=True)

    @_once
    def first(self) -> int:
        """The lowest channel of the slab that it uses."""
        return min(self.channels)

    @_once
    def is_one_run(self) -> bool:
        """It fills a range of channels of the slab, in some order."""
        return sorted(self.channels) == list(range(self.first, self.first + len(self.channels)))

    @_once
    def is_in_order(self) -> bool:
        """It fills a range of channels of the slab, in its own order."""
        return self.channels == tuple(range(self.channels[0], self.channels[0] + len(self.channels)))

    @_once
    def physical(self) -> tuple[int, ...]:
        """Its channels as they follow one another in memory."""
        return tuple(sorted(range(len(self.channels)), key=self.channels.__getitem__))

    def runs(self) -> list[Place]:
        """Return the ranges that it is made of, each in memory order."""
        ordered = sorted(self.channels)
        starts = [i for i, c in enumerate(ordered) if i == 0 or c != ordered[i - 1] + 1]
        return [
            Place(self.slab, tuple(ordered[a:b])) for a, b in zip(starts, [*starts[1:], None], strict=True)
        ]

    def view(self) -> View:
        """Return the view from its first to its last channel; `order` says where in it each one is."""
        whole, last = self.slab.view(), max(self.channels)
        if self.flat:
            return View.vector(last + 1 - self.first, buffer=whole.buffer, offset=whole.offset + self.first)
        return whole.slice(self.first, last + 1 - self.first)

    @_once
    def order(self) -> tuple[int, ...] | None:
        """Channel of `view()` for each of its own, None when it is in order."""
        first = self.first
        return None if self.is_in_order else tuple(c - first for c in self.channels)
