"""Dynamic: every image decides which inputs each group of outputs reads.

Su et al., Dynamic Group Convolution for Accelerating Convolutional Neural Networks (arXiv:2007.04242),
section 3; official code hellozhuo/dgc.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

from regroup.errors import PlanError, StrategyError
from regroup.ops import order, reach
from regroup.ops.dynamic import (
    DynamicGroupConv,
    Saliency,
    gathers,
    hidden_units,
    packed,
    ranked,
    scales_weights,
)
from regroup.ops.layers import (
    CONVOLVE,
    NORMS,
    conv,
    convolution_of,
    explicit,
    give,
    norm_act,
    pad_and_conv,
    per_channel,
)
from regroup.ops.order import ChannelShuffle
from regroup.spec import DIMS, ConvSpec, Cost, Extent, divisors
from regroup.strategies import Strategy, strategy
from regroup.strategies.learning import Learned
from regroup.strategies.starting import DenseWeights


def dropped_at(progress: float, channels: int, gate: float) -> int:
    """Return how many of its `channels` each head drops: none at first, all it ever will after 3/4.

    >>> [dropped_at(p, channels=16, gate=0.25) for p in (0, 1 / 12, 0.25, 0.5, 0.75, 1)]
    [0, 0, 3, 8, 12, 12]
    """
    share = 1 if progress >= 0.75 else max(0.0, 1.5 * (progress - 1 / 12))
    return round(channels * (1 - gate) * share)


class DynamicConv(Learned):
    """[Batch norm, activation,] and a convolution whose heads learn to say which inputs an image needs.

    In training the inputs that are dropped are multiplied by zero, which works on every device and for all
    images of a batch at once; the form that does not compute them is `deploy()`.

    Args:
        spec: of the layer as seen from outside.
        heads: number of heads; divides out_channels.
        gate: share of the inputs that each head keeps in the end.
        squeeze: see `Saliency`.
        lasso: weight of the mean saliencies in the loss.
        norm: batch norm before all else.
        act: activation after it, a name of `ACTIVATIONS`.

    Raises:
        StrategyError: heads do not divide the outputs, or no input would be kept.
    """

    _lasso: Tensor | None = None

    def __init__(
        self,
        spec: ConvSpec,
        heads: int = 4,
        gate: float = 0.25,
        *,
        squeeze: int = 16,
        lasso: float = 1e-5,
        norm: bool = False,
        act: str = "none",
    ) -> None:
        super().__init__()
        check_heads(spec, heads, gate)
        self.spec, self.heads, self.gate, self.lasso = spec, heads, gate, lasso
        self.squeeze, self.activation = squeeze, act
        self.norm = NORMS[spec.dims - 1](spec.in_channels) if norm else nn.Identity()
        self.act = norm_act(spec.in_channels, False, act)
        self.saliency = Saliency(spec.in_channels, heads, squeeze, spec.dims)
        whole = spec.with_channels(heads * spec.in_channels, spec.out_channels)
        self.pad, self.conv = pad_and_conv(whole, heads)
        self.shuffle = ChannelShuffle(heads)
        self.inactive: Tensor
        """How many inputs each head drops now: int64 (1,)."""
        self.register_buffer("inactive", torch.zeros(1, dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.norm(x))
        saliency = self.saliency(x)
        if self.training:
            self._lasso = saliency.mean((0, 2)).sum()
        x = self.pad(x)
        scale = saliency * self.keeps(saliency)
        size, dims = tuple(x.shape[2:]), self.spec.dims
        if x.device.type == "cpu" and scales_weights(self.spec, self.heads, size):
            return self.shuffle(self._with_scaled_weights(x, scale))
        copies = x[:, None] * scale.view(*scale.shape, *(1,) * dims)
        return self.shuffle(self.conv(copies.flatten(1, 2)))

    def _with_scaled_weights(self, x: Tensor, scale: Tensor) -> Tensor:
        """Convolve each image with weights of its own: on large maps that is less to multiply than copies."""
        conv, images, taps = self.conv, len(x), (1,) * self.spec.dims
        weight = conv.weight.unflatten(0, (self.heads, -1)) * scale.view(images, self.heads, 1, -1, *taps)
        joined, kernels = x.flatten(0, 1)[None], weight.flatten(0, 2)
        function = CONVOLVE[self.spec.dims - 1]
        y = function(joined, kernels, None, conv.stride, conv.padding, conv.dilation, images)  # type: ignore[bad-argument-type]
        y = y.view(images, -1, *y.shape[2:])
        return y if conv.bias is None else y + per_channel(conv.bias, self.spec.dims)

    def keeps(self, saliency: Tensor) -> Tensor:
        """Return which inputs are kept: bool (N, heads, C), all but the `inactive` smallest of each row.

        Of equal saliencies the last go first, so that every image keeps as many. The official code drops all
        that are not above a threshold, and so more than it should where there are ties, such as at 0.
        """
        channels = saliency.shape[2]
        first = torch.arange(channels, device=saliency.device) < channels - self.inactive
        return torch.zeros_like(saliency, dtype=torch.bool).scatter(
            2, ranked(saliency), first.expand(saliency.shape)
        )

    def set_progress(self, progress: float) -> None:
        """Drop as many inputs as the schedule says: from 1/12 of training on, ever more until 3/4."""
        self.inactive.clamp_(min=dropped_at(progress, self.spec.in_channels, self.gate))

    def penalty(self) -> Tensor:
        """Return lasso * sum over heads of the mean saliency in the last forward pass in training."""
        if self._lasso is None or not self.training:
            return self.conv.weight.new_zeros(())
        return self.lasso * self._lasso

    def __getstate__(self) -> dict[str, Any]:
        # what the last forward pass left belongs to its graph: it cannot be copied
        return {key: value for key, value in self.__dict__.items() if key != "_lasso"}

    @property
    def kept(self) -> int:
        """Inputs that each head keeps now; waits for the device."""
        return self.spec.in_channels - int(self.inactive)

    def deploy(self) -> nn.Module:
        """Return the layer that gathers what is kept, image by image, and computes no more."""
        normed = isinstance(self.norm, NORMS)
        plain = DynamicGroupConv(self.spec, self.heads, self.kept, self.squeeze, normed, self.activation)
        plain.norm, plain.saliency = copy.deepcopy(self.norm), copy.deepcopy(self.saliency)
        plain.weight = nn.Parameter(packed(self.conv.weight.detach(), self.heads))
        if self.conv.bias is not None:
            plain.bias = nn.Parameter(self.conv.bias.detach().clone())
        return plain.eval()

    def grouping(self) -> dict:
        """Return {"kind", "kept", "groups": [{"inputs": [...], "outputs": [...]}, ...]}.

        Any input may feed any group: each image chooses `kept` of them.
        """
        outputs = range(self.spec.out_channels)
        inputs = list(range(self.spec.in_channels))
        groups = [{"inputs": inputs, "outputs": list(outputs[h :: self.heads])} for h in range(self.heads)]
        return {"kind": "dynamic", "kept": self.kept, "groups": groups}

    def load_grouping(self, data: dict) -> None:
        """Keep as many inputs as a grouping that `grouping` gave, from now on.

        Raises:
            PlanError: it is not of such a layer.
        """
        kept = data.get("kept")
        least = self.spec.in_channels - dropped_at(1, self.spec.in_channels, self.gate)
        if {**data, "kept": None} != {**self.grouping(), "kept": None}:
            raise PlanError("grouping", f"is not of a dynamic layer {self.spec} with {self.heads} heads")
        if not isinstance(kept, int) or not least <= kept <= self.spec.in_channels:
            allowed = f"within {least} ... {self.spec.in_channels}, as gate={self.gate} says"
            raise PlanError("grouping", f"keeps {kept!r} inputs: must be {allowed}")
        self.inactive.fill_(self.spec.in_channels - kept)

    def extra_repr(self) -> str:
        return f"heads={self.heads}, gate={self.gate}"


def check_heads(spec: ConvSpec, heads: int, gate: float) -> None:
    """Refuse heads that do not divide the outputs, and a gate that keeps no input.

    Raises:
        StrategyError: so it is.
    """
    if spec.out_channels % heads:
        remedy = f"use one of {', '.join(map(str, divisors(spec.out_channels)))}"
        raise StrategyError("heads", heads, f"a divisor of out_channels={spec.out_channels}", remedy)
    if dropped_at(1, spec.in_channels, gate) == spec.in_channels:
        raise StrategyError("gate", gate, f"enough to keep one of in_channels={spec.in_channels}")


@strategy("dynamic", paper="arXiv:2007.04242")
class Dynamic(Strategy):
    """Heads of outputs, each reading the inputs that matter most for the image at hand.

    Output k belongs to head h = k mod H. A small generator gives each head a saliency s_hc >= 0 for each
    input c: s_h = ReLU(V_h ReLU(U_h mean(x)) + b_h). The n smallest are set to zero, and y_k = sum_c W_kc *
    (s_hc x_c). n is 0 until 1/12 of training, then (1 - gate) C 1.5 (progress - 1/12), and (1 - gate) C from
    3/4 on. The mean saliencies are added to the loss, times `lasso`.

    Deployed, only the kept inputs are gathered and multiplied for each image, at `gate` of the dense MACs and
    2 H C^2 / 16 for the generator. On maps so small that gathering weights takes longer than multiplying by
    zeros, the layer multiplies, and so says its cost.

    The paper has batch norm and ReLU before the layer: `DynamicConv(norm=True, act="relu")`; as a strategy it
    is the convolution alone. Where saliencies tie it drops exactly n; the official code drops more.

    Args:
        heads: number of heads H; must divide the output channels.
        gate: share of the inputs that a head keeps; 1 - the paper's pruning rate.
        squeeze: channels for each hidden unit of the generator; half as many below 80 channels.
        lasso: weight of the saliencies in the loss.
    """

    dims = DIMS

    heads: int = 4
    gate: float = 0.5
    squeeze: int = 16
    lasso: float = 1e-5

    def __post_init__(self) -> None:
        if self.heads < 1:
            raise StrategyError("heads", self.heads, "an int of at least 1")
        if self.squeeze < 2:
            raise StrategyError("squeeze", self.squeeze, "an int of at least 2")
        if not 0 < self.gate <= 1:
            raise StrategyError("gate", self.gate, "a share above 0 and up to 1")
        if not 0 <= self.lasso < math.inf:
            raise StrategyError("lasso", self.lasso, "a number of at least 0")

    @classmethod
    def variants(cls) -> tuple[Strategy, ...]:
        """Return half of the inputs, and a quarter."""
        return cls(), cls(gate=0.25)

    def check(self, spec: ConvSpec) -> None:
        """Refuse outputs that the heads do not divide, a gate that keeps no input, and what is causal."""
        check_heads(spec, self.heads, self.gate)
        if any(spec.looks_back):
            allowed = "the same before and after: what is kept depends on means over the whole input"
            raise StrategyError("padding", spec.padding, allowed, "leave causal layers as they are")

    def build(self, spec: ConvSpec) -> nn.Module:
        """Return the learning layer; `regroup.deploy` makes it plain."""
        self.check(spec)
        return DynamicConv(spec, self.heads, self.gate, squeeze=self.squeeze, lasso=self.lasso)

    def take(self, module: nn.Module, dense: DenseWeights) -> str:
        """Take them as they are, with saliencies that are 1 for every image until they learn."""
        assert isinstance(module, DynamicConv)
        nn.init.zeros_(module.saliency.expand.weight)
        rows = order.inverse(order.shuffle(dense.spec.out_channels, self.heads))
        give(module.conv, dense.kernel[rows], None if dense.bias is None else dense.bias[rows])
        return ""

    def cost(self, spec: ConvSpec, size: Extent) -> Cost:
        """Return all parameters, and the MACs as deployed: of the kept inputs and of the generator."""
        self.check(spec)
        channels = spec.in_channels
        kept = channels - dropped_at(1, channels, self.gate)
        multiplied = kept if gathers(spec, self.heads, kept, size) else channels
        generator = 2 * channels * self.heads * hidden_units(channels, self.squeeze)
        return Cost(
            spec.cost(size).parameters + generator + self.heads * channels,
            spec.with_channels(multiplied, spec.out_channels).cost(size).macs + generator,
        )

    def reach(self, spec: ConvSpec) -> Tensor:
        """Return all ones: some image may use any input."""
        self.check(spec)
        return reach.full(spec.out_channels, spec.in_channels)

    def reference(self, module: nn.Module, x: Tensor) -> Tensor:
        """Compute one dense convolution for each image, with its saliencies in the kernel."""
        assert isinstance(module, DynamicConv)
        dense = conv(module.spec).to(x)
        layer = convolution_of(dense)
        layer.bias = module.conv.bias
        dealt = order.shuffle(module.spec.out_channels, module.heads)
        results = []
        for image, scores in zip(x, module.saliency(x).detach(), strict=True):
            for row in scores:
                smallest = sorted(range(len(row)), key=lambda c, row=row: (float(row[c]), -c))
                row[smallest[: int(module.inactive)]] = 0
            heads = module.conv.weight.detach().unflatten(0, (module.heads, -1))
            layer.weight = nn.Parameter(
                (heads * scores.view(len(scores), 1, -1, *(1,) * module.spec.dims)).flatten(0, 1)
            )
            results.append(explicit(dense, image[None], outputs=dealt))
        return torch.cat(results)
