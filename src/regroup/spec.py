"""What a convolution must do, and what it costs. Start reading regroup here.

>>> spec = ConvSpec(64, 128, kernel_size=3, stride=2, padding=1)
>>> spec.output_size((56, 56))
(28, 28)
>>> spec.cost((56, 56))
Cost(parameters=73728, macs=57802752)
>>> spec.cost((56, 56), groups=4)
Cost(parameters=18432, macs=14450688)

Sound has one dimension, video and volumes have three: `dims`, or tuples of as many numbers.

>>> ConvSpec(64, 64, 31, padding=15, dims=1).output_size((1000,))
(1000,)
>>> ConvSpec(64, 64, (3, 1, 1), padding=(1, 0, 0)).cost((8, 28, 28), groups=64)
Cost(parameters=192, macs=1204224)
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from regroup.errors import SpecError

if TYPE_CHECKING:
    from torch import nn

_MOST = 1 << 31

Size = tuple[int, int]
"""Height and width, in pixels."""

Extent = tuple[int, ...]
"""A number for each dimension: (steps,), (height, width) or (frames, height, width)."""

Padding = tuple[int | tuple[int, int], ...]
"""Zeros for each dimension: on both sides alike, or (before, after)."""

DIMS = (1, 2, 3)
"""Numbers of spatial dimensions that a convolution can have."""


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
    """A convolution without its weights: what every strategy must be able to stand in for.

    >>> print(ConvSpec(8, 8, 5, padding=((4, 0),)))
    8 -> 8 channels, kernel 5, padding 4+0

    Tuples have a number for each dimension: (steps,), (height, width) or (frames, height, width); an int
    stands for all. `padding` is zeros on both sides, or for a dimension the pair (before, after): ((4, 0),)
    makes a kernel of 5 steps causal. A negative one crops (it arises when a smaller kernel must stay centred:
    `with_kernel`).

    Args:
        in_channels: channels that are read.
        out_channels: channels that are given.
        kernel_size: taps.
        stride: steps of the window.
        padding: zeros around the input.
        dilation: distances of taps.
        bias: a number is added to each output channel.
        dims: number of spatial dimensions; by default as many as the tuples have numbers, and 2 of ints.

    Raises:
        SpecError: a number is not an int or out of range, or tuples are of different length.
    """

    in_channels: int
    out_channels: int
    kernel_size: Extent
    stride: Extent
    padding: Padding
    dilation: Extent
    bias: bool

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int] = 3,
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int | Sequence[int]] = 0,
        dilation: int | Sequence[int] = 1,
        bias: bool = False,
        dims: int | None = None,
    ) -> None:
        given: dict[str, object] = {
            "kernel_size": kernel_size,
            "stride": stride,
            "padding": padding,
            "dilation": dilation,
        }
        number = _dims(given, dims)
        fields = {
            "in_channels": _int("in_channels", in_channels, 1),
            "out_channels": _int("out_channels", out_channels, 1),
            "kernel_size": _extent("kernel_size", kernel_size, number),
            "stride": _extent("stride", stride, number),
            "padding": _padding(padding, number),
            "dilation": _extent("dilation", dilation, number),
            "bias": bool(bias),
        }
        self.__dict__.update(fields)

    @classmethod
    def of(cls, layer: nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear) -> ConvSpec:
        """Return the spec of a convolution that is there; its groups, if any, are not part of it.

        A linear layer is one with a kernel of a single tap over the tokens before it.

        Raises:
            SpecError: the padding is not zeros.
        """
        if not hasattr(layer, "kernel_size"):
            return cls(layer.in_features, layer.out_features, 1, bias=layer.bias is not None, dims=1)  # type: ignore[bad-argument-type]
        conv: Any = layer
        if conv.padding_mode != "zeros":
            raise SpecError("padding_mode", conv.padding_mode, "'zeros'", "leave this layer as it is")
        padding = conv.padding
        if isinstance(padding, str):
            total = [d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
            total = total if padding == "same" else [0] * len(total)
            padding = [(t // 2, t - t // 2) for t in total]  # PyTorch's zero that is over comes last
        sizes = conv.kernel_size, conv.stride, padding, conv.dilation
        return cls(conv.in_channels, conv.out_channels, *sizes, conv.bias is not None)

    @property
    def dims(self) -> int:
        """Number of spatial dimensions: 1 of sound, 2 of images, 3 of video and volumes."""
        return len(self.kernel_size)

    @property
    def before(self) -> Extent:
        """Zeros before the first number of each dimension."""
        return tuple(p if isinstance(p, int) else p[0] for p in self.padding)

    @property
    def after(self) -> Extent:
        """Zeros after the last number of each dimension."""
        return tuple(p if isinstance(p, int) else p[1] for p in self.padding)

    @property
    def span(self) -> Extent:
        """Distance of the last tap from the first, in each dimension."""
        return tuple(d * (k - 1) for k, d in zip(self.kernel_size, self.dilation, strict=True))

    @property
    def looks_back(self) -> tuple[bool, ...]:
        """Tell of each dimension whether its zeros make it look further back than ahead: (nearly) causal."""
        axes = zip(self.before, self.after, self.span, strict=True)
        return tuple(before > after and 2 * before >= span for before, after, span in axes)

    @property
    def taps(self) -> int:
        """Kernel positions: height times width of the kernel."""
        return math.prod(self.kernel_size)

    def output_size(self, size: Sequence[int]) -> Extent:
        """Return the size of the output, a number for each dimension, for an input of `size`.

        Raises:
            SpecError: the kernel does not fit into the padded input, or `size` is of another dimension.
        """
        if len(size) != self.dims:
            raise SpecError("size", tuple(size), f"{_numbers(self.dims)}, one for each dimension of {self}")
        axes = zip(size, self.span, self.stride, self.before, self.after, strict=True)
        out = tuple((n + before + after - span - 1) // s + 1 for n, span, s, before, after in axes)
        if min(out) < 1:
            raise SpecError("size", tuple(size), f"large enough for {self}", "use a larger one")
        return out

    def cost(self, size: Sequence[int], groups: int = 1) -> Cost:
        """Return the cost of doing it in `groups` groups on one input of `size`."""
        weights = self.out_channels * (self.in_channels // groups) * self.taps
        return Cost(
            weights + self.out_channels * self.bias,
            weights * math.prod(self.output_size(size)),
        )

    def with_kernel(self, kernel_size: int | Sequence[int]) -> ConvSpec:
        """Return the spec with another kernel, centred where this one is: same output size.

        >>> ConvSpec(8, 8, 5, padding=((4, 0),)).with_kernel(3).padding
        ((2, 0),)

        A dimension that looks further back than ahead keeps how far it looks ahead: what is causal stays so.

        Raises:
            SpecError: the two kernels differ by an odd number, so that no centre is shared.
        """
        kernel_size = _extent("kernel_size", kernel_size, self.dims)
        padding: list[tuple[int, int]] = []
        sides = zip(self.before, self.after, self.looks_back, strict=True)
        axes = zip(kernel_size, self.kernel_size, self.dilation, sides, strict=True)
        for k, old, d, (before, after, looks_back) in axes:
            if looks_back:
                padding.append((before + d * (k - old), after))
                continue
            if (k - old) % 2:
                allowed = "odd" if old % 2 else "even"
                raise SpecError("kernel_size", kernel_size, f"{allowed}, like {self.kernel_size}")
            more = d * (k - old) // 2
            padding.append((before + more, after + more))
        return replace(self, kernel_size=kernel_size, padding=tuple(padding))

    def with_channels(self, in_channels: int, out_channels: int) -> ConvSpec:
        """Return the spec with other channel numbers."""
        return replace(self, in_channels=in_channels, out_channels=out_channels)

    def pointwise(self, in_channels: int, out_channels: int, bias: bool = False) -> ConvSpec:
        """Return the spec of a 1x1 convolution beside this one, in as many dimensions."""
        return ConvSpec(in_channels, out_channels, 1, bias=bias, dims=self.dims)

    def __str__(self) -> str:
        """Read like '64 -> 128 channels, 3x3, stride 2'."""
        kernel = ("kernel " if self.dims == 1 else "") + _times(self.kernel_size)
        text = f"{self.in_channels} -> {self.out_channels} channels, {kernel}"
        for name, usual in (("stride", 1), ("padding", 0), ("dilation", 1)):
            values = getattr(self, name)
            if set(values) != {usual}:
                text += f", {name} {_times(values[:1] if len(set(values)) == 1 else values)}"
        return text + (", bias" if self.bias else "")


def chain_cost(chain: Sequence[tuple[ConvSpec, int]], size: Extent) -> Cost:
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


def _times(values: Padding) -> str:
    return "x".join(str(v) if isinstance(v, int) else f"{v[0]}+{v[1]}" for v in values)


def _numbers(count: int) -> str:
    return ("a single one", "a (height, width) pair", "three of them")[count - 1]


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


def _dims(sizes: dict[str, object], dims: object) -> int:
    """Return the number of dimensions: the one asked for, that of the first tuple, or 2."""
    if dims is not None and integer(dims) not in DIMS:
        raise SpecError("dims", dims, "1, 2 or 3")
    lengths = [len(value) for value in sizes.values() if isinstance(value, (tuple, list))]
    number = integer(dims) or next(iter(lengths), 2)
    if number not in DIMS:
        name = next(n for n, value in sizes.items() if isinstance(value, (tuple, list)))
        raise SpecError(name, sizes[name], "an int, or one to three of them: a number for each dimension")
    return number


def _extent(name: str, value: object, dims: int, least: int | None = 1) -> Extent:
    values = value if isinstance(value, (tuple, list)) else (value,) * dims
    if len(values) != dims:
        raise SpecError(name, value, f"an int or {_numbers(dims)}, for {dims} dimension{'s'[: dims > 1]}")
    return tuple(_int(name, number, least) for number in values)


def _padding(value: object, dims: int) -> Padding:
    values = value if isinstance(value, (tuple, list)) else (value,) * dims
    if not any(isinstance(one, (tuple, list)) for one in values):
        return _extent("padding", value, dims, None)
    pairs = [one if isinstance(one, (tuple, list)) else (one, one) for one in values]
    if len(pairs) != dims or any(len(pair) != 2 for pair in pairs):
        raise SpecError("padding", value, f"an int or {_numbers(dims)}, each an int or (before, after)")
    sides = [(_int("padding", before, None), _int("padding", after, None)) for before, after in pairs]
    return tuple(before if before == after else (before, after) for before, after in sides)
