"""Shifted: DSConv, a kernel of b-bit integers with a scale for each block of its depth.

do Nascimento, Fawcett, Prisacariu, DSConv: Efficient Convolution Operator (arXiv:1901.01928), section 3;
official code ActiveVisionLab/DSConv.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from regroup.errors import PlanError, StrategyError
from regroup.ops import reach
from regroup.ops.layers import conv, convolution_of, convolve, convolve_padded, per_channel
from regroup.ops.shifted import (
    ShiftedConv,
    ShiftedForm,
    channel_shift,
    straight_through,
)
from regroup.spec import DIMS, ConvSpec, Cost, Extent
from regroup.strategies import Strategy, strategy
from regroup.strategies.learning import Learned
from regroup.strategies.starting import DenseWeights


class ShiftingConv(Learned):
    """A convolution that trains weights, and from `start` on computes with what integers make of them.

    Gradients pass the rounding as if it were not there, so that the weights move until an integer flips
    (straight-through); the shifts are fitted to the weights anew in every pass. Nothing but the weights
    decides, so that all processes of a distributed run compute alike.

    Args:
        spec: of the convolution.
        form: of the kernel as deployed.
        start: progress at which it begins to compute with integers.
        groups: of the convolution.
    """

    def __init__(self, spec: ConvSpec, form: ShiftedForm, start: float = 0.5, groups: int = 1) -> None:
        super().__init__()
        self.spec, self.form, self.start, self.groups = spec, form, start, groups
        layer = convolution_of(conv(spec, groups))
        self.weight, self.bias = layer.weight, layer.bias
        self.channel_scale = nn.Parameter(torch.ones(spec.out_channels)) if form.channels else None
        self.channel_offset = nn.Parameter(torch.zeros(spec.out_channels)) if form.channels else None
        self.shifting: Tensor
        """Whether it computes with integers: bool ()."""
        self.register_buffer("shifting", torch.zeros((), dtype=torch.bool))

    def forward(self, x: Tensor) -> Tensor:
        if self.form.mantissa is not None:
            # where, and no if: a look at the buffer would wait for the device
            rounded = torch.where(self.shifting, self.form.activations(x.detach(), self.groups), x.detach())
            x = straight_through(x, rounded)
        y = convolve(x, self.kernel(), self.bias, self.spec, self.groups)
        return channel_shift(y, self.channel_scale, self.channel_offset)

    def kernel(self) -> Tensor:
        """Return the kernel of the next pass."""
        weight = self.weight.detach()
        integral = self.form.dequantise(*self.form.quantise(weight))
        return straight_through(self.weight, torch.where(self.shifting, integral, weight))

    def set_progress(self, progress: float) -> None:
        """Begin to compute with integers, if it is time."""
        self.shifting |= progress >= self.start

    def deploy(self) -> nn.Module:
        """Return the ShiftedConv; before `start`, the plain convolution."""
        if not self.shifting:
            return self._dense()
        plain = ShiftedConv.of(self.spec, self.form, self.weight, self.bias, self.groups)
        plain.channel_scale, plain.channel_offset = self.channel_scale, self.channel_offset
        return plain.eval()

    def _dense(self) -> nn.Module:
        weight, bias = self.weight.detach(), self.bias
        if self.channel_scale is not None and self.channel_offset is not None:
            weight = weight * per_channel(self.channel_scale.detach(), weight.dim() - 1)
            bias = self.channel_offset + (0 if bias is None else bias * self.channel_scale)
        plain = conv(replace(self.spec, bias=bias is not None), self.groups)
        layer = convolution_of(plain)
        layer.weight = nn.Parameter(weight.clone())
        layer.bias = None if bias is None else nn.Parameter(bias.detach().clone())
        return plain.eval()

    def grouping(self) -> dict:
        """Return {"kind": "shifted", "bits": b, "block": B, "shifts": ..., "integers": true}.

        `shifts` is their shape (outputs, blocks, *kernel size); `integers` is false before `start`.
        """
        outputs, depth, *sides = self.weight.shape
        return {
            "kind": "shifted",
            "bits": self.form.bits,
            "block": self.form.block,
            "shifts": [outputs, self.form.blocks(depth), *sides],
            "integers": bool(self.shifting),
        }

    def load_grouping(self, data: dict) -> None:
        """Take a grouping that `grouping` gave: compute with integers from now on, or not yet.

        Raises:
            PlanError: it is of another layer, or of other bits or blocks.
        """
        own = self.grouping()
        integers = data.get("integers") if isinstance(data, dict) else None
        if not isinstance(integers, bool) or {**data, "integers": own["integers"]} != own:
            raise PlanError("grouping", f"is not of a shifted layer of {self.extra_repr()}")
        self.shifting.fill_(integers)

    def extra_repr(self) -> str:
        return f"{self.spec}, bits={self.form.bits}, block={self.form.block}"


@strategy("shifted", paper="arXiv:1901.01928")
class Shifted(Strategy):
    """Integers of b = `bits` bits, and for each tap of an output a float32 shift for B = `block` inputs each.

    W_kcrs ~ shift_k,floor(c/B),rs q_kcrs. In a block, q = round(-2^(b-1) w / e) with e its weight of largest
    magnitude, and the shift is fitted by least squares: sum w q / sum q^2. A weight takes b + 32/B bits.
    Activations may be put into block floating point: B channels of a pixel share an exponent.

    The paper converts a network that is trained (`regroup.conversion.quantise` does that, without data) and
    then adapts it. In one run of training, the same happens at progress `start`: before, the layer is the
    dense one; after, it computes with integers and the weights adapt to that. MACs are those of dense, on
    narrower numbers; PyTorch does them in float.

    Args:
        bits: b of the integers, 2 ... 8.
        block: inputs that share a shift.
        start: progress of training at which it begins to compute with integers.
        clamp: keep the integers within b bits; false: as in the official code, where 2^(b-1) may occur.
        fit: shifts by least squares (squares) or by the least Kullback-Leibler divergence (divergence).
        mantissa: bits of an activation's mantissa with sign and leading one; none: activations stay float.
        exponent: bits of the exponent that a block of activations shares.
        channels: a trained scale and offset for each output channel besides (channel distribution shift).
    """

    dims = DIMS

    bits: int = 4
    block: int = 64
    start: float = 0.5
    clamp: bool = True
    fit: str = "squares"
    mantissa: int | None = None
    exponent: int = 5
    channels: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.start <= 1:
            raise StrategyError("start", self.start, "within 0 ... 1")
        _ = self.form  # which checks the other parameters

    @property
    def form(self) -> ShiftedForm:
        """The form of a kernel as deployed."""
        return ShiftedForm(
            self.bits, self.block, self.clamp, self.fit, self.mantissa, self.exponent, self.channels
        )

    @classmethod
    def variants(cls) -> tuple[Strategy, ...]:
        """Return 4 bits, and 3 bits with activations in block floating point."""
        return cls(), cls(bits=3, block=32, mantissa=6)

    def build(self, spec: ConvSpec) -> nn.Module:
        """Return the learning layer; `regroup.deploy` makes it integers and shifts."""
        return ShiftingConv(spec, self.form, self.start)

    def take(self, module: nn.Module, dense: DenseWeights) -> str:
        """Take them as they are; integers come at progress `start`."""
        assert isinstance(module, ShiftingConv)
        module.weight.copy_(dense.kernel)
        if module.bias is not None and dense.bias is not None:
            module.bias.copy_(dense.bias)
        return ""

    def cost(self, spec: ConvSpec, size: Extent) -> Cost:
        """Return the cost as deployed: that of dense, and a parameter for each shift."""
        shifts = spec.out_channels * self.form.blocks(spec.in_channels) * spec.taps
        return spec.cost(size) + Cost(shifts + 2 * spec.out_channels * self.channels)

    def reach(self, spec: ConvSpec) -> Tensor:
        """Return all ones: only a weight that is rounded to 0 connects nothing."""
        return reach.full(spec.out_channels, spec.in_channels)

    def reference(self, module: nn.Module, x: Tensor) -> Tensor:
        """Compute a dense convolution with the kernel written out block by block."""
        assert isinstance(module, ShiftingConv)
        weight, form = module.weight, module.form
        if module.shifting:
            weight = torch.cat([_defined(part, form) for part in weight.split(form.block, 1)], 1)
        y = convolve_padded(x, weight, module.bias, module.spec)
        if module.channel_scale is None or module.channel_offset is None:
            return y
        dims = module.spec.dims
        return y * per_channel(module.channel_scale, dims) + per_channel(module.channel_offset, dims)


def _defined(part: Tensor, form: ShiftedForm) -> Tensor:
    """Return what one block (K, B, *taps) becomes, by least squares."""
    extreme = part.gather(1, part.abs().argmax(1, keepdim=True))
    q = (-(2 ** (form.bits - 1)) * part / extreme).round().clamp(max=2 ** (form.bits - 1) - form.clamp)
    return q * ((part * q).sum(1, keepdim=True) / (q * q).sum(1, keepdim=True))
