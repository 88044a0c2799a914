"""Octave: part of the channels lives at half the resolution, and both parts exchange what they know.

Chen et al., Drop an Octave (arXiv:1904.05049), section 3; official code facebookresearch/OctConv.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from regroup.errors import StrategyError
from regroup.ops import reach
from regroup.ops.layers import ACTIVATIONS, conv, explicit, give, norm_act
from regroup.ops.nearest import coarsened, diagonal_blocks
from regroup.ops.resolution import average, check_centred, nearest, pooled_size, size_of
from regroup.ops.scripting import Scriptable
from regroup.spec import DIMS, ConvSpec, Cost, Extent
from regroup.strategies import Strategy, strategy
from regroup.strategies.starting import ACTIVATION, BATCH_NORM, DenseWeights

Pair = tuple[Tensor, Tensor | None]
"""High frequencies (N, C - C_low, *size), and low ones (N, C_low, *ceil(size / 2)) or None."""


def octaves(channels: int, alpha: float) -> tuple[int, int]:
    """Return how many of `channels` are high and low: the low ones are alpha * channels, rounded down."""
    low = int(alpha * channels)
    return channels - low, low


def split(x: Tensor, low: int, dims: int = 2) -> Pair:
    """Make a pair of one tensor of `dims` dimensions: the last `low` channels are average-pooled by 2."""
    if not low:
        return x, None
    return x[:, :-low], average(x[:, -low:], [2] * dims)


def merge(pair: Pair) -> Tensor:
    """Make one tensor of a pair: low is upsampled by copying and stands after high."""
    high, low = pair
    return high if low is None else torch.cat([high, nearest(low, size_of(high))], 1)


def octave_paths(
    spec: ConvSpec, alpha_in: float, alpha_out: float, groups: int = 1
) -> dict[str, tuple[ConvSpec, int]]:
    """Return the (spec, groups) of each path that exists, of h2h, h2l, l2h and l2l.

    Every path has the kernel and the groups of `spec` and stride 1, for strides are pooled. A depthwise
    convolution (as many groups as channels) keeps each channel in its octave. The bias of each output is in
    the path from the high inputs, or in its only one.

    Raises:
        StrategyError: the stride is not 1 or 2, the groups do not divide one of the parts, or a depthwise
            convolution has alpha_in != alpha_out.
        SpecError: the kernel is even, or the padding does not keep it centred.
    """
    check_centred(spec)
    if not {1, 2}.issuperset(spec.stride):
        raise StrategyError("stride", spec.stride, "1 or 2", "leave this layer dense")
    sources = dict(zip("hl", octaves(spec.in_channels, alpha_in), strict=True))
    targets = dict(zip("hl", octaves(spec.out_channels, alpha_out), strict=True))
    depthwise = 1 < groups == spec.in_channels == spec.out_channels
    if depthwise and sources != targets:
        raise StrategyError("alpha_out", alpha_out, f"alpha_in={alpha_in} in a depthwise convolution")
    paths = {}
    for name in ("h2h", "h2l", "l2h", "l2l"):
        source, target = name[0], name[2]
        channels = sources[source], targets[target]
        if 0 in channels or (depthwise and source != target):
            continue
        path_groups = channels[0] if depthwise else groups
        if any(c % path_groups for c in channels):
            allowed = f"a divisor of the {channels[0]} -> {channels[1]} channels of path {name}"
            raise StrategyError("groups", groups, allowed, "change alpha or groups")
        bias = spec.bias and (source == "h" or depthwise)
        path = replace(spec.with_channels(*channels), stride=(1,) * spec.dims, bias=bias)
        paths[name] = path, path_groups
    return paths


class OctaveConv(nn.Module):
    """The octave convolution: pair in, pair out.

    Y_high = h2h(X_high) + up(l2h(X_low)),  Y_low = l2l(X_low) + h2l(pool(X_high)), where pool averages 2 x 2
    and up copies. A stride of 2 first averages 2 x 2 in both, then convolves with stride 1; l2h then takes
    X_low as it is, for it already has the resolution of Y_high. All pools are of ceil mode, so that odd sizes
    work. alpha_in = 0 is the first octave convolution of a network, alpha_out = 0 the last.

    Shapes: (high, low) -> (high, low), see `Pair`; the high output has the size that `spec` says.

    Args:
        spec: the convolution on all channels.
        alpha_in: share of low channels in the input, 0 <= alpha_in < 1.
        alpha_out: share of low channels in the output.
        groups: of each of the four paths; as many as channels is depthwise.

    Raises:
        StrategyError: see `octave_paths`.
        SpecError: see `octave_paths`.
    """

    def __init__(self, spec: ConvSpec, alpha_in: float, alpha_out: float, groups: int = 1) -> None:
        super().__init__()
        self.stride = list(spec.stride)
        paths = octave_paths(spec, alpha_in, alpha_out, groups)
        self.h2h: nn.Module = conv(*paths["h2h"])
        self.h2l, self.l2h, self.l2l = (
            conv(*paths[name]) if name in paths else None for name in ("h2l", "l2h", "l2l")
        )

    def forward(self, pair: Pair) -> Pair:
        x_high, x_low = pair
        double = [2 * step for step in self.stride]
        high = self.h2h(average(x_high, self.stride))
        low = None if self.h2l is None else self.h2l(average(x_high, double))
        if x_low is not None:
            if self.l2h is not None:
                high = high + nearest(self.l2h(x_low), size_of(high))
            if self.l2l is not None:
                kept = self.l2l(average(x_low, self.stride))
                low = kept if low is None else low + kept
        return high, low


class OctaveNormAct(nn.Module):
    """Batch norm and an activation, on each part of a pair by itself.

    Args:
        channels: of both parts together.
        alpha: share of low channels.
        norm: whether there is batch norm.
        act: name of the activation, or none.
        eps: of the batch norm.
        dims: spatial dimensions of the pair.
    """

    def __init__(
        self,
        channels: int,
        alpha: float,
        norm: bool = True,
        act: str = "relu",
        eps: float = 1e-5,
        dims: int = 2,
    ) -> None:
        super().__init__()
        high, low = octaves(channels, alpha)
        self.high = norm_act(high, norm, act, eps, dims)
        self.low = norm_act(low, norm, act, eps, dims) if low else None

    def forward(self, pair: Pair) -> Pair:
        high, low = pair
        return self.high(high), None if self.low is None else self.low(low)


class OctaveStandIn(Scriptable, nn.Module):
    """An octave convolution that takes and gives one tensor: split, convolve, merge."""

    def __init__(self, low: int, convolution: OctaveConv, norm_act: OctaveNormAct) -> None:
        super().__init__()
        self.low, self.convolution, self.norm_act = low, convolution, norm_act

    def forward(self, x: Tensor) -> Tensor:
        return merge(self.norm_act(self.convolution(split(x, self.low, len(self.convolution.stride)))))


@strategy("octave", paper="arXiv:1904.05049")
class Octave(Strategy):
    """Keep alpha of the channels at half the resolution: four convolutions between high and low.

    Y_H = W_HH * X_H + up(W_LH * X_L),  Y_L = W_LL * X_L + W_HL * pool(X_H). In networks the pair (Y_H, Y_L)
    flows on (`OctaveConv`). As a stand-in for one convolution, the last alpha_in * C channels are
    average-pooled to be X_L, and Y_L is upsampled by copying and stands after Y_H. As many parameters as
    dense; 1 - 3/4 alpha (2 - alpha) of the MACs of an image at stride 1; in n
    dimensions 1 - 2^-n stands for 3/4. With alpha = 0 and stride 1 it is dense; with
    stride 2 it averages 2 x 2 where dense skips.

    Args:
        alpha: share of low channels in input and output, 0 <= alpha < 1.
        alpha_in: share in the input, where it is another.
        alpha_out: share in the output, where it is another.
        groups: of each path; as many as channels is depthwise, without exchange.
        norm: batch norm after it, on high and low by themselves.
        act: activation after it: relu, relu6, silu, hardswish or none.
    """

    dims = DIMS

    period = 2
    alpha: float = 0.25
    alpha_in: float | None = None
    alpha_out: float | None = None
    groups: int = 1
    norm: bool = False
    act: str = "none"

    def __post_init__(self) -> None:
        for name in ("alpha", "alpha_in", "alpha_out"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                raise StrategyError(name, value, "at least 0 and less than 1")
        if self.groups < 1:
            raise StrategyError("groups", self.groups, "an int of at least 1")
        if self.act not in ACTIVATIONS:
            raise StrategyError("act", self.act, f"one of {', '.join(ACTIVATIONS)}")

    @classmethod
    def variants(cls) -> tuple[Strategy, ...]:
        """Return a quarter and half of the channels at low resolution."""
        return cls(alpha=0.25), cls(alpha=0.5)

    @property
    def alphas(self) -> tuple[float, float]:
        """Share of low channels in input and output."""
        return (
            self.alpha if self.alpha_in is None else self.alpha_in,
            self.alpha if self.alpha_out is None else self.alpha_out,
        )

    def check(self, spec: ConvSpec) -> None:
        """Refuse kernels off centre, strides above 2, and parts that the groups do not divide."""
        octave_paths(spec, *self.alphas, self.groups)

    def build(self, spec: ConvSpec) -> nn.Module:
        """Return an OctaveStandIn."""
        alpha_in, alpha_out = self.alphas
        convolution = OctaveConv(spec, alpha_in, alpha_out, self.groups)
        _, low = octaves(spec.in_channels, alpha_in)
        after = OctaveNormAct(spec.out_channels, alpha_out, self.norm, self.act, dims=spec.dims)
        return OctaveStandIn(low, convolution, after)

    def take(self, module: nn.Module, dense: DenseWeights) -> str:
        """Take, for each path, its part of the kernel on the grid it works on; see `nearest.coarsened`."""
        if self.norm or self.act != "none":
            return BATCH_NORM if self.norm else ACTIVATION
        assert isinstance(module, OctaveStandIn)
        spec, stride = dense.spec, dense.spec.stride
        ones, double, twice = (1,) * spec.dims, (2,) * spec.dims, tuple(2 * step for step in stride)
        sources, targets = _sides(spec.in_channels, self.alphas[0]), _sides(spec.out_channels, self.alphas[1])
        grids = {  # output pixels to a coarse one, and input pixels
            "h2h": (ones, stride),
            "h2l": (double, twice),
            "l2h": (tuple(2 // step for step in stride), double),
            "l2l": (double, twice),
        }
        for name, (path, groups) in octave_paths(spec, *self.alphas, self.groups).items():
            inputs, outputs = sources[name[0]], targets[name[2]]
            part = coarsened(dense.kernel[outputs, inputs], spec, *grids[name])
            bias = dense.bias[outputs] if dense.bias is not None and path.bias else None
            give(getattr(module.convolution, name), diagonal_blocks(part, groups), bias)
        return ""

    def cost(self, spec: ConvSpec, size: Extent) -> Cost:
        """Return K C S / groups parameters; what reads or writes low is used at a quarter of the pixels."""
        double, high_out = (2,) * spec.dims, spec.output_size(size)
        low_in, low_out = pooled_size(size, double), pooled_size(high_out, double)
        sizes = {"h2h": high_out, "h2l": low_out, "l2h": low_in, "l2l": low_out}
        cost = Cost(2 * spec.out_channels * self.norm)
        for name, (path, groups) in octave_paths(spec, *self.alphas, self.groups).items():
            cost += path.cost(sizes[name], groups)
        return cost

    def reach(self, spec: ConvSpec) -> Tensor:
        """Return the reach of the four paths, high before low on both sides."""
        alpha_in, alpha_out = self.alphas
        sides_in, sides_out = _sides(spec.in_channels, alpha_in), _sides(spec.out_channels, alpha_out)
        result = torch.zeros(spec.out_channels, spec.in_channels, dtype=torch.bool)
        for name, (path, groups) in octave_paths(spec, alpha_in, alpha_out, self.groups).items():
            block = reach.grouped(path.out_channels, path.in_channels, groups)
            result[sides_out[name[2]], sides_in[name[0]]] = block
        return result

    def reference(self, module: nn.Module, x: Tensor) -> Tensor:
        """Compute the four paths as dense convolutions, with pools and upsampling written out."""
        assert isinstance(module, OctaveStandIn)
        stride = module.convolution.stride
        double, twice = (2,) * len(stride), tuple(2 * step for step in stride)
        n_high = x.shape[1] - module.low
        high, low = x[:, :n_high], _pooled(x[:, n_high:], double)
        sources = {"h2h": _pooled(high, stride), "h2l": _pooled(high, twice)}
        sources |= {"l2h": low, "l2l": _pooled(low, stride)}
        size = size_of(sources["h2h"])
        sums: dict[str, Tensor] = {}
        for name, path in module.convolution.named_children():
            y = explicit(path, sources[name])
            y = _copied(y, size) if name == "l2h" else y
            sums[name[2]] = sums[name[2]] + y if name[2] in sums else y
        y = module.norm_act.high(sums["h"])
        if module.norm_act.low is None:
            return y
        return torch.cat([y, _copied(module.norm_act.low(sums["l"]), size)], 1)


def _sides(channels: int, alpha: float) -> dict[str, slice]:
    """Return where the high and the low channels stand among all."""
    high, _ = octaves(channels, alpha)
    return {"h": slice(high), "l": slice(high, None)}


def _pooled(x: Tensor, window: Sequence[int]) -> Tensor:
    """Average by matrices whose rows are the windows: pooling, written out."""
    for axis, w in enumerate(window, start=2):
        n = x.shape[axis]
        rows = torch.stack([((torch.arange(n) // w) == i).to(x) for i in range(-(-n // w))])
        x = torch.tensordot(x, rows / rows.sum(1, keepdim=True), ([axis], [1])).movedim(-1, axis)
    return x


def _copied(x: Tensor, size: Sequence[int]) -> Tensor:
    """Upsample by indices i // 2 on an axis that is twice as fine, i on one that is not."""
    for axis, n in enumerate(size, start=2):
        x = x.index_select(axis, torch.arange(n) // (1 if n == x.shape[axis] else 2))
    return x
