"""How influence passes through operators: for each output element, which input elements it is made of.

Two semirings share the rules. Boolean: an output depends on what any of its inputs depends on. Weighted: an
output's influence is the mean of its inputs', each weighted by |weight| where there are weights; so the
shares of all sources add up to at most 1.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

aten = torch.ops.aten


@dataclass(frozen=True)
class Semiring:
    """How influences are kept and brought together."""

    dtype: torch.dtype
    merge: Callable[[list[Tensor], int], Tensor]
    """Of several tensors of one shape, among so many that hold data."""
    spread: Callable[..., Tensor]
    """Over dimensions: (tensor, dim, keepdim)."""
    weights: Callable[[Tensor], Tensor]
    """What a constant lets pass."""
    normalised: bool
    """Whether a weighted sum is divided by the sum of its weights."""


BOOLEAN = Semiring(
    torch.bool,
    lambda parts, among: functools.reduce(torch.maximum, parts),
    torch.amax,
    lambda constant: (constant != 0).float(),
    normalised=False,
)
WEIGHTED = Semiring(
    torch.float32,
    lambda parts, among: functools.reduce(torch.add, parts) / among,
    torch.mean,
    lambda constant: constant.abs().float(),
    normalised=True,
)


class Known(Protocol):
    """What the rules ask about the tensors of a call."""

    semiring: Semiring
    sources: int

    def reaches(self, tensor: Tensor) -> bool:
        """Tell whether any source reaches a tensor."""
        ...

    def of(self, tensor: Tensor) -> Tensor | None:
        """Return the influences on a tensor, (S, *its shape), or None."""
        ...

    def is_data(self, tensor: Tensor) -> bool:
        """Tell whether a tensor depends on the network's input."""
        ...

    def passes(self, constant: Tensor) -> Tensor:
        """Return what a constant lets pass."""
        ...


class Call:
    """One call of an operator, its arguments by name, and the influences on them."""

    def __init__(
        self, func: torch._ops.OpOverload, args: tuple, kwargs: dict, out: Any, known: Known
    ) -> None:
        self.func, self.args, self.kwargs, self.out, self.known = func, args, kwargs, out, known
        schema = func._schema.arguments
        self.named: dict[str, Any] = {a.name: a.default_value for a in schema if a.has_default_value()}
        self.named |= dict(zip([a.name for a in schema], args, strict=False)) | kwargs
        self.given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        self.semiring = known.semiring

    @property
    def sources(self) -> int:
        """Number of source channels."""
        return self.known.sources

    def of(self, tensor: Tensor | None) -> Tensor | None:
        """Return the influences on a tensor, or None."""
        return None if tensor is None else self.known.of(tensor)

    def merge(self, parts: Sequence[Tensor | None], shape: Sequence[int]) -> Tensor:
        """Bring influences of several tensors together, each broadcast to `shape`."""
        among = max(1, sum(self.known.is_data(t) for t in self.given))
        return self.semiring.merge([_broadcast(p, shape) for p in parts if p is not None], among)

    def everything(self, output: Tensor) -> Tensor:
        """Let every element of the output depend on every element of every input."""
        parts = [i.flatten(1) for t in self.given if (i := self.known.of(t)) is not None]
        parts = [self.semiring.spread(p, 1, False).view(-1, *[1] * output.ndim) for p in parts]
        return self.merge(parts, output.shape)


Rule = Callable[[Call, Tensor], Tensor]


def _broadcast(influence: Tensor, shape: Sequence[int]) -> Tensor:
    missing = len(shape) - (influence.ndim - 1)
    return influence.view(len(influence), *[1] * missing, *influence.shape[1:]).expand(-1, *shape)


def pointwise(call: Call, output: Tensor) -> Tensor:
    """Let each element depend on the elements at its place; a constant factor of zero lets nothing pass."""
    influence = call.merge([call.of(t) for t in call.given], output.shape)
    if _base(call.func) in ("mul", "div"):
        for tensor in call.given:
            if not call.known.is_data(tensor):
                influence = influence * (call.known.passes(tensor) != 0)
    return influence


