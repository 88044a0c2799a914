"""Rules of what only moves numbers: shapes, permutations, parts of dimensions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from regroup.engine.frontend.arrangements.axes import Arranged, Axis, numbers
from regroup.engine.frontend.arrangements.walker import Walker, follows
from regroup.engine.graph import Node, Value
from regroup.engine.operators.pixels import Pixels
from regroup.engine.operators.select import Select

_MOST = 16
"""Parts that a tensor is taken apart into; more are hardly the parts of attention."""


@follows("reshape", "unsqueeze_copy", "squeeze_copy.dim", "squeeze_copy.dims", "clone", "alias_copy")
def _reshape(walker: Walker, node: Node) -> bool:
    x = walker.arranged(node.inputs[0], repeated=True)
    return x is not None and walker.moved(node, [x.reshaped(walker.whole(node.output))])


@follows("expand_copy")
def _expand(walker: Walker, node: Node) -> bool:
    x = walker.arranged(node.inputs[0])
    if x is None or (walker.is_plain(node.inputs[0]) and node.inputs[0].shape[1:] == (1, 1)):
        return False  # a gate, or an image of one pixel: `broadcast.py`
    return walker.moved(node, [x.expanded(walker.whole(node.output))])


@follows("permute_copy")
def _permute(walker: Walker, node: Node) -> bool:
    x, order = walker.arranged(node.inputs[0], repeated=True), node.op.args[1]
    return x is not None and walker.moved(node, [x.permuted([d % len(order) for d in order])])


@follows("transpose_copy.int")
def _transpose(walker: Walker, node: Node) -> bool:
    x = walker.arranged(node.inputs[0], repeated=True)
    if x is None:
        return False
    order = list(range(len(x.dims)))
    first, second = (dim % len(order) for dim in node.op.args[1:3])
    order[first], order[second] = second, first
    return walker.moved(node, [x.permuted(order)])


@follows(
    "slice_copy.Tensor", "index_select", "select_copy.int", "unbind_copy.int", "split_copy.Tensor",
    "split_with_sizes_copy",
)  # fmt: skip
def _parts(walker: Walker, node: Node) -> bool:
    """Apply the operator to the numbers of what lies along the dimension that it names."""
    args, kwargs = node.op.args, node.op.kwargs
    split = "split" in node.op.function.name()
    x, rank = walker.arranged(node.inputs[0]), len(walker.whole(node.inputs[0]))
    if x is None or kwargs or len(node.inputs) > 1 or len(node.outputs) > _MOST:
        return False
    dim = (args[2:3] if split else args[1:2]) or (0,)
    place = dim[0] % rank
    if walker.is_plain(node.inputs[0]) and len(node.outputs) and all(len(v.shape) == 3 for v in node.outputs):
        return False  # of an image: `operators/select.py`, `operators/pixels.py`
    along = torch.arange(x.sizes[place])
    own = [0 if i == (2 if split else 1) else along if i == 0 else arg for i, arg in enumerate(args)]
    found = node.op.function(*own)
    gone = "select_copy" in node.op.function.name() or "unbind" in node.op.function.name()
    before = len(walker.nodes)
    results = [
        taken(walker, x, place, part.reshape(-1), gone)
        for part in ([found] if isinstance(found, Tensor) else found)
    ]
    if walker.moved(node, results):
        return True
    del walker.nodes[before:]
    return False


def taken(walker: Walker, x: Arranged, place: int, which: Tensor, gone: bool = False) -> Arranged | None:
    """Return the numbers `which` along a dimension, that is left out afterwards if it is `gone`."""
    dim = x.dims[place]
    if not dim:
        if which.tolist() != [0]:
            return None
        return Arranged(x.image, x.axes, x.dims[:place] + x.dims[place + 1 :]) if gone else x
    if dim[0].kind == "images" or not len(which):
        return None
    inner = 1 if len(dim) == 1 else x.sizes[place] // dim[0].size
    first = which[::inner] // inner
    if not torch.equal(which, (first[:, None] * inner + torch.arange(inner)).flatten()):
        return None  # not all that lies within a number of the outermost axis
    image = _chosen(walker, x, dim[0], first.tolist())
    found = x.on(image, {dim[0]: Axis(len(first), dim[0].kind)}).merged()
    return Arranged(image, found.axes, found.dims[:place] + found.dims[place + 1 :]) if gone else found


def _chosen(walker: Walker, x: Arranged, axis: Axis, which: Sequence[int]) -> Value:
    """Append what takes some numbers of an axis, and return the image."""
    kinds = x.kind(axis.kind)
    where = numbers(kinds, kinds).reshape([one.size for one in kinds])
    chosen = tuple(where.index_select(kinds.index(axis), torch.tensor(which)).flatten().tolist())
    channels, height, width = x.image.shape
    if axis.kind == "channels":
        return walker.made(Select(chosen), x.image, shape=(len(chosen), height, width))
    rows = chosen if axis.kind == "rows" else tuple(range(height))
    columns = chosen if axis.kind == "columns" else tuple(range(width))
    return walker.made(Pixels(rows, columns), x.image, shape=(channels, len(rows), len(columns)))
