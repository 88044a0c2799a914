"""MACs of single operators: what each of PyTorch's multiplies and adds up, and which multiply nothing.

>>> x, w = torch.empty(2, 8, 5, 5), torch.empty(8, 2, 3, 3)
>>> macs_of(torch.ops.aten.convolution.default, (x, w, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 4), {}, x)
7200
>>> macs_of(torch.ops.aten.relu.default, (x,), {}, x)
0
>>> macs_of(torch.ops.aten.cumprod.default, (x, 1), {}, x) is None
True

A MAC is one product that is added to a sum. As in the papers of the field, what treats each number by
itself, or only adds, counts nothing: products of elements (gates, masks, scales, dropout), activations,
normalisation with its statistics, softmax, losses, sums over one tensor, gathers and copies; nor do pooling
and resizing, whose weights are constants (`NO_MACS`, and all that PyTorch tags as pointwise). Everything
else has a formula or gives None: whoever counts must name it.

Formulas are PyTorch's own (`torch.utils.flop_counter`, where `register_flop_formula` adds those of custom
operators) and, where it has none or a wrong one, those below.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from regroup.ops.no_macs import NO_MACS

Call = Mapping[str, Any]
"""The arguments of one call of an operator, by the names of its schema."""

Formula = Callable[[Call, Any], int]
"""From the arguments and what came out to MACs."""

FORMULAS: dict[str, Formula] = {}
"""By name of the operator, its namespace first: 'aten.mv'."""


def macs_of(func: Any, args: tuple, kwargs: dict, out: object) -> int | None:
    """Return the MACs of one call of an operator: 0 if it multiplies nothing, None if no formula is known.

    Args:
        func: the operator as a `TorchDispatchMode` gets it.
        args: its positional arguments.
        kwargs: its arguments by name.
        out: what it returned.
    """
    if not isinstance(func, torch._ops.OpOverload):  # a higher-order operator, such as flex_attention
        theirs = flop_registry.get(func)
        return None if theirs is None else theirs(*args, **kwargs, out_val=out) // 2
    if func.is_view or torch.Tag.pointwise in func.tags:
        return 0
    packet = func.overloadpacket
    name = str(packet).removesuffix("_")  # in place or not
    if name in NO_MACS:
        return 0
    tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
    if any(t.layout is not torch.strided or t.is_nested for t in tensors):
        return None  # their shapes do not say how much is multiplied
    if packet in flop_registry and name not in FORMULAS:
        macs = flop_registry[packet](*args, **kwargs, out_val=out) // 2
    elif name in FORMULAS:
        macs = FORMULAS[name](call_of(func, args, kwargs), out)
    else:
        return None
    is_complex = packet not in _OF_COMPLEX and any(t.is_complex() for t in tensors)
    return 4 * macs if is_complex else macs  # (a + ib)(c + id) are four real products


def gives_activations(func: Any) -> bool:
    """Tell whether an operator that counts MACs is a layer's: a convolution or a matrix product."""
    return not isinstance(func, torch._ops.OpOverload) or str(func.overloadpacket) not in NOT_LAYERS


def call_of(func: torch._ops.OpOverload, args: tuple, kwargs: dict) -> dict[str, Any]:
    """Return the arguments of a call by their names, defaults included."""
    named = func._schema.arguments
    given = {a.name: a.default_value for a in named if a.has_default_value()}
    return {**given, **dict(zip((a.name for a in named), args, strict=False)), **kwargs}


NOT_LAYERS: set[str] = set()
"""Operators whose results are no layer's activations: sampling, distances, transforms."""


def _formula(*names: str, layer: bool = True) -> Callable[[Formula], Formula]:
    def register(function: Formula) -> Formula:
        FORMULAS.update(dict.fromkeys(names, function))
        if not layer:
            NOT_LAYERS.update(names)
        return function

    return register


@_formula("aten.mv", "aten.addmv", "aten.dot", "aten.vdot", "aten.addr")
def vector_product(call: Call, out: Any) -> int:
    """A matrix times a vector, or two vectors: to a number, or to a matrix that is added to another."""
    if "vec1" in call:
        return out.numel()
    return call.get("mat", call.get("self")).numel()


@_formula("aten.linalg_vecdot")
def products_of_vectors(call: Call, out: Any) -> int:
    """Vectors along one dimension, pair by pair: one product for each of their numbers."""
    return out.numel() * max(call["x"].shape[call["dim"]], call["y"].shape[call["dim"]])


