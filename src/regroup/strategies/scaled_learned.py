"""Learned scales: which resolution each output works at is found by training, under a budget of MACs.

Li et al., Data-Driven Neuron Allocation for Scale Aggregation Networks (arXiv:1904.09460), section 3.2. The
authors released the structures that they found, not the code that finds them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

import torch
from torch import Tensor, nn

from regroup.errors import PlanError, StrategyError
from regroup.ops import reach
from regroup.ops.layers import ACTIVATIONS, NORMS, convolution_of, norm_of
from regroup.ops.order import ChannelOrder, inverse
from regroup.ops.resolution import check_centred, maximum
from regroup.spec import DIMS, ConvSpec, Cost, Extent
from regroup.strategies import Strategy, strategy
from regroup.strategies.learning import Learned
from regroup.strategies.scaled import ScaledConv, ScaledStandIn, check_scales, explicit_scales
from regroup.strategies.starting import BATCH_NORM, DenseWeights


def choose_neurons(importance: Tensor, costs: Sequence[float], count: int, budget: float) -> Tensor:
    """Return the `count` most important neurons whose costs sum up to `budget` at most: rising numbers.

    A price for the cost is taken off the importance, the lowest that keeps the budget; between the two
    choices at that price, neurons are exchanged one by one as long as needed.

    >>> choose_neurons(torch.tensor([9.0, 8.0, 7.0, 1.0]), [1, 1, 1 / 4, 1 / 4], 2, budget=1.25).tolist()
    [0, 2]

    Args:
        importance: of each neuron.
        costs: of each neuron.
        count: neurons to choose.
        budget: at least `count` times the lowest cost.
    """
    values, prices = importance.detach().double().cpu(), torch.tensor(costs, dtype=torch.float64)
    budget *= 1 + 2.0**-40  # a sum of costs that should be the budget exactly may be rounded up

    def best(price: float) -> Tensor:
        return (values - price * prices).argsort(descending=True, stable=True)[:count]

    low, high = 0.0, 1.0 + float(values.max() - values.min()) / _least_gap(costs)
    dear, cheap = (
        best(low),
        best(high),
    )  # at the high price the cheapest are chosen, whatever their importance
    for _ in range(60):
        middle = (low + high) / 2
        if float(prices[best(middle)].sum()) <= budget:
            high, cheap = middle, best(middle)
        else:
            low, dear = middle, best(middle)
    chosen = best(0.0).tolist()
    if float(prices[chosen].sum()) > budget:
        chosen = dear.tolist()
        out = [n for n in reversed(chosen) if n not in set(cheap.tolist())]
        into = [n for n in cheap.tolist() if n not in set(chosen)]
        for old, new in zip(out, into, strict=True):
            if float(prices[chosen].sum()) <= budget:
                break
            chosen[chosen.index(old)] = new
    return torch.tensor(sorted(chosen), device=importance.device)


def _least_gap(costs: Sequence[float]) -> float:
    levels = sorted(set(costs))
    return min((b - a for a, b in itertools.pairwise(levels)), default=1.0)


def learned_allocation(scaled: ScaledConv, outputs: int, budget: float | None = None) -> dict[int, int]:
    """Return how many of `outputs` each scale of a trained block gets: its most important neurons stay.

    Importance is the magnitude of a neuron's batch norm scale, ranked within the block.

    Args:
        scaled: a trained block with more neurons than are wanted, such as all outputs at every scale.
        outputs: neurons that stay.
        budget: the most MACs, as a share of what they would be at scale 1; None: as many as they take.
    """
    norms = {
        r: next(m for m in scaled.norms[str(r)].modules() if isinstance(m, NORMS)) for r in scaled.scales
    }
    importance = torch.cat([norm.weight.detach().abs() for norm in norms.values()])
    scale_of = [r for r, norm in norms.items() for _ in range(norm.num_features)]
    dims = convolution_of(next(iter(scaled.convs.values()))).weight.dim() - 2
    costs = [1 / r**dims for r in scale_of]
    chosen = choose_neurons(importance, costs, outputs, math.inf if budget is None else budget * outputs)
    kept = [scale_of[n] for n in chosen.tolist()]
    return {r: kept.count(r) for r in scaled.scales}


class ScaledSeed(nn.Module):
    """Every output at every scale: y_k = sum over r of BN(up(W_r * maxpool_r(x)))_k, after a stride.

    Args:
        spec: of the layer.
        scales: windows of the max-pools.
        act: activation at the end, a name of `ACTIVATIONS`.
    """

    def __init__(self, spec: ConvSpec, scales: Sequence[int], act: str) -> None:
        super().__init__()
        self.stride, self.outputs = list(spec.stride), spec.out_channels
        self.scaled = ScaledConv({r: replace(spec, stride=(1,) * spec.dims) for r in scales})
        self.act = ACTIVATIONS[act]()

    def neurons(self, x: Tensor) -> Tensor:
        """Return all neurons, scale after scale: (N, scales * outputs, *out)."""
        return self.scaled(maximum(x, self.stride, whole=True))

    def add(self, neurons: Tensor) -> Tensor:
        """Return the sum over the scales."""
        return neurons.unflatten(1, (-1, self.outputs)).sum(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.add(self.neurons(x)))


class ScalingConv(Learned):
    """A ScaledSeed that, at progress `at`, keeps its most important neurons: one for each output.

    Args:
        spec: of the layer.
        scales: windows of the max-pools.
        budget: the most MACs, as a share of those at scale 1.
        at: progress at which the neurons are chosen.
        sparsity: weight of the sum of |batch norm scale| in the loss until then.
        act: activation at the end, a name of `ACTIVATIONS`.
    """

    def __init__(
        self, spec: ConvSpec, scales: Sequence[int], budget: float, at: float, sparsity: float, act: str
    ) -> None:
        super().__init__()
        self.spec, self.scales, self.budget, self.at, self.sparsity = (
            spec,
            tuple(scales),
            budget,
            at,
            sparsity,
        )
        self.activation = act
        self.seed = ScaledSeed(spec, scales, act)
        self.allocated: Tensor
        """Whether the neurons are chosen: bool ()."""
        self.register_buffer("allocated", torch.zeros((), dtype=torch.bool))
        self.chosen: Tensor
        """The neuron that makes each output, number i * outputs + k for the k-th at the i-th scale."""
        self.register_buffer("chosen", torch.arange(spec.out_channels))

    def forward(self, x: Tensor) -> Tensor:
        neurons = self.seed.neurons(x)
        picked = neurons.index_select(1, self.chosen)
        # where, and no if: a look at the buffer would wait for the device
        return self.seed.act(torch.where(self.allocated, picked, self.seed.add(neurons)))

    def importance(self) -> Tensor:
        """Return the magnitude of each neuron's batch norm scale: (scales * outputs,)."""
        norms = [m for m in self.seed.scaled.norms.modules() if isinstance(m, NORMS)]
        return torch.cat([norm.weight.abs() for norm in norms])

    def set_progress(self, progress: float) -> None:
        """Choose the neurons, if it is time and they are not chosen yet. Only weights decide."""
        if progress >= self.at and not self.allocated:
            sizes = self.scales, self.spec.out_channels, self.budget, self.spec.dims
            self.chosen.copy_(allocate(self.importance(), *sizes))
            self.allocated.fill_(True)

    def penalty(self) -> Tensor:
        """Return sparsity * sum |batch norm scale|; 0 once the neurons are chosen."""
        return self.sparsity * self.importance().sum() * ~self.allocated

    def deploy(self) -> nn.Module:
        """Return the scales with the neurons that were chosen, in order; before, the ScaledSeed."""
        if not self.allocated:
            return self.seed.eval()
        outputs = self.spec.out_channels
        kept = {r: self.chosen[self.chosen // outputs == i] % outputs for i, r in enumerate(self.scales)}
        kept = {r: neurons for r, neurons in kept.items() if len(neurons)}
        specs = {
            r: replace(self.spec, stride=(1,) * self.spec.dims, out_channels=len(n)) for r, n in kept.items()
        }
        scaled = ScaledConv(specs).to(self.importance())
        for r, neurons in kept.items():
            _keep(self.seed.scaled, scaled, str(r), neurons)
        plain = ScaledStandIn(self.spec.stride, scaled, ACTIVATIONS[self.activation]())
        order = inverse((self.chosen // outputs).argsort(stable=True).cpu())
        if torch.equal(order, torch.arange(outputs)):
            return plain.eval()
        return nn.Sequential(plain, ChannelOrder(order).to(self.chosen.device)).eval()

    def grouping(self) -> dict:
        """Return {"kind": "scaled_learned", "scales": [{"scale": r, "outputs": ..., "neurons": ...}, ...]}.

        The outputs of each scale, and which neuron of that scale of the seed makes each; before they are
        chosen the list is empty.
        """
        outputs, parts = self.spec.out_channels, []
        for i, r in enumerate(self.scales):
            places = (self.chosen // outputs == i).nonzero().flatten()
            neurons = (self.chosen[places] % outputs).tolist()
            parts.append({"scale": r, "outputs": places.tolist(), "neurons": neurons})
        return {"kind": "scaled_learned", "scales": parts if self.allocated else []}

    def load_grouping(self, data: dict) -> None:
        """Take an allocation that `grouping` gave: of this layer, or of one as large to train from scratch.

        Raises:
            PlanError: it is of another layer.
        """
        outputs = self.spec.out_channels
        try:
            parts = data["scales"]
            scales = tuple(part["scale"] for part in parts)
            places = [k for part in parts for k in part["outputs"]]
            pairs = [(r, k) for r, part in zip(scales, parts, strict=True) for k in part["neurons"]]
            kind = data["kind"]
        except (TypeError, KeyError) as error:
            raise PlanError("grouping", f"is not of a scaled_learned layer: {error!r}") from None
        fits = kind == "scaled_learned" and scales == (self.scales if parts else ())
        fits &= sorted(places) == list(range(outputs)) if parts else True
        fits &= len(places) == len(pairs) == len(set(pairs)) and all(k in range(outputs) for _, k in pairs)
        if not fits:
            raise PlanError("grouping", f"is not of a layer of {outputs} outputs at scales {self.scales}")
        for place, (r, k) in zip(places, pairs, strict=True):
            self.chosen[place] = self.scales.index(r) * outputs + k
        self.allocated.fill_(bool(parts))

    def extra_repr(self) -> str:
        return f"{self.spec}, scales={self.scales}, budget={self.budget:g}"


def _keep(seed: ScaledConv, plain: ScaledConv, scale: str, neurons: Tensor) -> None:
    """Copy some neurons of one scale."""
    old, new = (convolution_of(part.convs[scale]) for part in (seed, plain))
    new.weight = nn.Parameter(old.weight.detach()[neurons])
    if old.bias is not None:
        new.bias = nn.Parameter(old.bias.detach()[neurons])
    (norm,) = (m for m in seed.norms[scale].modules() if isinstance(m, NORMS))
    plain.norms[scale] = nn.Sequential(norm_of(norm, neurons))


def allocate(importance: Tensor, scales: Sequence[int], outputs: int, budget: float, dims: int = 2) -> Tensor:
    """Return the neuron for each output: int64 (outputs,), numbers into `importance`.

    Neurons are ranked over all scales of the layer. The best of those that stay for an output makes it, so
    that the layer changes as little as can be; those that are left over, the best first, make the outputs
    for which none stayed.

    Args:
        importance: (scales * outputs,), scale after scale.
        scales: windows of the max-pools; a neuron at r costs 1 / r^dims.
        outputs: of the layer.
        budget: the most MACs, as a share of those at scale 1.
        dims: spatial dimensions of the layer.
    """
    costs = [1 / r**dims for r in scales for _ in range(outputs)]
    chosen = choose_neurons(importance, costs, outputs, budget * outputs)
    ranked = chosen[importance.detach()[chosen].argsort(descending=True, stable=True)].tolist()
    result, left = [-1] * outputs, []
    for neuron in ranked:
        if result[neuron % outputs] < 0:
            result[neuron % outputs] = neuron
        else:
            left.append(neuron)
    rest = iter(left)
    result = [next(rest) if neuron < 0 else neuron for neuron in result]
    return torch.tensor(result, device=importance.device)


@strategy("scaled_learned", paper="arXiv:1904.09460")
class ScaledLearned(Strategy):
    """ScaleNet's neuron allocation: how many outputs work at which resolution comes from training.

    It begins as a seed with all K outputs at every scale r: y_k = sum over r of BN(up(W_r * maxpool_r(x)))_k.
    At progress `at`, the K neurons with the largest |batch norm scale| in the layer stay, as far as the
    budget of MACs goes, and the rest of training is theirs. As deployed it is `scaled`, concat over r, with a
    channel order after it.

    In the paper a second network is trained from scratch with the proportions found. That is: train this
    with `at` = 1, save `regroup.groupings(model)` as JSON, give it to a new model by `load_groupings`, deploy
    that and train it.

    Args:
        scales: the windows of the max-pools; 1 is the full resolution.
        budget: the most MACs as a share of those at scale 1, an output at scale r counting 1 / r^2 (1 / r in
            one dimension, 1 / r^3 in three); none: as `scaled` with equal parts.
        at: progress of training at which the neurons are chosen.
        sparsity: weight of sum |batch norm scale| in the loss until then.
        act: activation at the end: relu, relu6, silu, hardswish or none.
    """

    dims = DIMS
    resembles = "scaled"
    scales: tuple[int, ...] = (1, 2, 4, 7)
    budget: float | None = None
    at: float = 0.3
    sparsity: float = 1e-4
    act: str = "none"

    def __post_init__(self) -> None:
        check_scales(self.scales)
        least = 1 / max(self.scales) ** 2
        if self.budget is not None and not least <= self.budget < math.inf:
            raise StrategyError("budget", self.budget, f"at least {least:.4g}, what the coarsest scale takes")
        if not 0 <= self.at <= 1:
            raise StrategyError("at", self.at, "within 0 ... 1")
        if not 0 <= self.sparsity < math.inf:
            raise StrategyError("sparsity", self.sparsity, "a number of at least 0")
        if self.act not in ACTIVATIONS:
            raise StrategyError("act", self.act, f"one of {', '.join(ACTIVATIONS)}")

    def _share(self, dims: int) -> float:
        equal = sum(Fraction(1, r**dims) for r in self.scales) / len(self.scales)
        return float(equal) if self.budget is None else self.budget

    def check(self, spec: ConvSpec) -> None:
        """Refuse kernels off centre, and a budget below that of the coarsest scale."""
        check_centred(spec)
        least = 1 / max(self.scales) ** spec.dims
        if self._share(spec.dims) < least:
            allowed = f"at least {least:.4g}, what the coarsest scale takes of {spec}"
            raise StrategyError("budget", self.budget, allowed)

    def build(self, spec: ConvSpec) -> nn.Module:
        """Return the seed; `regroup.deploy` makes it plain."""
        self.check(spec)
        share = self._share(spec.dims)
        return ScalingConv(spec, self.scales, share, self.at, self.sparsity, self.act)

    def take(self, module: nn.Module, dense: DenseWeights) -> str:
        """Take nothing: each neuron has a batch norm, by which it is chosen."""
        return BATCH_NORM

    def cost(self, spec: ConvSpec, size: Extent) -> Cost:
        """Return the cost as deployed if all neurons are equal; what is learned keeps the same budget."""
        self.check(spec)
        outputs = spec.out_channels
        equal, sizes = torch.ones(len(self.scales) * outputs), (self._share(spec.dims), spec.dims)
        chosen, out = allocate(equal, self.scales, outputs, *sizes), spec.output_size(size)
        cost = Cost(2 * outputs)
        for i, r in enumerate(self.scales):
            count = int((chosen // outputs == i).sum())
            if count:
                part = replace(spec, stride=(1,) * spec.dims, out_channels=count)
                cost += part.cost([max(1, n // r) for n in out])
        return cost

    def reach(self, spec: ConvSpec) -> Tensor:
        """Return all ones: every scale reads all inputs."""
        self.check(spec)
        return reach.full(spec.out_channels, spec.in_channels)

    def reference(self, module: nn.Module, x: Tensor) -> Tensor:
        """Compute every neuron by dense convolutions, and add those of an output or take the chosen one."""
        assert isinstance(module, ScalingConv)
        neurons = explicit_scales(module.seed.scaled, module.spec.stride, x)
        outputs, parts = module.spec.out_channels, module.grouping()["scales"]
        if not parts:
            return module.seed.act(
                sum(neurons[:, i : i + outputs] for i in range(0, neurons.shape[1], outputs))
            )
        y = torch.empty_like(neurons[:, :outputs])
        for i, part in enumerate(parts):
            for k, neuron in zip(part["outputs"], part["neurons"], strict=True):
                y[:, k] = neurons[:, i * outputs + neuron]
        return module.seed.act(y)
