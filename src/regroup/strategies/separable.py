"""Separable: filter each channel in space, mix channels at each pixel.

Sifre, Rigid-motion scattering for image classification (PhD thesis, 2014); Howard et al., MobileNet
(arXiv:1704.04861), section 3.1; Chollet, Xception (arXiv:1610.02357), section 2: the other order.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from regroup.errors import StrategyError
from regroup.ops import reach
from regroup.ops.layers import ACTIVATIONS, conv, convolution_of, explicit, give, norm_act
from regroup.ops.nearest import factors
from regroup.spec import DIMS, ConvSpec, Cost, Extent
from regroup.strategies import Strategy, strategy
from regroup.strategies.starting import ACTIVATION, BATCH_NORM, DenseWeights

ORDERS = ("depthwise-pointwise", "pointwise-depthwise")


@strategy("separable", paper="arXiv:1704.04861")
class Separable(Strategy):
    """A depthwise convolution and a pointwise one.

    depthwise-pointwise: y = P a(D x), D: C -> mC channels, channel c*m + j made from channel c alone; P: 1x1.
    pointwise-depthwise: y = D a(P x), P: C -> K/m channels, then D makes m outputs from each.
    a is nothing, batch norm, an activation, or both. Cost C m S + C m K against C K S.

    Args:
        order: which comes first.
        norm: batch norm between the two.
        act: activation between the two: relu, relu6, silu, hardswish or none.
        multiplier: depth multiplier m, depthwise outputs for each of its inputs.
    """

    dims = DIMS

    order: str = "depthwise-pointwise"
    norm: bool = False
    act: str = "none"
    multiplier: int = 1

    def __post_init__(self) -> None:
        if self.order not in ORDERS:
            raise StrategyError("order", self.order, f"one of {', '.join(ORDERS)}")
        if self.act not in ACTIVATIONS:
            raise StrategyError("act", self.act, f"one of {', '.join(ACTIVATIONS)}")
        if self.multiplier < 1:
            raise StrategyError("multiplier", self.multiplier, "an int of at least 1")

    @classmethod
    def variants(cls) -> tuple[Strategy, ...]:
        """Return Sifre's, MobileNet's and Xception's forms."""
        return cls(), cls(norm=True, act="relu"), cls(order=ORDERS[1])

    def check(self, spec: ConvSpec) -> None:
        """Refuse outputs that the multiplier does not divide, where the depthwise part makes them."""
        if self.order == ORDERS[1] and spec.out_channels % self.multiplier:
            raise StrategyError(
                "multiplier", self.multiplier, f"a divisor of out_channels={spec.out_channels}"
            )

    def _specs(self, spec: ConvSpec) -> tuple[tuple[ConvSpec, int], tuple[ConvSpec, int]]:
        """Return (spec, groups) of the first and the second convolution."""
        self.check(spec)
        c, k, m = spec.in_channels, spec.out_channels, self.multiplier
        if self.order == ORDERS[0]:
            depthwise = replace(spec.with_channels(c, c * m), bias=False)
            return (depthwise, c), (spec.pointwise(c * m, k, spec.bias), 1)
        depthwise = spec.with_channels(k // m, k)
        return (spec.pointwise(c, k // m), 1), (depthwise, k // m)

    def build(self, spec: ConvSpec) -> nn.Module:
        """Return Sequential(first, [norm, activation], second)."""
        (first, first_groups), (second, second_groups) = self._specs(spec)
        return nn.Sequential(
            conv(first, first_groups),
            norm_act(first.out_channels, self.norm, self.act, dims=spec.dims),
            conv(second, second_groups),
        )

    def take(self, module: nn.Module, dense: DenseWeights) -> str:
        """Factor what each depthwise filter can make, by the singular value decomposition.

        depthwise-pointwise: for each input the matrix (outputs, taps) as m products; exact for m >= taps.
        pointwise-depthwise: for m outputs together the matrix (outputs and taps, inputs) as one product.
        """
        if self.norm or self.act != "none":
            return BATCH_NORM if self.norm else ACTIVATION
        first, _, second = module  # type: ignore[misc]
        outputs, inputs = dense.kernel.shape[:2]
        if self.order == ORDERS[0]:
            mixed, filters = factors(dense.kernel.movedim(1, 0).flatten(2), self.multiplier)
            depthwise = convolution_of(first).weight.detach().cpu().double().view(inputs, self.multiplier, -1)
            pointwise = dense.kernel.new_zeros(outputs, inputs, self.multiplier)
            depthwise[:, : filters.shape[1]] = filters
            pointwise[:, :, : filters.shape[1]] = mixed.movedim(0, 1)
            give(first, depthwise)
            give(second, pointwise, dense.bias)
        else:
            together = dense.kernel.movedim(1, -1).reshape(outputs // self.multiplier, -1, inputs)
            filters, mixed = factors(together, 1)
            give(first, mixed)
            give(second, filters, dense.bias)
        return ""

    def cost(self, spec: ConvSpec, size: Extent) -> Cost:
        """Return C m S + C m K parameters (or C K/m + K S), each used once a pixel."""
        (first, first_groups), (second, second_groups) = self._specs(spec)
        norm = Cost(2 * first.out_channels * self.norm)
        return first.cost(size, first_groups) + norm + second.cost(first.output_size(size), second_groups)

    def reach(self, spec: ConvSpec) -> Tensor:
        """Return all ones: the pointwise part mixes everything."""
        return reach.full(spec.out_channels, spec.in_channels)

    def reference(self, module: nn.Module, x: Tensor) -> Tensor:
        """Compute two dense convolutions, the depthwise one with a (block-)diagonal kernel."""
        first, between, second = module  # type: ignore[misc]
        return explicit(second, between(explicit(first, x)))