@_formula("aten._addmm_activation", "aten._int_mm", "aten.addbmm", "aten.addmm", "aten.baddbmm")
def matrix_product(call: Call, out: Any) -> int:
    """Matrix products, of one pair or of a batch of pairs whose sum is taken: (..., M, K) by (..., K, N)."""
    left = call.get("mat1", call.get("batch1", call.get("self")))
    right = call.get("mat2", call.get("batch2"))
    return left.numel() * right.shape[-1]


@_formula("aten.mkldnn_convolution", "aten.cudnn_convolution_relu", "aten.cudnn_convolution_add_relu")
def fused_convolution(call: Call, out: Any) -> int:
    """A convolution as a library's one operator: each output is one kernel's sum of products."""
    return out.numel() * math.prod(call["weight"].shape[1:])


@_formula("aten.convolution_backward", "aten.convolution_backward_overrideable")
def convolution_backward(call: Call, out: Any) -> int:
    """The gradients of a convolution's input and weight, for any number of groups.

    Each takes as many MACs as the forward pass: every product of an input, a weight and an output gradient
    occurs once in each of the three. The weight has its input channels already divided by the groups, so that
    no groups are needed at all. (PyTorch's own formula reads (1 + groups) / 2 times too much.)
    """
    pixels = (call["input"] if call["transposed"] else call["grad_output"]).shape
    forward = pixels[0] * math.prod(pixels[2:]) * call["weight"].numel()
    return forward * sum(map(bool, call["output_mask"][:2]))


@_formula("aten.linear_backward")
def linear_backward(call: Call, out: Any) -> int:
    """The gradients of a linear layer's input and weight."""
    forward = call["self"].numel() * call["weight"].shape[0]
    return forward * sum(map(bool, call["output_mask"][:2]))


@_formula("aten._trilinear")
def trilinear(call: Call, out: Any) -> int:
    """`nn.Bilinear`: two products of broadcast tensors, the second of what the first leaves after its sum."""
    shapes = []
    for tensor, added in zip(("i1", "i2", "i3"), ("expand1", "expand2", "expand3"), strict=True):
        shape = list(call[tensor].shape)
        for dim in sorted(call[added]):
            shape.insert(dim, 1)
        shapes.append(shape)
    first = torch.broadcast_shapes(*shapes[:2])
    early = {d for d in call["sumdim"] if shapes[2][d] == 1}  # summed before the third tensor comes in
    left = [1 if d in early else n for d, n in enumerate(first)]
    return math.prod(first) + math.prod(torch.broadcast_shapes(left, shapes[2]))


@_formula(
    "aten._scaled_dot_product_flash_attention_for_cpu",
    "aten._scaled_dot_product_fused_attention_overrideable",
)
def attention(call: Call, out: Any) -> int:
    """Attention's two products, queries by keys and weights by values, whole also if half is masked.

    Shapes are (..., heads, length, width); one head of keys may serve several of queries.
    """
    query, key, value = call["query"], call["key"], call["value"]
    return math.prod(query.shape[:-1]) * key.shape[-2] * (query.shape[-1] + value.shape[-1])


@_formula(
    "aten._scaled_dot_product_flash_attention_for_cpu_backward",
    "aten._scaled_dot_product_fused_attention_overrideable_backward",
)
def attention_backward(call: Call, out: Any) -> int:
    """Five products: queries by keys once more (only their sums were kept), and the four gradients."""
    query, key, value = call["query"], call["key"], call["value"]
    pairs = math.prod(query.shape[:-1]) * key.shape[-2]
    return pairs * (3 * query.shape[-1] + 2 * value.shape[-1])


@_formula("aten._native_multi_head_attention", "aten._transformer_encoder_layer_fwd")
def attention_layer(call: Call, out: Any) -> int:
    """PyTorch's fast path of attention and of a transformer's encoder layer, in one operator.

    Four projections, attention's two products, and in a layer the two matrices that follow.
    """
    query = call.get("query", call.get("src"))
    key = call.get("key", query)
    value = call.get("value", query)
    batch, length, width = query.shape
    own = batch * length * width**2  # of one projection of the queries; the results' has as many
    others = batch * (key.shape[1] + value.shape[1]) * width**2
    products = 2 * batch * length * key.shape[1] * width
    layer = [call[name].numel() for name in ("ffn_weight_1", "ffn_weight_2") if name in call]
    return 2 * own + others + products + batch * length * sum(layer)


@_formula("aten.mkldnn_rnn_layer", "aten.mkldnn_rnn_layer_backward")
def one_recurrent_layer(call: Call, out: Any) -> int:
    """A recurrent layer in one direction: at each step every weight meets one number of each sequence.

    The backward pass takes twice as many, for the gradients of what went in and of the weights.
    """
    names = ("weight1", "weight2") if "grad_output" in call else ("weight0", "weight1")
    x = call["input"]  # (length, batch, features)
    steps = x.numel() // x.shape[-1]
    return (2 if "grad_output" in call else 1) * steps * sum(call[name].numel() for name in names)


