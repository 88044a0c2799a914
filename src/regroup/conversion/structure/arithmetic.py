"""Rules for operators that compute: convolutions, products, norms, pools, reductions."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from regroup.conversion.structure.movement import argument
from regroup.conversion.structure.trace import Op, Value
from regroup.conversion.structure.walk import CONVOLUTIONS, Walk, follows, groups_of, is_depthwise
from regroup.ops.tags import Ints, Tag


@follows(*CONVOLUTIONS)
def _convolution(walk: Walk, op: Op) -> None:
    x, weight, bias = op.args[:3]
    groups, transposed = groups_of(op), op.func.namespace != "regroup" and op.args[6]
    channels = len(x.shape) - len(weight.shape) + 1
    elsewhere = [t for t in walk.tags(x) if channels in t.dims and t.dims != (channels,)]
    elsewhere += [t for t in walk.tags(x) if max(t.dims) > channels]
    walk.pin(elsewhere, f"{op.place} convolves over these positions")
    walk.pin([t for t in walk.tags(weight) if max(t.dims) > 1], "")
    rows, columns = _plain(walk, weight, 0), _plain(walk, weight, 1)
    depthwise = is_depthwise(weight, groups)
    if groups > 1 and not depthwise:
        computed = f"the weights of {op.place}, which has groups, are computed"
        walk.pin([t for t in walk.tags(weight) if t.dims != (0,)], computed)
        columns = walk.columns(weight)
    entering = walk.along(x, channels)
    reads, makes = (rows, rows) if depthwise else (rows, columns) if transposed else (columns, rows)
    if x.shape[channels] > 1:
        walk.agree(entering, reads, _why(entering, reads, op))
    if groups > 1 and not depthwise:
        if makes is None or reads is None:
            walk.pin([t for t in (makes, reads) if t], f"the weights of {op.place} are computed")
        else:
            _grouped(walk, makes, reads, groups)
    if bias is not None:
        made = Value((_made(x, weight, transposed, groups, depthwise),))
        walk.put(made, [makes.at((0,))] if makes is not None else [])
        walk.meet([(made, 0), (bias, 0)], op.place)
    walk.role("carries" if depthwise else "reads", op.module, reads)
    walk.role("carries" if depthwise else "makes", op.module, makes)
    batch = [t for t in walk.tags(x) if max(t.dims) < channels]
    walk.put(op.outputs[0], batch + ([makes.at((channels,))] if makes is not None else []))


def _made(x: Value, weight: Value, transposed: bool, groups: int, depthwise: bool) -> int:
    return weight.shape[1] * groups if transposed and not depthwise else weight.shape[0]


def _plain(walk: Walk, weight: Value, dim: int) -> Tag | None:
    """Return the order of a weight's dimension that is one of its own."""
    tag = walk.along(weight, dim)
    if tag is not None and len(tag.dims) > 1:
        walk.pin([tag], "the order of a weight is one over several dimensions")
        return None
    return tag


def _grouped(walk: Walk, makes: Tag, reads: Tag, groups: int) -> None:
    """Join what belongs to one group: its inputs, its outputs."""
    both = [t.label.reshape(groups, -1) for t in (reads, makes)]
    subs = [t.sub.reshape(groups, -1) for t in (reads, makes)]
    walk.groups("groups", np.concatenate(both, 1), np.concatenate(subs, 1))


def _why(entering: Tag | None, reads: Tag | None, op: Op) -> str:
    """Say why what a convolution reads cannot be reordered, if so."""
    if reads is None:
        return f"the weights of {op.place} are made in a way that is not followed"
    return f"{op.place} reads what has a fixed order" if entering is None else f"{op.place} reads two orders"


@follows("addmm", "mm", "bmm", "baddbmm", "mv", "addmv", "dot")
def _product(walk: Walk, op: Op) -> None:
    adds = op.name in ("addmm", "baddbmm", "addmv")
    a, b = op.args[1:3] if adds else op.args[:2]
    out = op.outputs[0]
    if op.name in ("mv", "addmv", "dot"):
        walk.stop(op.values, f"{op.func} in {op.place} has no rule")
        return
    tags = contract(walk, a, b, len(a.shape) - 1, len(b.shape) - 2, op)
    walk.put(out, tags)
    if adds:
        bias = op.args[0]
        walk.put(out, walk.meet([(out, 0), (bias, len(out.shape) - len(bias.shape))], op.place))
    if len(a.shape) == 2:
        walk.role("reads", op.module, walk.along(b, 0))
        walk.role("makes", op.module, walk.along(b, 1))


