"""Learned kernel sizes: which channels need how large a depthwise kernel comes from training, under a budget.

The form is that of Tan, Le, MixConv (arXiv:1907.09595): parts of the channels with kernels of 3, 5, 7, ...
The kernel that all sizes share is that of Stamoulis et al., Single-Path NAS (arXiv:1904.02877), section 3.1.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from regroup.errors import PlanError, StrategyError
from regroup.ops import reach
from regroup.ops.layers import CONVOLUTIONS, conv, convolution_of, convolve, explicit, give
from regroup.ops.nearest import recentred
from regroup.ops.order import ChannelOrder, inverse
from regroup.spec import DIMS, ConvSpec, Cost, Extent
from regroup.strategies import Strategy, strategy
from regroup.strategies.learning import Learned, learned_modules
from regroup.strategies.mixed import MixedConv, filtered, mixed_parts, split_channels
from regroup.strategies.starting import DenseWeights


def choose_sizes(gains: np.ndarray, costs: np.ndarray, budget: float) -> np.ndarray:
    """Return which size each channel takes, so that gains are large and costs sum up to `budget` at most.

    Each channel takes the size that is best at one price of cost for all, the lowest that keeps the budget;
    then those that would take another at a slightly lower price do so, as long as the budget lasts.

    >>> gains, costs = np.array([[1, 5], [1, 3], [1, 4]]), np.array([[9, 25]] * 3)
    >>> choose_sizes(gains, costs, budget=60).tolist()
    [1, 0, 1]

    Args:
        gains: of each channel at each size, rising: (channels, sizes).
        costs: likewise.
        budget: at least what all channels cost at the first size.
    """
    rows, costs = np.arange(len(gains)), np.asarray(costs, dtype=np.float64)
    budget *= 1 + 2.0**-40  # a sum of costs that should be the budget exactly may be rounded up

    def best(price: float) -> np.ndarray:
        return (gains - price * costs).argmax(1)  # the first, the cheapest, of equals

    low, high = 0.0, 1.0 + float(np.ptp(gains, 1).max() / np.diff(costs, axis=1).min(initial=np.inf))
    dear, cheap = best(low), best(high)
    for _ in range(60):
        middle = (low + high) / 2
        if costs[rows, best(middle)].sum() <= budget:
            high, cheap = middle, best(middle)
        else:
            low, dear = middle, best(middle)
    if costs[rows, best(0.0)].sum() <= budget:
        return best(0.0)
    left = budget - costs[rows, cheap].sum()
    for c in (dear != cheap).nonzero()[0]:
        more = costs[c, dear[c]] - costs[c, cheap[c]]
        if more <= left:
            cheap[c], left = dear[c], left - more
    return cheap


class MixingConv(Learned):
    """A depthwise convolution that learns the kernel size of each channel, and perhaps a pointwise one.

    All sizes share the taps of the largest kernel: size k is its centre. Each ring of taps that a size adds
    to the one before has a gate, a factor that trains with the weights.

    Args:
        spec: of the layer.
        kernels: sizes to choose from, rising.
        budget: the most MACs of the depthwise part, as a share of those of equal parts of the kernels.
        at: progress at which the sizes are chosen.
        sparsity: weight of sum |gate| * taps of its ring in the loss until then.
        pointwise: end with a 1x1 convolution.
    """

    def __init__(
        self,
        spec: ConvSpec,
        kernels: tuple[int, ...],
        budget: float,
        at: float,
        sparsity: float,
        pointwise: bool,
    ) -> None:
        super().__init__()
        self.spec, self.kernels, self.budget, self.at, self.sparsity = spec, kernels, budget, at, sparsity
        channels = spec.in_channels
        bias = spec.bias and not pointwise
        self.depthwise = replace(spec, out_channels=channels, bias=bias)
        self.wide, self.places = self.depthwise.with_kernel(kernels[-1]), places(spec, kernels)
        layer = convolution_of(conv(self.wide, channels))
        self.weight, self.bias = layer.weight, layer.bias
        self.gates = nn.Parameter(torch.ones(channels, len(kernels)))
        self.pointwise = conv(spec.pointwise(channels, spec.out_channels, spec.bias)) if pointwise else None
        self.size: Tensor
        """The kernel of each channel, a number into `kernels`: int64 (channels,)."""
        self.register_buffer("size", torch.full((channels,), len(kernels) - 1))
        self.chosen: Tensor
        """Whether the sizes are chosen: bool ()."""
        self.register_buffer("chosen", torch.zeros((), dtype=torch.bool))
        self.rings: Tensor
        """Which ring each tap belongs to: float (kernels, *sides), ones and zeros."""
        self.register_buffer("rings", _rings(self.places), persistent=False)

    def kernel(self) -> Tensor:
        """Return the kernel with its gates, closed beyond each channel's size."""
        there = torch.arange(len(self.kernels), device=self.size.device) <= self.size[:, None]
        gates = self.gates * there
        return self.weight * (gates @ self.rings.flatten(1)).view(self.weight.shape)

    def forward(self, x: Tensor) -> Tensor:
        y = convolve(x, self.kernel(), self.bias, self.wide, self.spec.in_channels)
        return y if self.pointwise is None else self.pointwise(y)

    def taps(self) -> np.ndarray:
        """Return the taps of each kernel size."""
        return np.array(self.kernels, dtype=np.float64) ** self.spec.dims

    def gains(self) -> np.ndarray:
        """Return the importance of each size to each channel: sum of |gate| * taps of its rings."""
        gates = self.gates.detach().abs().double().cpu().numpy()
        return (gates * np.diff(self.taps(), prepend=0)).cumsum(1)

    def choose(self, sizes: Tensor) -> None:
        """Give each channel a kernel size, for good; numbers into `kernels`."""
        self.size.copy_(sizes)
        self.chosen.fill_(True)

    def set_progress(self, progress: float) -> None:
        """Choose the sizes, if it is time and they are not chosen yet. Only the gates decide."""
        if progress >= self.at and not self.chosen:
            self.choose(_sizes(self.gains(), self.kernels, self.budget, self.spec.dims))

    def penalty(self) -> Tensor:
        """Return sparsity * sum |gate| * taps of its ring; 0 once the sizes are chosen."""
        taps = self.rings.flatten(1).sum(1).to(self.gates)
        return self.sparsity * (self.gates.abs() * taps).sum() * ~self.chosen

    def deploy(self) -> nn.Module:
        """Return a MixedConv on the channels in order of size, and the pointwise convolution."""
        used = self.size.unique().tolist()
        order = self.size.argsort(stable=True)
        parts = [int((self.size == i).sum()) for i in used]
        kernel = self.kernel().detach()
        mixed = MixedConv(self.depthwise, [self.kernels[i] for i in used], parts).to(kernel)
        for layer, i in zip(mixed, used, strict=True):
            plain, channels = convolution_of(layer), self.size == i
            plain.weight = nn.Parameter(kernel[channels][(..., *self.places[i])].clone())
            if self.bias is not None:
                plain.bias = nn.Parameter(self.bias.detach()[channels])
        sorted_already = torch.equal(order, torch.arange(len(order), device=order.device))
        layers: list[nn.Module] = [mixed] if sorted_already else [ChannelOrder(order), mixed]
        if isinstance(self.pointwise, CONVOLUTIONS):
            self.pointwise.weight = nn.Parameter(self.pointwise.weight.detach()[:, order])
            layers.append(self.pointwise)
        elif not sorted_already:
            layers.append(ChannelOrder(inverse(order.cpu())).to(order.device))
        return nn.Sequential(*layers).eval()

    def grouping(self) -> dict:
        """Return {"kind": "mixed_learned", "kernels": [{"kernel": k, "inputs": [...]}, ...]}.

        The channels of each kernel size; before they are chosen the list is empty.
        """
        kernels = [
            {"kernel": k, "inputs": (self.size == i).nonzero().flatten().tolist()}
            for i, k in enumerate(self.kernels)
        ]
        return {"kind": "mixed_learned", "kernels": kernels if self.chosen else []}

    def load_grouping(self, data: dict) -> None:
        """Take the sizes that `grouping` gave, instead of learning them.

        Raises:
            PlanError: they are of another layer.
        """
        channels = self.spec.in_channels
        try:
            parts, kind = data["kernels"], data["kind"]
            sizes = {c: self.kernels.index(part["kernel"]) for part in parts for c in part["inputs"]}
            count = sum(len(part["inputs"]) for part in parts)
        except (TypeError, KeyError, ValueError) as error:
            reason = f"is not of a mixed_learned layer of kernels {self.kernels}: {error!r}"
            raise PlanError("grouping", reason) from None
        complete = count == len(sizes) and sorted(sizes) == list(range(channels))
        if kind != "mixed_learned" or not (complete or parts == []):
            raise PlanError("grouping", f"is not of a mixed_learned layer of {channels} channels")
        if parts:
            self.choose(torch.tensor([sizes[c] for c in range(channels)]))

    def extra_repr(self) -> str:
        return f"{self.spec}, kernels={self.kernels}, budget={self.budget:g}"


