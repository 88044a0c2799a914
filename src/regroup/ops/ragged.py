"""Groups of any channels: grouped convolution whose groups differ in size, share no channel, or are empty.

>>> groups = [([0, 2, 5], [1]), ([1, 3], [0, 2])]
>>> layer = ragged_conv(ConvSpec(6, 3, 1), groups, torch.randn(3, 6, 1, 1))
>>> [tuple(conv.weight.shape) for conv in layer.convs]
[(1, 3, 1, 1), (2, 2, 1, 1)]
>>> ragged_conv(ConvSpec(4, 4, 1), [([0, 2], [1, 3]), ([1, 3], [0, 2])], torch.randn(4, 4, 1, 1))
Sequential(
  (0): ChannelOrder(channels=4)
  (1): Conv2d(4, 4, kernel_size=(1, 1), stride=(1, 1), groups=2, bias=False)
  (2): ChannelOrder(channels=4)
)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from regroup.errors import SpecError
from regroup.ops.layers import Convolution, conv, convolution_of, pad_and_conv, per_channel
from regroup.ops.order import ChannelOrder, inverse
from regroup.spec import ConvSpec

Groups = Sequence[tuple[Sequence[int], Sequence[int]]]
"""For each group the numbers of its input and of its output channels."""


def ragged_conv(spec: ConvSpec, groups: Groups, weight: Tensor, bias: Tensor | None = None) -> nn.Module:
    """Return the plain module that convolves inside `groups`, with weights out of a dense kernel.

    Where all groups are alike and no channel is left out it is one convolution between two channel orders, of
    which those that change nothing are left out; otherwise a `RaggedGroupConv`.

    Args:
        spec: of the layer.
        groups: an output that no group names, or whose group has no inputs, is 0 or its bias.
        weight: (K, C, *taps), of which the connections inside groups are taken.
        bias: (K,) or None.

    Raises:
        SpecError: a channel is in two groups, or there is none of that number.
    """
    _check(spec, groups)
    weight, bias = weight.detach(), None if bias is None else bias.detach()
    used = [(inputs, outputs) for inputs, outputs in groups if inputs and outputs]
    whole = sum(len(i) for i, _ in used) == spec.in_channels
    whole &= sum(len(o) for _, o in used) == spec.out_channels
    if not whole or len({(len(i), len(o)) for i, o in used}) > 1:
        return RaggedGroupConv(spec, groups).take(weight, bias)
    layer = conv(spec, len(used))
    _fill(convolution_of(layer), used, weight, bias)
    read, written = ([c for group in used for c in group[side]] for side in (0, 1))
    orders = ChannelOrder(read, learned=True), ChannelOrder(inverse(torch.tensor(written)), learned=True)
    before, after = (
        [] if order.order.tolist() == list(range(len(order.order))) else [order.to(weight.device)]
        for order in orders
    )
    return nn.Sequential(*before, layer, *after) if before or after else layer


class RaggedGroupConv(nn.Module):
    """Gather, a convolution for each shape of group, concatenate, put in order.

    Groups of the same shape share one grouped convolution.

    Shapes: (N, in_channels, *size) -> (N, out_channels, *out).

    Args:
        spec: of the layer.
        groups: see `ragged_conv`.
    """

    def __init__(self, spec: ConvSpec, groups: Groups) -> None:
        super().__init__()
        self.spec = spec
        self.members: dict[tuple[int, int], list[tuple[Sequence[int], Sequence[int]]]] = {}
        for inputs, outputs in groups:
            if inputs and outputs:
                self.members.setdefault((len(inputs), len(outputs)), []).append((inputs, outputs))
        alike = list(self.members.values())
        self.gather = ChannelOrder([c for like in alike for inputs, _ in like for c in inputs], learned=True)
        self.widths = [len(like) * width for (width, _), like in self.members.items()]
        self.pad, _ = pad_and_conv(spec)
        self.convs = nn.ModuleList(
            pad_and_conv(spec.with_channels(len(like) * c, len(like) * k), len(like))[1]
            for (c, k), like in self.members.items()
        )
        written = [k for like in alike for _, outputs in like for k in outputs]
        self.unreached = sorted(set(range(spec.out_channels)) - set(written))
        self.constant = nn.Parameter(torch.zeros(len(self.unreached))) if spec.bias else None
        self.place = ChannelOrder(inverse(torch.tensor(written + self.unreached)), learned=True)

    def take(self, weight: Tensor, bias: Tensor | None) -> RaggedGroupConv:
        """Take the weights out of a dense kernel (K, C, *taps), and return this module."""
        for layer, like in zip(self.convs, self.members.values(), strict=True):
            _fill(convolution_of(layer), like, weight, bias)
        if bias is not None:
            self.constant = nn.Parameter(bias[self.unreached])
        return self.to(weight.device)

    def forward(self, x: Tensor) -> Tensor:
        n, size = x.shape[0], self.spec.output_size(x.shape[2:])
        parts = self.pad(self.gather(x)).split(self.widths, 1)
        results = [layer(part) for layer, part in zip(self.convs, parts, strict=True)]
        if self.unreached:
            values = x.new_zeros(len(self.unreached)) if self.constant is None else self.constant.to(x.dtype)
            results.append(per_channel(values, len(size)).expand(n, -1, *size))
        return self.place(torch.cat(results, 1))

    def extra_repr(self) -> str:
        return str(self.spec)


def _fill(layer: Convolution, groups: Groups, weight: Tensor, bias: Tensor | None) -> None:
    layer.weight = nn.Parameter(torch.cat([weight[list(outputs)][:, list(i)] for i, outputs in groups]))
    if bias is not None:
        layer.bias = nn.Parameter(bias[[k for _, outputs in groups for k in outputs]])


def _check(spec: ConvSpec, groups: Groups) -> None:
    for side, name, channels in ((0, "inputs", spec.in_channels), (1, "outputs", spec.out_channels)):
        named = [c for group in groups for c in group[side]]
        if len(set(named)) < len(named) or not set(named) <= set(range(channels)):
            raise SpecError("groups", groups, f"of {name} below {channels}, each once")