def contract(walk: Walk, a: Value, b: Value, dim_a: int, dim_b: int, op: Op) -> list[Tag]:
    """Return the tags of a product (..., m, k) x (..., k, n) -> (..., m, n), summed over k."""
    x, y, last = walk.along(a, dim_a), walk.along(b, dim_b), len(a.shape) - 1
    bundle: list[Tag] = []
    if x is not None and y is not None and len(x.dims) == len(y.dims) > 1:
        batch = x.dims[:-1]
        y = y.at((*[d for d in y.dims if d != dim_b], last)) if dim_b != last else y
        if y.dims != x.dims or max(batch) >= last - 1:
            walk.pin([x, y], f"orders meet in {op.place} that do not fit each other")
        else:
            walk.agree(x, y, f"it meets what is fixed in {op.place}")
            bundle = _summed(walk, x, (last,))
    elif x is not None and y is not None and len(x.dims) == len(y.dims) == 1:
        walk.agree(x.at((0,)), y.at((0,)), f"{op.place} sums over what has another order")
    elif a.shape[dim_a] > 1:
        walk.pin([t for t in (x, y) if t is not None], f"{op.place} reads what has a fixed order")
    rows = Value(tuple(1 if d == dim_a else s for d, s in enumerate(a.shape)))
    walk.put(rows, [t for t in walk.tags(a) if t is not x] + bundle)
    free = last if dim_b != last else last - 1
    shape = [*b.shape[:-2], 1, b.shape[free]]
    columns = Value(tuple(shape))
    other = [t for t in walk.tags(b) if dim_b not in t.dims]
    walk.put(columns, [t.at(last if d == free else d for d in t.dims) for t in other])
    return walk.meet([(rows, 0), (columns, 0)], op.place, alone=False)


def _summed(walk: Walk, tag: Tag, over: Sequence[int]) -> list[Tag]:
    """Return what is left of an order when some of its dimensions are summed over."""
    inner = [tag.dims.index(d) for d in tag.dims if d in over]
    outer = [i for i in range(len(tag.dims)) if i not in inner]
    if not inner or not outer:
        return [] if inner else [tag]
    order = outer + inner
    sizes = [tag.label.shape[i] for i in outer]
    label, sub = (_rows(array.transpose(order), len(outer)) for array in (tag.label, tag.sub))
    if not walk.groups("parts", label, sub):
        return []
    dims = tuple(tag.dims[i] for i in outer)
    return [Tag(dims, label[:, 0].reshape(sizes), sub[:, 0].reshape(sizes))]


def _rows(array: Ints, outer: int) -> Ints:
    return array.reshape(int(np.prod(array.shape[:outer])), -1)


@follows("_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_fused_attention_overrideable")
def _attention(walk: Walk, op: Op) -> None:
    q, k, v = op.args[:3]
    last = len(q.shape) - 1
    scores = Value((*q.shape[:-1], k.shape[-2]))
    walk.put(scores, contract(walk, q, k, last, last, op))
    mask = op.kwargs.get("attn_mask")
    if mask is not None:
        walk.put(scores, walk.meet([(scores, 0), (mask, last + 1 - len(mask.shape))], op.place))
    walk.put(op.outputs[0], contract(walk, scores, v, last, last - 1, op))


@follows(
    "native_batch_norm",
    "_native_batch_norm_legit",
    "_native_batch_norm_legit_no_training",
    "_native_batch_norm_legit_functional",
    "_batch_norm_with_update",
    "_batch_norm_with_update_functional",
    "_batch_norm_no_update",
    "batch_norm_with_update",
    "cudnn_batch_norm",
)
def _batch_norm(walk: Walk, op: Op) -> None:
    x, others = op.args[0], [v for v in op.args[1:5] if isinstance(v, Value)]
    batch = [t for t in walk.tags(x) if 1 not in t.dims]
    joint = [t for t in walk.tags(x) if 1 in t.dims and len(t.dims) > 1]
    walk.pin(joint, f"{op.place} takes the mean over a part of an order")
    flat = Value((x.shape[1],))
    walk.put(flat, [t.at((0,)) for t in walk.tags(x) if t.dims == (1,)])
    tags = walk.meet([(flat, 0), *((v, 0) for v in others)], op.place)
    walk.put(op.outputs[0], batch + [t.at((1,)) for t in tags])
    for out in op.outputs[1:]:
        walk.put(out, tags if out.shape == flat.shape else [])


@follows("native_layer_norm", "_fused_rms_norm", "rms_norm")
def _layer_norm(walk: Walk, op: Op) -> None:
    x, size = op.args[0], len(op.args[1])
    first = len(x.shape) - size
    others = [v for v in op.args[2:4] if isinstance(v, Value)]
    for tag in walk.tags(x):
        _summed(walk, tag, range(first, len(x.shape)))
    walk.put(op.outputs[0], walk.meet([(x, 0), *((v, first) for v in others)], op.place))


