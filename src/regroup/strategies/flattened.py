"""Flattened: a kernel as the product of 1-D ones, across channels and along each dimension.

Jin, Dundar, Culurciello, Flattened convolutional neural networks (arXiv:1412.5474), sections 3.1 and 3.2.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from regroup.errors import StrategyError
from regroup.ops import reach
from regroup.ops.layers import conv, explicit, give
from regroup.ops.nearest import separated
from regroup.spec import DIMS, ConvSpec, Cost, Extent, chain_cost
from regroup.strategies import Strategy, strategy
from regroup.strategies.starting import DenseWeights

_MOST = 64
"""Stages: more layers than that in the place of one have no use."""


@strategy("flattened", paper="arXiv:1412.5474")
class Flattened(Strategy):
    """Convolve laterally (1x1), then each channel along one dimension after the other: R x 1, 1 x S.

    y = H V L x, `stages` times. One stage without the biases of L and V is the convolution whose kernel has
    rank one for each output: w[k, c, r, s] = l[k, c] v[k, r] h[k, s]. Cost C K + K (R + S) a stage against
    C K R S; over time V stands alone, and video has a third. Nothing non-linear stands inside. The first
    stage carries stride and padding, further ones keep the size. Weights start as PyTorch's do; the paper's
    start ignores the kernel's length.

    Args:
        stages: how often they follow each other; 2 in the paper's networks.
        bias: a bias after every 1-D convolution, as published; false: only the last, if the spec has one.
    """

    dims = DIMS

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
        sides = zip(spec.span, spec.looks_back, strict=True)
        if self.stages > 1 and any(span % 2 and not looks_back for span, looks_back in sides):
            raise StrategyError("stages", self.stages, f"1 for the even kernel of {spec}")

    def chain(self, spec: ConvSpec) -> list[tuple[ConvSpec, int]]:
        """Return (spec, groups) of every 1-D convolution, in order.

        Raises:
            StrategyError: `check` says that `spec` cannot be honoured.
        """
        self.check(spec)
        k = spec.out_channels
        keeping = [
            (span - max(0, span - before), max(0, span - before)) if looks_back else (span // 2, span // 2)
            for span, before, looks_back in zip(spec.span, spec.before, spec.looks_back, strict=True)
        ]  # what keeps the size, and looks no further ahead
        later = ConvSpec(k, k, spec.kernel_size, 1, keeping, spec.dilation, spec.bias)
        steps = []
        for stage in range(self.stages):
            s = later if stage else spec
            steps.append((s.pointwise(s.in_channels, k, self.bias), 1))
            for axis in range(s.dims):
                last = stage == self.stages - 1 and axis == s.dims - 1
                steps.append((_along(s, axis, self.bias or (spec.bias and last)), k))
        return steps

    def build(self, spec: ConvSpec) -> nn.Module:
        """Return Sequential(lateral, one for each dimension, lateral, ...)."""
        return nn.Sequential(*(conv(step, groups) for step, groups in self.chain(spec)))

    def take(self, module: nn.Module, dense: DenseWeights) -> str:
        """Take the nearest kernels of rank one as the first stage; further ones pass on what they get."""
        chain, axes = self.chain(dense.spec), dense.spec.dims + 1
        places = [[divmod(p, d) for p, d in zip(s.before, s.dilation, strict=True)] for s, _ in chain[axes:]]
        if any(rest for place in places for _, rest in place):
            return "further stages of an even kernel have no centre by which they could pass on what they get"
        outputs, later = dense.spec.out_channels, []
        for (step, groups), place in zip(chain[axes : 2 * axes], places, strict=False):
            passing = dense.kernel.new_zeros(outputs, outputs // groups, *step.kernel_size)
            passing[(..., *(tap for tap, _ in place))] = torch.eye(outputs) if groups == 1 else 1
            later.append(passing)
        layers = list(module)  # type: ignore[no-matching-overload]
        for layer, weight in zip(layers, [*separated(dense.kernel), *later * (self.stages - 1)], strict=True):
            give(layer, weight, dense.bias if layer is layers[-1] else None)
        return ""

    def cost(self, spec: ConvSpec, size: Extent) -> Cost:
        """Return C K + K (R + S) parameters a stage (K K + K (R + S) the later ones), and the biases."""
        return chain_cost(self.chain(spec), size)

    def reach(self, spec: ConvSpec) -> Tensor:
        """Return all ones: the lateral part mixes everything."""
        return reach.full(spec.out_channels, spec.in_channels)

    def reference(self, module: nn.Module, x: Tensor) -> Tensor:
        """Compute the dense convolutions, those along dimensions with diagonal kernels."""
        for layer in module:  # type: ignore[not-iterable]
            x = explicit(layer, x)
        return x


def _along(spec: ConvSpec, axis: int, bias: bool) -> ConvSpec:
    """Return the part of a convolution along one dimension, of each output channel by itself."""
    k = spec.out_channels

    def there(values: tuple, missing: int) -> tuple:
        return tuple(value if i == axis else missing for i, value in enumerate(values))

    kernel, stride, dilation = (there(v, 1) for v in (spec.kernel_size, spec.stride, spec.dilation))
    return ConvSpec(k, k, kernel, stride, there(spec.padding, 0), dilation, bias)
