"""Flattened: a 3-D kernel as the product of three 1-D ones, across channels, rows and columns.

Jin, Dundar, Culurciello, Flattened convolutional neural networks (arXiv:1412.5474), sections 3.1 and 3.2.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from regroup.errors import StrategyError
from regroup.ops import reach
from regroup.ops.layers import conv, explicit, give
from regroup.ops.nearest import recentred, separated
from regroup.spec import ConvSpec, Cost, Size, chain_cost
from regroup.strategies import Strategy, strategy
from regroup.strategies.starting import DenseWeights

_MOST = 64
"""Stages: more layers than that in the place of one have no use."""


@strategy("flattened", paper="arXiv:1412.5474")
class Flattened(Strategy):
    """Convolve laterally (1x1), then each channel vertically (R x 1), then horizontally (1 x S).

    y = H V L x, `stages` times. One stage without the biases of L and V is the convolution whose kernel has
    rank one for each output: w[k, c, r, s] = l[k, c] v[k, r] h[k, s]. Cost C K + K (R + S) a stage against
    C K R S. Nothing non-linear stands inside. The first stage carries stride and padding, further ones keep
    the size. Weights start as PyTorch's do; the paper's start ignores the kernel's length.

    Args:
        stages: how often lateral, vertical and horizontal follow each other; 2 in the paper's networks.
        bias: a bias after every 1-D convolution, as published; false: only the last, if the spec has one.
    """

    stages: int = 2
    bias: bool = True

    def __post_init__(self) -> None:
        if not 1 <= self.stages <= _MOST:
            raise StrategyError("stages", self.stages, f"an int from 1 to {_MOST}")

    @classmethod
    def variants(cls) -> tuple[Strategy, ...]:
        """Return one and two stages."""
        return cls(stages=1), cls(stages=2)

    def check(self, spec: ConvSpec) -> None:
        """Refuse a second stage for a kernel without a centre: it would shift or shrink the image."""
        spans = [d * (k - 1) for k, d in zip(spec.kernel_size, spec.dilation, strict=True)]
        if self.stages > 1 and any(span % 2 for span in spans):
            raise StrategyError("stages", self.stages, f"1 for the even kernel of {spec}")

    def chain(self, spec: ConvSpec) -> list[tuple[ConvSpec, int]]:
        """Return (spec, groups) of every 1-D convolution, in order.

        Raises:
            StrategyError: `check` says that `spec` cannot be honoured.
        """
        self.check(spec)
        k = spec.out_channels
        centred = [d * (n - 1) // 2 for n, d in zip(spec.kernel_size, spec.dilation, strict=True)]
        later = ConvSpec(k, k, spec.kernel_size, 1, tuple(centred), spec.dilation, spec.bias)
        steps = []
        for stage in range(self.stages):
            s = later if stage else spec
            last_bias = self.bias or (spec.bias and stage == self.stages - 1)
            (rows, columns), (down, right), (top, left), (d_rows, d_columns) = (
                s.kernel_size,
                s.stride,
                s.padding,
                s.dilation,
            )
            vertical = ConvSpec(k, k, (rows, 1), (down, 1), (top, 0), (d_rows, 1), self.bias)
            horizontal = ConvSpec(k, k, (1, columns), (1, right), (0, left), (1, d_columns), last_bias)
            steps += [(s.pointwise(s.in_channels, k, self.bias), 1), (vertical, k), (horizontal, k)]
        return steps

    def build(self, spec: ConvSpec) -> nn.Module:
        """Return Sequential(lateral, vertical, horizontal, ...)."""
        return nn.Sequential(*(conv(step, groups) for step, groups in self.chain(spec)))

    def take(self, module: nn.Module, dense: DenseWeights) -> str:
        """Take the nearest kernels of rank one as the first stage; further ones pass on what they get."""
        rows, columns = dense.spec.kernel_size
        if self.stages > 1 and not rows % 2 == columns % 2 == 1:
            return "further stages of an even kernel have no centre by which they could pass on what they get"
        outputs, one = dense.spec.out_channels, dense.kernel.new_ones(1, 1, 1, 1)
        passing = (recentred(one, size).expand(outputs, -1, -1, -1) for size in ((rows, 1), (1, columns)))
        later = [torch.eye(outputs), *passing] if self.stages > 1 else []
        layers = list(module)  # type: ignore[no-matching-overload]
        for layer, weight in zip(layers, [*separated(dense.kernel), *later * (self.stages - 1)], strict=True):
            give(layer, weight, dense.bias if layer is layers[-1] else None)
        return ""

    def cost(self, spec: ConvSpec, size: Size) -> Cost:
        """Return C K + K (R + S) parameters a stage (K K + K (R + S) the later ones), and the biases."""
        return chain_cost(self.chain(spec), size)

    def reach(self, spec: ConvSpec) -> Tensor:
        """Return all ones: the lateral part mixes everything."""
        return reach.full(spec.out_channels, spec.in_channels)

    def reference(self, module: nn.Module, x: Tensor) -> Tensor:
        """Compute the dense convolutions, the vertical and horizontal ones with diagonal kernels."""
        for layer in module:  # type: ignore[not-iterable]
            x = explicit(layer, x)
        return x