def copied(call: Call, output: Tensor) -> Tensor:
    """Let each element depend on the one that is copied to it."""
    influence = call.of(call.named["src"])
    return (
        torch.zeros(call.sources, *output.shape) if influence is None else _broadcast(influence, output.shape)
    )


def moved(call: Call, output: Tensor) -> Tensor:
    """Apply the operator itself to the influences: it moves elements, or sums them with fixed weights."""
    if any(call.known.reaches(t) for t in call.given if not t.is_floating_point()):
        return call.everything(output)  # where to move it depends on the source
    reached = {id(t): i for t in call.given if (i := call.of(t)) is not None}

    def apply(source: int) -> Tensor:
        def stand_in(tensor: Tensor) -> Tensor:
            influence = reached.get(id(tensor))
            return _nothing(tensor) if influence is None else influence[source]

        return _again(call, stand_in, call.named)

    return torch.stack([apply(source) for source in range(call.sources)])


def in_space(call: Call, output: Tensor) -> Tensor:
    """Do the same for an operator that treats each image by itself, all sources at once."""
    (influence,) = (i for t in call.given if (i := call.of(t)) is not None)
    # a batch (N, C, H, W) takes the sources in; a single image, or one that is padded, has room for them
    batched = output.ndim == 4 or "channel_shuffle" in _base(call.func)
    images = influence.flatten(0, 1) if batched else influence
    return _again(call, lambda tensor: images, call.named).view(call.sources, *output.shape)


def fresh(call: Call, output: Tensor) -> Tensor:
    """Constants that take only the shape of a tensor: nothing influences them."""
    return torch.zeros(call.sources, *output.shape)