def places(spec: ConvSpec, kernels: Sequence[int]) -> list[tuple[slice, ...]]:
    """Return where each kernel stands in the largest, the last, when all are put in place of the spec's."""
    largest, found = spec.with_kernel(kernels[-1]), []
    for k in kernels:
        axes = zip(largest.before, spec.with_kernel(k).before, spec.dilation, strict=True)
        starts = [(wide - narrow) // d for wide, narrow, d in axes]
        found.append(tuple(slice(start, start + k) for start in starts))
    return found


def _rings(places: Sequence[tuple[slice, ...]]) -> Tensor:
    """Return which taps each size adds to those of the size before: (kernels, *sides)."""
    inside = torch.zeros(len(places), *(side.stop for side in places[-1]))
    for i, place in enumerate(places):
        inside[(i, *place)] = 1
    return torch.diff(inside, dim=0, prepend=torch.zeros_like(inside[:1]))


def _sizes(gains: np.ndarray, kernels: Sequence[int], budget: float, dims: int) -> Tensor:
    costs = np.broadcast_to(np.array(kernels, dtype=np.float64) ** dims, gains.shape)
    return torch.from_numpy(choose_sizes(gains, costs, budget * equal_taps(len(gains), kernels, dims)))


def equal_taps(channels: int, kernels: Sequence[int], dims: int = 2) -> float:
    """Return the taps of all channels in equal parts; where a part would be empty, of the mean kernel."""
    if channels < len(kernels):
        return channels * sum(k**dims for k in kernels) / len(kernels)
    return sum(n * k**dims for n, k in zip(split_channels(channels, len(kernels)), kernels, strict=True))


def share_budget(model: nn.Module, budget: float, cost: Callable[[str, ConvSpec], float]) -> dict[str, dict]:
    """Choose the kernel sizes of all layers of `model` at once, so that layers may take more or less.

    Call it during training, when the gates have learned something; the layers then keep what they are given.
    An importance counts as a share of its layer's.

        share_budget(model, budget=20e6, cost=lambda name, spec: spec.cost(sizes[name]).macs)   # MACs
        share_budget(model, budget=3.0, cost=lambda name, spec: milliseconds[name, spec.kernel_size])

    Args:
        model: has `MixingConv` layers.
        budget: the most that all channels of all layers may cost, in the unit of `cost`.
        cost: returns what one channel costs, from the layer's name and its depthwise spec (1 -> 1 channels)
            with a kernel size; larger kernels must cost more.

    Returns:
        The groupings, by layer.

    Raises:
        StrategyError: even the smallest kernels cost more than `budget`, or a larger one costs no more.
    """
    layers = {n: m for n, m in learned_modules(model).items() if isinstance(m, MixingConv)}
    gains, costs = [], []
    widest = max((len(m.kernels) for m in layers.values()), default=1)
    for name, layer in layers.items():
        one = layer.depthwise.with_channels(1, 1)
        row = np.array([cost(name, one.with_kernel(k)) for k in layer.kernels], dtype=np.float64)
        missing = widest - len(row)
        if not (np.diff(row) > 0).all():
            raise StrategyError("cost", row.tolist(), "rising with the kernel size", f"see layer {name}")
        gain = np.pad(layer.gains() / layer.gains()[:, -1].sum(), ((0, 0), (0, missing)), mode="edge")
        steps = row[-1] + np.arange(1, missing + 1)  # dearer, and no better: never chosen
        gains.append(gain)
        costs.append(np.broadcast_to(np.concatenate([row, steps]), gain.shape))
    least = sum(c[:, 0].sum() for c in costs)
    if least > budget or not layers:
        raise StrategyError("budget", budget, f"at least {least:g}, what the smallest kernels cost")
    sizes = choose_sizes(np.concatenate(gains), np.concatenate(costs), budget)
    for layer in layers.values():
        own, sizes = sizes[: len(layer.size)], sizes[len(layer.size) :]
        layer.choose(torch.from_numpy(own))
    return {name: layer.grouping() for name, layer in layers.items()}


@strategy("mixed_learned", paper="arXiv:1907.09595")
class MixedLearned(Strategy):
    """MixConv whose kernel sizes, and the channels of each, are learned in the one run that trains it.

    By importance, differentiably: all sizes share the taps of the largest kernel, and each ring of taps that
    a size adds has a gate g_cj, trained with the weights and pressed down by a penalty. At progress `at` each
    channel takes the size that is best under the budget of MACs, its importance being the sum of |g_cj| times
    the taps of its rings; the other rings close, and the rest of training is without them.

    The paper searched by reinforcement learning over thousands of trainings; a one-shot search needs a second
    training, and data to rank candidates by. Gates need neither: the weights alone decide, so that all
    processes decide alike, and by the criterion of `scaled_learned`. `share_budget` chooses for a whole
    network, under a budget of MACs or of measured time.

    As deployed: the channels in order of size, a depthwise convolution for each size, a pointwise one.

    Args:
        kernels: sides of the kernels to choose from, rising; even or odd like the spec's.
        budget: the most MACs of the depthwise part, as a share of those of `mixed` with equal parts.
        at: progress of training at which the sizes are chosen.
        sparsity: weight of sum |g_cj| * taps of ring j in the loss until then.
        pointwise: always end with the 1x1 convolution; false: only where the channels change.
    """

    dims = DIMS
    resembles = "mixed"
    kernels: tuple[int, ...] = (3, 5, 7)
    budget: float = 1.0
    at: float = 0.3
    sparsity: float = 1e-5
    pointwise: bool = True

    def __post_init__(self) -> None:
        k = self.kernels
        if not k or k[0] < 1 or any((b - a) % 2 or b <= a for a, b in itertools.pairwise(k)):
            raise StrategyError("kernels", k, "rising ints of at least 1, all even or all odd")
        if not 0 < self.budget < math.inf:
            raise StrategyError("budget", self.budget, "a number above 0")
        if not 0 <= self.at <= 1:
            raise StrategyError("at", self.at, "within 0 ... 1")
        if not 0 <= self.sparsity < math.inf:
            raise StrategyError("sparsity", self.sparsity, "a number of at least 0")

    @classmethod
    def variants(cls) -> tuple[Strategy, ...]:
        """Return three sizes, and the five of the published networks."""
        return cls(), cls(kernels=(3, 5, 7, 9, 11))

    def check(self, spec: ConvSpec) -> None:
        """Refuse kernels not centred where the spec's is, and a budget below that of the smallest kernel."""
        mixed_parts(spec, self.kernels, [1] * len(self.kernels))
        smallest = spec.in_channels * self.kernels[0] ** spec.dims
        least = smallest / equal_taps(spec.in_channels, self.kernels, spec.dims)
        if self.budget < least:
            allowed = f"at least {least:.4g}, the smallest kernel for all {spec.in_channels} channels"
            raise StrategyError("budget", self.budget, allowed)

    def _has_pointwise(self, spec: ConvSpec) -> bool:
        return self.pointwise or spec.in_channels != spec.out_channels

    def build(self, spec: ConvSpec) -> nn.Module:
        """Return the learning layer; `regroup.deploy` makes it a MixedConv."""
        self.check(spec)
        return MixingConv(spec, self.kernels, self.budget, self.at, self.sparsity, self._has_pointwise(spec))

    def take(self, module: nn.Module, dense: DenseWeights) -> str:
        """Take the nearest filter of each input in the largest kernel: all sizes are open at first."""
        assert isinstance(module, MixingConv)
        largest = recentred(dense.kernel, dense.spec, self.kernels[-1])
        filters, mixed = filtered(largest, module.pointwise is not None)
        module.weight.copy_(filters)
        if module.pointwise is not None:
            give(module.pointwise, mixed, dense.bias)
        elif module.bias is not None and dense.bias is not None:
            module.bias.copy_(dense.bias)
        return ""

    def cost(self, spec: ConvSpec, size: Extent) -> Cost:
        """Return the cost as deployed if all gates are equal; what is learned keeps the same budget."""
        self.check(spec)
        has_pointwise = self._has_pointwise(spec)
        taps = np.array(self.kernels, dtype=np.float64) ** spec.dims
        sizes = _sizes(np.tile(taps, (spec.in_channels, 1)), self.kernels, self.budget, spec.dims)
        one = replace(spec, in_channels=1, out_channels=1, bias=spec.bias and not has_pointwise)
        cost = sum((one.with_kernel(self.kernels[i]).cost(size) for i in sizes.tolist()), Cost())
        if has_pointwise:
            point = spec.pointwise(spec.in_channels, spec.out_channels, spec.bias)
            cost += point.cost(spec.output_size(size))
        return cost

    def reach(self, spec: ConvSpec) -> Tensor:
        """Return all ones where there is a pointwise part, else the diagonal."""
        self.check(spec)
        groups = 1 if self._has_pointwise(spec) else spec.in_channels
        return reach.grouped(spec.out_channels, spec.in_channels, groups)

    def reference(self, module: nn.Module, x: Tensor) -> Tensor:
        """Compute each channel by a convolution of its own size, and the pointwise one."""
        assert isinstance(module, MixingConv)
        channels = []
        for c in range(module.spec.in_channels):
            layer = conv(replace(module.wide, in_channels=1, out_channels=1)).to(module.weight)
            plain, kernel = convolution_of(layer), torch.zeros_like(module.weight[c])
            for i in reversed(range(int(module.size[c]) + 1)):
                inside = (slice(None), *module.places[i])
                kernel[inside] = module.weight[c][inside] * module.gates[c, i]
            plain.weight = nn.Parameter(kernel[None])
            if module.bias is not None:
                plain.bias = nn.Parameter(module.bias[c : c + 1])
            channels.append(explicit(layer, x[:, c : c + 1]))
        y = torch.cat(channels, 1)
        return y if module.pointwise is None else explicit(module.pointwise, y)
