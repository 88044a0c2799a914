"""Layers that first choose their inputs: what learned groupings become when they are deployed.

>>> layer = IndexedGroupConv(ConvSpec(8, 8, 1), groups=2, kept=3)
>>> layer.index = torch.tensor([0, 1, 2, 1, 6, 7])
>>> layer(torch.randn(1, 8, 5, 5)).shape
torch.Size([1, 8, 5, 5])

An index is part of the state dict: it was learned. A new layer's index spreads its groups over all inputs.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from regroup.errors import SpecError
from regroup.ops.layers import NORMS, conv, norm_act
from regroup.ops.order import ChannelShuffle
from regroup.spec import ConvSpec


def spread(inputs: int, kept: int, groups: int = 1) -> Tensor:
    """Return indices of `kept` inputs for each group: group g takes every so-manieth input, from the g-th on.

    Shapes: int64 (groups * kept,), group after group.
    """
    return ((torch.arange(kept) * inputs // kept + torch.arange(groups)[:, None]) % inputs).flatten()


def guard_index(module: nn.Module, channels: int) -> None:
    """Make load_state_dict refuse an index that points beyond `channels`, before any forward does."""
    module.register_load_state_dict_pre_hook(partial(_refuse_outside, channels=channels))


def _refuse_outside(
    module: nn.Module, state: dict[str, Tensor], prefix: str, *rest: Any, channels: int
) -> None:
    errors, index = rest[-1], state.get(prefix + "index")
    if index is None or index.is_meta or index.numel() == 0:
        return
    if int(index.min()) < 0 or int(index.max()) >= channels:
        errors.append(f"{prefix}index points outside the {channels} channels")


class IndexedGroupConv(nn.Module):
    """Gather inputs, normalise and activate them, convolve in groups, put the outputs in order.

    Output channels of one group stand `groups` apart: the order after the convolution is a shuffle. Source:
    CondenseNet (arXiv:1711.09224), section 3.2, and its official converted layer.

    Shapes: (N, in_channels, H, W) -> (N, out_channels, P, Q).

    Args:
        spec: of the layer as seen from outside.
        groups: of the convolution.
        kept: inputs of each group; an input may feed several groups, or none.
        norm: batch norm after the gather.
        act: activation after it, a name of `ACTIVATIONS`.

    Raises:
        SpecError: the groups do not divide the outputs, or `kept` is not within 1 ... in_channels.
    """

    def __init__(self, spec: ConvSpec, groups: int, kept: int, norm: bool = True, act: str = "relu") -> None:
        super().__init__()
        if not 1 <= kept <= spec.in_channels:
            raise SpecError("kept", kept, f"within 1 ... in_channels={spec.in_channels}")
        self.index: Tensor
        self.register_buffer("index", spread(spec.in_channels, kept, groups))
        guard_index(self, spec.in_channels)
        self.norm = NORMS[spec.dims - 1](groups * kept) if norm else nn.Identity()
        self.act = norm_act(groups * kept, False, act)
        self.conv = conv(spec.with_channels(groups * kept, spec.out_channels), groups)
        self.shuffle = ChannelShuffle(groups)

    def forward(self, x: Tensor) -> Tensor:
        return self.shuffle(self.conv(self.act(self.norm(x.index_select(1, self.index)))))


class IndexedLinear(nn.Linear):
    """A linear layer that reads some of its inputs only: (N, inputs) -> (N, out_features).

    Args:
        inputs: features it may choose from.
        out_features: of the output.
        kept: features it reads.
    """

    def __init__(self, inputs: int, out_features: int, kept: int) -> None:
        super().__init__(kept, out_features)
        self.inputs = inputs
        self.index: Tensor
        self.register_buffer("index", spread(inputs, kept))
        guard_index(self, inputs)

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.index_select(1, self.index))

    def extra_repr(self) -> str:
        return f"inputs={self.inputs}, {super().extra_repr()}"
