"""Interleaved: two or more sparse convolutions whose groups cross, so that together they are dense.

IGCV1: Zhang et al., Interleaved Group Convolutions (arXiv:1707.02725), section 3.1.
IGCV2: Xie et al., Interleaved Structured Sparse Convolutional Neural Networks (arXiv:1804.06202), section 3.
IGCV3: Sun et al., Interleaved Low-Rank Group Convolutions (arXiv:1806.00178), section 3, and official code.
"""

from __future__ import annotations

import dataclasses
import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from regroup.errors import StrategyError
from regroup.ops import order, reach
from regroup.ops.layers import NORMS, conv, explicit, give
from regroup.ops.nearest import factors
from regroup.ops.order import ChannelOrder, ChannelShuffle
from regroup.spec import DIMS, ConvSpec, Cost, Extent, chain_cost, divisors
from regroup.strategies import Strategy, check_groups, strategy
from regroup.strategies.shuffled import unit_chain, unit_reach
from regroup.strategies.starting import BATCH_NORM, DenseWeights

FIELDS = {1: ("primary", "secondary"), 2: ("widths",), 3: ("groups", "expansion")}
"""Which parameters belong to which version."""


def factor_chain(spec: ConvSpec, widths: Sequence[tuple[int, int]]) -> list[tuple[ConvSpec, int]]:
    """Return (spec, groups) of each factor of an interleaved convolution: the first has the kernel, then 1x1.

    Args:
        spec: of the whole.
        widths: for each factor the channels (in, out) of one group; `in` of all factors multiply to the
            spec's in_channels, `out` to its out_channels.
    """
    chain, channels = [], spec.in_channels
    for i, (width_in, width_out) in enumerate(widths):
        groups = channels // width_in
        outputs = groups * width_out
        bias = spec.bias and i == len(widths) - 1
        step = spec.pointwise(channels, outputs, bias)
        if i == 0:
            step = replace(spec.with_channels(channels, outputs), bias=bias)
        chain.append((step, groups))
        channels = outputs
    return chain


def factor_orders(widths: Sequence[tuple[int, int]]) -> list[Tensor]:
    """Return the channel order before each factor, and the last one, which puts the outputs in place.

    A channel's number is written with one digit for each factor, the first factor's digit last; a factor
    mixes the channels that differ in its own digit alone. Every input then reaches every output on exactly
    one path, which is IGCV2's complementary condition.
    """
    radices = [width for width, _ in widths]
    orders, back = [], torch.arange(math.prod(radices))
    for i, (_, width_out) in enumerate(widths):
        axis = len(widths) - 1 - i
        together = torch.arange(math.prod(radices)).view(radices[::-1]).movedim(axis, -1)
        orders.append(order.compose(back, together.reshape(-1)))
        radices[i] = width_out
        outputs = torch.arange(math.prod(radices)).view(*together.shape[:-1], width_out)
        back = outputs.movedim(-1, axis).reshape(-1)
    return [*orders, back]


def factored(kernel: Tensor, widths: Sequence[tuple[int, int]]) -> list[Tensor]:
    """Return the kernels of the factors whose product is near to a dense kernel (K, C, *taps).

    There is one path from an input to an output, so that the product has one term: with the digits i_1 ...
    i_n of an input and o_1 ... o_n of an output, it is the product over l of f_l[o_l, i_l; o_1 ... o_(l-1),
    i_(l+1) ... i_n]. For given o_1 ... o_(n-1) and i_n the matrix of o_n and all the rest is therefore f_n
    times a product of the others: of rank one. Its nearest is found, then what it leaves is split likewise;
    nearest for two factors, and for more the nearest at each split.
    """
    digits = range(len(widths), 0, -1)  # the first digit of a channel stands last
    size = {f"{side}{n}": widths[n - 1][i] for i, side in enumerate("io") for n in digits} | {"t": -1}
    names = [f"o{n}" for n in digits] + [f"i{n}" for n in digits] + ["t"]
    rest, found = kernel.reshape([size[name] for name in names]), []
    for level in digits[:-1]:
        fixed = [f"i{n}" for n in digits if n > level] + [f"o{n}" for n in digits if n < level]
        others = [f"i{n}" for n in digits if n < level] + ["t"]
        wanted = [*fixed, f"i{level}", f"o{level}", *others]
        matrix = rest.permute([names.index(name) for name in wanted]).flatten(len(fixed) + 2)
        left, right = factors(matrix, 1)
        found.append(left.movedim(-3, -2).flatten(0, -3))  # groups and their outputs, inputs
        names = [*fixed, f"i{level}", *others]
        rest = right.reshape([*matrix.shape[: len(fixed) + 1], *(size[name] for name in others)])
    inner = [f"i{n}" for n in digits[:-1]] + ["o1", "i1", "t"]
    found.append(rest.permute([names.index(name) for name in inner]))
    return found[::-1]


