"""Where an image's numbers are in a tensor of any shape: its dimensions as products of axes of the image.

>>> image = Arranged.of(Value((6, 2, 4)), images=5)
>>> tokens = image.reshaped([5, 6, 8]).permuted([0, 2, 1])
>>> tokens
(5 images, 2 rows * 4 columns, 6 channels)
>>> tokens.reshaped([40, 2, 3]).permuted([1, 0, 2])
(2 channels, 5 images * 2 rows * 4 columns, 3 channels)
>>> tokens.reshaped([5, 6, 8]) is None  # pixels and channels would be mixed
True
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import prod

import torch
from torch import Tensor

from regroup.engine.graph import Value

KINDS = ("images", "channels", "rows", "columns")

REPEATED = "times again"
"""The kind of an axis that is none of the image's: along it the same numbers come again and again."""


@dataclass(frozen=True, eq=False)
class Axis:
    """A factor of one of an image's dimensions, or all images. Those of size 1 are left out everywhere."""

    size: int
    kind: str

    def __repr__(self) -> str:
        return f"{self.size} {self.kind}"


Axes = tuple[Axis, ...]


@dataclass(frozen=True, eq=False)
class Arranged:
    """A tensor whose numbers are those of `image`.

    Attributes:
        image: whose numbers they are.
        axes: of the image, in its order.
        dims: of the tensor: each is the product of some of these, the first one outermost.
    """

    image: Value
    axes: Axes
    dims: tuple[Axes, ...]

    @classmethod
    def of(cls, image: Value, images: int) -> Arranged:
        """Return an image as it is, of so many images in the batch."""
        sizes = (images * image.per, *image.shape)
        dims = tuple((Axis(n, kind),) if n > 1 else () for n, kind in zip(sizes, KINDS, strict=True))
        return cls(image, sum(dims, ()), dims)

    def __repr__(self) -> str:
        return f"({', '.join(' * '.join(map(repr, dim)) or '1' for dim in self.dims)})"

    @property
    def sizes(self) -> list[int]:
        """The tensor's shape."""
        return [size(dim) for dim in self.dims]

    def kind(self, *kinds: str) -> Axes:
        """Return the axes of some kinds, in the image's order."""
        return tuple(axis for axis in self.axes if axis.kind in kinds)

    @property
    def is_repeated(self) -> bool:
        """It has numbers more than once."""
        return any(axis.kind == REPEATED for dim in self.dims for axis in dim)

    @property
    def is_image(self) -> bool:
        """It is (images, channels, rows, columns), the channels in any order, pixels row by row."""
        if len(self.dims) != 4 or self.dims[0] != self.kind("images"):
            return False
        return set(self.dims[1]) == set(self.kind("channels")) and self.dims[2] + self.dims[3] == self.pixels

    @property
    def pixels(self) -> Axes:
        """Those of rows, then those of columns."""
        return self.kind("rows", "columns")

    def reshaped(self, sizes: Sequence[int]) -> Arranged | None:
        """Return the tensor in another shape; None if one of its dimensions cannot be cut like that."""
        found, rest, dims = self, [axis for dim in self.dims for axis in dim], []
        for need in sizes:
            dim: list[Axis] = []
            while need > 1:
                if not rest:
                    return None
                axis = rest.pop(0)
                if need % axis.size:
                    if axis.size % need or axis.kind == "images":
                        return None
                    parts = Axis(need, axis.kind), Axis(axis.size // need, axis.kind)
                    found, (axis, inner) = found.cut(axis, parts), parts
                    rest.insert(0, inner)
                dim.append(axis)
                need //= axis.size
            dims.append(tuple(dim))
        return None if rest else replace(found, dims=tuple(dims)).merged()

    def expanded(self, sizes: Sequence[int]) -> Arranged | None:
        """Return the tensor with dimensions of one number repeated, or more of them in front."""
        dims = ((),) * (len(sizes) - len(self.dims)) + self.dims
        found = tuple(
            (Axis(n, REPEATED),) if not dim and n > 1 else dim for n, dim in zip(sizes, dims, strict=True)
        )
        return replace(self, dims=found) if list(sizes) == [size(dim) for dim in found] else None

    def permuted(self, order: Sequence[int]) -> Arranged:
        """Return the tensor with its dimensions in another order."""
        return replace(self, dims=tuple(self.dims[d] for d in order))

    def cut(self, axis: Axis, parts: Axes) -> Arranged:
        """Return the same with an axis as the product of several."""

        def there(axes: Axes) -> Axes:
            return sum((parts if one is axis else (one,) for one in axes), ())

        return replace(self, axes=there(self.axes), dims=tuple(map(there, self.dims)))

    def merged(self) -> Arranged:
        """Return the same with as few axes as can be: those that are neighbours in both orders are one."""
        for dim in self.dims:
            for first, second in pairwise(dim):
                at = self.axes.index(first) if first.kind != REPEATED else len(self.axes)
                if first.kind == second.kind and self.axes[at + 1 : at + 2] == (second,):
                    return self._joined(first, second).merged()
        return self

    def _joined(self, first: Axis, second: Axis) -> Arranged:
        one = Axis(first.size * second.size, first.kind)

        def there(axes: Axes) -> Axes:
            return tuple(one if axis is first else axis for axis in axes if axis is not second)

        return replace(self, axes=there(self.axes), dims=tuple(map(there, self.dims)))

    def on(self, image: Value, change: dict[Axis, Axis | None] | None = None) -> Arranged:
        """Return the same arrangement of another image, some axes replaced; None leaves one out."""
        change = change or {}

        def there(axes: Axes) -> Axes:
            changed = (change.get(axis, axis) for axis in axes)
            return tuple(axis for axis in changed if axis is not None and (axis.size > 1))

        return Arranged(image, there(self.axes), tuple(map(there, self.dims)))

    def in_order(self, channels: Axes) -> Axes:
        """Return the axes of the image with its channels in another order."""
        return (*self.kind("images"), *channels, *self.pixels)


def size(axes: Axes) -> int:
    """Return how many numbers there are along some axes."""
    return prod(axis.size for axis in axes)


def numbers(of: Axes, order: Axes) -> Tensor:
    """Return where along `of` the numbers lie that come one after another along `order`: the same axes."""
    where = torch.arange(size(of)).reshape([axis.size for axis in of])
    return where.permute([of.index(axis) for axis in order]).flatten()


def matched(
    x: Arranged, y: Arranged, but: Sequence[int] = ()
) -> tuple[Arranged, Arranged, dict[Axis, Axis]] | None:
    """Cut the axes of two tensors of one shape alike, and say which axis of `y` is which of `x`.

    Dimensions of `y` may be 1, as when it is broadcast, or missing in front. Those that `but` names, counted
    from the last one, which is 1, are others.
    """
    pairs: dict[Axis, Axis] = {}
    for i in [i for i in range(1, 1 + len(y.dims)) if i not in but]:
        theirs = list(y.dims[-i])
        ours = list(x.dims[-i]) if theirs else []
        while ours and theirs:
            a, b = ours.pop(0), theirs.pop(0)
            if a.size != b.size:
                large, small = (a, b) if a.size > b.size else (b, a)
                if large.size % small.size or large.kind == "images":
                    return None
                parts = Axis(small.size, large.kind), Axis(large.size // small.size, large.kind)
                if large is a:
                    x, (a, rest) = x.cut(a, parts), parts
                    ours.insert(0, rest)
                else:
                    y, (b, rest) = y.cut(b, parts), parts
                    theirs.insert(0, rest)
            if (a.kind == "images") != (b.kind == "images"):
                return None
            pairs[b] = a
        if ours or theirs:
            return None
    return x, y, pairs
