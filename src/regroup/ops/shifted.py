"""Distribution-shifting convolution: a kernel of small integers, and a scale for each block of its depth.

do Nascimento, Fawcett, Prisacariu, DSConv: Efficient Convolution Operator (arXiv:1901.01928), section 3;
official code ActiveVisionLab/DSConv. It is not a depthwise separable convolution.

>>> form = ShiftedForm(bits=4, block=2)
>>> integers, shifts = form.quantise(torch.tensor([0.8, -0.2, 0.0, 0.0]).view(1, 4, 1, 1))
>>> integers.flatten().tolist(), shifts.flatten().tolist()
([-8, 2, 0, 0], [-0.10000000149011612, 0.0])
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regroup.errors import StrategyError
from regroup.ops.layers import CONVOLVE, conv, convolution_of, convolve, per_channel, split_padding
from regroup.ops.one_operator import is_one_operator
from regroup.spec import ConvSpec, Extent

FITS = ("squares", "divergence")
NEWTON_STEPS = 12
"""Of `least_divergence`: weights of magnitude up to 3 need fewer than 8 to reach rounding error."""


@dataclass(frozen=True)
class ShiftedForm:
    """How a kernel (K, C, *taps) becomes integers (K, C, *taps) and shifts (K, ceil(C / block), *taps).

    A block is up to `block` neighbouring inputs of one output at one tap; the last of a depth may be shorter.

    Args:
        bits: b of the integers; 2 ... 8.
        block: B, inputs that share a shift.
        clamp: keep the integers within -2^(b-1) ... 2^(b-1) - 1, as the paper says. The official code does
            not: 2^(b-1) arises where a weight is as large as the extreme one and of the other sign.
        fit: shifts by least squares, or by the least Kullback-Leibler divergence (`divergence`).
        mantissa: bits of an activation's mantissa, sign and leading one included; None: activations stay as
            they are.
        exponent: bits of the exponent that a block of activations shares.
        channels: a scale and an offset for each output channel besides (channel distribution shift).

    Raises:
        StrategyError: a number out of range.
    """

    bits: int = 4
    block: int = 64
    clamp: bool = True
    fit: str = "squares"
    mantissa: int | None = None
    exponent: int = 5
    channels: bool = False

    def __post_init__(self) -> None:
        for name, low, high in (("bits", 2, 8), ("mantissa", 2, 24), ("exponent", 2, 8)):
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise StrategyError(name, value, f"an int within {low} ... {high}")
        if self.block < 1:
            raise StrategyError("block", self.block, "an int of at least 1")
        if self.fit not in FITS:
            raise StrategyError("fit", self.fit, f"one of {', '.join(FITS)}")

    @classmethod
    def of(cls, numbers: Sequence[int]) -> ShiftedForm:
        """Return the form whose `numbers` these are, as far as they say."""
        bits, clamp, block, mantissa, exponent = numbers
        return cls(bits, block, bool(clamp), mantissa=mantissa, exponent=exponent)

    @property
    def numbers(self) -> tuple[int, ...]:
        """All that decides what a layer computes: bits, clamp, block, mantissa, exponent; with a mantissa."""
        assert self.mantissa is not None
        return self.bits, int(self.clamp), self.block, self.mantissa, self.exponent

    @property
    def integer(self) -> torch.dtype:
        """The type that holds the integers: int8, but for 8 bits that are not clamped."""
        return torch.int8 if self.clamp or self.bits < 8 else torch.int16

    def blocks(self, depth: int) -> int:
        """Return the number of blocks in `depth` inputs."""
        return -(-depth // self.block)

    def quantise(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return the integers and the shifts of a kernel.

        The weight w of a block that is largest in magnitude (the negative one of two) becomes -2^(b-1), and
        any other v becomes round(-2^(b-1) v / w). A block of zeros has integers and shift 0.
        """
        values = _in_blocks(weight, self.block)
        integers = _integers(values, self.bits, self.clamp)
        shifts = least_squares(values, integers)
        if self.fit == "divergence":
            there = _in_blocks(torch.ones_like(weight), self.block) > 0
            shifts = least_divergence(values, integers, shifts, there)
        flat = integers.flatten(1, 2)[:, : weight.shape[1]]
        return flat.to(self.integer), shifts

    def dequantise(self, integers: Tensor, shifts: Tensor) -> Tensor:
        """Return the kernel that integers and shifts stand for, in the type of the shifts."""
        taps = (-1,) * (shifts.dim() - 2)
        spread = shifts.unsqueeze(2).expand(-1, -1, self.block, *taps).flatten(1, 2)
        return integers.to(shifts.dtype) * spread[:, : integers.shape[1]]

    def activations(self, x: Tensor, groups: int = 1) -> Tensor:
        """Return activations (N, C, *size) as `block_floating_point` of each group's depth, if so wanted."""
        if self.mantissa is None:
            return x
        if is_one_operator():
            form = self.block, self.mantissa, self.exponent
            return torch.ops.regroup.block_floating_point(x, *form, groups)
        parts = x.reshape(x.shape[0] * groups, -1, *x.shape[2:])
        return block_floating_point(parts, self.block, self.mantissa, self.exponent).view(x.shape)


