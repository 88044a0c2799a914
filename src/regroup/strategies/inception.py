"""Inception: four branches of different reach in space, side by side.

Szegedy et al., Going deeper with convolutions (arXiv:1409.4842), section 4, figure 2b and table 1.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from regroup.errors import SpecError, StrategyError
from regroup.ops import reach
from regroup.ops.layers import Concat, Pad, conv, convolution_of, explicit, give
from regroup.ops.nearest import recentred
from regroup.spec import DIMS, ConvSpec, Cost, Extent, chain_cost
from regroup.strategies import Strategy, strategy
from regroup.strategies.fire import squeezed
from regroup.strategies.starting import DenseWeights

MAX_POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)

MODULE_3A = (64, 96, 128, 16, 32, 32)


@strategy("inception", paper="arXiv:1409.4842")
class Inception(Strategy):
    """Four branches, concatenated: 1x1; 1x1 then k x k; 1x1 then (k+2) x (k+2); max pool then 1x1.

    y = concat(P1 x, W3 a(Q3 x), W5 a(Q5 x), P4 pool(x)), where a is a ReLU, Q3 and Q5 are 1x1 with bias, W3
    has the spec's kernel (3 in the paper), W5 one two larger, and the pool's window is the spec's kernel.
    Pixels outside the image are zero to the pool as to a convolution: after a ReLU, where the paper's modules
    stand, that is the usual max pooling. The published module has a ReLU after every convolution; the last is
    the host network's business here.

    Args:
        widths: 1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5, pool projection, as in the paper's table; only their
            proportions count. By default those of module 3a.
    """

    dims = DIMS

    widths: tuple[int, ...] = MODULE_3A

    def __post_init__(self) -> None:
        if len(self.widths) != 6 or min(self.widths) < 1:
            raise StrategyError("widths", self.widths, "six ints of at least 1")

    @classmethod
    def variants(cls) -> tuple[Strategy, ...]:
        """Return the first and the last module of GoogLeNet."""
        return cls(), cls(widths=(384, 192, 384, 48, 128, 128))

    def check(self, spec: ConvSpec) -> None:
        """Refuse fewer outputs than branches, and a kernel without a centre for the 1x1."""
        try:
            spec.with_kernel(1)
        except SpecError:
            raise StrategyError(
                "kernel_size", spec.kernel_size, "odd", "a 1x1 has to stand in its centre"
            ) from None
        if self._scaled(spec)[2] < 1:
            raise StrategyError(
                "out_channels", spec.out_channels, f"enough for four branches in proportions {self.widths}"
            )

    def _scaled(self, spec: ConvSpec) -> list[int]:
        """Return the six widths for `spec`; the k x k branch takes what rounding leaves."""
        total = sum(self.widths[i] for i in (0, 2, 4, 5))
        widths = [max(1, round(w * spec.out_channels / total)) for w in self.widths]
        widths[2] = spec.out_channels - widths[0] - widths[4] - widths[5]
        return widths

    def chains(self, spec: ConvSpec) -> list[list[ConvSpec]]:
        """Return the specs of the convolutions of each branch; those of the last follow the pool.

        Raises:
            StrategyError: `check` says that `spec` cannot be honoured.
        """
        self.check(spec)
        c = spec.in_channels
        point, reduce, medium, reduce_large, large, projection = self._scaled(spec)
        larger = spec.with_kernel([side + 2 for side in spec.kernel_size])
        return [
            [spec.with_kernel(1).with_channels(c, point)],
            [spec.pointwise(c, reduce, bias=True), spec.with_channels(reduce, medium)],
            [spec.pointwise(c, reduce_large, bias=True), larger.with_channels(reduce_large, large)],
            [spec.pointwise(c, projection, spec.bias)],
        ]

    def build(self, spec: ConvSpec) -> nn.Module:
        """Return Concat(1x1, (1x1, ReLU, k x k), (1x1, ReLU, larger), (zero padding, max pool, 1x1))."""
        (point,), *reduced, (projection,) = self.chains(spec)
        sides = list(zip(spec.before, spec.after, strict=True))
        return Concat(
            [
                conv(point),
                *(nn.Sequential(conv(first), nn.ReLU(), conv(second)) for first, second in reduced),
                nn.Sequential(
                    Pad(sides),
                    MAX_POOLS[spec.dims - 1](spec.kernel_size, spec.stride, 0, spec.dilation),  # type: ignore[bad-argument-type]
                    conv(projection),
                ),
            ]
        )

    def take(self, module: nn.Module, dense: DenseWeights) -> str:
        """Take what each branch can make of its outputs, by `fire.squeezed` where it squeezes.

        The outputs of the max-pool, which is not linear, and of a branch that squeezes to a single channel
        begin as their bias.
        """
        point, *reduced, (_, _, projection) = module  # type: ignore[misc]
        widths = self._scaled(dense.spec)
        parts = dense.kernel.split([widths[i] for i in (0, 2, 4, 5)])
        biases = [None] * 4 if dense.bias is None else dense.bias.split([len(part) for part in parts])
        give(point, recentred(parts[0], dense.spec, 1), biases[0])
        give(projection, torch.zeros(parts[3].shape[:2]), biases[3])
        larger = recentred(parts[2], dense.spec, tuple(side + 2 for side in dense.spec.kernel_size))
        for (reduce, _, wide), part, bias in zip(reduced, (parts[1], larger), biases[1:3], strict=True):
            kernels = squeezed(reduce, [part])
            give(wide, kernels[0] if kernels else torch.zeros_like(convolution_of(wide).weight), bias)
        return ""

    def cost(self, spec: ConvSpec, size: Extent) -> Cost:
        """Return the sum over the branches; the projection works at the output's size."""
        *branches, projection = self.chains(spec)
        before_pool = sum((chain_cost([(s, 1) for s in branch], size) for branch in branches), Cost())
        return before_pool + projection[0].cost(spec.output_size(size))

    def reach(self, spec: ConvSpec) -> Tensor:
        """Return all ones: every branch reads every channel."""
        return reach.full(spec.out_channels, spec.in_channels)

    def reference(self, module: nn.Module, x: Tensor) -> Tensor:
        """Compute the dense convolutions, and the maximum over each window of the padded image."""
        point, medium, large, (pad, pool, projection) = module  # type: ignore[not-iterable]
        branches = [explicit(point, x)]
        for reduce, act, wide in (medium, large):
            branches.append(explicit(wide, act(explicit(reduce, x))))
        windows = zip(pool.kernel_size, pool.dilation, pool.stride, strict=True)
        pooled = pad(x)
        for axis, (side, apart, step) in enumerate(windows, start=2):
            pooled = pooled.unfold(axis, apart * (side - 1) + 1, step)[..., ::apart].amax(-1)
        return torch.cat([*branches, explicit(projection, pooled)], 1)