class InterleavedConv(nn.Sequential):
    """Sparse factors whose groups cross: (N, C, *size) -> (N, K, *out). IGCV1 with two, IGCV2 with more.

    No norm and no activation stand between the factors. Orders that change nothing are left out.

    Args:
        spec: of the whole.
        widths: for each factor the channels (in, out) of one group; see `factor_chain`.
    """

    def __init__(self, spec: ConvSpec, widths: Sequence[tuple[int, int]]) -> None:
        with torch.device("cpu"):  # orders are data, known even where there are shapes alone
            *before, back = (gather.tolist() for gather in factor_orders(widths))
        layers: list[nn.Module] = []
        for gather, (step, groups) in zip(before, factor_chain(spec, widths), strict=True):
            layers += [*_ordered(gather), conv(step, groups)]
        super().__init__(*layers, *_ordered(back))


class LowRankUnit(nn.Sequential):
    """IGCV3's residual branch without the batch norm after it: (N, C, *size) -> (N, K, *out).

    1x1 in groups to `middle` channels, batch norm, shuffle, depthwise, batch norm, ReLU6, 1x1 in groups.

    Args:
        spec: channels in and out of the whole; kernel, stride, padding, dilation of the depthwise part.
        middle: channels inside.
        groups: of both pointwise convolutions.
    """

    def __init__(self, spec: ConvSpec, middle: int, groups: int) -> None:
        expand, depthwise, project = (conv(step, g) for step, g in unit_chain(spec, middle, groups))
        norm = NORMS[spec.dims - 1]
        super().__init__(
            OrderedDict(
                expand=expand,
                norm1=norm(middle),
                shuffle=ChannelShuffle(groups),
                depthwise=depthwise,
                norm2=norm(middle),
                act=nn.ReLU6(inplace=True),
                project=project,
            )
        )


