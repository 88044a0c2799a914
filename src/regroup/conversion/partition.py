"""Which inputs and which outputs of a dense convolution make up each group.

>>> part = Partition.contiguous(4, 6, groups=2)
>>> part.inputs.tolist(), part.outputs.tolist()
([[0, 1], [2, 3]], [[0, 1, 2], [3, 4, 5]])
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from regroup.ops.layers import conv, give
from regroup.ops.order import ChannelOrder, inverse
from regroup.spec import ConvSpec


@dataclass(frozen=True, eq=False)
class Partition:
    """Groups of channels: group g makes the outputs `outputs[g]` from the inputs `inputs[g]`.

    Args:
        inputs: (G, width), int64. Groups may share inputs, and there may be inputs that no group reads.
        outputs: (G, M / G), int64; each output in one group.
    """

    inputs: Tensor
    outputs: Tensor

    @classmethod
    def contiguous(cls, in_channels: int, out_channels: int, groups: int) -> Partition:
        """Return the groups that a grouped convolution has by itself."""
        return cls(*(torch.arange(n).view(groups, -1) for n in (in_channels, out_channels)))

    @property
    def groups(self) -> int:
        """Number of groups."""
        return len(self.inputs)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (inputs, outputs) of each group."""
        return iter(zip(self.inputs, self.outputs, strict=True))

    def sorted(self) -> Partition:
        """Return the same groups with channels in ascending order inside, and by their first output."""
        inputs, outputs = self.inputs.sort(1).values, self.outputs.sort(1).values
        first = outputs[:, 0].argsort()
        return Partition(inputs[first], outputs[first])

    def build(self, spec: ConvSpec, weight: Tensor, bias: Tensor | None) -> nn.Module:
        """Return order-in, grouped convolution, order-out, without the orders that change nothing.

        Args:
            spec: of the dense convolution that it stands in for.
            weight: (M, width, R, S), of the outputs in the order of `outputs`.
            bias: (M,) of the outputs in the order of the dense convolution; None: none.
        """
        inner = replace(spec, in_channels=self.inputs.numel(), bias=bias is not None)
        layer = conv(inner, self.groups).to(weight)
        give(layer, weight, None if bias is None else bias[self.outputs.flatten()])
        orders = self.inputs.flatten(), inverse(self.outputs.flatten())
        parts = [_order(orders[0], spec.in_channels), layer, _order(orders[1], spec.out_channels)]
        kept = [part for part in parts if part is not None]
        return nn.Sequential(*kept) if len(kept) > 1 else layer


def _order(order: Tensor, channels: int) -> ChannelOrder | None:
    plain = len(order) == channels and bool((order == torch.arange(channels, device=order.device)).all())
    return None if plain else ChannelOrder(order, learned=True)
