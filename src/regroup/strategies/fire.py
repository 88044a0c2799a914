"""Fire: squeeze to few channels, then expand with small and large kernels beside each other.

Iandola et al., SqueezeNet (arXiv:1602.07360), section 3.2 and figure 1.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from regroup.errors import SpecError, StrategyError
from regroup.ops import reach
from regroup.ops.layers import Concat, conv, convolution_of, explicit, give
from regroup.ops.nearest import factors, recentred
from regroup.spec import DIMS, ConvSpec, Cost, Extent
from regroup.strategies import Strategy, strategy
from regroup.strategies.starting import DenseWeights


class FireModule(nn.Sequential):
    """SqueezeNet's module without the ReLU after it: (N, C, *size) -> (N, K, *out).

    1x1 to `squeeze` channels with bias, ReLU, concat[1x1, k x k].

    Args:
        spec: what the k x k part does, were it alone.
        squeeze: channels inside.
        point: outputs made by the 1x1 part; they come first.

    Raises:
        SpecError: the kernel has no centre where a 1x1 could stand.
    """

    def __init__(self, spec: ConvSpec, squeeze: int, point: int) -> None:
        first, small, large = fire_specs(spec, squeeze, point)
        super().__init__(
            OrderedDict(squeeze=conv(first), act=nn.ReLU(), expand=Concat([conv(small), conv(large)]))
        )


def fire_specs(spec: ConvSpec, squeeze: int, point: int) -> tuple[ConvSpec, ConvSpec, ConvSpec]:
    """Return the specs of the squeezing, the 1x1 and the k x k convolution."""
    small = spec.with_kernel(1).with_channels(squeeze, point)
    large = spec.with_channels(squeeze, spec.out_channels - point)
    return spec.pointwise(spec.in_channels, squeeze, bias=True), small, large


def squeezed(squeeze: nn.Module, targets: Sequence[Tensor]) -> list[Tensor] | None:
    """Give a 1x1 convolution before a ReLU weights by which kernels after it can be linear; return these.

    Half of the squeezed channels are u = V x, the others -u: relu(u) - relu(-u) = u, whatever x is. So s
    channels hold the nearest kernels of rank s / 2 that `targets` have together; an odd one stays as it is.

    Args:
        squeeze: gets its weights.
        targets: the dense kernels of the branches, (K_i, C, *taps_i).

    Returns:
        The branches' kernels (K_i, s, *taps_i); None if there is one squeezed channel alone.
    """
    weight = convolution_of(squeeze).weight.detach().cpu().double().flatten(1)
    pairs = len(weight) // 2
    if not pairs:
        return None
    rows = [target.movedim(1, -1).flatten(0, -2) for target in targets]
    left, right = factors(torch.cat(rows), pairs)
    found = len(right)
    weight[:found], weight[pairs : pairs + found] = right, -right
    give(squeeze, weight)
    kernels = []
    for target, part in zip(targets, left.split([len(r) for r in rows]), strict=True):
        kernel = target.new_zeros(len(target), len(weight), *target.shape[2:])
        shaped = part.unflatten(0, (len(target), *target.shape[2:])).movedim(-1, 1)
        kernel[:, :found], kernel[:, pairs : pairs + found] = shaped, -shaped
        kernels.append(kernel)
    return kernels


@strategy("fire", paper="arXiv:1602.07360")
class Fire(Strategy):
    """Squeeze with 1x1, ReLU, expand with 1x1 and k x k side by side.

    y = concat(P a(Q x), W * a(Q x)), Q: C -> s channels, 1x1, with bias; a ReLU; P: s -> e1, 1x1; W: s -> e3,
    the spec's kernel; e1 + e3 = K. Cost C s + s e1 + s e3 S against C K S. The published module has a ReLU
    after it, which is the host network's business here.

    Args:
        squeeze: s as a share of K; 1/8 in SqueezeNet.
        large: e3 as a share of K; 1/2 in SqueezeNet.
    """

    dims = DIMS

    squeeze: float = 0.125
    large: float = 0.5

    def __post_init__(self) -> None:
        if not self.squeeze > 0:
            raise StrategyError("squeeze", self.squeeze, "greater than 0")
        if not 0 < self.large < 1:
            raise StrategyError("large", self.large, "between 0 and 1, both excluded")

    @classmethod
    def variants(cls) -> tuple[Strategy, ...]:
        """Return SqueezeNet's proportions, and a wider squeeze."""
        return cls(), cls(squeeze=0.5)

    def check(self, spec: ConvSpec) -> None:
        """Refuse a single output, and a kernel without a centre for the 1x1."""
        if spec.out_channels < 2:
            raise StrategyError(
                "out_channels", spec.out_channels, "at least 2", "one for the 1x1, one for the large kernel"
            )
        try:
            spec.with_kernel(1)
        except SpecError:
            raise StrategyError(
                "kernel_size", spec.kernel_size, "odd", "a 1x1 has to stand in its centre"
            ) from None

    def widths(self, spec: ConvSpec) -> tuple[int, int]:
        """Return the channels after squeezing, and the outputs made by the 1x1 part."""
        k = spec.out_channels
        return max(1, round(k * self.squeeze)), min(max(1, k - round(k * self.large)), k - 1)

    def build(self, spec: ConvSpec) -> nn.Module:
        """Return a FireModule."""
        self.check(spec)
        return FireModule(spec, *self.widths(spec))

    def take(self, module: nn.Module, dense: DenseWeights) -> str:
        """Take the nearest kernels of rank s / 2; the 1x1 part has their central taps. See `squeezed`."""
        squeeze, _, (small, large) = module  # type: ignore[misc]
        _, point = self.widths(dense.spec)
        central = recentred(dense.kernel[:point], dense.spec, 1)
        kernels = squeezed(squeeze, [central, dense.kernel[point:]])
        if kernels is None:
            return "one channel before a ReLU cannot pass on what it gets"
        bias = (None, None) if dense.bias is None else (dense.bias[:point], dense.bias[point:])
        give(small, kernels[0], bias[0])
        give(large, kernels[1], bias[1])
        return ""

    def cost(self, spec: ConvSpec, size: Extent) -> Cost:
        """Return C s + s e1 + s e3 S parameters and the biases, each weight used once a pixel."""
        self.check(spec)
        first, small, large = fire_specs(spec, *self.widths(spec))
        return first.cost(size) + small.cost(size) + large.cost(size)

    def reach(self, spec: ConvSpec) -> Tensor:
        """Return all ones: the squeeze mixes everything."""
        return reach.full(spec.out_channels, spec.in_channels)

    def reference(self, module: nn.Module, x: Tensor) -> Tensor:
        """Compute the three dense convolutions."""
        squeeze, act, expand = module  # type: ignore[not-iterable]
        squeezed = act(explicit(squeeze, x))
        return torch.cat([explicit(layer, squeezed) for layer in expand], 1)
