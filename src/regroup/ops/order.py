"""Channel orders: permutations and selections of channels, as data.

>>> shuffle(6, groups=2).tolist()
[0, 3, 1, 4, 2, 5]
>>> inverse(shuffle(6, groups=2)).tolist()
[0, 2, 4, 1, 3, 5]

An order lists, for each output channel, the input channel that it takes. Shuffle, interleave and
index-select are all channel orders.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from regroup.errors import ParameterError


def shuffle(channels: int, groups: int) -> Tensor:
    """Return the channel shuffle (g, n) -> (n, g): channel i*groups + j takes channel j*n + i.

    Shapes: int64 (channels,). Source: ShuffleNet (arXiv:1707.01083) section 3.1; it is torch's
    `channel_shuffle`. `shuffle(channels, channels // groups)` is its inverse.
    """
    if groups < 1 or channels % groups:
        raise ParameterError("groups", groups, f"a divisor of the {channels} channels")
    return torch.arange(channels).view(groups, -1).t().reshape(-1)


def inverse(order: Tensor) -> Tensor:
    """Return the order that undoes a permutation."""
    result = torch.empty_like(order)
    result[order] = torch.arange(len(order), device=order.device)
    return result


def compose(first: Tensor, then: Tensor) -> Tensor:
    """Return the one order that equals applying `first` and `then`."""
    return first[then]


def is_permutation(order: Tensor, channels: int) -> bool:
    """Tell whether `order` uses each of `channels` channels exactly once."""
    return len(order) == channels and bool(
        (order.sort().values == torch.arange(channels, device=order.device)).all()
    )


class ChannelOrder(nn.Module):
    """Apply a channel order: (N, C, *size) -> (N, len(order), *size).

    Args:
        order: for each output channel the input channel that it takes.
        learned: the order was learned, and so is part of the state dict; otherwise it is a constant of the
            architecture, and is not.
    """

    def __init__(self, order: Tensor | Sequence[int], learned: bool = False) -> None:
        super().__init__()
        self.register_buffer("order", torch.as_tensor(order, dtype=torch.int64), persistent=learned)

    def forward(self, x: Tensor) -> Tensor:
        return x.index_select(1, self.order)

    def extra_repr(self) -> str:
        return f"channels={len(self.order)}"


class ChannelShuffle(nn.Module):
    """Apply `shuffle(channels, groups)` as a view and a transpose, the form that exporters know."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(1, (self.groups, -1)).transpose(1, 2).flatten(1, 2)

    def extra_repr(self) -> str:
        return f"groups={self.groups}"
