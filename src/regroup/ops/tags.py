"""What stands where in a tensor, as tags, and what operators that only move elements do to them.

A tag says of each position along one or more dimensions what stands there. Reshape, take, permute and join
carry it along, so that a channel is known again however a network has written its channel order.

>>> tag = Tag((1,), np.arange(2), np.zeros(2, np.int64))
>>> reshaped([tag], (1, 2, 3), (1, 6))[0][0].label.tolist()
[0, 0, 0, 1, 1, 1]
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
FIXED = -1
"""The label of positions that cannot move."""


@dataclass(frozen=True, eq=False)
class Tag:
    """What stands at the positions of one or more dimensions of a tensor.

    Args:
        dims: which dimensions, ascending; mostly one. Several are one order together, as (groups, channels
            of a group) of a reshaped channel dimension.
        label: of each position: the sizes of these dimensions.
        sub: which part of what the label stands for; of the same shape.
    """

    dims: tuple[int, ...]
    label: Ints
    sub: Ints

    def at(self, dims: Iterable[int]) -> Tag:
        """Return the same for other dimensions, whose axes are put in ascending order."""
        dims = tuple(dims)
        if dims == self.dims:
            return self
        order = np.argsort(dims)
        if (order == np.arange(len(dims))).all():
            return Tag(dims, self.label, self.sub)
        return Tag(tuple(sorted(dims)), self.label.transpose(order), self.sub.transpose(order))

    @cached_property
    def distinct(self) -> bool:
        """Whether no two positions have the same slot."""
        slots = np.stack([self.label.ravel(), self.sub.ravel()])
        return len(np.unique(slots, axis=1).T) == self.label.size


def compact(sub: Ints) -> Ints:
    """Return the same distinctions as small numbers."""
    return np.unique(sub, return_inverse=True)[1].reshape(sub.shape)


def simplified(tag: Tag) -> Tag:
    """Drop dimensions along which the label stays the same, as that of the pixels after unflatten."""
    for dim in tag.dims:
        if len(tag.dims) > 1:
            tag = _without(tag, dim)
    return tag


def _without(tag: Tag, dim: int) -> Tag:
    axis = tag.dims.index(dim)
    label, sub = np.moveaxis(tag.label, axis, -1), np.moveaxis(tag.sub, axis, -1)
    if (label != label[..., :1]).any():
        return tag
    rows, first = sub.reshape(-1, sub.shape[-1]), sub[..., 0].ravel()
    _, index, which = np.unique(first, return_index=True, return_inverse=True)
    kinds = rows[index]
    alike = (rows == kinds[which]).all()
    copies = (kinds == kinds[:, :1]).all()
    if not alike or not (copies or len(np.unique(kinds)) == kinds.size):
        return tag
    dims = tuple(d for d in tag.dims if d != dim)
    return Tag(dims, label[..., 0], sub[..., 0])


def reshaped(tags: Sequence[Tag], before: Sequence[int], after: Sequence[int]) -> tuple[list[Tag], list[Tag]]:
    """Return the tags of a tensor that is looked at in another shape, and those that cannot be followed.

    Dimensions are taken in blocks of equal product: (N, C, H, W) -> (N, C*H*W) has two.
    """
    blocks = _blocks(before, after)
    crowded = {
        i
        for i, (dims, _) in enumerate(blocks)
        if len(dims) > 1 and sum(bool(set(dims) & set(t.dims)) for t in tags) > 1
    }
    kept, lost = [], []
    for tag in tags:
        touched = [i for i, (dims, _) in enumerate(blocks) if set(dims) & set(tag.dims)]
        if crowded & set(touched):
            lost.append(tag)
            continue
        whole = spread(tag, [d for i in touched for d in blocks[i][0]], before)
        dims = tuple(d for i in touched for d in blocks[i][1])
        sizes = [after[d] for d in dims]
        kept.append(simplified(Tag(dims, whole.label.reshape(sizes), whole.sub.reshape(sizes))))
    return kept, lost


def spread(tag: Tag, dims: Sequence[int], shape: Sequence[int]) -> Tag:
    """Return a tag over more dimensions; the positions along the new ones are parts of the labels."""
    sizes = [shape[d] for d in dims]
    here = [shape[d] if d in tag.dims else 1 for d in dims]
    others = [1 if d in tag.dims else shape[d] for d in dims]
    part = np.arange(math.prod(others)).reshape(others)
    label = np.broadcast_to(tag.label.reshape(here), sizes)
    sub = tag.sub.reshape(here) * math.prod(others) + part
    return Tag(tuple(dims), label, compact(np.broadcast_to(sub, sizes)))


def _blocks(before: Sequence[int], after: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Return which dimensions of one shape are which of the other; those of size 1 are left out."""
    old = [d for d, size in enumerate(before) if size != 1]
    new = [d for d, size in enumerate(after) if size != 1]
    blocks = []
    while old or new:
        a, b = [old.pop(0)], [new.pop(0)]
        while (difference := math.prod(before[d] for d in a) - math.prod(after[d] for d in b)) != 0:
            if difference < 0:
                a.append(old.pop(0))
            else:
                b.append(new.pop(0))
        blocks.append((a, b))
    return blocks


def taken(tag: Tag, dim: int, index: Ints) -> Tag:
    """Return the tag behind a choice of positions along a dimension."""
    if dim not in tag.dims:
        return tag
    axis = tag.dims.index(dim)
    return Tag(tag.dims, tag.label.take(index, axis), tag.sub.take(index, axis))


def moved(tag: Tag, places: Sequence[int]) -> Tag:
    """Return the tag whose dimension d is now `places[d]`."""
    return tag.at(places[d] for d in tag.dims)


def joined(parts: Sequence[Tag | None], dim: int, shapes: Sequence[Sequence[int]]) -> Tag | None:
    """Return the tag of a concat along `dim`: parts without a tag there are fixed. None: it has no order.

    Each part is told apart by `sub`: the same channels may come twice, with different numbers.
    """
    known = [p for p in parts if p is not None]
    if not known or any(p.dims != known[0].dims for p in known):
        return None
    dims = known[0].dims
    labels, subs = [], []
    for i, (part, shape) in enumerate(zip(parts, shapes, strict=True)):
        sizes = [shape[d] for d in dims]
        if part is None:
            part = Tag(dims, np.full(sizes, FIXED), np.arange(math.prod(sizes)).reshape(sizes))
        labels.append(part.label.reshape(sizes))
        subs.append(part.sub.reshape(sizes) * len(parts) + i)
    axis = dims.index(dim)
    return Tag(dims, np.concatenate(labels, axis), compact(np.concatenate(subs, axis)))


def broadcast(tag: Tag, cover: Tag) -> Tag:
    """Return a tag whose axes are those of a wider one, of size 1 where it has none."""
    sizes = [tag.label.shape[tag.dims.index(d)] if d in tag.dims else 1 for d in cover.dims]
    return replace(tag, dims=cover.dims, label=tag.label.reshape(sizes), sub=tag.sub.reshape(sizes))
