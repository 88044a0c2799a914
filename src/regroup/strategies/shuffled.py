"""Shuffled: grouped convolution whose outputs are dealt out to all groups of the next layer.

Zhang et al., ShuffleNet (arXiv:1707.01083), section 3.1 (the shuffle) and figure 2b (the unit).
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace

from torch import Tensor, nn

from regroup.errors import StrategyError
from regroup.ops import order, reach
from regroup.ops.layers import NORMS, conv, explicit, give
from regroup.ops.nearest import diagonal_blocks
from regroup.ops.order import ChannelShuffle
from regroup.spec import DIMS, ConvSpec, Cost, Extent, chain_cost
from regroup.strategies import Strategy, check_groups, strategy
from regroup.strategies.starting import BATCH_NORM, DenseWeights

FORMS = ("conv", "unit")


def unit_chain(spec: ConvSpec, middle: int, groups: int) -> list[tuple[ConvSpec, int]]:
    """Return (spec, groups) of the three convolutions of ShuffleNet's unit with `middle` channels inside."""
    depthwise = replace(spec.with_channels(middle, middle), bias=False)
    return [
        (spec.pointwise(spec.in_channels, middle), groups),
        (depthwise, middle),
        (spec.pointwise(middle, spec.out_channels, spec.bias), groups),
    ]


def unit_reach(chain: list[tuple[ConvSpec, int]]) -> Tensor:
    """Return the reach of such a unit: blocks with shuffled rows, the diagonal, blocks."""
    first, *rest = (reach.grouped(step.out_channels, step.in_channels, groups) for step, groups in chain)
    return reach.through(first[order.shuffle(len(first), chain[0][1])], *rest)


class ShuffleUnit(nn.Sequential):
    """ShuffleNet's residual branch, without the batch norm after it: (N, C, *size) -> (N, K, *out).

    1x1 in groups to `middle` channels, batch norm, ReLU, shuffle, depthwise, batch norm, 1x1 in groups.

    Args:
        spec: channels in and out of the whole; kernel, stride, padding, dilation of the depthwise part.
        middle: channels inside.
        groups: of both pointwise convolutions.

    Raises:
        SpecError: `groups` does not divide the channels.
    """

    def __init__(self, spec: ConvSpec, middle: int, groups: int) -> None:
        reduce, depthwise, expand = (conv(step, g) for step, g in unit_chain(spec, middle, groups))
        norm = NORMS[spec.dims - 1]
        super().__init__(
            OrderedDict(
                reduce=reduce,
                norm1=norm(middle),
                act=nn.ReLU(inplace=True),
                shuffle=ChannelShuffle(groups),
                depthwise=depthwise,
                norm2=norm(middle),
                expand=expand,
            )
        )


@strategy("shuffled", paper="arXiv:1707.01083")
class Shuffled(Strategy):
    """Grouped convolution with a channel shuffle, so that two in a row connect everything.

    conv: y = shuffle(W_1 * x_1, ..., W_G * x_G): output i G + g is the i-th of group g. 1/G of the cost.
    unit: y = P2 n(D shuffle(a(n(P1 x)))): P1, P2 pointwise in G groups with M = K/ratio channels between, D
    depthwise, n batch norm, a ReLU. Cost C M/G + M S + M K/G against C K S.

    Args:
        groups: number of groups G.
        form: conv or unit.
        ratio: output channels for each channel inside the unit; 4 in the paper.
    """

    dims = DIMS

    groups: int = 4
    form: str = "conv"
    ratio: int = 4

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise StrategyError("form", self.form, f"one of {', '.join(FORMS)}")
        for name in ("groups", "ratio"):
            if getattr(self, name) < 1:
                raise StrategyError(name, getattr(self, name), "an int of at least 1")

    @classmethod
    def variants(cls) -> tuple[Strategy, ...]:
        """Return the shuffled convolution in few and many groups, and the unit."""
        return cls(), cls(groups=8), cls(groups=2, form="unit")

    def check(self, spec: ConvSpec) -> None:
        """Refuse channels, or channels inside the unit, that the groups do not divide."""
        check_groups(spec, self.groups)
        if self.form == "unit" and spec.out_channels % (self.ratio * self.groups):
            raise StrategyError(
                "ratio",
                self.ratio,
                f"such that out_channels={spec.out_channels} / ratio is a multiple of groups={self.groups}",
                "use a smaller ratio or fewer groups",
            )

    def _chain(self, spec: ConvSpec) -> list[tuple[ConvSpec, int]]:
        self.check(spec)
        if self.form == "conv":
            return [(spec, self.groups)]
        return unit_chain(spec, spec.out_channels // self.ratio, self.groups)

    def build(self, spec: ConvSpec) -> nn.Module:
        """Return Sequential(grouped convolution, ChannelShuffle), or a ShuffleUnit."""
        self.check(spec)
        if self.form == "unit":
            return ShuffleUnit(spec, spec.out_channels // self.ratio, self.groups)
        return nn.Sequential(conv(spec, self.groups), ChannelShuffle(self.groups))

    def take(self, module: nn.Module, dense: DenseWeights) -> str:
        """Take, as the row that the shuffle brings to each output, what its group has; the unit: nothing."""
        if self.form == "unit":
            return BATCH_NORM
        rows = order.inverse(order.shuffle(dense.spec.out_channels, self.groups))
        bias = None if dense.bias is None else dense.bias[rows]
        give(module, diagonal_blocks(dense.kernel[rows], self.groups), bias)
        return ""

    def cost(self, spec: ConvSpec, size: Extent) -> Cost:
        """Return 1/G of the dense cost, or C M/G + M S + M K/G and the two batch norms."""
        norms = Cost(4 * spec.out_channels // self.ratio if self.form == "unit" else 0)
        return chain_cost(self._chain(spec), size) + norms

    def reach(self, spec: ConvSpec) -> Tensor:
        """Return blocks with shuffled rows, followed in the unit by the diagonal and blocks."""
        return unit_reach(self._chain(spec))

    def reference(self, module: nn.Module, x: Tensor) -> Tensor:
        """Compute dense convolutions whose block-diagonal kernels have shuffled rows or columns."""
        first, *rest = module  # type: ignore[not-iterable]
        dealt = order.shuffle(next(first.parameters()).shape[0], self.groups)
        if self.form == "conv":
            return explicit(first, x, outputs=dealt)
        norm1, act, _, depthwise, norm2, expand = rest
        squeezed = act(norm1(explicit(first, x)))
        return explicit(expand, norm2(explicit(depthwise, squeezed, inputs=dealt)))
