"""Rules for what only moves elements: channel orders, in whatever words a network has them, move nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from regroup.ops.order import shuffle
from regroup.ops.tags import Ints, moved, reshaped
from regroup.parallel.divided import Block, Divided, channel_order, tags_of
from regroup.parallel.running import MOVES, Running, divides
from regroup.parallel.wire import select


def _same_memory(a: Tensor, b: Tensor) -> bool:
    return a.untyped_storage()._cdata == b.untyped_storage()._cdata


@divides(*MOVES)
def _move(run: Running, func: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
    """Carry tags along until the channels are dimension 1 again."""
    if not isinstance(x, Divided):
        return NotImplemented
    meta = func(x.meta(), *args, **kwargs)
    if x.settled and meta.shape == x.shape and func.__name__ in ("view", "reshape", "contiguous", "flatten"):
        return x
    if x.settled and meta.shape == (x.shape[0], x.numel() // max(1, x.shape[0])):
        return _flat(run, x, meta)
    tags = tags_of(x.shape) if x.order is None else x.order
    if func.__name__ in _REORDERING:
        probe = torch.empty([1] * x.dim()).as_strided([1] * x.dim(), list(range(x.dim())))
        strides = func(probe, *args, **kwargs).stride()
        places = [strides.index(d) for d in range(x.dim())]
        tags, lost = [moved(tag, places) for tag in tags], []
    else:
        tags, lost = reshaped(tags, x.shape, meta.shape)
    if lost:
        return NotImplemented
    moves = (*x.moves, (func, args, kwargs))
    local, division = x.block.local, x.block.division
    was = torch.Size((local.shape[0], sum(division.counts), *local.shape[2:]))
    order = channel_order(tags, meta.shape, was)
    if order is None:
        return Divided.viewing(run, meta, x.block, tags, moves)
    local = local.reshape(local.shape[0], local.shape[1], *meta.shape[2:])
    return _alias(run, x, meta, Block(local, division.taken(order)))


_REORDERING = frozenset(["transpose", "permute", "swapaxes", "swapdims", "movedim", "moveaxis"])


def _flat(run: Running, x: Divided, meta: Tensor) -> Divided:
    """(N, C, H, W) -> (N, C H W)."""
    pixels = meta.shape[1] // x.shape[1]
    block = Block(x.block.local.flatten(1), x.block.division.expanded(pixels))
    return _alias(run, x, meta, block)


def _alias(run: Running, x: Divided, meta: Tensor, block: Block) -> Divided:
    """Return a block that may share its memory with that of `x` in the network's own code."""
    if _same_memory(meta, x.meta()):
        block.is_view = x.block.is_view = True
    return Divided.viewing(run, meta, block)


@divides("detach")
def _detach(run: Running, func: Any, x: Any) -> Any:
    """The same numbers."""
    if not isinstance(x, Divided):
        return NotImplemented
    return _alias(run, x, func(x.meta()), Block(func(x.block.local), x.block.division))


def _choose(run: Running, x: Divided, index: Ints, meta: Tensor | None = None) -> Divided:
    """Take channels; each stays on its device."""
    division = x.block.division
    taken = division.taken(index)
    mine = division.owners[1][index[taken.held[run.wire.rank]]]
    block = Block(select(x.block.local, 1, mine), taken)
    return run.divided(block.local, taken) if meta is None else _alias(run, x, meta, block)


@divides("chunk", "split", "tensor_split", "split_with_sizes", "narrow", "index_select", "channel_shuffle")
def _parts(run: Running, func: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
    """Parts of the channels, by the function itself on their numbers."""
    name = func.__name__
    if not isinstance(x, Divided):
        return NotImplemented
    if name == "channel_shuffle":
        return _choose(run, x, shuffle(x.shape[1], args[0] if args else kwargs["groups"]).numpy())
    position = 0 if name in ("narrow", "index_select") else 1
    dim = args[position] if len(args) > position else kwargs.get("dim", 0)
    if not isinstance(dim, int) or dim % x.dim() != 1:
        return NotImplemented
    numbers = torch.arange(x.shape[1]).view(1, -1)
    where = [a.cpu() if isinstance(a, Tensor) else a for a in args]
    named = {k: a.cpu() if isinstance(a, Tensor) else a for k, a in kwargs.items()}
    if any(isinstance(a, Tensor) and a.is_meta for a in (*where, *named.values())):
        return NotImplemented
    positive = [dim % x.dim() if i == position else a for i, a in enumerate(where)]
    found = func(numbers, *positive, **({**named, "dim": 1} if "dim" in named else named))
    single = isinstance(found, Tensor)
    pieces = [found] if single else list(found)
    if any(piece.shape[1] < 2 for piece in pieces):
        return NotImplemented
    if name == "index_select":
        return _choose(run, x, pieces[0][0].numpy())
    metas = [x.meta().narrow(1, int(p[0, 0]), p.shape[1]) for p in pieces]
    result = [_choose(run, x, p[0].numpy(), meta) for p, meta in zip(pieces, metas, strict=True)]
    return result[0] if single else tuple(result)


@divides("__getitem__")
def _getitem(run: Running, func: Any, x: Any, key: Any) -> Any:
    """Slices of channels, of pixels, or of both."""
    keys = key if isinstance(key, tuple) else (key,)
    if not isinstance(x, Divided) or Ellipsis in [k for k in keys if not isinstance(k, Tensor)]:
        return NotImplemented
    if len(keys) > x.dim() or not all(isinstance(k, slice) for i, k in enumerate(keys) if i != 1):
        return NotImplemented
    if len(keys) < 2 or keys[0] != slice(None):
        return NotImplemented
    if isinstance(keys[1], Tensor):
        index = np.arange(x.shape[1])[keys[1].cpu().numpy()]
    elif isinstance(keys[1], (slice, list)):
        index = np.arange(x.shape[1])[keys[1]]
    else:
        return NotImplemented
    if len(index) < 2:
        return NotImplemented
    chosen = _choose(run, x, index)
    local = chosen.block.local[(slice(None), slice(None), *keys[2:])]
    block = Block(local, chosen.block.division)
    return (
        _alias(run, x, func(x.meta(), keys), block)
        if isinstance(keys[1], slice)
        else run.divided(local, block.division)
    )
