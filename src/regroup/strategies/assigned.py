"""Assigned: every channel learns which group it belongs to; groups may become unequal, or empty.

Wang et al., Fully Learnable Group Convolution for Acceleration of Deep Neural Networks (arXiv:1904.00346),
section 3. There is no official code; the mask and its gradient follow
Daniil-Osokin/fully-learnable-group-convolution.pytorch.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regroup.errors import StrategyError
from regroup.ops.layers import conv, convolution_of, explicit, give
from regroup.ops.ragged import Groups
from regroup.spec import DIMS, ConvSpec, Cost, Extent
from regroup.strategies import Strategy, strategy
from regroup.strategies.masking import MaskedConv
from regroup.strategies.starting import DenseWeights


class AssignedConv(MaskedConv):
    """A convolution whose inputs and outputs are assigned to groups by their largest logit. See `Assigned`.

    Args:
        spec: of the convolution.
        number: groups.
        rate: how many times as fast as the gradient says the logits learn.
    """

    kind = "assigned"

    def __init__(self, spec: ConvSpec, number: int, rate: float = 10.0) -> None:
        super().__init__(spec)
        check_number(spec, number)
        self.rate = rate
        self.inputs = nn.Parameter(balanced_logits(spec.in_channels, number))
        self.outputs = nn.Parameter(balanced_logits(spec.out_channels, number))
        self.fixed_inputs: Tensor
        """The group of each input if a grouping was loaded, else -1: int64 (C,)."""
        self.fixed_outputs: Tensor
        self.register_buffer("fixed_inputs", torch.full((spec.in_channels,), -1))
        self.register_buffer("fixed_outputs", torch.full((spec.out_channels,), -1))

    def mask(self) -> Tensor:
        """Return which connections are there: (K, C), 1 where output and input have the same group."""
        of_output = _assignment(self.outputs, self.fixed_outputs, self.rate)
        return of_output @ _assignment(self.inputs, self.fixed_inputs, self.rate).t()

    def groups(self) -> Groups:
        """Return the inputs and the outputs of each group."""
        sides = []
        for logits, fixed in ((self.inputs, self.fixed_inputs), (self.outputs, self.fixed_outputs)):
            labels = _labels(logits, fixed).tolist()
            numbers = range(logits.shape[1])
            sides.append([[c for c, label in enumerate(labels) if label == g] for g in numbers])
        return list(zip(*sides, strict=True))

    def load_grouping(self, data: dict) -> None:
        """Take a grouping that `grouping` gave, and learn no other.

        Raises:
            PlanError: it is not of such a layer.
        """
        groups = self.read_groups(data)
        if len(groups) != self.inputs.shape[1]:
            raise self.refusal(f"has {len(groups)} groups instead of {self.inputs.shape[1]}")
        for g, (inputs, outputs) in enumerate(groups):
            self.fixed_inputs[inputs] = g
            self.fixed_outputs[outputs] = g

    def extra_repr(self) -> str:
        return f"groups={self.inputs.shape[1]}"


def _labels(logits: Tensor, fixed: Tensor) -> Tensor:
    return torch.where(fixed < 0, logits.argmax(1), fixed)


def _assignment(logits: Tensor, fixed: Tensor, rate: float) -> Tensor:
    """Return one-hot rows; `rate` times the gradient of each 1 goes to its softmax, that of a 0 nowhere."""
    shares = logits.softmax(1)
    hard = F.one_hot(_labels(logits, fixed), logits.shape[1]).to(shares.dtype)
    soft = rate * shares * hard * (fixed < 0)[:, None]
    return hard + (soft - soft.detach())


def balanced_logits(channels: int, groups: int) -> Tensor:
    """Return normally distributed logits (channels, groups) that assign as many channels to each group."""
    logits = torch.randn(channels, groups)
    swap(logits, torch.randperm(channels) % groups)
    return logits


def balanced(gains: Tensor) -> Tensor:
    """Return the group of each channel, so that groups are as equal as can be and the gains' sum is largest.

    >>> balanced(torch.tensor([[3.0, 1.0], [3.0, 2.0]])).tolist()
    [0, 1]

    Args:
        gains: of each channel in each group, (channels, groups).
    """
    from scipy.optimize import linear_sum_assignment

    channels, groups = gains.shape
    places = torch.arange(channels) % groups
    rows, columns = linear_sum_assignment(gains[:, places].numpy(), maximize=True)
    return places[torch.from_numpy(columns)[torch.from_numpy(rows).argsort()]]


def swap(logits: Tensor, wanted: Tensor) -> None:
    """Swap numbers within rows so that the largest of each stands at `wanted`, in place."""
    rows, wanted = torch.arange(len(logits), device=logits.device), wanted.to(logits.device)
    largest, before = logits.argmax(1), logits.clone()
    logits[rows, largest], logits[rows, wanted] = before[rows, wanted], before[rows, largest]


def check_number(spec: ConvSpec, number: int) -> None:
    """Raise StrategyError if there are more groups than channels."""
    least = min(spec.in_channels, spec.out_channels)
    if number > least:
        allowed = f"at most in_channels={spec.in_channels} and out_channels={spec.out_channels}"
        raise StrategyError("groups", number, allowed, "the layer is too small")


@strategy("assigned", paper="arXiv:1904.00346")
class Assigned(Strategy):
    """Every input and every output learns its group: a convolution in groups of unequal size.

    y = (W * T S^T) x, where S (C x G) and T (K x G) are one-hot by row: the largest of a row of logits. Their
    gradient is that of the softmax at the selected entries (straight through). Every step is thus computed
    with whole groups, and the groups are complete whenever training stops. Deployed: gather, one convolution
    for each size of group, concatenate, channel order. An output whose group has no inputs is 0, or its bias.

    The groups start random and of equal size, as no assignment is known yet; the published logits are normal,
    and some groups may start empty. The paper has 1x1 convolutions; here any convolution can be assigned.
    Weight decay shrinks a row of logits as a whole and changes no assignment.

    Args:
        groups: number of groups G; need not divide the channels.
        rate: factor on the logits' gradient, which is that of a probability and therefore small; 1 is the
            published one.
    """

    dims = DIMS

    groups: int = 4
    rate: float = 10.0

    def __post_init__(self) -> None:
        if not 0 <= self.rate < math.inf:
            raise StrategyError("rate", self.rate, "a number of at least 0")
        if self.groups < 2:
            raise StrategyError("groups", self.groups, "an int of at least 2")

    @classmethod
    def variants(cls) -> tuple[Strategy, ...]:
        """Return few groups, and the paper's number."""
        return cls(), cls(groups=8)

    def check(self, spec: ConvSpec) -> None:
        """Refuse fewer channels than groups."""
        check_number(spec, self.groups)

    def build(self, spec: ConvSpec) -> nn.Module:
        """Return the learning layer; `regroup.deploy` makes it plain."""
        return AssignedConv(spec, self.groups, self.rate)

    def take(self, module: nn.Module, dense: DenseWeights) -> str:
        """Take them as they are, and assign channels so that equal groups hold as much of them as found.

        From the random assignment on, outputs and inputs go in turns where the sum of squares of what
        connects them with the group is largest (an assignment problem each), until nothing more is gained.
        """
        assert isinstance(module, AssignedConv)
        give(module.conv, dense.kernel, dense.bias)
        squares = dense.kernel.square().flatten(2).sum(2)
        sides = [(squares, module.outputs), (squares.t(), module.inputs)]
        held = -1.0
        while (now := float((squares * module.mask().cpu()).sum())) > held:
            held = now
            for (energy, logits), (_, others) in (sides, sides[::-1]):
                of_others = F.one_hot(others.argmax(1), self.groups).cpu().double()
                swap(logits, balanced(energy @ of_others))
        return ""

    def cost(self, spec: ConvSpec, size: Extent) -> Cost:
        """Return the cost if deployed before anything is learned, with groups as equal as can be."""
        self.check(spec)
        sizes = [
            [len(range(g, channels, self.groups)) for g in range(self.groups)]
            for channels in (spec.in_channels, spec.out_channels)
        ]
        parts = (spec.with_channels(c, k).cost(size) for c, k in zip(*sizes, strict=True))
        return sum(parts, Cost())

    def reference(self, module: nn.Module, x: Tensor) -> Tensor:
        """Compute the dense convolution with zeros between channels of different groups."""
        assert isinstance(module, AssignedConv)
        dense = conv(module.spec).to(x)
        layer = convolution_of(dense)
        of_input, of_output = module.inputs.max(1).indices, module.outputs.max(1).indices
        same = of_output[:, None] == of_input[None, :]
        layer.weight = nn.Parameter(
            module.conv.weight.detach() * same.view(*same.shape, *(1,) * module.spec.dims)
        )
        layer.bias = module.conv.bias
        return explicit(dense, x)