@_formula("aten._cudnn_rnn", "aten.miopen_rnn", "aten._cudnn_rnn_backward")
def recurrent_layers(call: Call, out: Any) -> int:
    """All recurrent layers in one operator, over whole or packed sequences; backward takes twice as many."""
    x = call["input"]
    steps = x.numel() // x.shape[-1]
    matrices = sum(w.numel() for w in call["weight"] if w.dim() == 2)
    return (2 if "grad_output" in call else 1) * steps * matrices


@_formula("aten._embedding_bag", "aten._embedding_bag_forward_only")
def embedding_bag(call: Call, out: Any) -> int:
    """Rows that are added up: products only where each row has a weight."""
    weights = call["per_sample_weights"]
    return 0 if weights is None else weights.numel() * call["weight"].shape[1]


@_formula(
    "aten.grid_sampler_2d",
    "aten.grid_sampler_3d",
    "aten.grid_sampler_2d_backward",
    "aten.grid_sampler_3d_backward",
    "aten._grid_sampler_2d_cpu_fallback",
    "aten._grid_sampler_2d_cpu_fallback_backward",
    layer=False,
)
def sampling(call: Call, out: Any) -> int:
    """Sampling at places given: weighted sums of neighbours; the places' gradient takes as many."""
    dims = call["grid"].shape[-1]
    taps = {0: 2**dims, 1: 0, 2: 4**dims}[call["interpolation_mode"]]  # (bi)linear, nearest, (bi)cubic
    times = sum(call.get("output_mask", (True, True))) if "grad_output" in call else 1
    return times * taps * call.get("grad_output", out[0] if isinstance(out, tuple) else out).numel()


@_formula("torchvision.roi_align", layer=False)
def region_alignment(call: Call, out: Any) -> int:
    """Means over samples in each bin of a region (arXiv:1703.06870), each between four neighbours."""
    if call["sampling_ratio"] > 0:
        return 4 * out.numel() * call["sampling_ratio"] ** 2
    corners = call["rois"][:, 1:] * call["spatial_scale"]  # else as many as the bin has pixels, each way
    bins = torch.tensor([call["pooled_width"], call["pooled_height"]], device=corners.device)
    samples = ((corners[:, 2:] - corners[:, :2]) / bins).ceil().clamp(min=0).prod(1).sum()
    return 4 * int(samples) * math.prod(out.shape[1:])


@_formula("torchvision.nms", layer=False)
def suppression(call: Call, out: Any) -> int:
    """Boxes are compared with each other, and nothing is added up."""
    return 0


@_formula("aten.affine_grid_generator", layer=False)
def affine_grid(call: Call, out: Any) -> int:
    """Each coordinate of a grid is a row of an affine map times a point."""
    return out.numel() * call["theta"].shape[-1]


@_formula("torchvision.deform_conv2d")
def deformable_convolution(call: Call, out: Any) -> int:
    """A convolution (arXiv:1703.06211, v2 1811.11168) of inputs each sampled between four neighbours."""
    weight = call["weight"]
    pixels = out.numel() // weight.shape[0]
    sampled = pixels * call["input"].shape[1] * math.prod(weight.shape[2:])
    return out.numel() * math.prod(weight.shape[1:]) + 4 * sampled


@_formula("aten._cdist_forward", "aten._euclidean_dist", "aten._pdist_forward", layer=False)
def distances(call: Call, out: Any) -> int:
    """Distances of points, pair by pair: one product for each coordinate, whatever the norm."""
    return out.numel() * call.get("x1", call.get("self")).shape[-1]


@_formula("aten._fft_c2c", "aten._fft_r2c", "aten._fft_c2r", layer=False)
def fourier_transform(call: Call, out: Any) -> int:
    """The nominal 5 N log2 N FLOPs of a complex transform of N numbers, half as many of a real one.

    So FFTW's benchmark counts for every library (Frigo and Johnson, Proceedings of the IEEE 93(2), 2005);
    what a library really executes depends on N's factors.
    """
    real = [t for t in (call["self"], out) if not t.is_complex()]
    whole = real[0] if real else out
    points = math.prod(whole.shape[d] for d in call["dim"])
    flops = (2.5 if real else 5) * whole.numel() * math.log2(max(1, points))
    return round(flops / 2)


_OF_COMPLEX = {torch.ops.aten._fft_c2c, torch.ops.aten._fft_r2c, torch.ops.aten._fft_c2r}
"""Operators whose formulas know of complex numbers."""
