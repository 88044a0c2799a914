"""Mixed: depthwise kernels of several sizes, each on its own part of the channels.

Tan, Le, MixConv: Mixed Depthwise Convolutional Kernels (arXiv:1907.09595), section 3; the remainder of an
unequal split goes to the first part, as in the official code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from regroup.errors import SpecError, StrategyError
from regroup.ops import reach
from regroup.ops.layers import conv, explicit, give
from regroup.ops.nearest import factors, recentred
from regroup.spec import DIMS, ConvSpec, Cost, Extent
from regroup.strategies import Strategy, strategy
from regroup.strategies.starting import DenseWeights

SPLITS = ("equal", "exponential")


def split_channels(channels: int, parts: int, how: str = "equal") -> list[int]:
    """Return the channels of each part; the first takes what is left over.

    >>> split_channels(10, 3), split_channels(32, 4, "exponential")
    ([4, 3, 3], [16, 8, 4, 4])

    Raises:
        StrategyError: there are too few channels for so many parts.
    """
    if how == "equal":
        sizes = [channels // parts] * parts
    else:
        sizes = [channels >> min(i + 1, parts - 1) for i in range(parts)]
    if sizes[-1] < 1:
        most = channels if how == "equal" else channels.bit_length()
        raise StrategyError("parts", parts, f"at most {most} for {channels} channels", "use fewer kernels")
    sizes[0] += channels - sum(sizes)
    return sizes


class MixedConv(nn.ModuleList):
    """MixConv: (N, C, *size) -> (N, C, *out), one depthwise convolution for each part of the channels.

    Args:
        spec: what the part whose kernel is the spec's does; the other kernels have the same centre.
        kernels: kernel size of each part.
        split: 'equal' parts, or 'exponential': 1/2, 1/4, ... of the channels; or the channels of each part.

    Raises:
        StrategyError: too few channels, or a kernel that cannot be centred where the spec's is.
    """

    def __init__(
        self, spec: ConvSpec, kernels: Sequence[int] = (3, 5, 7), split: str | Sequence[int] = "equal"
    ) -> None:
        parts = mixed_parts(spec, kernels, split)
        super().__init__(conv(part, part.in_channels) for part in parts)
        self.sizes = [part.in_channels for part in parts]

    def forward(self, x: Tensor) -> Tensor:
        parts = x.split(self.sizes, 1)
        return torch.cat([layer(parts[i]) for i, layer in enumerate(self)], 1)  # FX cannot iterate parts


def mixed_parts(spec: ConvSpec, kernels: Sequence[int], split: str | Sequence[int]) -> list[ConvSpec]:
    """Return the spec of the depthwise convolution on each part of the channels."""
    sizes = split_channels(spec.in_channels, len(kernels), split) if isinstance(split, str) else split
    try:
        return [spec.with_kernel(k).with_channels(n, n) for k, n in zip(kernels, sizes, strict=True)]
    except SpecError:
        raise StrategyError(
            "kernels", kernels, f"centred on the {spec.kernel_size} kernel", "both even or both odd"
        ) from None


def filtered(kernel: Tensor, pointwise: bool) -> tuple[Tensor, Tensor]:
    """Return (filters, mixed): a filter for each input and how outputs mix them, nearest to a dense kernel.

    (C, 1, *taps) and (K, C) by the singular value decomposition of each input's (outputs, taps); without a
    pointwise part, where output c is input c's alone, what the kernel has for that.
    """
    if not pointwise:
        each = torch.arange(len(kernel))
        return kernel[each, each][:, None], torch.eye(len(kernel))
    mixed, filters = factors(kernel.movedim(1, 0).flatten(2), 1)
    return filters.unflatten(-1, kernel.shape[2:]), mixed[..., 0].t()


@strategy("mixed", paper="arXiv:1907.09595")
class Mixed(Strategy):
    """Depthwise kernels of several sizes on parts of the channels, then a pointwise convolution.

    y = P concat(D_1 x_1, ..., D_n x_n), where x_i is the i-th part of the channels, D_i a depthwise
    convolution with a kernel of side k_i centred where the spec's kernel is, and P is 1x1. Cost
    sum C_i k_i^n + C K against C K S in n dimensions.

    Args:
        kernels: side of each part's kernel, whatever the spec's; even or odd like the spec's.
        split: equal parts, or exponential: 1/2, 1/4, ... of the channels.
        pointwise: always end with the 1x1 convolution; false: only where the channels change, as when it
            stands in for a depthwise convolution.
    """

    dims = DIMS

    kernels: tuple[int, ...] = (3, 5, 7)
    split: str = "equal"
    pointwise: bool = True

    def __post_init__(self) -> None:
        if not self.kernels or min(self.kernels) < 1:
            raise StrategyError("kernels", self.kernels, "one or more ints of at least 1")
        if self.split not in SPLITS:
            raise StrategyError("split", self.split, f"one of {', '.join(SPLITS)}")

    @classmethod
    def variants(cls) -> tuple[Strategy, ...]:
        """Return equal parts of three kernels, and exponential parts of four."""
        return cls(), cls(kernels=(3, 5, 7, 9), split="exponential")

    def check(self, spec: ConvSpec) -> None:
        """Refuse too few channels, and a kernel that has no centre in common with the spec's."""
        mixed_parts(spec, self.kernels, self.split)

    def _has_pointwise(self, spec: ConvSpec) -> bool:
        return self.pointwise or spec.in_channels != spec.out_channels

    def _depthwise(self, spec: ConvSpec) -> ConvSpec:
        bias = spec.bias and not self._has_pointwise(spec)
        return replace(spec, out_channels=spec.in_channels, bias=bias)

    def build(self, spec: ConvSpec) -> nn.Module:
        """Return Sequential(MixedConv, pointwise), or MixedConv alone where there is no pointwise part."""
        depthwise = MixedConv(self._depthwise(spec), self.kernels, self.split)
        if not self._has_pointwise(spec):
            return depthwise
        return nn.Sequential(depthwise, conv(spec.pointwise(spec.in_channels, spec.out_channels, spec.bias)))

    def take(self, module: nn.Module, dense: DenseWeights) -> str:
        """Take the nearest filter of each input, cut to its part's kernel; see `filtered`."""
        pointwise = self._has_pointwise(dense.spec)
        depthwise = module[0] if pointwise else module  # type: ignore[bad-index]
        assert isinstance(depthwise, MixedConv)
        whole, mixing, start = dense.kernel, [], 0
        for layer, size, width in zip(depthwise, self.kernels, depthwise.sizes, strict=True):
            inputs = slice(start, start + width)
            outputs = slice(None) if pointwise else inputs
            part = recentred(whole[outputs, inputs], dense.spec, size)
            filters, mixed = filtered(part, pointwise)
            give(layer, filters, None if dense.bias is None else dense.bias[outputs])
            mixing.append(mixed)
            start += width
        if pointwise:
            give(module[1], torch.cat(mixing, 1), dense.bias)  # type: ignore[bad-index]
        return ""

    def cost(self, spec: ConvSpec, size: Extent) -> Cost:
        """Return sum C_i k_i^n + C K parameters, each used once a pixel."""
        parts = mixed_parts(self._depthwise(spec), self.kernels, self.split)
        total = sum((part.cost(size, part.in_channels) for part in parts), Cost())
        if self._has_pointwise(spec):
            point = spec.pointwise(spec.in_channels, spec.out_channels, spec.bias)
            total += point.cost(spec.output_size(size))
        return total

    def reach(self, spec: ConvSpec) -> Tensor:
        """Return all ones where there is a pointwise part, else the diagonal."""
        groups = 1 if self._has_pointwise(spec) else spec.in_channels
        return reach.grouped(spec.out_channels, spec.in_channels, groups)

    def reference(self, module: nn.Module, x: Tensor) -> Tensor:
        """Compute one dense convolution for each part, and the pointwise one."""
        depthwise = module if isinstance(module, MixedConv) else module[0]  # type: ignore[bad-index]
        parts, start = [], 0
        for layer, width in zip(depthwise, depthwise.sizes, strict=True):  # type: ignore[bad-argument-type]
            parts.append(explicit(layer, x[:, start : start + width]))
            start += width
        y = torch.cat(parts, 1)
        return y if depthwise is module else explicit(module[1], y)  # type: ignore[bad-index]