def along_dimension(call: Call, output: Tensor) -> Tensor:
    """Do the same for an operator that moves whole slices along a dimension, all sources at once."""

    def stand_in(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor
        influence = call.of(tensor)
        return torch.zeros(call.sources, *tensor.shape) if influence is None else influence

    if any(call.known.reaches(t) for t in call.given if not t.is_floating_point()):
        return call.everything(output)  # which slices it takes depends on the source
    return _again(call, stand_in, {**call.named, "dim": call.named["dim"] % output.ndim + 1})


def _again(call: Call, stand_in: Callable[[Tensor], Tensor], arguments: dict[str, Any]) -> Tensor:
    """Call the operator, in its form that is not in place, on other tensors."""
    named = tree_map_only(Tensor, stand_in, arguments)
    if call.func.overloadpacket is aten.constant_pad_nd:
        named["value"] = 0
    functional = getattr(getattr(aten, _base(call.func)), call.func._overloadname)
    names = [argument.name for argument in functional._schema.arguments if not argument.kwarg_only]
    result = functional(*[named[name] for name in names])
    return result if isinstance(result, Tensor) else result[0]


def _nothing(tensor: Tensor) -> Tensor:
    """Return what stands for a tensor that no source reaches; indices stay as they are."""
    return torch.zeros(tensor.shape) if tensor.is_floating_point() else tensor


def max_pooled(call: Call, output: Tensor) -> Tensor:
    """Let each element depend on its window; the weighted form takes the window's mean."""
    named = call.named
    if not call.semiring.normalised or any(d != 1 for d in named["dilation"]):
        return in_space(call, output)
    window = (named["kernel_size"], named["stride"] or None, named["padding"], named["ceil_mode"], False)
    influence = call.of(named["self"])
    assert influence is not None  # it is the only tensor
    return torch.nn.functional.avg_pool2d(influence.flatten(0, -4), *window).view(call.sources, *output.shape)


def convolved(call: Call, output: Tensor) -> Tensor:
    """Let each output depend on its window of its group's channels, where the kernel is not zero."""
    x, weight = call.named["input"], call.named["weight"]
    parts = []
    if (influence := call.of(x)) is not None:
        passes = call.known.passes(weight)
        influence = influence.flatten(0, 1)
        if call.semiring.normalised:
            total = _convolve(call, torch.ones(1, *x.shape[1:]), passes)
            merged = _convolve(call, influence, passes) / total.clamp_min(1e-30)
        elif passes.all():
            merged = _whole_groups(call, influence, output.shape[1])
        else:
            merged = _convolve(call, influence, passes)
        parts.append(merged.view(call.sources, *output.shape))
    if (influence := call.of(weight)) is not None:
        outs = (0, 2) if call.named["transposed"] else (1,)  # (S, [C, K/G] or [K, C/G], ...)
        spread = [d for d in range(1, influence.ndim) if d not in outs]
        per_channel = call.semiring.spread(influence, spread, False).flatten(1)
        per_channel = per_channel.repeat(1, output.shape[1] // per_channel.shape[1])
        parts.append(per_channel.view(call.sources, 1, -1, *[1] * (output.ndim - 2)))
    return call.merge(parts, output.shape)


def _convolve(call: Call, influence: Tensor, passes: Tensor) -> Tensor:
    names = ("stride", "padding", "dilation", "transposed", "output_padding", "groups")
    return aten.convolution(influence, passes, None, *(call.named[name] for name in names))


def _whole_groups(call: Call, influence: Tensor, out_channels: int) -> Tensor:
    """Convolve with a kernel that has no zeros: all outputs of a group see the same."""
    groups = call.named["groups"]
    seen = influence.unflatten(1, (groups, -1)).amax(2)
    ones = torch.ones(groups, 1, *call.named["weight"].shape[2:])
    return _convolve(call, seen, ones).repeat_interleave(out_channels // groups, 1)


def multiplied(call: Call, output: Tensor) -> Tensor:
    """Matrix products: let each output depend on its row of the left and its column of the right."""
    *added, left, right = (t for t in call.given)
    parts = [i if (i := call.of(t)) is None else _broadcast(i, output.shape) for t in added]
    if (influence := call.of(left)) is not None:
        passes = call.known.passes(right)
        shares = passes / passes.sum(-2, True).clamp_min(1e-30) if call.semiring.normalised else passes
        parts.append(influence @ shares)
    if (influence := call.of(right)) is not None:
        passes = call.known.passes(left)
        shares = passes / passes.sum(-1, True).clamp_min(1e-30) if call.semiring.normalised else passes
        parts.append(shares @ influence)
    return call.merge(parts, output.shape)


def attended(call: Call, output: Tensor) -> Tensor:
    """Attention: each output depends on its query, on all keys, and on its channel of all values."""
    if output is not call.out[0]:
        return call.everything(output)  # what only the backward pass reads
    query, key, value = (call.of(call.named[name]) for name in ("query", "key", "value"))
    parts = []
    for influence, dims in ((query, (-1,)), (key, (-2, -1)), (value, (-2,))):
        if influence is not None:
            parts.append(call.semiring.spread(influence, dims, True))
    return call.merge(parts, output.shape)


def batch_normed(call: Call, output: Tensor) -> Tensor:
    """Batch norm: with stored statistics element by element, else each channel by itself."""
    influence = call.of(call.named["input"])
    if influence is None or output.shape != influence.shape[1:]:
        return torch.zeros(call.sources, *output.shape)  # the statistics, which no layer reads
    if call.named.get("training", "no_stats" in call.func._overloadname):
        channel = call.semiring.spread(influence, [1, *range(3, influence.ndim)], True)
        influence = channel.expand_as(influence)
    weight = call.named.get("weight")
    if weight is None:
        return influence
    passes = (call.known.passes(weight) != 0).view(-1, *[1] * (output.ndim - 2))
    return influence * passes


def group_normed(call: Call, output: Tensor) -> Tensor:
    """Group norm: each element depends on the whole group of channels."""
    influence = call.of(call.named["input"])
    if influence is None or output.shape != influence.shape[1:]:
        return torch.zeros(call.sources, *output.shape)
    grouped = influence.unflatten(2, (call.named["group"], -1)).flatten(3)
    spread = call.semiring.spread(grouped, 3, True).expand_as(grouped)
    return spread.reshape(influence.shape)


def layer_normed(call: Call, output: Tensor) -> Tensor:
    """Layer norm: each element depends on all that are normalised with it."""
    influence = call.of(call.named["input"])
    if influence is None or output.shape != influence.shape[1:]:
        return torch.zeros(call.sources, *output.shape)
    dims = list(range(-len(call.named["normalized_shape"]), 0))
    return call.semiring.spread(influence, dims, True).expand_as(influence)


def reduced(call: Call, output: Tensor) -> Tensor:
    """Reductions, softmax and sorting: each output depends on all along the dimensions."""
    influence = call.of(call.given[0])
    if influence is None:
        return call.everything(output)
    ndim = influence.ndim - 1
    dims = call.named.get("dim")
    dims = [dims] if isinstance(dims, int) else list(dims or range(ndim))
    keepdim = call.named.get("keepdim", False) or output.ndim == ndim
    spread = call.semiring.spread(influence, [d % ndim + 1 for d in dims], keepdim)
    return spread.expand(-1, *output.shape)


def scattered(call: Call, output: Tensor) -> Tensor:
    """Scattering: each output depends on what was at its place, and on all that is written along its line."""
    dim = call.named["dim"] % output.ndim + 1
    parts = [call.of(call.named["self"])]
    for tensor in (call.named["index"], call.named.get("src")):
        influence = call.of(tensor) if isinstance(tensor, Tensor) else None
        if influence is not None:
            line = call.semiring.spread(influence, [dim], True)
            if any(a not in (1, b) for a, b in zip(line.shape[1:], output.shape, strict=True)):
                return call.everything(output)
            parts.append(line.expand(-1, *output.shape))
    return call.merge(parts, output.shape)


def _base(func: torch._ops.OpOverload) -> str:
    return func._opname.removesuffix("_")


_POINTWISE = """clone _to_copy native_dropout masked_fill fill hardswish hardsigmoid hardtanh silu mish gelu
    elu leaky_relu softplus _prelu_kernel"""
_MOVED = """stack index _unsafe_index gather index_put slice_scatter select_scatter roll flip repeat tril triu
    cumsum im2col col2im upsample_nearest1d _adaptive_avg_pool3d avg_pool3d max_pool3d_with_indices"""
_ALONG = "cat index_select index_add"
_FRESH = "new_zeros new_ones new_full zeros_like ones_like full_like"
_IN_SPACE = """avg_pool2d _adaptive_avg_pool2d adaptive_max_pool2d constant_pad_nd reflection_pad2d
    replication_pad2d native_channel_shuffle channel_shuffle pixel_shuffle pixel_unshuffle
    upsample_nearest2d upsample_bilinear2d _upsample_bilinear2d_aa"""
_REDUCED = """mean sum amax amin max min prod var std var_mean std_mean argmax argmin any all logsumexp
    linalg_vector_norm norm _softmax _log_softmax _safe_softmax topk sort cumprod"""
_BATCH_NORM = """native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training
    cudnn_batch_norm _batch_norm_with_update _batch_norm_no_update"""
_ATTENTION = """_scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_flash_attention
    _scaled_dot_product_efficient_attention"""

_RULES: dict[str, Rule] = {
    "copy": copied,
    "max_pool2d_with_indices": max_pooled,
    "convolution": convolved,
    "scatter": scattered,
    "native_group_norm": group_normed,
    "native_layer_norm": layer_normed,
    **dict.fromkeys(("mm", "addmm", "bmm", "baddbmm"), multiplied),
    **dict.fromkeys(_POINTWISE.split(), pointwise),
    **dict.fromkeys(_MOVED.split(), moved),
    **dict.fromkeys(_ALONG.split(), along_dimension),
    **dict.fromkeys(_FRESH.split(), fresh),
    **dict.fromkeys(_IN_SPACE.split(), in_space),
    **dict.fromkeys(_REDUCED.split(), reduced),
    **dict.fromkeys(_BATCH_NORM.split(), batch_normed),
    **dict.fromkeys(_ATTENTION.split(), attended),
}
_MIXING = ("convolution", "mm", "addmm", "bmm", "baddbmm", *_ATTENTION.split())


def rule_for(call: Call) -> Rule | None:
    """Return the rule of a call's operator, or None if there is none."""
    if call.func.namespace != "aten":
        return None
    rule = _RULES.get(_base(call.func))
    if rule is None and torch.Tag.pointwise in call.func.tags:
        return pointwise
    return rule


def is_mixing(call: Call) -> bool:
    """Tell whether a call is a step of the network's depth: a convolution or a matrix product."""
    return call.func.namespace == "aten" and _base(call.func) in _MIXING
