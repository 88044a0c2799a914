"""Groupable: a few gates learn which of many regular groupings a convolution has.

Zhang et al., Differentiable Learning-to-Group Channels via Groupable Convolutional Neural Networks
(arXiv:1908.05867), section 3; the authors' code is not public, d-li14/dgconv.pytorch is followed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from regroup.errors import StrategyError
from regroup.ops import reach
from regroup.ops.layers import conv, convolution_of, explicit, give
from regroup.ops.ragged import Groups
from regroup.spec import DIMS, ConvSpec, Cost, Extent
from regroup.strategies import Strategy, strategy
from regroup.strategies.masking import MaskedConv
from regroup.strategies.starting import DenseWeights


def gates_of(spec: ConvSpec) -> int:
    """Return how many gates a layer has: how often 2 divides both its channel numbers.

    >>> gates_of(ConvSpec(64, 64, 3)), gates_of(ConvSpec(24, 48, 1))
    (6, 3)

    Raises:
        StrategyError: not once.
    """
    common = math.gcd(spec.in_channels, spec.out_channels)
    gates = (common & -common).bit_length() - 1
    if gates == 0:
        odd = "in_channels" if spec.in_channels % 2 else "out_channels"
        raise StrategyError(odd, getattr(spec, odd), "even, as a gate joins channels in pairs")
    return gates


class GroupableConv(MaskedConv):
    """A convolution whose gates g_1 ... g_n decide its groups. See `Groupable`.

    Args:
        spec: of the convolution.
        budget: the number of groups whose connections are allowed.
        pressure: exponent of the penalty on more than these.
    """

    kind = "groupable"

    def __init__(self, spec: ConvSpec, budget: int, pressure: float = 0.02) -> None:
        super().__init__(spec)
        number = gates_of(spec)
        self.budget, self.pressure = budget, pressure
        signs = torch.ones(number)
        signs[torch.randperm(number)[number // 2 :]] = -1
        self.gates = nn.Parameter(1e-8 * signs)
        self.fixed: Tensor
        """The gates, as 0 and 1, if a grouping was loaded, else -1: int64 (gates,)."""
        self.register_buffer("fixed", torch.full((number,), -1))

    def open(self) -> Tensor:
        """Return the gates as 0 and 1, with the gradient of the gates themselves (straight through)."""
        gates = self.gates * (self.fixed < 0)
        return self.settings().to(gates.dtype) + (gates - gates.detach())

    def settings(self) -> Tensor:
        """Return the gates as 0 and 1: int64 (gates,)."""
        return torch.where(self.fixed < 0, (self.gates > 0).long(), self.fixed)

    def mask(self) -> Tensor:
        """Return the Kronecker product of [[1, g], [g, 1]] for each gate g, and of ones: (K, C)."""
        ones, eye = self.gates.new_ones(2, 2), torch.eye(2, dtype=self.gates.dtype, device=self.gates.device)
        mask = self.gates.new_ones(1, 1)
        for gate in self.open():
            mask = torch.kron(mask, gate * ones + (1 - gate) * eye)
        blocks = self.spec.out_channels // len(mask), self.spec.in_channels // len(mask)
        return torch.kron(mask, self.gates.new_ones(blocks))

    def connections(self) -> Tensor:
        """Return how many (output, input) pairs are connected: C K / 2^(gates that are 0)."""
        return self.spec.in_channels * self.spec.out_channels * 2 ** (self.open() - 1).sum()

    def allowed(self) -> int:
        """Return how many connections the budget allows this layer."""
        groups = min(self.budget, 2 ** len(self.gates))
        return self.spec.in_channels * self.spec.out_channels // groups

    def penalty(self) -> Tensor:
        """Return the penalty as if the model had no other layer of this kind."""
        return self.joint_penalty([self])

    @classmethod
    def joint_penalty(cls, modules: Sequence[Any]) -> Tensor:
        """Return r^pressure - 1, with r the connections of all these layers by those allowed, at least 1.

        The published code multiplies the loss by r^0.02 where r > 1. A loss of 1 plus this penalty has the
        same value and the same gradients.
        """
        total = modules[0].gates.new_zeros(())
        for pressure in sorted({module.pressure for module in modules}):
            alike = [module for module in modules if module.pressure == pressure]
            there = torch.stack([module.connections() for module in alike]).sum()
            excess = there / sum(module.allowed() for module in alike)
            total = total + excess.clamp(min=1) ** pressure - 1
        return total

    def groups(self) -> Groups:
        """Return the inputs and the outputs of each group: channels that agree where gates are 0."""
        return groups_of(self.spec, self.settings().tolist())

    def grouping(self) -> dict:
        """Return {"kind", "gates": [0 or 1, ...], "groups": [{"inputs": [...], "outputs": [...]}, ...]}."""
        return {**super().grouping(), "gates": self.settings().tolist()}

    def load_grouping(self, data: dict) -> None:
        """Take a grouping that `grouping` gave, and learn no other.

        Raises:
            PlanError: it is not of such a layer.
        """
        groups, gates = self.read_groups(data), data.get("gates")
        if not isinstance(gates, list) or len(gates) != len(self.gates) or not set(gates) <= {0, 1}:
            raise self.refusal(f"must have {len(self.gates)} gates of 0 or 1")
        if groups != groups_of(self.spec, gates):
            raise self.refusal(f"has other groups than its gates {gates} make")
        self.fixed.copy_(torch.tensor(gates))

    def extra_repr(self) -> str:
        return f"gates={len(self.gates)}"


def groups_of(spec: ConvSpec, gates: Sequence[int]) -> Groups:
    """Return the inputs and the outputs of each group for gates of 0 and 1.

    >>> groups_of(ConvSpec(4, 4, 1), [1, 0])
    [([0, 2], [0, 2]), ([1, 3], [1, 3])]
    """
    blocks = range(2 ** len(gates))
    closed = sum(1 << (len(gates) - 1 - i) for i, gate in enumerate(gates) if not gate)
    labels = sorted({block & closed for block in blocks})
    widths = spec.in_channels // len(blocks), spec.out_channels // len(blocks)
    sides = [
        [
            [block * width + i for block in blocks if block & closed == label for i in range(width)]
            for label in labels
        ]
        for width in widths
    ]
    return list(zip(*sides, strict=True))


@strategy("groupable", paper="arXiv:1908.05867")
class Groupable(Strategy):
    """Gates learn the number of groups and which channels they hold.

    y = (W * U) x with U = U_1 (x) ... (x) U_n, a Kronecker product of U_i = [[1, g_i], [g_i, 1]], and g_i = 1
    where its parameter is positive, else 0; the gradient passes straight through. There are 2^(closed gates)
    groups: all closed is depthwise, all open dense. An early gate joins channels that lie far apart, a late
    one neighbours. Deployed: channel order, plain grouped convolution, channel order.

    The layers of a model share a budget: as many connections as convolutions in `groups` groups have (fewer
    groups where a layer is too small). What exceeds it is penalised: see `GroupableConv.joint_penalty`.

    The paper has equal channel numbers that are powers of two. Here there are as many gates as 2 divides both
    channel numbers, and blocks of what is left are dense. Half of the gates, chosen at random, start open;
    the published ones do so on average.

    Args:
        groups: number of groups whose connections are the budget; 32 in the paper, as in ResNeXt.
        pressure: exponent of the penalty.
    """

    dims = DIMS

    groups: int = 4
    pressure: float = 0.02

    def __post_init__(self) -> None:
        if self.groups < 1:
            raise StrategyError("groups", self.groups, "an int of at least 1")
        if not 0 <= self.pressure < math.inf:
            raise StrategyError("pressure", self.pressure, "a number of at least 0")

    @classmethod
    def variants(cls) -> tuple[Strategy, ...]:
        """Return a budget of a quarter of the connections, and of the paper's 1/32."""
        return cls(), cls(groups=32)

    def check(self, spec: ConvSpec) -> None:
        """Refuse odd channel numbers."""
        gates_of(spec)

    def build(self, spec: ConvSpec) -> nn.Module:
        """Return the learning layer; `regroup.deploy` makes it plain."""
        return GroupableConv(spec, self.groups, self.pressure)

    def take(self, module: nn.Module, dense: DenseWeights) -> str:
        """Take them as they are, with all gates open; the penalty closes them."""
        assert isinstance(module, GroupableConv)
        module.gates.abs_()
        give(module.conv, dense.kernel, dense.bias)
        return ""

    def cost(self, spec: ConvSpec, size: Extent) -> Cost:
        """Return the cost if deployed before anything is learned, with half of the gates open."""
        gates = gates_of(spec)
        return spec.cost(size, 2 ** (gates - gates // 2))

    def reach(self, spec: ConvSpec) -> Tensor:
        """Return all ones: before learning, any connection may come to be."""
        self.check(spec)
        return reach.full(spec.out_channels, spec.in_channels)

    def reference(self, module: nn.Module, x: Tensor) -> Tensor:
        """Compute the dense convolution with zeros where channels differ at a closed gate."""
        assert isinstance(module, GroupableConv)
        dense = conv(module.spec).to(x)
        layer = convolution_of(dense)
        number, connected = len(module.gates), torch.ones_like(module.conv.weight)
        for k in range(module.spec.out_channels):
            for c in range(module.spec.in_channels):
                block_k = k * 2**number // module.spec.out_channels
                block_c = c * 2**number // module.spec.in_channels
                for i, gate in enumerate(module.gates.tolist()):
                    bit = number - 1 - i
                    if gate <= 0 and (block_k >> bit) % 2 != (block_c >> bit) % 2:
                        connected[k, c] = 0
        layer.weight = nn.Parameter(module.conv.weight.detach() * connected)
        layer.bias = module.conv.bias
        return explicit(dense, x)
