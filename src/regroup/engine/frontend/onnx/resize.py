"""ONNX's resizing: where each pixel comes from is computed as ONNX says; PyTorch does it where it agrees."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack

from regroup.engine.frontend.onnx.call import Call, reads

_ROUND: dict[str, Callable[[float], float]] = {
    "round_prefer_floor": lambda x: math.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: math.floor(x + 0.5),
    "floor": math.floor,
    "ceil": math.ceil,
}


@reads("Upsample")
def _upsample(call: Call) -> Tensor:
    scales = call.attributes.get("scales")
    scales = call[1].tolist() if scales is None else list(scales)
    sizes = [int(n * s) for n, s in zip(call[0].shape, scales, strict=True)]
    return _resized(call, call[0], sizes, scales, "asymmetric", "floor")


@reads("Resize")
def _resize(call: Call) -> Tensor:
    x, first = call[0], 1 if call.opset < 11 else 2
    sizes = call.optional(3)
    axes = [axis % x.dim() for axis in call.integers("axes") or range(x.dim())]
    if call.flag("antialias"):
        raise call.refuse("antialias")
    shape, factors = list(x.shape), [1.0] * x.dim()
    if sizes is not None and sizes.numel():
        wanted = [int(size) for size in sizes.tolist()]
        ratios = [size / x.shape[axis] for axis, size in zip(axes, wanted, strict=True)]
        policy = call.word("keep_aspect_ratio_policy", "stretch")
        if policy != "stretch":
            ratios = [min(ratios) if policy == "not_larger" else max(ratios)] * len(axes)
            wanted = [math.floor(x.shape[axis] * ratios[0] + 0.5) for axis in axes]
        for axis, size, ratio in zip(axes, wanted, ratios, strict=True):
            shape[axis], factors[axis] = size, ratio
    else:
        for axis, factor in zip(axes, call[first].tolist(), strict=True):
            shape[axis], factors[axis] = int(x.shape[axis] * factor), factor
    old = call.opset < 11
    where = "asymmetric" if old else call.word("coordinate_transformation_mode", "half_pixel")
    rounding = "floor" if old else call.word("nearest_mode", "round_prefer_floor")
    return _resized(call, x, shape, factors, where, rounding)


def _resized(
    call: Call, x: Tensor, shape: Sequence[int], scales: Sequence[float], where: str, rounding: str
) -> Tensor:
    mode = call.word("mode", "nearest")
    if where == "tf_crop_and_resize":
        raise call.refuse(where)
    images = x.dim() == 4 and list(shape[:2]) == list(x.shape[:2])
    if images and mode == "linear" and _as_pytorch(x, shape, scales, where):
        return _bilinear(x, shape, scales, where == "align_corners")
    sources = [
        [_source(i, old, new, scale, where) for i in range(new)]
        for old, new, scale in zip(x.shape, shape, scales, strict=True)
    ]
    if mode == "nearest":
        picked = [
            [min(max(int(_ROUND[rounding](p)), 0), old - 1) for p in axis]
            for axis, old in zip(sources, x.shape, strict=True)
        ]
        return _nearest(x, shape, picked, images)
    sharpness = call.number("cubic_coeff_a", -0.75) if mode == "cubic" else None
    for axis, positions in enumerate(sources):
        if shape[axis] != x.shape[axis] or any(p != i for i, p in enumerate(positions)):
            x = _interpolated(x, axis, positions, sharpness, inside=call.flag("exclude_outside"))
    return x


def _source(i: int, old: int, new: int, scale: float, where: str) -> float:
    """Return the position in the old image of pixel `i` of the new one."""
    match where:
        case "asymmetric":
            return i / scale
        case "align_corners":
            return 0.0 if new == 1 else i * (old - 1) / (old * scale - 1)
        case "pytorch_half_pixel" if new == 1:
            return 0.0
        case "half_pixel_symmetric":
            adjusted = new / (scale * old)
            return old / 2 * (1 - adjusted) + (i + 0.5) / scale - 0.5
        case _:
            return (i + 0.5) / scale - 0.5


def _as_pytorch(x: Tensor, shape: Sequence[int], scales: Sequence[float], where: str) -> bool:
    """Tell whether PyTorch's bilinear resizing takes pixels from the same places."""
    if where == "align_corners":
        pairs = zip(x.shape[2:], scales[2:], shape[2:], strict=True)
        return all(abs(n * s - m) < 1e-4 for n, s, m in pairs)
    return where == "half_pixel" or (where == "pytorch_half_pixel" and min(shape[2:]) > 1)


def _bilinear(x: Tensor, shape: Sequence[int], scales: Sequence[float], corners: bool) -> Tensor:
    exact = all(int(n * s) == m for n, s, m in zip(x.shape[2:], scales[2:], shape[2:], strict=True))
    factors = tuple(scales[2:]) if exact and not corners else (None, None)
    return torch.ops.aten.upsample_bilinear2d.default(x, list(shape[2:]), corners, *factors)


def _nearest(x: Tensor, shape: Sequence[int], picked: list[list[int]], images: bool) -> Tensor:
    """Pick pixels, by PyTorch's own operators where these pick the same."""
    if images:
        for mode in ("nearest", "nearest-exact"):
            theirs = [_pytorchs(old, new, mode) for old, new in zip(x.shape[2:], shape[2:], strict=True)]
            if theirs == picked[2:]:
                return F.interpolate(x, tuple(shape[2:]), mode=mode)
    for axis, indices in enumerate(picked):
        if indices != list(range(x.shape[axis])):
            x = x.index_select(axis, torch.tensor(indices))
    return x


def _pytorchs(old: int, new: int, mode: str) -> list[int]:
    """Return the pixels that PyTorch picks."""
    with temporarily_clear_interpreter_stack():  # numbers, even where a recording has none
        numbers = torch.arange(float(old)).view(1, 1, 1, -1)
        return F.interpolate(numbers, (1, new), mode=mode).flatten().int().tolist()


def _interpolated(
    x: Tensor, axis: int, positions: Sequence[float], sharpness: float | None, *, inside: bool
) -> Tensor:
    """Return `x` between its numbers along an axis: by two of them, or four if `sharpness` is given."""
    old, taps = x.shape[axis], range(2) if sharpness is None else range(-1, 3)
    low = [math.floor(p) for p in positions]
    weights = [[_weight(p - n - tap, sharpness) for tap in taps] for p, n in zip(positions, low, strict=True)]
    if inside:  # only numbers of the image count
        kept = [
            [w * (0 <= n + tap < old) for tap, w in zip(taps, row, strict=True)]
            for n, row in zip(low, weights, strict=True)
        ]
        weights = [[w / sum(row) for w in row] for row in kept]
    result = None
    for i, tap in enumerate(taps):
        index = torch.tensor([min(max(n + tap, 0), old - 1) for n in low])
        weight = torch.tensor([row[i] for row in weights], dtype=x.dtype).view(
            -1, *[1] * (x.dim() - 1 - axis)
        )
        part = x.index_select(axis, index) * weight
        result = part if result is None else result + part
    assert result is not None
    return result


def _weight(distance: float, sharpness: float | None) -> float:
    """Return what a number at a distance counts: linearly, or by Keys' cubic (1981)."""
    d = abs(distance)
    if sharpness is None:
        return max(1 - d, 0.0)
    if d <= 1:
        return ((sharpness + 2) * d - (sharpness + 3)) * d * d + 1
    return ((sharpness * d - 5 * sharpness) * d + 8 * sharpness) * d - 4 * sharpness if d < 2 else 0.0