def _in_blocks(weight: Tensor, block: int) -> Tensor:
    """Return a kernel (K, C, *taps) as (K, blocks, block, *taps); zeros fill the last block."""
    return _filled(weight, block).unflatten(1, (-1, block))


def _filled(x: Tensor, block: int) -> Tensor:
    """Put zeros after the last channel, so that there are whole blocks of them."""
    return F.pad(x, (*(0, 0) * (x.dim() - 2), 0, -x.shape[1] % block))


def _integers(values: Tensor, bits: int, clamp: bool) -> Tensor:
    high, low = values.amax(2, keepdim=True), values.amin(2, keepdim=True)
    extreme = torch.where(high > -low, high, low)
    # a quotient first: -2^(b-1) / extreme overflows where the whole block is tiny
    integers = (values / torch.where(extreme == 0, 1, extreme) * -(2 ** (bits - 1))).round()
    return integers.clamp(max=2 ** (bits - 1) - 1) if clamp else integers


def least_squares(values: Tensor, integers: Tensor) -> Tensor:
    """Return the shift a that makes sum (v - a q)^2 least in each block: sum v q / sum q^2, or 0.

    Shapes: (K, blocks, block, *taps) twice -> (K, blocks, *taps).
    """
    squares = integers.square().sum(2)
    return (values * integers).sum(2) / squares.clamp(min=1)


def least_divergence(values: Tensor, integers: Tensor, start: Tensor, there: Tensor) -> Tensor:
    """Return the shift a that makes KL(softmax(v) || softmax(a q)) least in each block.

    It is convex in a: its slope is E[q under softmax(a q)] - E[q under softmax(v)], its curvature the
    variance of q. So Newton's method finds the minimum, where the official code takes 1000 small steps of
    RMSprop from 0.1. A block whose integers are all alike leaves a open; it keeps `start`.

    Args:
        values: (K, blocks, block, *taps).
        integers: likewise.
        start: shifts to start from, (K, blocks, *taps).
        there: which of the values exist; the others fill up the last block.
    """
    q, shift = integers.double(), start.double()
    wanted = (values.double().masked_fill(~there, -torch.inf).softmax(2) * q).sum(2)
    reach = (q.amax(2) - q.amin(2)).clamp(min=1)
    for _ in range(NEWTON_STEPS):
        p = (q * shift.unsqueeze(2)).masked_fill(~there, -torch.inf).softmax(2)
        mean = (p * q).sum(2)
        curvature = (p * (q - mean.unsqueeze(2)).square()).sum(2)
        step = torch.where(curvature > 0, (mean - wanted) / curvature.clamp(min=1e-300), 0)
        shift = shift - torch.minimum(
            torch.maximum(step, -1 / reach), 1 / reach
        )  # no logit moves by more than 1
    return shift.to(start.dtype)


def block_floating_point(x: Tensor, block: int, mantissa: int, exponent: int) -> Tensor:
    """Return activations (N, C, *size) in block floating point: at each pixel, `block` channels share E.

    E = floor(log2 of the largest |x|, within -2^(exponent-1) ... 2^(exponent-1) - 1); values are rounded to
    multiples of 2^(E - mantissa + 2) and do not saturate. Source: the official code's Activation.py.
    """
    filled = _filled(x.detach(), block).unflatten(1, (-1, block))
    bound = 2 ** (exponent - 1)
    largest = filled.float().abs().amax(2).clamp(2.0**-bound, 2.0 ** (bound - 1))
    power = _power_by_search(largest, exponent) if torch.onnx.is_in_onnx_export() else _power(largest)
    step = (power * 2.0 ** (2 - mantissa)).unsqueeze(2).expand_as(filled).flatten(1, 2)[:, : x.shape[1]]
    limits = torch.finfo(x.dtype)
    step = step.to(x.dtype).clamp(limits.tiny * limits.eps)  # all numbers are multiples of the smallest
    return straight_through(x, (x.detach() / step).round() * step)


def _power(x: Tensor) -> Tensor:
    """Return the largest power of 2 that is at most x > 0, exactly."""
    return x / (2 * torch.frexp(x).mantissa)  # a mantissa is within 0.5 ... 1


