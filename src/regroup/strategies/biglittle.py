"""Big-Little: much work on few pixels, little work on all of them.

Chen et al., Big-Little Net (arXiv:1807.03848), section 3.1; official code IBM/BigLittleNet.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from regroup.errors import StrategyError
from regroup.ops import reach
from regroup.ops.layers import ACTIVATIONS, conv, convolution_of, explicit, give, norm_act
from regroup.ops.nearest import coarsened, factors
from regroup.ops.resolution import nearest, size_of
from regroup.spec import DIMS, ConvSpec, Cost, Extent, divisors
from regroup.strategies import Strategy, strategy
from regroup.strategies.starting import ACTIVATION, BATCH_NORM, DenseWeights


class BigLittleSum(nn.Module):
    """Sum a big branch, at any lower resolution, and a little one: up(big(x)) + little(x).

    (N, C, *size) -> (N, K, *out), the shape that `little` gives; up copies pixels (nearest).
    """

    def __init__(self, big: nn.Module, little: nn.Module) -> None:
        super().__init__()
        self.big, self.little = big, little

    def forward(self, x: Tensor) -> Tensor:
        little = self.little(x)
        return nearest(self.big(x), size_of(little)) + little


@strategy("biglittle", paper="arXiv:1807.03848")
class BigLittle(Strategy):
    """A convolution of full width at half the resolution, and a narrow one at the full resolution.

    y = up(B * x) + E a(L * x): B is the convolution with twice the stride, L: C -> K / alpha with its own
    stride, E: 1x1, K / alpha -> K; up copies pixels; a is nothing, batch norm, an activation, or both. About
    1/4 + 1/alpha of the MACs of dense; in n dimensions 2^-n stands for 1/4. The paper's beta, how much less
    deep the little branch is, has no meaning for one convolution; the networks have it.

    Args:
        alpha: how much narrower the little branch is; must divide out_channels.
        norm: batch norm after each of the three convolutions.
        act: activation between the little one and the 1x1: relu, relu6, silu, hardswish or none.
    """

    dims = DIMS

    period = 2
    alpha: int = 2
    norm: bool = False
    act: str = "none"

    def __post_init__(self) -> None:
        if self.alpha < 1:
            raise StrategyError("alpha", self.alpha, "an int of at least 1")
        if self.act not in ACTIVATIONS:
            raise StrategyError("act", self.act, f"one of {', '.join(ACTIVATIONS)}")

    @classmethod
    def variants(cls) -> tuple[Strategy, ...]:
        """Return the paper's two alphas, with the non-linear little branch that its networks have."""
        return cls(alpha=2, norm=True, act="relu"), cls(alpha=4, norm=True, act="relu")

    def check(self, spec: ConvSpec) -> None:
        """Refuse outputs that alpha does not divide."""
        if spec.out_channels % self.alpha:
            allowed = f"a divisor of out_channels={spec.out_channels}"
            raise StrategyError(
                "alpha", self.alpha, allowed, f"use one of {', '.join(map(str, divisors(spec.out_channels)))}"
            )

    def _specs(self, spec: ConvSpec) -> tuple[ConvSpec, ConvSpec, ConvSpec]:
        """Return the specs of the big convolution, the little one and its 1x1."""
        self.check(spec)
        narrow = spec.out_channels // self.alpha
        big = replace(spec, stride=tuple(2 * step for step in spec.stride), bias=False)
        little = replace(spec, out_channels=narrow, bias=False)
        return big, little, spec.pointwise(narrow, spec.out_channels, spec.bias)

    def build(self, spec: ConvSpec) -> nn.Module:
        """Return a BigLittleSum."""
        big, little, expand = self._specs(spec)
        return BigLittleSum(
            nn.Sequential(conv(big), norm_act(big.out_channels, self.norm, "none", dims=spec.dims)),
            nn.Sequential(
                conv(little),
                norm_act(little.out_channels, self.norm, self.act, dims=spec.dims),
                conv(expand),
                norm_act(expand.out_channels, self.norm, "none", dims=spec.dims),
            ),
        )

    def take(self, module: nn.Module, dense: DenseWeights) -> str:
        """Take the nearest kernel of rank K / alpha as little, and what it misses, coarsened, as big."""
        if self.norm or self.act != "none":
            return BATCH_NORM if self.norm else ACTIVATION
        assert isinstance(module, BigLittleSum)
        big, little, expand = module.big[0], module.little[0], module.little[2]  # type: ignore[bad-index]
        left, right = factors(dense.kernel.flatten(1), dense.spec.out_channels // self.alpha)
        found, narrow = len(right), convolution_of(little).weight.detach().cpu().double()
        narrow[:found] = right.view(found, *narrow.shape[1:])
        wide = dense.kernel.new_zeros(len(left), len(narrow))
        wide[:, :found] = left
        missed = dense.kernel - (left @ right).view_as(dense.kernel)
        dims = dense.spec.dims
        give(big, coarsened(missed, dense.spec, (2,) * dims, (1,) * dims))
        give(little, narrow)
        give(expand, wide, dense.bias)
        return ""

    def cost(self, spec: ConvSpec, size: Extent) -> Cost:
        """Return K C S + C S K / alpha + K^2 / alpha parameters, the first at a quarter of the pixels."""
        big, little, expand = self._specs(spec)
        norm = Cost(2 * (2 * spec.out_channels + little.out_channels) * self.norm)
        return big.cost(size) + little.cost(size) + expand.cost(little.output_size(size)) + norm

    def reach(self, spec: ConvSpec) -> Tensor:
        """Return all ones."""
        return reach.full(spec.out_channels, spec.in_channels)

    def reference(self, module: nn.Module, x: Tensor) -> Tensor:
        """Compute three dense convolutions; copying is taking pixel (i // 2, j // 2, ...)."""
        assert isinstance(module, BigLittleSum)
        big, big_norm = module.big  # type: ignore[misc]
        little, between, expand, last_norm = module.little  # type: ignore[misc]
        fine = last_norm(explicit(expand, between(explicit(little, x))))
        coarse = big_norm(explicit(big, x))
        for axis in range(2, fine.dim()):
            coarse = coarse.repeat_interleave(2, axis).narrow(axis, 0, fine.shape[axis])
        return coarse + fine
