"""ONNX's layers: convolutions, pooling, normalisation, products of matrices."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from regroup.engine.frontend.onnx.call import Call, reads

_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
_MAX = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVERAGE = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def _sizes(call: Call, x: Tensor, kernel: Sequence[int]) -> tuple[list[int], list[int], list[int], list[int]]:
    """Return strides, dilations, and the padding before and after each dimension of the image."""
    rank = len(kernel)
    strides, dilations = call.integers("strides") or [1] * rank, call.integers("dilations") or [1] * rank
    pads, auto = call.integers("pads") or [0] * 2 * rank, call.word("auto_pad", "NOTSET")
    if auto == "VALID":
        pads = [0] * 2 * rank
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        reach = [d * (k - 1) + 1 for d, k in zip(dilations, kernel, strict=True)]
        total = [
            max((-(-size // s) - 1) * s + r - size, 0)
            for size, s, r in zip(x.shape[2:], strides, reach, strict=True)
        ]
        low = [t // 2 if auto == "SAME_UPPER" else -(-t // 2) for t in total]
        pads = [*low, *(t - a for t, a in zip(total, low, strict=True))]
    return strides, dilations, pads[:rank], pads[rank:]


def _padded(x: Tensor, before: Sequence[int], after: Sequence[int], value: float = 0.0) -> Tensor:
    """Return `x` within a frame; PyTorch names the last dimension first."""
    pairs = [n for pair in zip(before[::-1], after[::-1], strict=True) for n in pair]
    return F.pad(x, pairs, value=value) if any(pairs) else x


@reads("Conv")
def _conv(call: Call) -> Tensor:
    x, weight, bias = call[0], call[1], call.optional(2)
    strides, dilations, before, after = _sizes(call, x, weight.shape[2:])
    if before != after:
        x, before = _padded(x, before, after), [0] * len(before)
    return _CONV[len(before)](x, weight, bias, strides, before, dilations, call.number("group", 1))


@reads("ConvTranspose")
def _conv_transpose(call: Call) -> Tensor:
    x, weight, bias = call[0], call[1], call.optional(2)
    rank, kernel = weight.dim() - 2, weight.shape[2:]
    strides, dilations = call.integers("strides") or [1] * rank, call.integers("dilations") or [1] * rank
    extra, pads = call.integers("output_padding") or [0] * rank, call.integers("pads") or [0] * 2 * rank
    whole = [
        (size - 1) * s + d * (k - 1) + 1 + e
        for size, s, d, k, e in zip(x.shape[2:], strides, dilations, kernel, extra, strict=True)
    ]
    auto, shape = call.word("auto_pad", "NOTSET"), call.integers("output_shape")
    if auto in ("SAME_UPPER", "SAME_LOWER") and shape is None:
        shape = [size * s for size, s in zip(x.shape[2:], strides, strict=True)]
    if shape is not None:
        total = [w - size for w, size in zip(whole, shape[-rank:], strict=True)]
        low = [t // 2 if auto == "SAME_UPPER" else -(-t // 2) for t in total]
        if auto != "SAME_UPPER":
            low = [t - t // 2 for t in total]
        pads = [*low, *(t - a for t, a in zip(total, low, strict=True))]
    before, after = pads[:rank], pads[rank:]
    groups = call.number("group", 1)
    usual = all(e < max(s, d) for e, s, d in zip(extra, strides, dilations, strict=True))
    if before == after and min(before) >= 0 and usual:
        return _TRANSPOSED[rank](x, weight, bias, strides, before, extra, groups, dilations)
    y = _TRANSPOSED[rank](x, weight, None, strides, 0, 0, groups, dilations)
    y = _padded(y, [-n for n in before], [e - n for e, n in zip(extra, after, strict=True)])
    return y if bias is None else y + bias.view(-1, *[1] * rank)


@reads("MaxPool")
def _max_pool(call: Call) -> Sequence[Tensor]:
    x, kernel = call[0], call.integers("kernel_shape") or []
    strides, dilations, before, after = _sizes(call, x, kernel)
    ceil = call.flag("ceil_mode")
    if call.outputs > 1:
        raise call.refuse("indices")
    if before != after or any(2 * p > k for p, k in zip(before, kernel, strict=True)):
        x, before = _padded(x, before, after, _lowest(x)), [0] * len(before)
    return [_MAX[len(kernel)](x, kernel, strides, before, dilations, ceil)]


def _lowest(x: Tensor) -> float:
    return -float("inf") if x.is_floating_point() else torch.iinfo(x.dtype).min


@reads("AveragePool")
def _average_pool(call: Call) -> Tensor:
    x, kernel = call[0], call.integers("kernel_shape") or []
    strides, dilations, before, after = _sizes(call, x, kernel)
    if any(d != 1 for d in dilations):
        raise call.refuse("dilations")
    ceil, counted = call.flag("ceil_mode"), call.flag("count_include_pad")
    pool, rank = _AVERAGE[len(kernel)], len(kernel)
    if before == after and all(2 * p <= k for p, k in zip(before, kernel, strict=True)):
        return pool(x, kernel, strides, before, ceil, counted)
    framed = _padded(x, before, after)
    if counted:
        return pool(framed, kernel, strides, 0, ceil, True)
    ones = _padded(torch.ones(1, 1, *x.shape[2:], dtype=x.dtype), before, after)
    return pool(framed, kernel, strides, 0, ceil, True) / pool(ones, kernel, strides, [0] * rank, ceil, True)


@reads("LpPool")
def _lp_pool(call: Call) -> Tensor:
    x, kernel, p = call[0], call.integers("kernel_shape") or [], call.number("p", 2)
    strides, dilations, before, after = _sizes(call, x, kernel)
    if any(d != 1 for d in dilations):
        raise call.refuse("dilations")
    powers = _padded(x.abs() ** p, before, after)
    mean = _AVERAGE[len(kernel)](powers, kernel, strides, 0, call.flag("ceil_mode"), True)
    return (mean * prod(kernel)) ** (1 / p)


@reads("GlobalAveragePool")
def _global_average(call: Call) -> Tensor:
    return call[0].mean(tuple(range(2, call[0].dim())), keepdim=True)


@reads("GlobalMaxPool")
def _global_max(call: Call) -> Tensor:
    return call[0].amax(tuple(range(2, call[0].dim())), keepdim=True)


@reads("BatchNormalization")
def _batch_norm(call: Call) -> Tensor:
    if call.flag("training_mode") or call.outputs > 1:
        raise call.refuse("training_mode")
    x, weight, bias, mean, var = (call[i] for i in range(5))
    return F.batch_norm(x, mean, var, weight, bias, False, 0.0, call.number("epsilon", 1e-5))


@reads("InstanceNormalization")
def _instance_norm(call: Call) -> Tensor:
    return F.instance_norm(call[0], weight=call[1], bias=call[2], eps=call.number("epsilon", 1e-5))


@reads("GroupNormalization")
def _group_norm(call: Call) -> Tensor:
    groups, scale, bias = call.number("num_groups", 1), call[1], call[2]
    if call.opset < 21 and len(scale) == groups != call[0].shape[1]:  # a number per group, then
        each = call[0].shape[1] // groups
        scale, bias = scale.repeat_interleave(each), bias.repeat_interleave(each)
    return F.group_norm(call[0], groups, scale, bias, call.number("epsilon", 1e-5))


@reads("LayerNormalization")
def _layer_norm(call: Call) -> Sequence[Tensor]:
    x, bias, eps = call[0], call.optional(2), call.number("epsilon", 1e-5)
    axis = call.number("axis", -1) % x.dim()
    shape = x.shape[axis:]
    scale, bias = call[1].expand(shape), None if bias is None else bias.expand(shape)
    y = F.layer_norm(x, shape, scale, bias, eps)
    if call.outputs == 1:
        return [y]
    axes = tuple(range(axis, x.dim()))
    return [y, x.mean(axes, keepdim=True), (x.var(axes, correction=0, keepdim=True) + eps).rsqrt()]


@reads("LRN")
def _lrn(call: Call) -> Tensor:
    size = call.number("size", 0)
    numbers = call.number("alpha", 1e-4), call.number("beta", 0.75), call.number("bias", 1.0)
    if size % 2:
        return F.local_response_norm(call[0], size, *numbers)
    raise call.refuse("an even size")


@reads("LpNormalization")
def _lp_norm(call: Call) -> Tensor:
    return F.normalize(call[0], call.number("p", 2), call.number("axis", -1))


@reads("Gemm")
def _gemm(call: Call) -> Tensor:
    a = call[0].t() if call.flag("transA") else call[0]
    b, alpha, beta = call[1], call.number("alpha", 1.0), call.number("beta", 1.0)
    bias = call.optional(2)
    if alpha == 1 and beta == 1 and call.flag("transB") and (bias is None or bias.dim() == 1):
        return F.linear(a, b, bias)
    b = b.t() if call.flag("transB") else b
    product = a @ b if alpha == 1 else alpha * (a @ b)
    return product if bias is None else product + (bias if beta == 1 else beta * bias)


@reads("MatMul")
def _matmul(call: Call) -> Tensor:
    return torch.matmul(call[0], call[1])


@reads("Einsum")
def _einsum(call: Call) -> Tensor:
    return torch.einsum(call.word("equation", ""), [call[i] for i in range(len(call))])


@reads("Softmax", "LogSoftmax", "Hardmax")
def _softmax(call: Call) -> Tensor:
    x, axis = call[0], call.number("axis", 1 if call.opset < 13 else -1)
    if call.opset < 13:  # over all dimensions from that one on
        axis %= x.dim() or 1
        return _over(call.name, x.flatten(axis), -1).view(x.shape)
    return _over(call.name, x, axis)


def _over(name: str, x: Tensor, axis: int) -> Tensor:
    if name == "Hardmax":
        return torch.zeros_like(x).scatter(axis, x.argmax(axis, keepdim=True), 1)
    return x.softmax(axis) if name == "Softmax" else x.log_softmax(axis)
