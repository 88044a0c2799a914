"""Rules for operators that move, copy or make elements."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from regroup.conversion.structure.trace import Op, Value
from regroup.conversion.structure.walk import Walk, follows
from regroup.ops.tags import Ints, Tag, joined, moved, reshaped, taken


def argument(op: Op, position: int, name: str, default: object = None) -> object:
    """Return an argument of an operator, given by position or by name."""
    return op.args[position] if len(op.args) > position else op.kwargs.get(name, default)


@follows(
    "clone",
    "detach",
    "alias",
    "_to_copy",
    "contiguous",
    "lift_fresh",
    "lift_fresh_copy",
    "lift",
    "to",
    "copy",
    "_reshape_alias_copy",
    "view_as_real_copy",
)
def _same(walk: Walk, op: Op) -> None:
    out, x = op.outputs[0], op.values[1] if op.name == "copy" else op.values[0]
    if len(x.shape) != len(out.shape):
        walk.stop(op.values, f"{op.func} in {op.place} has no rule")
        return
    walk.put(out, walk.tags(x))


@follows("as_strided", "as_strided_")
def _strided(walk: Walk, op: Op) -> None:
    """The same elements, if sizes and strides are those that there are."""
    x, size, stride = op.args[0], tuple(op.args[1]), tuple(op.args[2])
    long = [d for d, n in enumerate(size) if n > 1]
    if size == x.shape and all(stride[d] == x.stride[d] for d in long):
        walk.put(op.outputs[0], walk.tags(x))
    else:
        walk.stop([x], f"{op.func} in {op.place} has no rule")


@follows("view", "_unsafe_view", "reshape", "_reshape_alias", "squeeze", "unsqueeze", "flatten", "unflatten")
def _reshape(walk: Walk, op: Op) -> None:
    x, out = op.values[0], op.outputs[0]
    kept, lost = reshaped(walk.tags(x), x.shape, out.shape)
    walk.pin(lost, f"two orders are mixed into one dimension in {op.place}")
    walk.put(out, kept)


@follows("permute", "transpose", "t", "movedim", "numpy_T", "mT", "swapaxes")
def _permute(walk: Walk, op: Op) -> None:
    x, out = op.values[0], op.outputs[0]
    probe = torch.empty([1] * len(x.shape)).as_strided([1] * len(x.shape), list(range(len(x.shape))))
    strides = op.func(probe, *op.args[1:], **op.kwargs).stride()
    places = [strides.index(d) for d in range(len(out.shape))]
    walk.put(out, [moved(t, places) for t in walk.tags(x)])


def _take(walk: Walk, x: Value, out: Value, dim: int, index: Ints) -> None:
    walk.put(out, [taken(t, dim, index) for t in walk.tags(x)])


@follows("slice", "narrow")
def _slice(walk: Walk, op: Op) -> None:
    x, out = op.values[0], op.outputs[0]
    dim = int(argument(op, 1, "dim", 0)) % len(x.shape)  # type: ignore[bad-argument-type]
    probe = torch.arange(x.shape[dim])
    arguments = {k: v for k, v in op.kwargs.items() if k != "dim"}
    _take(walk, x, out, dim, op.func(probe, 0, *op.args[2:], **arguments).numpy())


@follows("split", "split_with_sizes", "chunk", "tensor_split")
def _split(walk: Walk, op: Op) -> None:
    x, dim = op.values[0], int(argument(op, 2, "dim", 0))  # type: ignore[bad-argument-type]
    dim %= len(x.shape)
    first = 0
    for out in op.outputs:
        _take(walk, x, out, dim, np.arange(first, first + out.shape[dim]))
        first += out.shape[dim]


@follows("select", "unbind")
def _select(walk: Walk, op: Op) -> None:
    x, dim = op.values[0], int(argument(op, 1, "dim", 0))  # type: ignore[bad-argument-type]
    dim %= len(x.shape)
    chosen = [int(argument(op, 2, "index", 0)) % x.shape[dim]] if op.name == "select" else range(x.shape[dim])  # type: ignore[bad-argument-type]
    for index, out in zip(chosen, op.outputs, strict=True):
        tags = []
        for tag in walk.tags(x):
            part = taken(tag, dim, np.array([index]))
            axis = [i for i, d in enumerate(part.dims) if d == dim]
            dims = tuple(d - (d > dim) for d in part.dims if d != dim)
            part = Tag(dims, part.label.squeeze(tuple(axis)), part.sub.squeeze(tuple(axis)))
            if dims:
                tags.append(part)
            else:
                walk.pin([part], f"a channel is taken alone in {op.place}")
        walk.put(out, tags)


@follows("index_select", "gather", "index", "embedding", "take_along_dim")
def _index(walk: Walk, op: Op) -> None:
    """Channels chosen by a list that is known; whatever the list depends on cannot be reordered."""
    x = op.values[0]
    dim, index = _chosen(op, x)
    walk.stop([v for v in op.values if v is not x], "")
    if op.name == "embedding":
        rows = walk.along(x, 0)
        walk.pin([rows] if rows else [], f"rows are looked up by number in {op.place}")
        last = len(op.outputs[0].shape) - 1
        walk.put(op.outputs[0], [t.at([last]) for t in walk.tags(x) if t.dims == (1,)])
    elif index is None:
        walk.stop([x], f"{op.func} in {op.place} takes elements by numbers that are not known")
    else:
        _take(walk, x, op.outputs[0], dim, index)


def _chosen(op: Op, x: Value) -> tuple[int, Ints | None]:
    """Return the dimension and the positions that an operator takes."""
    if op.name == "index_select":
        dim, index = int(op.args[1]), op.args[2]
    elif op.name == "index" and sum(i is not None for i in op.args[1]) == 1:
        dim, index = next((d, i) for d, i in enumerate(op.args[1]) if i is not None)
    else:
        return 0, None
    if index.constant is None or len(index.shape) != 1:
        return 0, None
    positions = index.constant.nonzero().flatten() if index.constant.dtype == torch.bool else index.constant
    return dim % len(x.shape), positions.cpu().numpy().astype(np.int64) % x.shape[dim]


@follows("flip", "roll")
def _rearranged(walk: Walk, op: Op) -> None:
    x, tags = op.values[0], []
    for tag in walk.tags(x):
        for dim in tag.dims:
            probe = torch.arange(x.shape[dim]).view([-1 if d == dim else 1 for d in range(len(x.shape))])
            if op.name == "roll" and not argument(op, 2, "dims", ()):
                walk.pin([tag], f"{op.func} in {op.place} moves elements between dimensions")
            else:
                tag = taken(tag, dim, op.func(probe, *op.args[1:], **op.kwargs).flatten().numpy())
        tags.append(tag)
    walk.put(op.outputs[0], tags)


@follows("cat", "stack")
def _cat(walk: Walk, op: Op) -> None:
    out, values = op.outputs[0], list(op.args[0])
    dim = int(argument(op, 1, "dim", 0)) % len(out.shape)  # type: ignore[bad-argument-type]
    if op.name == "stack":
        place = [d + (d >= dim) for d in range(len(out.shape) - 1)]
        tags = {v: [moved(t, place) for t in walk.tags(v)] for v in values}
        values = [_placed(walk, v, tags[v], dim) for v in values]
    join(walk, values, out, dim, op.place)


def _placed(walk: Walk, value: Value, tags: Sequence[Tag], dim: int) -> Value:
    shape = (*value.shape[:dim], 1, *value.shape[dim:])
    result = Value(shape, is_data=value.is_data)
    walk.put(result, tags)
    return result


def join(walk: Walk, values: Sequence[Value], out: Value, dim: int, place: str) -> None:
    """Let `out` be the concat of tensors along `dim`."""
    values = [v for v in values if 0 not in v.shape]
    along = [walk.along(v, dim) for v in values]
    tag = joined(along, dim, [v.shape for v in values])
    if tag is None:
        walk.pin([t for t in along if t is not None], f"parts of a concat in {place} have no common order")
    rest = []
    for value in values:  # what is left agrees as in an addition
        other = Value(tuple(1 if tag and d in tag.dims else s for d, s in enumerate(value.shape)))
        if tag is None:
            other.shape = tuple(1 if d == dim else s for d, s in enumerate(value.shape))
        walk.put(other, [t for t in walk.tags(value) if dim not in t.dims])
        rest.append((other, 0))
    tags = walk.meet(rest, place, alone=len(rest) == 1)
    walk.put(out, [*tags, tag] if tag else tags)


@follows("constant_pad_nd", "pad")
def _pad(walk: Walk, op: Op) -> None:
    x, out = op.values[0], op.outputs[0]
    pads = list(op.args[1])  # type: ignore[bad-argument-type]
    tags: list[Tag] = []
    for tag in walk.tags(x):
        for back, dim in enumerate(range(len(x.shape) - 1, len(x.shape) - 1 - len(pads) // 2, -1)):
            before, after = pads[2 * back : 2 * back + 2]
            if dim in tag.dims and (before or after) and len(tag.dims) > 1:
                walk.pin([tag], f"an order over two dimensions is padded in {op.place}")
                break
            if dim in tag.dims and (before or after):
                tag = _padded(walk, tag, dim, before, after)
        else:
            tags.append(tag)
    walk.put(out, tags)


def _padded(walk: Walk, tag: Tag, dim: int, before: int, after: int) -> Tag:
    """Return a tag with more positions, which are all alike, or fewer."""
    tag = taken(tag, dim, np.arange(max(0, -before), len(tag.label) - max(0, -after)))
    new = [walk.labels.home("", dim, n) if n > 0 else None for n in (before, after)]
    parts = [p for p in (new[0], tag, new[1]) if p is not None]
    return joined(parts, dim, [[len(p.label)] * (dim + 1) for p in parts]) or tag


@follows("expand", "repeat", "tile")
def _expand(walk: Walk, op: Op) -> None:
    x, out = op.values[0], op.outputs[0]
    shift = len(out.shape) - len(x.shape)
    tags = []
    for tag in walk.tags(x):
        tag = tag.at(d + shift for d in tag.dims)
        for dim in tag.dims:
            tag = taken(tag, dim, np.arange(out.shape[dim]) % x.shape[dim - shift])
        tags.append(tag)
    stretched = [d for d, n in enumerate(out.shape) if n > 1 and (d < shift or x.shape[d - shift] == 1)]
    walk.put(out, tags + [walk.labels.home("", d, out.shape[d]) for d in stretched])


_MADE = (
    "full",
    "zeros",
    "ones",
    "empty",
    "scalar_tensor",
    "full_like",
    "zeros_like",
    "ones_like",
    "empty_like",
    "new_zeros",
    "new_ones",
    "new_full",
    "new_empty",
    "rand",
    "rand_like",
    "randn",
    "randn_like",
    "fill",
    "zero",
    "empty_strided",
    "new_empty_strided",
)


@follows(*_MADE)
def _made(walk: Walk, op: Op) -> None:
    """All elements are alike, so that they can stand in any order."""
    for out in op.outputs:
        walk.put(out, [walk.labels.home("", d, n) for d, n in enumerate(out.shape) if n > 1])


@follows("pixel_shuffle")
def _pixel_shuffle(walk: Walk, op: Op) -> None:
    """Each channel of the result is one of r*r channels, which stay together."""
    x, out, factor = op.values[0], op.outputs[0], int(op.args[1])
    channels, tags = len(x.shape) - 3, []
    for tag in walk.tags(x):
        if tag.dims == (channels,):
            rows = [array.reshape(-1, factor * factor) for array in (tag.label, tag.sub)]
            if walk.groups("parts", *rows):
                tags.append(Tag(tag.dims, rows[0][:, 0], rows[1][:, 0]))
            else:  # each has a pixel of its own
                walk.pin([tag], f"{op.place} makes pixels of these channels")
        elif max(tag.dims) < channels:
            tags.append(tag)
        else:
            walk.pin([tag], f"{op.place} works on these positions")
    walk.put(out, tags)


@follows("pixel_unshuffle", "channel_shuffle", "native_channel_shuffle")
def _shuffle(walk: Walk, op: Op) -> None:
    x, out, factor = op.values[0], op.outputs[0], int(op.args[1])
    *batch, c, h, w = x.shape
    n = math.prod(batch)
    if op.name == "pixel_unshuffle":
        middle, order = (n, c, h // factor, factor, w // factor, factor), (0, 1, 3, 5, 2, 4)
    else:
        middle, order = (n, factor, c // factor, h, w), (0, 2, 1, 3, 4)
    tags, lost = reshaped(walk.tags(x), x.shape, middle)
    places = [order.index(d) for d in range(len(middle))]
    after = [middle[d] for d in order]
    tags, more = reshaped([moved(t, places) for t in tags], after, out.shape)
    walk.pin([*lost, *more], f"two orders are mixed into one dimension in {op.place}")
    walk.put(out, tags)