@strategy("interleaved", paper="arXiv:1707.02725")
class Interleaved(Strategy):
    """Grouped convolutions one after the other, each grouping what the other kept apart.

    version 1: y = P' W_d P W_p x: W_p has the spec's kernel and L groups, P is a shuffle, W_d is 1x1 in
    M = K/L groups of one channel from each of W_p's, P' shuffles back. Cost K (C S/L + L) against C K S.
    version 2: y = P_n W_n ... P_1 W_1 x: W_1 has the spec's kernel, the others are 1x1, w_l channels stand in
    a group of W_l, w_1 w_2 ... w_n = C; each input reaches each output on exactly one path (complementary
    condition). Where the channels change, W_n changes them. Cost C (S w_1 + w_2 + ...) + K w_n.
    version 3: y = P2 a(n(D shuffle(n(P1 x)))): P1 and P2 1x1 in groups, t C channels between, D depthwise, n
    batch norm, a ReLU6. Cost t C^2/G + t C S + t C K/G.

    Args:
        version: 1, 2 or 3.
        primary: version 1, L.
        secondary: version 1, M instead of L; 2, the best on ImageNet, if neither is given.
        widths: version 2, w_1, w_2, ...; by default 1 and the two that cost least, near the root of C.
        groups: version 3, of both pointwise convolutions.
        expansion: version 3, t.
    """

    dims = DIMS

    version: int = 1
    primary: int | None = None
    secondary: int | None = None
    widths: tuple[int, ...] | None = None
    groups: int = 2
    expansion: int = 6

    def __post_init__(self) -> None:
        if self.version not in FIELDS:
            raise StrategyError("version", self.version, "1, 2 or 3")
        for field in dataclasses.fields(self)[1:]:  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if value != field.default and field.name not in FIELDS[self.version]:
                raise StrategyError(field.name, value, f"left out in version {self.version}")
            if value is not None and min(value if isinstance(value, tuple) else (value,)) < 1:
                raise StrategyError(field.name, value, "made of ints of at least 1")
        if self.primary is not None and self.secondary is not None:
            raise StrategyError("secondary", self.secondary, "left out when primary is given")
        if self.widths is not None and len(self.widths) < 2:
            raise StrategyError("widths", self.widths, "two factors or more")

    @classmethod
    def variants(cls) -> tuple[Strategy, ...]:
        """Return one of each version."""
        return cls(), cls(version=2), cls(version=3)

    def check(self, spec: ConvSpec) -> None:
        """Refuse channels that the groups do not divide."""
        if self.version == 3:
            check_groups(spec, self.groups)
        else:
            self.factor_widths(spec)

    def factor_widths(self, spec: ConvSpec) -> list[tuple[int, int]]:
        """Return the channels (in, out) in one group of each factor, versions 1 and 2.

        Raises:
            StrategyError: the channels cannot be split so.
        """
        c, k = spec.in_channels, spec.out_channels
        if self.version == 1:
            partitions = self._primary(spec)
            return [(c // partitions, k // partitions), (partitions, partitions)]
        widths = self.widths or _cheapest(c, k)
        if math.prod(widths) != c:
            raise StrategyError(
                "widths", widths, f"numbers whose product is in_channels={c}", "one path for each connection"
            )
        groups = c // widths[-1]
        if k % groups:
            allowed = f"such that the product of all but the last, {groups}, divides out_channels={k}"
            raise StrategyError("widths", widths, allowed)
        return [*((w, w) for w in widths[:-1]), (widths[-1], k // groups)]

    def _primary(self, spec: ConvSpec) -> int:
        if self.primary is not None:
            check_groups(spec, self.primary, "primary")
            return self.primary
        secondary = self.secondary or 2
        allowed = [spec.out_channels // g for g in divisors(spec.in_channels, spec.out_channels)]
        if secondary not in allowed:
            raise StrategyError(
                "secondary",
                secondary,
                f"out_channels={spec.out_channels} over a divisor of in_channels={spec.in_channels}",
                f"use one of {', '.join(map(str, sorted(allowed)))}",
            )
        return spec.out_channels // secondary

    def _chain(self, spec: ConvSpec) -> list[tuple[ConvSpec, int]]:
        self.check(spec)
        if self.version == 3:
            return unit_chain(spec, spec.in_channels * self.expansion, self.groups)
        return factor_chain(spec, self.factor_widths(spec))

    def build(self, spec: ConvSpec) -> nn.Module:
        """Return an InterleavedConv, or a LowRankUnit in version 3."""
        self.check(spec)
        if self.version == 3:
            return LowRankUnit(spec, spec.in_channels * self.expansion, self.groups)
        return InterleavedConv(spec, self.factor_widths(spec))

    def take(self, module: nn.Module, dense: DenseWeights) -> str:
        """Take the nearest products of the factors, the last split off first; see `factored`."""
        if self.version == 3:
            return BATCH_NORM
        widths = self.factor_widths(dense.spec)
        back, bias = factor_orders(widths)[-1], dense.bias
        layers = [layer for layer in module if not isinstance(layer, ChannelOrder)]  # type: ignore[not-iterable]
        for layer, weight in zip(layers, factored(dense.kernel, widths), strict=True):
            give(layer, weight, None if bias is None else bias[order.inverse(back)])
        return ""

    def cost(self, spec: ConvSpec, size: Extent) -> Cost:
        """Return the sum over the factors, and two batch norms in version 3."""
        norms = Cost(4 * spec.in_channels * self.expansion if self.version == 3 else 0)
        return chain_cost(self._chain(spec), size) + norms

    def reach(self, spec: ConvSpec) -> Tensor:
        """Return all ones by the complementary condition; in version 3, shuffled blocks and blocks."""
        if self.version == 3:
            return unit_reach(self._chain(spec))
        return reach.full(spec.out_channels, spec.in_channels)

    def reference(self, module: nn.Module, x: Tensor) -> Tensor:
        """Compute one dense convolution for each factor, whose kernel has the zeros and orders in it."""
        if self.version == 3:
            expand, norm1, _, depthwise, norm2, act, project = module  # type: ignore[not-iterable]
            wide = norm1(explicit(expand, x))
            dealt = order.shuffle(wide.shape[1], self.groups)
            return explicit(project, act(norm2(explicit(depthwise, wide, inputs=dealt))))
        layers, gather = list(module), None  # type: ignore[no-matching-overload]
        for i, layer in enumerate(layers):
            if isinstance(layer, ChannelOrder):
                gather = layer.order
                continue
            ends = i == len(layers) - 2 and isinstance(layers[-1], ChannelOrder)
            x = explicit(layer, x, inputs=gather, outputs=layers[-1].order if ends else None)
            gather = None
        return x


def _cheapest(in_channels: int, out_channels: int) -> tuple[int, ...]:
    allowed = divisors(in_channels, out_channels)
    if len(allowed) == 1:
        return 1, in_channels
    first = min(allowed[1:], key=lambda d: in_channels * d + out_channels * (in_channels // d))
    return 1, first, in_channels // first


def _ordered(order: list[int]) -> list[nn.Module]:
    return [] if order == list(range(len(order))) else [ChannelOrder(order)]
