"""ONNX's operators that move numbers, make tensors, or ask for shapes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from regroup.engine.frontend.onnx.call import Call, ints, is_unknown, reads

TYPES: dict[int, torch.dtype] = {
    1: torch.float32, 2: torch.uint8, 3: torch.int8, 4: torch.uint16, 5: torch.int16, 6: torch.int32,
    7: torch.int64, 9: torch.bool, 10: torch.float16, 11: torch.float64, 12: torch.uint32, 13: torch.uint64,
    16: torch.bfloat16,
}  # fmt: skip
"""PyTorch's type for each of ONNX's (TensorProto.DataType)."""


@reads("Reshape")
def _reshape(call: Call) -> Tensor:
    x, shape = call[0], call.integers("shape", 1) or []
    if not call.flag("allowzero"):
        shape = [x.shape[i] if n == 0 else n for i, n in enumerate(shape)]
    return x.reshape(shape)


@reads("Flatten")
def _flatten(call: Call) -> Tensor:
    x, axis = call[0], call.number("axis", 1)
    axis = axis + x.dim() if axis < 0 else axis
    return x.flatten(1) if axis == 1 and x.dim() > 1 else x.reshape(x.shape[:axis].numel(), -1)


@reads("Transpose")
def _transpose(call: Call) -> Tensor:
    return call[0].permute(call.integers("perm") or list(range(call[0].dim()))[::-1])


@reads("Squeeze")
def _squeeze(call: Call) -> Tensor:
    axes = call.integers("axes", 1)
    return call[0].squeeze() if axes is None else call[0].squeeze(tuple(axes))


@reads("Unsqueeze")
def _unsqueeze(call: Call) -> Tensor:
    x, axes = call[0], call.integers("axes", 1) or []
    rank = x.dim() + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = x.unsqueeze(axis)
    return x


@reads("Concat")
def _concat(call: Call) -> Tensor:
    return torch.cat([call[i] for i in range(len(call))], call.number("axis", 1))


@reads("Split")
def _split(call: Call) -> Sequence[Tensor]:
    x, axis, sizes = call[0], call.number("axis", 0), call.integers("split", 1)
    if sizes is None:
        count = call.number("num_outputs", call.outputs)
        each = -(-x.shape[axis] // count)
        sizes = [min(each, x.shape[axis] - start) for start in range(0, each * count, each)]
    return x.split(sizes, axis)


@reads("Slice")
def _slice(call: Call) -> Tensor:
    x, starts, ends = call[0], call.integers("starts", 1) or [], call.integers("ends", 2) or []
    axes, steps = (
        call.integers("axes", 3) or list(range(len(starts))),
        call.integers("steps", 4) or [1] * len(starts),
    )
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        size = x.shape[axis]
        if step > 0:
            first, last, _ = slice(start, end, step).indices(size)
            x = (
                x
                if (first, last, step) == (0, size, 1)
                else _along(x, axis, slice(first, max(first, last), step))
            )
        else:
            picked = list(range(*slice(start, None if end < -size else end, step).indices(size)))
            x = (
                x.flip(axis)
                if picked == list(range(size))[::-1]
                else x.index_select(axis, torch.tensor(picked))
            )
    return x


def _along(x: Tensor, axis: int, part: Any) -> Tensor:
    return x[(slice(None),) * (axis % x.dim()) + (part,)]


@reads("Gather")
def _gather(call: Call) -> Tensor:
    x, index, axis = call[0], call[1], call.number("axis", 0) % max(call[0].dim(), 1)
    if index.dim() == 0:
        return _along(x, axis, index) if is_unknown(index) else x.select(axis, int(index.item()))
    index = torch.where(index < 0, index + x.shape[axis], index)
    found = x.index_select(axis, index.flatten().long())
    return found.reshape(*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])


@reads("GatherElements")
def _gather_elements(call: Call) -> Tensor:
    x, axis = call[0], call.number("axis", 0)
    return x.gather(axis, torch.where(call[1] < 0, call[1] + x.shape[axis], call[1]).long())


@reads("Expand")
def _expand(call: Call) -> Tensor:
    shape = torch.broadcast_shapes(call[0].shape, tuple(ints(call[1])))
    return call[0].expand(shape)


@reads("Tile")
def _tile(call: Call) -> Tensor:
    return call[0].tile(ints(call[1]))


@reads("Pad")
def _pad(call: Call) -> Tensor:
    x, pads, mode = call[0], call.integers("pads", 1) or [], call.word("mode", "constant")
    value = call.optional(2)
    number = call.number("value", 0.0) if value is None else value.item()
    axes = call.integers("axes", 3) or list(range(x.dim()))
    before, after = [0] * x.dim(), [0] * x.dim()
    for i, axis in enumerate(axes):
        before[axis], after[axis] = pads[i], pads[i + len(axes)]
    pairs = [n for pair in zip(before[::-1], after[::-1], strict=True) for n in pair]
    if mode == "constant":
        return F.pad(x, pairs, value=number)
    while len(pairs) > 2 and pairs[-2:] == [0, 0]:
        pairs = pairs[:-2]
    modes = {"reflect": "reflect", "edge": "replicate", "wrap": "circular"}
    deep = len(pairs) // 2 > max(x.dim() - 2, 0) if x.dim() > 1 else False
    if mode not in modes or deep:
        raise call.refuse(f"mode {mode} of {len(pairs) // 2} dimensions")
    return F.pad(x, pairs, mode=modes[mode])


@reads("Shape")
def _shape(call: Call) -> Tensor:
    shape = list(call[0].shape)
    return torch.tensor(shape[call.number("start", 0) : call.attributes.get("end")], dtype=torch.int64)


@reads("Size")
def _size(call: Call) -> Tensor:
    return torch.tensor(call[0].numel(), dtype=torch.int64)


@reads("ConstantOfShape")
def _constant_of_shape(call: Call) -> Tensor:
    value = call.attributes.get("value")
    value = torch.zeros(1) if value is None else value
    return torch.full(ints(call[0]) if call[0].numel() else [], value.item(), dtype=value.dtype)


@reads("Constant")
def _constant(call: Call) -> Tensor:
    (name, value), *_ = call.attributes.items()
    if isinstance(value, Tensor):
        return value
    kind = torch.float32 if name.startswith("value_float") else torch.int64
    if name not in ("value_float", "value_floats", "value_int", "value_ints"):
        raise call.refuse(name)
    return torch.tensor(value, dtype=kind)


@reads("Range")
def _range(call: Call) -> Tensor:
    start, end, step = (call[i].item() for i in range(3))
    return torch.arange(start, end, step, dtype=call[0].dtype)


@reads("Cast")
def _cast(call: Call) -> Tensor:
    kind = call.number("to", 1)
    if kind not in TYPES:
        raise call.refuse(f"type {kind}")
    return call[0].to(TYPES[kind])


@reads("CastLike")
def _cast_like(call: Call) -> Tensor:
    return call[0].to(call[1].dtype)


@reads("DepthToSpace")
def _depth_to_space(call: Call) -> Tensor:
    x, block = call[0], call.number("blocksize", 1)
    if call.word("mode", "DCR") == "CRD":
        return F.pixel_shuffle(x, block)
    n, c, h, w = x.shape
    y = x.reshape(n, block, block, c // block**2, h, w).permute(0, 3, 4, 1, 5, 2)
    return y.reshape(n, c // block**2, h * block, w * block)


@reads("SpaceToDepth")
def _space_to_depth(call: Call) -> Tensor:
    x, block = call[0], call.number("blocksize", 1)
    n, c, h, w = x.shape
    order = (0, 1, 3, 5, 2, 4) if call.word("mode", "DCR") == "CRD" else (0, 3, 5, 1, 2, 4)
    y = x.reshape(n, c, h // block, block, w // block, block).permute(order)
    return y.reshape(n, c * block**2, h // block, w // block)


@reads("Trilu")
def _trilu(call: Call) -> Tensor:
    diagonal = call.optional(1)
    shift = 0 if diagonal is None else int(diagonal.item())
    return call[0].triu(shift) if call.flag("upper", True) else call[0].tril(shift)
