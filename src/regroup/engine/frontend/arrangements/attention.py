"""Rules of attention: as PyTorch's own operator, or as products, softmax and whatever is between them.

Scores, a number for each query and key, are no image: they are followed until the values are weighed by them,
and whoever else reads them reads them from PyTorch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import isfinite

import torch
from torch import Tensor

from regroup.engine.frontend.arrangements.axes import REPEATED, Arranged, Axes, Axis, matched, numbers, size
from regroup.engine.frontend.arrangements.walker import Walker, follows
from regroup.engine.frontend.arrangements.work import is_linear
from regroup.engine.graph import Node, Ref, Value
from regroup.engine.operators.attention import Attention
from regroup.engine.recognition import known
from regroup.kernels.problems import Tokens

_NOTHING = Value(())


@dataclass(frozen=True, eq=False)
class Scores:
    """scale * q k^T + bias, or its softmax over the keys.

    Attributes:
        q: queries, (..., queries, channels).
        k: keys, (..., keys, channels).
        where: the arrangement of the scores: axes of the dimensions in front, the queries, the keys.
        scale: of the products.
        bias: what is added, (..., queries, keys), broadcast; None is nothing.
        shares: it is the softmax.
        safe: the one that is 0 where all scores are minus infinity.
        products: the node that multiplies.
    """

    q: Arranged
    k: Arranged
    where: Arranged
    products: Node
    scale: float = 1.0
    bias: Tensor | None = None
    shares: bool = False
    safe: bool = False

    @property
    def in_order(self) -> bool:
        """The queries and the keys are its last two dimensions, in this order."""
        return self.where.dims[-2:] == (self.queries, self.keys)

    @property
    def queries(self) -> Axes:
        """The axis of the queries."""
        return self.where.axes[-2:-1]

    @property
    def keys(self) -> Axes:
        """The axis of the keys."""
        return self.where.axes[-1:]

    @property
    def front(self) -> Axes:
        """The axes of images, heads and windows."""
        return self.where.axes[:-2]


# ---- as one operator --------------------------------------------------------------------------------


@follows("_scaled_dot_product_flash_attention_for_cpu")
def _attention(walker: Walker, node: Node) -> bool:
    q, k, v, *rest = node.op.args
    kwargs, defaults = node.op.kwargs, [0.0, False]
    dropout, causal = (*rest, *defaults[len(rest) :])
    mask, scale = kwargs.get("attn_mask"), kwargs.get("scale")
    if dropout or causal or not known(mask) or walker.reads(node.outputs[1:]):
        return False
    if any(known(x) for x in (q, k, v)):  # a tensor of the model's own
        return False
    tensors = [walker.arranged(node.inputs[ref.index], repeated=True) for ref in (q, k, v)]
    if any(x is None or len(x.dims) != 4 for x in tensors):
        return False
    queries = tensors[0]
    scale = queries.sizes[-1] ** -0.5 if scale is None else scale  # type: ignore[missing-attribute]
    found = _made(walker, *tensors, scale, mask, True, [node])  # type: ignore[bad-argument-type]
    if found is None or found.sizes != walker.whole(node.outputs[0]):
        return False
    walker.put(node.outputs[0], found)
    return True


def _made(
    walker: Walker,
    q: Arranged,
    k: Arranged,
    v: Arranged,
    scale: float,
    bias: Tensor | None,
    safe: bool,
    nodes: list[Node],
) -> Arranged | None:
    """Append the attention of (..., queries, channels), (..., keys, channels) and (..., keys, others)."""
    once = None if q.is_repeated else matched(q, k, but=(2,))
    again = None if once is None else matched(once[0], v, but=(1, 2))
    if once is None or again is None:
        return None
    q, v, of_values = again
    finer = matched(q, once[1], but=(2,))
    tokens = None if finer is None else matched(finer[1], v, but=range(1, 1 + len(v.dims)))
    if finer is None or tokens is None or finer[0] is not q:
        return None
    _, k, of_keys = finer
    front = tuple(axis for dim in q.dims[:-2] for axis in dim)
    heads = tuple(axis for axis in front if axis.kind == "channels")
    windows = tuple(axis for axis in front if axis.kind in ("rows", "columns"))
    if set(q.pixels) != {*windows, *q.dims[-2]} or set(q.kind("channels")) != {*heads, *q.dims[-1]}:
        return None
    parts = _laid_keys(
        walker, k, _partners(of_keys, heads), _partners(of_keys, q.dims[-1]), _partners(of_keys, windows)
    )
    values = _laid_keys(walker, v, _partners(of_values, heads), v.dims[-1], _partners(of_values, windows))
    image = walker.laid(q, heads + q.dims[-1])
    if parts is None or values is None or image is None or parts[1] != values[1]:
        return None
    if bias is not None and (bias := _bias(bias, q, windows, heads, size(k.dims[-2]), safe)) is None:
        return None
    width = tuple(Axis(axis.size, axis.kind) for axis in v.dims[-1])
    depth, queries = size(q.dims[-1]), _tokens(q, windows, q.dims[-2])
    op = Attention(size(heads), depth, size(width), float(scale), queries, parts[1], bias, safe)
    if len(queries.windows) != len(parts[1].windows):
        return None
    shape = (op.heads * op.width, *image.shape[1:])
    result = walker.made(op, image, parts[0], values[0], shape=shape)
    macs = [walker.macs.pop(node) for node in nodes if node in walker.macs]
    if macs:
        walker.macs[walker.nodes[-1]] = sum(macs)
    return Arranged(result, q.in_order(heads + width), (*q.dims[:-1], width)).merged()


def _partners(pairs: dict[Axis, Axis], axes: Axes) -> Axes | None:
    """Return the axes that are paired with these; () if none is, None if some are.

    Where numbers are repeated, there is no axis: all heads share them.
    """
    back = {a: b for b, a in pairs.items() if b.kind != REPEATED}
    found = tuple(back[axis] for axis in axes if axis in back)
    return None if found and len(found) < len(axes) else found


def _laid_keys(
    walker: Walker, x: Arranged, heads: Axes | None, channels: Axes | None, windows: Axes | None
) -> tuple[Value, Tokens] | None:
    """Return the image of keys or values, its heads one after another, and which pixels are tokens."""
    if heads is None or channels is None or windows is None:
        return None
    if set(x.pixels) != {*windows, *x.dims[-2]} or set(channels) != set(x.dims[-1]):
        return None
    image = walker.laid(x, heads + channels)
    return None if image is None else (image, _tokens(x, windows, x.dims[-2]))


def _tokens(x: Arranged, windows: Axes, pixels: Axes) -> Tokens:
    where = numbers(x.pixels, windows + pixels).reshape(size(windows), -1)
    return Tokens(tuple(where[:, 0].tolist()), tuple(where[0].tolist()))


def _bias(bias: Tensor, q: Arranged, windows: Axes, heads: Axes, keys: int, safe: bool) -> Tensor | None:
    """Return what is added as (1 or windows, 1 or heads, queries, keys), if it is alike for all images."""
    front, count = q.sizes[:-2], size(q.dims[-2])
    if bias.dtype != torch.float32 or bias.dim() > len(front) + 2:
        return None
    axes = [axis for dim in q.dims[:-2] for axis in dim]
    whole = bias.expand(*front, count, keys).reshape(*(axis.size for axis in axes), count, keys)
    images = [axis for axis in axes if axis.kind == "images"]
    order = [axes.index(axis) for axis in (*images, *windows, *heads)]
    apart = whole.permute(*order, len(axes), len(axes) + 1).reshape(
        size(tuple(images)), size(windows), size(heads), count, keys
    )
    most = apart[0].amax(-1)
    looked_at = most.isfinite() | (most.isneginf() if safe else False)
    if not torch.equal(apart, apart[:1].expand_as(apart)) or not bool(looked_at.all()):
        return None
    found = apart[0]
    for dim in (0, 1):
        first = found.narrow(dim, 0, 1)
        found = first if torch.equal(found, first.expand_as(found)) else found
    return found.contiguous()


# ---- as products and softmax ------------------------------------------------------------------------


@follows("bmm")
def _products(walker: Walker, node: Node) -> bool:
    """Of queries and keys: scores; of tokens and the same weights for all images: a linear layer."""
    refs = node.op.args[:2]
    if refs[0] == Ref(0) and isinstance(refs[1], Tensor):
        alike = len(refs[1]) > 0 and torch.equal(refs[1], refs[1][:1].expand_as(refs[1]))
        return alike and is_linear(walker, node, refs[1][0], None)
    if not all(isinstance(ref, Ref) for ref in refs):
        return False
    q, k = (walker.arranged(node.inputs[ref.index], repeated=True) for ref in refs)
    if q is None or k is None:
        return False
    k = k.permuted([0, 2, 1])
    if any(axis.kind != "channels" for axis in (*q.dims[2], *k.dims[2])):
        return False
    front = [Axis(axis.size, f"{axis.kind} {i}") for i, axis in enumerate(q.dims[0])]
    queries, keys = Axis(q.sizes[1], "queries"), Axis(k.sizes[1], "keys")
    if 1 in (queries.size, keys.size):
        return False
    where = Arranged(_NOTHING, (*front, queries, keys), (tuple(front), (queries,), (keys,)))
    walker.keep(node)
    walker.scores[node.output] = Scores(q, k, where, node)
    return True


@follows("bmm", scores=True)
def _weighed(walker: Walker, node: Node) -> bool:
    """Of shares and values: the result of attention; the other way round: its transpose."""
    if not all(isinstance(ref, Ref) for ref in node.op.args[:2]):
        return False
    first, second = (node.inputs[ref.index] for ref in node.op.args[:2])
    turned = first not in walker.scores
    scores = walker.scores.get(second if turned else first)
    v = walker.arranged(first if turned else second, repeated=True)
    if scores is None or v is None or not scores.shares or len(scores.where.dims) != 3:
        return False
    where, v = (scores.where.permuted([0, 2, 1]), v.permuted([0, 2, 1])) if turned else (scores.where, v)
    in_front = where.dims[0] == scores.front
    if not in_front or where.dims[1:] != (scores.queries, scores.keys) or v.sizes[1] != size(scores.keys):
        return False
    found = _made(
        walker, scores.q, scores.k, v, scores.scale, scores.bias, scores.safe, [scores.products, node]
    )
    found = found if found is None or not turned else found.permuted([0, 2, 1])
    if found is None or found.sizes != walker.whole(node.output):
        return False
    walker.put(node.output, found)
    return True


@follows("reshape", "unsqueeze_copy", "squeeze_copy.dim", "clone", "alias_copy", "expand_copy", scores=True)
def _scores_reshaped(walker: Walker, node: Node) -> bool:
    scores = walker.scores[node.inputs[0]]
    where = scores.where.reshaped(walker.whole(node.output))
    return where is not None and _kept(walker, node, replace(scores, where=where))


@follows("transpose_copy.int", "permute_copy", scores=True)
def _scores_permuted(walker: Walker, node: Node) -> bool:
    scores = walker.scores[node.inputs[0]]
    order = list(range(len(scores.where.dims)))
    if len(node.op.args) == 3:
        first, second = (dim % len(order) for dim in node.op.args[1:])
        order[first], order[second] = second, first
    else:
        order = [dim % len(order) for dim in node.op.args[1]]
    return _kept(walker, node, replace(scores, where=scores.where.permuted(order)))


def _kept(walker: Walker, node: Node, scores: Scores) -> bool:
    """Say which scores a node makes, that stays for those who read them."""
    if set(scores.where.axes) != set(walker.scores[node.inputs[0]].where.axes):
        return False  # an axis was cut
    walker.keep(node)
    walker.scores[node.output] = scores
    return True


@follows("mul.Tensor", "mul.Scalar", "div.Tensor", "div.Scalar", scores=True)
def _scaled(walker: Walker, node: Node) -> bool:
    x, by = node.op.args[:2]
    x, by = (by, x) if isinstance(by, Ref) and "mul" in node.op.function.name() else (x, by)
    number = by.item() if isinstance(by, Tensor) and by.dim() == 0 else by
    if not isinstance(x, Ref) or isinstance(number, (Ref, Tensor, bool)) or len(node.op.args) > 2:
        return False
    scores, factor = walker.scores[node.inputs[0]], float(number)
    if "div" in node.op.function.name():
        factor = 1 / factor if factor else 0.0
    if scores.shares or not isfinite(factor) or not factor or node.op.kwargs:
        return False
    bias = None if scores.bias is None else scores.bias * factor
    return _kept(walker, node, replace(scores, scale=scores.scale * factor, bias=bias))


@follows("add.Tensor", scores=True)
def _biased(walker: Walker, node: Node) -> bool:
    tensors = [arg for arg in node.op.args[:2] if isinstance(arg, Tensor)]
    scores = walker.scores[node.inputs[0]]
    if len(tensors) != 1 or node.op.kwargs or scores.shares or not scores.in_order:
        return False
    (bias,) = tensors
    lead = [size(dim) for dim in scores.where.dims[:-2]]
    if (
        bias.dtype != torch.float32
        or bias.dim() > 2 + len(lead)
        or walker.whole(node.output) != scores.where.sizes
    ):
        return False
    if tuple(axis for dim in scores.where.dims[:-2] for axis in dim) != scores.front:
        return False
    # as the first product is: (..., queries, keys) with the dimensions in front as one
    shape = [1] * (2 + len(lead) - bias.dim()) + list(bias.shape)
    flat = bias.reshape(shape).expand(*lead, *scores.where.sizes[-2:]).reshape(-1, *scores.where.sizes[-2:])
    flat = flat if scores.bias is None else flat + scores.bias
    return _kept(walker, node, replace(scores, bias=flat))


@follows("_softmax", "_safe_softmax", scores=True)
def _shares(walker: Walker, node: Node) -> bool:
    """Over the keys; the safe one differs where there are none to look at."""
    scores, (_, dim, half) = walker.scores[node.inputs[0]], (*node.op.args, False)[:3]
    if half or scores.shares or scores.where.dims[dim % len(scores.where.dims)] != scores.keys:
        return False
    safe = "safe" in node.op.function.name()
    return _kept(walker, node, replace(scores, shares=True, safe=safe))
