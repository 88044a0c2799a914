"""Scaled: the outputs are shared out among several resolutions, each reading the whole input, pooled.

Li et al., Data-Driven Neuron Allocation for Scale Aggregation Networks (arXiv:1904.09460), section 3.1;
official code Eli-YiLi/ScaleNet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from regroup.errors import StrategyError
from regroup.ops import reach
from regroup.ops.layers import ACTIVATIONS, conv, explicit, flat, give, norm_act, resize_to
from regroup.ops.resolution import check_centred, maximum, size_of
from regroup.ops.scripting import Scriptable
from regroup.spec import DIMS, ConvSpec, Cost, Extent
from regroup.strategies import Strategy, strategy
from regroup.strategies.starting import ACTIVATION, BATCH_NORM, POOLING, DenseWeights


def shares(channels: int, allocation: Sequence[int]) -> list[int]:
    """Return how many of `channels` each scale gets, in proportion to `allocation`.

    What division leaves over goes to the largest fractions, the first of them among equals. An allocation
    that sums up to `channels` is returned as it is.
    """
    total = sum(allocation)
    result = [channels * a // total for a in allocation]
    by_fraction = sorted(range(len(allocation)), key=lambda i: -(channels * allocation[i] % total))
    for i in by_fraction[: channels - sum(result)]:
        result[i] += 1
    return result


class ScaledConv(Scriptable, nn.Module):
    """Convolve at several scales: concat over r of BN(up(W_r * maxpool_r(x))).

    up is nearest for an exact multiple, else bilinear. A window larger than the image is the image.

    Shapes: (N, C, *size) -> (N, sum of the specs' out_channels, *size).

    Args:
        specs: the convolution of each scale, of stride 1 and keeping the size; scales that have no outputs
            are left out.
        norm: batch norm after upsampling.
    """

    def __init__(self, specs: Mapping[int, ConvSpec], norm: bool = True) -> None:
        super().__init__()
        self.scales, self.dims = tuple(specs), next(iter(specs.values())).dims
        self.convs = nn.ModuleDict({str(r): conv(spec) for r, spec in specs.items()})
        self.norms = nn.ModuleDict(
            {str(r): norm_act(spec.out_channels, norm, "none", dims=spec.dims) for r, spec in specs.items()}
        )

    def forward(self, x: Tensor) -> Tensor:
        size, parts = size_of(x), []
        for r in self.scales:
            y = self.convs[str(r)](maximum(x, [r] * self.dims))
            parts.append(self.norms[str(r)](resize_to(y, size)))
        return torch.cat(parts, 1)


class ScaledStandIn(Scriptable, nn.Module):
    """A ScaledConv after the stride, which is a max-pool, and before the activation."""

    def __init__(self, stride: Extent, scaled: ScaledConv, act: nn.Module) -> None:
        super().__init__()
        self.stride, self.scaled, self.act = list(stride), scaled, act

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.scaled(maximum(x, self.stride, whole=True)))


def check_scales(scales: Sequence[int]) -> None:
    """Refuse scales that are no windows of a pool, or the same twice.

    Raises:
        StrategyError: they are.
    """
    if not scales or min(scales) < 1 or len(set(scales)) < len(scales):
        raise StrategyError("scales", scales, "different ints of at least 1")


@strategy("scaled", paper="arXiv:1904.09460")
class Scaled(Strategy):
    """Give each scale r a share K_r of the outputs: y_r = up(W_r * maxpool_r(x)), and concat them.

    Every scale reads all inputs, so that there are as many parameters as in dense; the MACs of scale r
    shrink by r^2 (by r in one dimension, by r^3 in three). A stride is a max-pool before all scales, as in
    the published networks, where dense skips pixels.

    Args:
        scales: the windows of the max-pools; 1 is the full resolution.
        allocation: proportions of the outputs for each scale; 0 leaves a scale out.
        norm: batch norm on each scale after upsampling.
        act: activation after the concat: relu, relu6, silu, hardswish or none.
    """

    dims = DIMS

    scales: tuple[int, ...] = (1, 2, 4, 7)
    allocation: tuple[int, ...] = (1, 1, 1, 1)
    norm: bool = False
    act: str = "none"

    def __post_init__(self) -> None:
        check_scales(self.scales)
        if len(self.allocation) != len(self.scales) or min(self.allocation) < 0 or not any(self.allocation):
            allowed = f"{len(self.scales)} proportions, one for each of scales={self.scales}"
            raise StrategyError("allocation", self.allocation, allowed, "use ints, not all of them 0")
        if self.act not in ACTIVATIONS:
            raise StrategyError("act", self.act, f"one of {', '.join(ACTIVATIONS)}")

    @classmethod
    def variants(cls) -> tuple[Strategy, ...]:
        """Return equal shares, and shares like those that ScaleNet-50 found for its first block."""
        return cls(), cls(allocation=(62, 9, 5, 12))

    def check(self, spec: ConvSpec) -> None:
        """Refuse kernels off centre."""
        check_centred(spec)

    def specs(self, spec: ConvSpec) -> dict[int, ConvSpec]:
        """Return the convolution of each scale that has outputs.

        Raises:
            SpecError: the kernel is even, or the padding does not keep it centred.
        """
        self.check(spec)
        widths = shares(spec.out_channels, self.allocation)
        return {
            r: replace(spec, out_channels=width, stride=(1,) * spec.dims)
            for r, width in zip(self.scales, widths, strict=True)
            if width
        }

    def build(self, spec: ConvSpec) -> nn.Module:
        """Return a ScaledStandIn."""
        return ScaledStandIn(spec.stride, ScaledConv(self.specs(spec), self.norm), ACTIVATIONS[self.act]())

    def take(self, module: nn.Module, dense: DenseWeights) -> str:
        """Take them as they are where all outputs work at the full resolution."""
        assert isinstance(module, ScaledStandIn)
        if self.norm or self.act != "none":
            return BATCH_NORM if self.norm else ACTIVATION
        if set(dense.spec.stride) != {1} or module.scaled.scales != (1,):
            return POOLING
        give(module.scaled.convs["1"], dense.kernel, dense.bias)
        return ""

    def cost(self, spec: ConvSpec, size: Extent) -> Cost:
        """Return K C S parameters; those of scale r are used at 1 / r^2 of the pixels."""
        out = spec.output_size(size)
        cost = Cost(2 * spec.out_channels * self.norm)
        for r, part in self.specs(spec).items():
            cost += part.cost([max(1, n // r) for n in out])
        return cost

    def reach(self, spec: ConvSpec) -> Tensor:
        """Return all ones."""
        self.check(spec)
        return reach.full(spec.out_channels, spec.in_channels)

    def reference(self, module: nn.Module, x: Tensor) -> Tensor:
        """Compute one dense convolution for each scale, with pools and upsampling written out."""
        assert isinstance(module, ScaledStandIn)
        return module.act(explicit_scales(module.scaled, module.stride, x))


def explicit_scales(scaled: ScaledConv, stride: Sequence[int], x: Tensor) -> Tensor:
    """Compute what a stride and a ScaledConv must give, as dense convolutions, pools and upsampling."""
    missing = [(0, -n % s) for n, s in zip(x.shape[2:], stride, strict=True)]
    x = nn.functional.pad(x, flat(missing), value=float("-inf"))
    x = _windows_maximum(x, stride)
    size = tuple(x.shape[2:])
    parts = []
    for name, convolution in scaled.convs.items():
        r = int(name)
        pooled = _windows_maximum(x, tuple(min(r, n) for n in size))
        parts.append(scaled.norms[name](_stretched(explicit(convolution, pooled), size)))
    return torch.cat(parts, 1)


def _windows_maximum(x: Tensor, window: Sequence[int]) -> Tensor:
    """Return the maximum of each window that fits in."""
    for axis, w in enumerate(window, start=2):
        count = x.shape[axis] // w
        x = x.narrow(axis, 0, count * w).unflatten(axis, (count, w)).amax(axis + 1)
    return x


def _stretched(x: Tensor, size: Extent) -> Tensor:
    """Upsample by matrices: copies where all axes are multiples, else the two nearest pixels by distance."""
    copies = all(n % m == 0 for n, m in zip(size, x.shape[2:], strict=True))
    for axis, n in enumerate(size, start=2):
        m = x.shape[axis]
        place = ((torch.arange(n).to(x) + 0.5) * m / n - 0.5).clamp(0, m - 1)
        place = torch.arange(n).to(x).mul(m).div(n).floor() if copies else place
        matrix = (1 - (place[:, None] - torch.arange(m).to(x)).abs()).clamp(min=0)
        x = torch.tensordot(x, matrix, ([axis], [1])).movedim(-1, axis)
    return x
