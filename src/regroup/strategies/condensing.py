"""Condensing: a dense convolution that drops its weakest connections in stages until it is a grouped one.

Shared by `condensed`, where groups of outputs drop inputs (Huang et al., CondenseNet, arXiv:1711.09224,
section 3), and by `reactivated`, where groups of inputs drop outputs (Yang et al., CondenseNet V2,
arXiv:2104.04382, section 3.2): the same on the transposed kernel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from regroup.errors import PlanError, StrategyError
from regroup.ops import reach
from regroup.ops.layers import NORMS, conv_like, convolve_padded, give, norm_act, pad_and_conv
from regroup.spec import DIMS, ConvSpec, Cost, Extent, divisors
from regroup.strategies import Strategy
from regroup.strategies.learning import Learned
from regroup.strategies.starting import DenseWeights

LEAST_SQUARE = 1e-6
"""Below it the squared norm of a connection is not pressed further, as in the official code."""


def stage_at(progress: float, factor: int) -> int:
    """Return how many of the factor - 1 condensing stages are over at `progress`: all of them at a half.

    >>> [stage_at(p, factor=4) for p in (0, 0.16, 0.17, 0.4, 0.5, 1)]
    [0, 0, 1, 2, 3, 3]
    """
    return sum(2 * progress >= k / (factor - 1) for k in range(1, factor))


def kept_at(progress: float, channels: int, factor: int) -> int:
    """Return how many of its `channels` each group still has: channels // factor when all stages are over.

    Each stage drops channels / factor of them where that is a whole number, and otherwise about as many as
    every other stage.

    >>> [kept_at(p, channels=10, factor=4) for p in (0, 0.2, 0.4, 0.5)]
    [10, 8, 5, 2]
    """
    stages = max(1, factor - 1)
    return channels - stage_at(progress, factor) * (channels - channels // factor) // stages


class CondensingConv(Learned):
    """[Batch norm, activation, dropout,] and a dense convolution with a mask that closes in stages.

    One side of the kernel is split into groups of channels that stand `groups` apart; each group chooses
    among the channels of the other side.

    Args:
        spec: of the convolution.
        groups: number of groups.
        factor: each group keeps one in `factor` channels of the other side.
        lasso: weight of the group lasso in the loss.
        norm: batch norm before the convolution.
        act: activation before the convolution, a name of `ACTIVATIONS`.
        drop_rate: dropout before the convolution.
    """

    kind: ClassVar[str]
    """Of a table of groups: the name of the strategy."""
    split: ClassVar[str]
    """The side that is split into groups, 'inputs' or 'outputs'."""
    chosen: ClassVar[str]
    """The other side."""

    def __init__(
        self,
        spec: ConvSpec,
        groups: int,
        factor: int,
        *,
        lasso: float = 0.0,
        norm: bool = False,
        act: str = "none",
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        sizes = {"inputs": spec.in_channels, "outputs": spec.out_channels}
        self.members, self.channels = sizes[self.split], sizes[self.chosen]
        check_condensing(self.split, self.members, self.channels, groups, factor)
        self.spec, self.groups, self.factor, self.lasso, self.activation = spec, groups, factor, lasso, act
        self.norm = NORMS[spec.dims - 1](spec.in_channels) if norm else nn.Identity()
        self.act = norm_act(spec.in_channels, False, act)
        self.drop = nn.Dropout(drop_rate)
        self.pad, self.conv = pad_and_conv(spec)
        self.kept: Tensor
        """Which channels each group still has: bool (groups, channels)."""
        self.register_buffer("kept", torch.ones(groups, self.channels, dtype=torch.bool))

    def forward(self, x: Tensor) -> Tensor:
        x = self.pad(self.drop(self.act(self.norm(x))))
        return conv_like(self.conv, x, self.conv.weight * self.mask())

    def mask(self) -> Tensor:
        """Return which connections are there: bool (out_channels, in_channels, 1, ...)."""
        table = self.kept.repeat(self.members // self.groups, 1)
        return self._turned(table.view(*table.shape, *(1,) * self.spec.dims))

    def kept_of(self, mask: Tensor) -> Tensor:
        """Return what `kept` must be for `mask()` to give `mask`; the official code saves masks."""
        return self._turned(mask)[: self.groups].flatten(2)[..., 0] > 0

    def connections(self, kernel: Tensor) -> Tensor:
        """Return a kernel (K, C, *taps) as (members of a group, groups, channels, taps)."""
        return self._turned(kernel).reshape(-1, self.groups, self.channels, self.spec.taps)

    def _turned(self, kernel: Tensor) -> Tensor:
        return kernel if self.split == "outputs" else kernel.transpose(0, 1)

    def importance(self) -> Tensor:
        """Return the L1 norm of what connects each group with each channel: (groups, channels)."""
        return self.connections(self.conv.weight.detach()).abs().sum((0, 3))

    def set_progress(self, progress: float) -> None:
        """Drop the least important channels of every group until as many are left as `progress` allows.

        What is dropped stays dropped. Only weights decide, so that all processes of a distributed run decide
        alike, and nothing waits for the device.
        """
        number = kept_at(progress, self.channels, self.factor)
        if number == self.channels:
            return
        importance = self.importance().masked_fill(~self.kept, -1)
        best = importance.argsort(dim=1, descending=True, stable=True)[:, :number]
        self.kept &= torch.zeros_like(self.kept).scatter(1, best, True)

    def stages(self) -> tuple[tuple[float, str], ...]:
        """Return the paper's: factor - 1 in which it condenses, and one in which what is left is trained."""
        over = [k / (2 * (self.factor - 1)) for k in range(self.factor - 1)]
        names = [f"condensing stage {k}" for k in range(1, self.factor)]
        return (*zip(over, names, strict=True), (0.5, "optimization stage")) if over else ()

    def penalty(self) -> Tensor:
        """Return lasso * sum over groups g and channels c of sqrt(sum of W_gc^2); 0 once condensing is over.

        It presses the members of a group to agree on which channels they need. Source: CondenseNet, section
        3.1, "Group Lasso"; the official code switches it off after groups - 1 stages, which is the same for
        groups = factor.
        """
        weight = self.conv.weight
        if self.lasso == 0:
            return weight.new_zeros(())
        squares = self.connections(weight * self.mask()).square().sum((0, 3))
        return self.lasso * squares.clamp(min=LEAST_SQUARE).sqrt().sum() * ~self.complete()

    def complete(self) -> Tensor:
        """Tell, as a bool tensor (), whether each group has as few channels as it shall."""
        return self.kept.sum() <= self.groups * (self.channels // self.factor)

    def index(self) -> Tensor:
        """Return the channels that each group has, in rising order: int64 (groups, channels left)."""
        return self.kept.nonzero()[:, 1].view(self.groups, -1)

    def grouping(self) -> dict:
        """Return {"kind": ..., "groups": [{"inputs": [...], "outputs": [...]}, ...]}: channel numbers."""
        groups = [
            {self.split: list(range(g, self.members, self.groups)), self.chosen: channels}
            for g, channels in enumerate(self.index().tolist())
        ]
        return {"kind": self.kind, "groups": groups}

    def load_grouping(self, data: dict) -> None:
        """Take a grouping that `grouping` gave; a complete one ends learning.

        Raises:
            PlanError: it is not of such a layer.
        """
        self.kept.copy_(read_table(data, self.grouping(), self.chosen, self.channels))

    def extra_repr(self) -> str:
        return f"groups={self.groups}, factor={self.factor}"


def read_table(data: dict, own: dict, side: str, channels: int) -> Tensor:
    """Return which of `channels` channels each group of a table has on one side: bool (groups, channels).

    Args:
        data: as `grouping` gave it, perhaps of another layer.
        own: the table that the layer has now; only `side` may differ.
        side: 'inputs' or 'outputs'.
        channels: channels there are on that side.

    Raises:
        PlanError: the table is not of such a layer, or damaged.
    """
    other = "outputs" if side == "inputs" else "inputs"
    try:
        same = data["kind"] == own["kind"]
        same &= [group[other] for group in data["groups"]] == [group[other] for group in own["groups"]]
        rows = [list(group[side]) for group in data["groups"]]
    except (TypeError, KeyError) as error:
        raise PlanError("grouping", f"is not of a {own['kind']} layer: {error!r}") from None
    if not same:
        raise PlanError("grouping", f"is of another layer than this {own['kind']} one: {other} differ")
    numbers = set(range(channels))
    if len({len(row) for row in rows}) != 1 or not all(row and set(row) <= numbers for row in rows):
        raise PlanError("grouping", f"must have as many {side} below {channels} in each group")
    table = torch.zeros(len(rows), channels, dtype=torch.bool).scatter(1, torch.tensor(rows), True)
    if int(table.sum()) != sum(map(len, rows)):
        raise PlanError("grouping", f"names some of a group's {side} twice")
    return table


def check_condensing(split: str, members: int, channels: int, groups: int, factor: int) -> None:
    """Refuse numbers of groups and channels with which no group could be formed, or would be empty.

    Raises:
        StrategyError: `groups` does not divide the `members` of the split side, or `factor` exceeds the
            channels of the other.
    """
    side = {"inputs": "in_channels", "outputs": "out_channels"}
    if members % groups:
        remedy = f"use one of {', '.join(map(str, divisors(members)))}"
        raise StrategyError("groups", groups, f"a divisor of {side[split]}={members}", remedy)
    if factor > channels:
        other = side["inputs" if split == "outputs" else "outputs"]
        raise StrategyError("factor", factor, f"at most {other}={channels}", "the layer is too small")


@dataclass(frozen=True)
class Condensing(Strategy):
    """What `condensed` and `reactivated` share. See there."""

    dims = DIMS

    layer: ClassVar[type[CondensingConv]]
    groups: int = 4
    factor: int | None = None
    lasso: float = 0.0

    def __post_init__(self) -> None:
        for name in ("groups", "factor"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise StrategyError(name, value, "an int of at least 1")
        if not 0 <= self.lasso < math.inf:
            raise StrategyError("lasso", self.lasso, "a number of at least 0")

    def _sides(self, spec: ConvSpec) -> tuple[int, int]:
        """Return the channels of the side that is split, and of the other."""
        sides = spec.out_channels, spec.in_channels
        return sides if self.layer.split == "outputs" else sides[::-1]

    def check(self, spec: ConvSpec) -> None:
        """Refuse channels that the groups do not divide, and fewer channels than the factor."""
        check_condensing(self.layer.split, *self._sides(spec), self.groups, self.factor or self.groups)

    def build(self, spec: ConvSpec) -> nn.Module:
        """Return the learning layer; `regroup.deploy` makes it plain."""
        return self.layer(spec, self.groups, self.factor or self.groups, lasso=self.lasso)

    def take(self, module: nn.Module, dense: DenseWeights) -> str:
        """Take them as they are; what is dropped as training goes on is chosen by them."""
        assert isinstance(module, CondensingConv)
        give(module.conv, dense.kernel, dense.bias)
        return ""

    def cost(self, spec: ConvSpec, size: Extent) -> Cost:
        """Return the cost as deployed: 1 / factor of the dense one (the bias stays whole)."""
        self.check(spec)
        members, channels = self._sides(spec)
        weights = members * (channels // (self.factor or self.groups)) * spec.taps
        return Cost(weights + spec.out_channels * spec.bias, weights * math.prod(spec.output_size(size)))

    def reach(self, spec: ConvSpec) -> Tensor:
        """Return all ones: before learning, any connection may stay. What stays is in `grouping()`."""
        self.check(spec)
        return reach.full(spec.out_channels, spec.in_channels)

    def reference(self, module: nn.Module, x: Tensor) -> Tensor:
        """Compute the dense convolution with zeros where the module's table has no connection."""
        assert isinstance(module, CondensingConv)
        weight = torch.zeros_like(module.conv.weight)
        for group in module.grouping()["groups"]:
            for k in group["outputs"]:
                weight[k, group["inputs"]] = module.conv.weight[k, group["inputs"]]
        return convolve_padded(x, weight, module.conv.bias, module.spec)