def _power_by_search(x: Tensor, exponent: int) -> Tensor:
    """Return the same for x within 2^-(2^(exponent-1)) ... 2^(2^(exponent-1) - 1), by comparisons alone.

    ONNX has no `frexp`, and a logarithm that may be rounded up is no way to find E.
    """
    power = torch.full_like(x, 2.0 ** -(2 ** (exponent - 1)))
    for step in (2**bit for bit in reversed(range(exponent))):
        greater = power * 2.0 ** (step // 2) * 2.0 ** (step - step // 2)  # 2^128 alone is no float32
        power = torch.where(x >= greater, greater, power)
    return power


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return gradient, None


def straight_through(x: Tensor, value: Tensor) -> Tensor:
    """Return `value`, with the gradient going to `x` as if it were `x`."""
    return _StraightThrough.apply(x, value) if torch.is_grad_enabled() and x.requires_grad else value  # type: ignore[return]


@torch.library.custom_op(
    "regroup::block_floating_point",
    mutates_args=(),
    schema="(Tensor x, int block, int mantissa, int exponent, int groups) -> Tensor",
)
def _block_floating_point(x: Tensor, block: int, mantissa: int, exponent: int, groups: int) -> Tensor:
    return ShiftedForm(block=block, mantissa=mantissa, exponent=exponent).activations(x, groups)


@_block_floating_point.register_fake
def _(x: Tensor, *form: int) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op(
    "regroup::shifted_conv",
    mutates_args=(),
    schema="(Tensor x, Tensor integers, Tensor shifts, Tensor? bias, int[] form, int[] stride, "
    "int[] padding, int[] dilation, int groups) -> Tensor",
)
def shifted_conv(
    x: Tensor,
    integers: Tensor,
    shifts: Tensor,
    bias: Tensor | None,
    form: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """Convolve as a `ShiftedConv` whose activations are in block floating point does, as one operator.

    Args:
        x: (N, C, *size).
        integers: (K, C / groups, *taps).
        shifts: (K, blocks of a group, *taps).
        bias: (K,).
        form: `ShiftedForm.numbers`.
        stride: of each dimension.
        padding: of each dimension.
        dilation: of each dimension.
        groups: of the convolution.

    Returns:
        (N, K, *out).
    """
    made = ShiftedForm.of(form)
    weight = made.dequantise(integers, shifts)
    x, convolution = made.activations(x, groups), CONVOLVE[x.dim() - 3]
    return convolution(x, weight, bias, stride, padding, dilation, groups)  # type: ignore[bad-argument-type]


@shifted_conv.register_fake
def _(x: Tensor, integers: Tensor, shifts: Tensor, bias: Tensor | None, *rest: int | Sequence[int]) -> Tensor:
    *_, stride, padding, dilation, groups = rest
    weight, convolution = shifts.new_empty(integers.shape), CONVOLVE[x.dim() - 3]
    return convolution(x, weight, bias, stride, padding, dilation, groups)  # type: ignore[bad-argument-type]


class ShiftedConv(nn.Module):
    """A convolution whose kernel is integers times shifts: (N, C, *size) -> (N, K, *out).

    The integers are frozen parameters; shifts, bias and the channel shift can be trained, which is the
    adaptation of the paper's first version. The kernel is computed from them in every pass; the engine, which
    computes constants once, runs it like any other convolution.

    Args:
        spec: of the convolution.
        form: how its kernel is kept.
        groups: of the convolution; the depth of a block is that of a group.
    """

    def __init__(self, spec: ConvSpec, form: ShiftedForm, groups: int = 1) -> None:
        super().__init__()
        self.spec, self.form, self.groups = spec, form, groups
        layer = convolution_of(conv(spec, groups))
        integers, shifts = form.quantise(layer.weight.detach())
        self.integers = nn.Parameter(integers, requires_grad=False)
        self.shifts = nn.Parameter(shifts)
        self.bias = layer.bias
        self.channel_scale = nn.Parameter(torch.ones(spec.out_channels)) if form.channels else None
        self.channel_offset = nn.Parameter(torch.zeros(spec.out_channels)) if form.channels else None

    @classmethod
    def of(
        cls, spec: ConvSpec, form: ShiftedForm, weight: Tensor, bias: Tensor | None = None, groups: int = 1
    ) -> ShiftedConv:
        """Return the convolution nearest to one with this kernel (K, C / groups, *taps) and bias (K,)."""
        result = cls(spec, form, groups).to(weight)
        integers, shifts = form.quantise(weight.detach())
        with torch.no_grad():
            result.integers.copy_(integers)
            result.shifts.copy_(shifts)
            if bias is not None and result.bias is not None:
                result.bias.copy_(bias)
        return result

    def kernel(self) -> Tensor:
        """Return the kernel that integers and shifts stand for."""
        return self.form.dequantise(self.integers, self.shifts)

    def forward(self, x: Tensor) -> Tensor:
        own, rest = split_padding(self.spec)
        if is_one_operator() and self.form.mantissa is not None and not any(map(any, rest)):
            y = self._as_one_operator(x, own)
        else:
            x = self.form.activations(x, self.groups)
            y = convolve(x, self.kernel(), self.bias, self.spec, self.groups)
        return channel_shift(y, self.channel_scale, self.channel_offset)

    def _as_one_operator(self, x: Tensor, padding: Extent) -> Tensor:
        spec, form = self.spec, self.form
        window = spec.stride, padding, spec.dilation, self.groups
        return torch.ops.regroup.shifted_conv(x, self.integers, self.shifts, self.bias, form.numbers, *window)

    def extra_repr(self) -> str:
        groups = f", groups={self.groups}" if self.groups > 1 else ""
        return f"{self.spec}{groups}, bits={self.form.bits}, block={self.form.block}"


def channel_shift(y: Tensor, scale: Tensor | None, offset: Tensor | None) -> Tensor:
    """Scale and offset each channel, if there are numbers to do it by."""
    if scale is None or offset is None:
        return y
    dims = y.dim() - 2
    return y * per_channel(scale, dims) + per_channel(offset, dims)