@follows("native_group_norm")
def _group_norm(walk: Walk, op: Op) -> None:
    x, others, groups = op.args[0], [v for v in op.args[1:3] if isinstance(v, Value)], op.args[6]
    for tag in walk.tags(x):
        if groups > 1 and tag.dims == (1,):
            walk.groups("groups", tag.label.reshape(groups, -1), tag.sub.reshape(groups, -1))
        elif 1 in tag.dims and len(tag.dims) > 1:
            walk.pin([tag], f"{op.place} takes the mean over a part of an order")
    flat = [(Value((x.shape[1],)), 0), *((v, 0) for v in others)]
    walk.put(flat[0][0], [t.at((0,)) for t in walk.tags(x) if t.dims == (1,)])
    tags = [t.at((1,)) for t in walk.meet(flat, op.place)]
    walk.put(op.outputs[0], tags + [t for t in walk.tags(x) if 1 not in t.dims])


_SIZES = re.compile(r"(\d)d")


def _dimensions(op: Op) -> int:
    """Return over how many last dimensions a pool, resize or pad works, by its name."""
    found = _SIZES.search(op.name)
    assert found is not None  # the names of the rule's operators have it
    return int(found[1])


_SPATIAL = [
    f"{prefix}{name}{n}d{suffix}"
    for n in (1, 2, 3)
    for prefix, name, suffix in (
        ("", "max_pool", "_with_indices"),
        ("", "max_pool", ""),
        ("", "avg_pool", ""),
        ("_", "adaptive_avg_pool", ""),
        ("", "adaptive_avg_pool", ""),
        ("", "adaptive_max_pool", ""),
        ("", "reflection_pad", ""),
        ("", "replication_pad", ""),
        ("mkldnn_", "max_pool", ""),
    )
]
_RESIZES = [
    f"{prefix}upsample_{kind}"
    for prefix in ("", "_")
    for kind in (
        "nearest1d",
        "nearest2d",
        "nearest3d",
        "linear1d",
        "bilinear2d",
        "bicubic2d",
        "trilinear3d",
        "nearest_exact1d",
        "nearest_exact2d",
        "nearest_exact3d",
        "bilinear2d_aa",
        "bicubic2d_aa",
    )
]


@follows(*_SPATIAL, *_RESIZES)
def _spatial(walk: Walk, op: Op) -> None:
    x = op.values[0]
    first = len(x.shape) - _dimensions(op)
    walk.pin([t for t in walk.tags(x) if max(t.dims) >= first], f"{op.place} works on these positions")
    for out in op.outputs:
        walk.put(out, [t for t in walk.tags(x) if max(t.dims) < first])


@follows(
    "mean",
    "sum",
    "amax",
    "amin",
    "var",
    "std",
    "var_mean",
    "std_mean",
    "max",
    "min",
    "any",
    "all",
    "prod",
    "logsumexp",
    "linalg_vector_norm",
    "norm",
    "nansum",
)
def _reduction(walk: Walk, op: Op) -> None:
    x = op.values[0]
    dims, keep = _reduced(op, x)
    if len(op.values) > 1 or (op.name in ("max", "min", "all", "any") and len(op.outputs) > 1):
        walk.stop(op.values, f"{op.func} in {op.place} has no rule")
        return
    tags = [left for tag in walk.tags(x) for left in _summed(walk, tag, dims)]
    places = (
        list(range(len(x.shape))) if keep else [d - sum(e < d for e in dims) for d in range(len(x.shape))]
    )
    for out in op.outputs:
        walk.put(out, [t.at(places[d] for d in t.dims) for t in tags])


def _reduced(op: Op, x: Value) -> tuple[list[int], bool]:
    """Return which dimensions a reduction takes together, and whether they stay with size 1."""
    position = 2 if op.name in ("linalg_vector_norm", "norm") else 1
    dims = argument(op, position, "dim")
    if isinstance(dims, (bool, float)):  # var(x, unbiased)
        dims = None
    dims = range(len(x.shape)) if dims is None or dims == [] else [dims] if isinstance(dims, int) else dims
    keep = bool(op.outputs) and len(op.outputs[0].shape) == len(x.shape)
    return [int(d) % len(x.shape) for d in dims], keep  # type: ignore[not-iterable]


@follows("_softmax", "_log_softmax", "softmax", "log_softmax")
def _softmax(walk: Walk, op: Op) -> None:
    x, dim = op.values[0], int(op.args[1]) % len(op.values[0].shape)
    for tag in walk.tags(x):
        if dim in tag.dims:
            _summed(walk, tag, (dim,))
    walk.put(op.outputs[0], walk.tags(x))


@follows("_local_scalar_dense", "item", "is_nonzero", "equal")
def _number(walk: Walk, op: Op) -> None:
    walk.stop(op.values, f"{op.place} reads its numbers one by one")
