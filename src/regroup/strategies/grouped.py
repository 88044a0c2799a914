"""Grouped: the channels fall into groups, and each group is convolved by itself.

Krizhevsky et al., AlexNet (NeurIPS 2012), section 3.2: two groups on two devices.
Xie et al., ResNeXt (arXiv:1611.05431), section 3.3, form (c): many groups.
"""

from __future__ import annotations

from torch import Tensor, nn

from regroup.errors import StrategyError
from regroup.ops import reach
from regroup.ops.layers import conv, explicit, give
from regroup.ops.nearest import diagonal_blocks
from regroup.spec import DIMS, ConvSpec, Cost, Extent
from regroup.strategies import Strategy, check_groups, strategy
from regroup.strategies.starting import DenseWeights


@strategy("grouped", paper="arXiv:1611.05431")
class Grouped(Strategy):
    """Split input and output channels into equal groups; convolve inside each.

    y_g = W_g * x_g for g = 1 ... groups, with W_g of shape (K/groups, C/groups, *kernel size): the dense
    convolution whose kernel is block-diagonal. 1/groups of the parameters and MACs.

    Args:
        groups: number of groups; must divide input and output channels. 4 if neither is given.
        group_width: input channels in one group, instead of `groups`.
    """

    dims = DIMS

    groups: int | None = None
    group_width: int | None = None

    def __post_init__(self) -> None:
        if self.groups is not None and self.group_width is not None:
            raise StrategyError("group_width", self.group_width, "left out when groups is given")
        if self.groups is None and self.group_width is None:
            object.__setattr__(self, "groups", 4)
        for name in ("groups", "group_width"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise StrategyError(name, value, "an int of at least 1")

    @classmethod
    def variants(cls) -> tuple[Strategy, ...]:
        """Return few, some and many groups."""
        return cls(groups=2), cls(groups=4), cls(groups=8), cls(group_width=4)

    def groups_of(self, spec: ConvSpec) -> int:
        """Return the number of groups for `spec`.

        Raises:
            StrategyError: it does not divide the channels.
        """
        if self.group_width is not None and spec.in_channels % self.group_width:
            raise StrategyError(
                "group_width", self.group_width, f"a divisor of in_channels={spec.in_channels}"
            )
        groups = self.groups or spec.in_channels // self.group_width  # type: ignore[operator]
        check_groups(spec, groups)
        return groups

    def check(self, spec: ConvSpec) -> None:
        """Refuse channels that the groups do not divide."""
        self.groups_of(spec)

    def build(self, spec: ConvSpec) -> nn.Module:
        """Return an nn.Conv1d, 2d or 3d with groups."""
        return conv(spec, self.groups_of(spec))

    def take(self, module: nn.Module, dense: DenseWeights) -> str:
        """Take what lies on the diagonal blocks."""
        give(module, diagonal_blocks(dense.kernel, self.groups_of(dense.spec)), dense.bias)
        return ""

    def cost(self, spec: ConvSpec, size: Extent) -> Cost:
        """Return 1/groups of the dense cost (the bias stays whole)."""
        return spec.cost(size, self.groups_of(spec))

    def reach(self, spec: ConvSpec) -> Tensor:
        """Return blocks on the diagonal."""
        return reach.grouped(spec.out_channels, spec.in_channels, self.groups_of(spec))

    def reference(self, module: nn.Module, x: Tensor) -> Tensor:
        """Compute the dense convolution with the block-diagonal kernel."""
        return explicit(module, x)
