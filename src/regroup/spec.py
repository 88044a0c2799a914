"""What a convolution must do, and what it costs. Start reading regroup here.

>>> spec = ConvSpec(64, 128, kernel_size=3, stride=2, padding=1)
>>> spec.output_size((56, 56))
(28, 28)
>>> spec.cost((56, 56))
Cost(parameters=73728, macs=57802752)
>>> spec.cost((56, 56), groups=4)
Cost(parameters=18432, macs=14450688)
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from regroup.errors import SpecError

if TYPE_CHECKING:
    from torch import nn

_MOST = 1 << 31

Size = tuple[int, int]
"""Height and width, in pixels."""


@dataclass(frozen=True)
class Cost:
    """Parameters (numbers that are trained) and MACs (multiply-adds) for one image.

    One MAC is two FLOPs. Convolutions, linear layers and products of matrices count, as in the papers of the
    field: normalisation, activation, products of elements, pooling, resizing, gathers and additions do not.
    """

    parameters: int = 0
    macs: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.parameters + other.parameters, self.macs + other.macs)

    def __radd__(self, other: int) -> Cost:
        return self if other == 0 else NotImplemented  # so that sum(costs) works


@dataclass(frozen=True, init=False)
class ConvSpec:
    """A 2-D convolution without its weights: what every strategy must be able to stand in for.

    Pairs are (height, width); an int stands for both. `padding` is zero padding on both sides; a
    negative one crops (it arises when a smaller kernel must stay centred: `with_kernel`).

    Raises:
        SpecError: a number is not an int or out of range.
    """

    in_channels: int
    out_channels: int
    kernel_size: Size
    stride: Size
    padding: Size
    dilation: Size
    bias: bool

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int] = 3,
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
        dilation: int | Sequence[int] = 1,
        bias: bool = False,
    ) -> None:
        fields = {
            "in_channels": _int("in_channels", in_channels, 1),
            "out_channels": _int("out_channels", out_channels, 1),
            "kernel_size": _pair("kernel_size", kernel_size, 1),
            "stride": _pair("stride", stride, 1),
            "padding": _pair("padding", padding, None),
            "dilation": _pair("dilation", dilation, 1),
            "bias": bool(bias),
        }
        self.__dict__.update(fields)

    @classmethod
    def of(cls, conv: nn.Conv2d) -> ConvSpec:
        """Return the spec of a convolution that is there; its groups, if any, are not part of it.

        Raises:
            SpecError: the padding is not the same number of zeros on both sides.
        """
        if conv.padding_mode != "zeros":
            raise SpecError("padding_mode", conv.padding_mode, "'zeros'", "leave this layer as it is")
        padding = conv.padding
        if isinstance(padding, str):
            total = [d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
            total = total if padding == "same" else [0, 0]
            if any(t % 2 for t in total):
                raise SpecError("padding", padding, "symmetric", "an even kernel makes 'same' lopsided")
            padding = (total[0] // 2, total[1] // 2)
        return cls(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,
            conv.stride,
            padding,
            conv.dilation,
            conv.bias is not None,
        )

    @property
    def taps(self) -> int:
        """Kernel positions: height times width of the kernel."""
        return math.prod(self.kernel_size)

    def output_size(self, size: Sequence[int]) -> Size:
        """Return (height, width) of the output for an input of `size`.

        Raises:
            SpecError: the kernel does not fit into the padded input.
        """
        axes = zip(size, self.kernel_size, self.stride, self.padding, self.dilation, strict=True)
        height, width = ((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in axes)
        if min(height, width) < 1:
            raise SpecError("size", tuple(size), f"large enough for {self}", "use a larger image")
        return height, width

    def cost(self, size: Sequence[int], groups: int = 1) -> Cost:
        """Return the cost of doing it in `groups` groups on one input of `size` (height, width)."""
        weights = self.out_channels * (self.in_channels // groups) * self.taps
        return Cost(
            weights + self.out_channels * self.bias,
            weights * math.prod(self.output_size(size)),
        )

    def with_kernel(self, kernel_size: int | Sequence[int]) -> ConvSpec:
        """Return the spec with another kernel, centred where this one is: same output size.

        Raises:
            SpecError: the two kernels differ by an odd number, so that no centre is shared.
        """
        kernel_size = _pair("kernel_size", kernel_size, 1)
        padding = []
        for k, old, p, d in zip(kernel_size, self.kernel_size, self.padding, self.dilation, strict=True):
            if (k - old) % 2:
                allowed = "odd" if old % 2 else "even"
                raise SpecError("kernel_size", kernel_size, f"{allowed}, like {self.kernel_size}")
            padding.append(p + d * (k - old) // 2)
        return replace(self, kernel_size=kernel_size, padding=tuple(padding))

    def with_channels(self, in_channels: int, out_channels: int) -> ConvSpec:
        """Return the spec with other channel numbers."""
        return replace(self, in_channels=in_channels, out_channels=out_channels)

    def pointwise(self, in_channels: int, out_channels: int, bias: bool = False) -> ConvSpec:
        """Return the spec of a 1x1 convolution beside this one."""
        return ConvSpec(in_channels, out_channels, 1, bias=bias)

    def __str__(self) -> str:
        """Read like '64 -> 128 channels, 3x3, stride 2'."""
        text = f"{self.in_channels} -> {self.out_channels} channels, {_times(self.kernel_size)}"
        for name, usual in (("stride", (1, 1)), ("padding", (0, 0)), ("dilation", (1, 1))):
            value = getattr(self, name)
            if value != usual:
                text += f", {name} {value[0] if value[0] == value[1] else _times(value)}"
        return text + (", bias" if self.bias else "")


def chain_cost(chain: Sequence[tuple[ConvSpec, int]], size: Size) -> Cost:
    """Return the cost of convolutions one after the other, each with its number of groups.

    >>> separable = [(ConvSpec(64, 64, 3, padding=1), 64), (ConvSpec(64, 128, 1), 1)]
    >>> chain_cost(separable, (56, 56))
    Cost(parameters=8768, macs=27496448)
    """
    total = Cost()
    for spec, groups in chain:
        total += spec.cost(size, groups)
        size = spec.output_size(size)
    return total


def divisors(n: int, *also: int) -> list[int]:
    """Return the numbers of groups that `n` channels (and `also`) can be split into."""
    common = math.gcd(n, *also)
    small = [g for g in range(1, math.isqrt(common) + 1) if common % g == 0]
    return sorted({*small, *(common // g for g in small)})


def _times(pair: Size) -> str:
    return f"{pair[0]}x{pair[1]}"


def integer(value: object) -> int | None:
    """Return what counts as an int (NumPy's too, but no truth value) as one; None for all else."""
    if isinstance(value, bool):
        return None
    try:
        return operator.index(value)  # type: ignore[bad-argument-type]
    except TypeError:
        return None


def _int(name: str, value: object, least: int | None) -> int:
    number = integer(value)
    if number is None or (least is not None and number < least):
        raise SpecError(name, value, "an int" if least is None else f"an int of at least {least}")
    if number >= _MOST:
        raise SpecError(name, value, f"an int below {_MOST}")
    return number


def _pair(name: str, value: object, least: int | None) -> Size:
    pair = value if isinstance(value, (tuple, list)) else (value, value)
    if len(pair) != 2:
        raise SpecError(name, value, "an int or a (height, width) pair")
    return _int(name, pair[0], least), _int(name, pair[1], least)
