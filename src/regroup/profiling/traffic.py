"""How many bytes an operator moves: what it must read and what it must write."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten

_FREE = {
    aten._unsafe_view,
    aten.empty,
    aten.empty_like,
    aten.empty_strided,
    aten.new_empty,
    aten.new_empty_strided,
    aten.lift_fresh,
}
"""Operators that touch no element of a tensor, besides those whose schema says that they are views."""

_WRITES_ONLY = {
    aten.fill_,
    aten.zero_,
    aten.zeros_like,
    aten.ones_like,
    aten.full_like,
    aten.rand_like,
    aten.randn_like,
    aten.bernoulli_,
    aten.normal_,
    aten.uniform_,
}
"""Operators that take a tensor for its shape, not for its values."""

_SELECTS = {aten.index_select, aten.index, aten._unsafe_index, aten.gather, aten.take, aten.embedding}
"""Operators that read as many elements as they give, and the indices."""

_PLACES = {aten.index_put_, aten.index_copy_, aten.scatter_, aten.index_add_, aten.scatter_add_}
"""Operators that write part of a tensor: as much as they are given."""

_REARRANGES = (
    _SELECTS
    | _PLACES
    | {
        aten.cat,
        aten.stack,
        aten.clone,
        aten.copy_,
        aten._to_copy,
        aten.constant_pad_nd,
        aten.roll,
        aten.flip,
        aten.repeat,
        aten.channel_shuffle,
        aten.native_channel_shuffle,
        aten.pixel_shuffle,
        aten.pixel_unshuffle,
        aten.index_put,
        aten.scatter,
        aten.slice_scatter,
        aten.select_scatter,
    }
)


def bytes_moved(func: Any, args: tuple, kwargs: dict, out: object) -> tuple[int, int]:
    """Return (bytes read, bytes written) of one call, each tensor once, as if no cache held any of it."""
    packet = getattr(func, "overloadpacket", func)  # a higher-order operator has none
    if getattr(func, "is_view", False) or packet in _FREE:
        return 0, 0
    given = _tensors((args, kwargs))
    written = sum(map(tensor_bytes, _tensors(out)))
    if packet in _WRITES_ONLY:
        return 0, written
    if packet in _SELECTS:
        return written + sum(map(tensor_bytes, given[1:])), written
    if packet in _PLACES:
        return sum(map(tensor_bytes, given[1:])), tensor_bytes(given[-1])
    if packet is aten.copy_:
        return tensor_bytes(given[1]), written
    return sum(map(tensor_bytes, given)), written


def reads_values(func: Any) -> bool:
    """Tell whether an operator looks at the elements of the tensors it is given, not only at their shape."""
    return func.overloadpacket not in _FREE | _WRITES_ONLY


def is_rearrangement(func: Any) -> bool:
    """Tell whether an operator only moves data: a gather, a shuffle, a concatenation, a copy."""
    return getattr(func, "overloadpacket", func) in _REARRANGES


def tensor_bytes(tensor: Tensor) -> int:
    """Return the bytes of a tensor's distinct elements: an expanded one holds few."""
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    return math.prod(size for size, stride in steps if stride or not size) * tensor.element_size()


def _tensors(tree: object) -> list[Tensor]:
    """Return the tensors in a tree, each object once."""
    unique = {id(t): t for t in tree_leaves(tree) if isinstance(t, Tensor)}
    return list(unique.values())
