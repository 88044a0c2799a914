"""Reach: which input channels can influence which outputs.

A reach is a bool tensor (out_channels, in_channels). Composition of layers is the boolean matrix product,
a sum of branches is the elementwise or, a concatenation stacks rows.

>>> grouped(4, 4, groups=2).int().tolist()
[[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]
>>> through(grouped(4, 4, groups=2), grouped(4, 4, groups=2)[[0, 2, 1, 3]]).float().mean().item()
0.5
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from regroup.errors import ParameterError
from regroup.spec import Extent


def full(out_channels: int, in_channels: int) -> Tensor:
    """Return the reach of a dense layer."""
    return torch.ones(out_channels, in_channels, dtype=torch.bool)


def grouped(out_channels: int, in_channels: int, groups: int) -> Tensor:
    """Return the reach of a grouped layer: `groups` blocks on the diagonal."""
    for name, channels in (("in_channels", in_channels), ("out_channels", out_channels)):
        if groups < 1 or channels % groups:
            raise ParameterError("groups", groups, f"a divisor of {name}={channels}")
    group_in = torch.arange(in_channels) // (in_channels // groups)
    group_out = torch.arange(out_channels) // (out_channels // groups)
    return group_out[:, None] == group_in[None, :]


def listed(
    groups: Sequence[Mapping[str, Sequence[int]]], out_channels: int = 0, in_channels: int = 0
) -> Tensor:
    """Return the reach of groups of any channels: each has the numbers of its "inputs" and "outputs".

    >>> listed([{"inputs": [0, 2], "outputs": [1]}, {"inputs": [1], "outputs": [0]}]).int().tolist()
    [[0, 1, 0], [1, 0, 1]]

    Args:
        groups: of one layer.
        out_channels: of the layer; 0: up to the last that a group has.
        in_channels: likewise.
    """
    sides = ([n for group in groups for n in group[side]] for side in ("outputs", "inputs"))
    named = [1 + max(numbers, default=-1) for numbers in sides]
    result = torch.zeros(max(out_channels, named[0]), max(in_channels, named[1]), dtype=torch.bool)
    for group in groups:
        result[torch.tensor(group["outputs"]).long()[:, None], torch.tensor(group["inputs"]).long()] = True
    return result


def through(first: Tensor, *then: Tensor) -> Tensor:
    """Return the reach of layers one after the other: (K, C), (L, K) -> (L, C)."""
    for layer in then:
        first = (layer.float() @ first.float()) > 0
    return first


def fill(reach: Tensor) -> float:
    """Return the share of (output, input) pairs that are connected: 1 when mixing is complete."""
    return float(reach.double().mean())


def positive(module: nn.Module) -> nn.Module:
    """Return a copy in float64 and eval mode whose parameters are all positive.

    The weights that make one output sum up to 1, so that a positive input near 1 stays there: it saturates no
    ReLU6 and overflows nowhere, however wide and deep the module is.
    """
    result = copy.deepcopy(module).double().eval()
    with torch.no_grad():
        for parameter in result.parameters():
            parameter.copy_(parameter.abs() * 0.5 + 0.01)
            if parameter.dim() > 1:
                parameter.div_(parameter.sum(tuple(range(1, parameter.dim())), keepdim=True))
    return result


def measured_reach(module: nn.Module, in_channels: int, size: Extent) -> Tensor:
    """Return the reach of any module by the support of its Jacobian: (out_channels, in_channels).

    In a `positive` copy no two paths can cancel and no ReLU is shut; then output channel k depends on input
    channel c if and only if the derivative of k's sum with respect to some pixel of c is not zero.

    Args:
        module: takes (1, in_channels, *size) and gives (1, out_channels, ...).
        in_channels: of the input.
        size: of the input, a number for each dimension.
    """
    x = (torch.rand(1, in_channels, *size, dtype=torch.float64) + 0.5).requires_grad_()
    y = positive(module)(x).flatten(2).sum((0, 2))
    rows = []
    for k in range(len(y)):
        (gradient,) = torch.autograd.grad(y[k], x, retain_graph=True, materialize_grads=True)
        rows.append(gradient[0].flatten(1).abs().sum(1) > 0)
    return torch.stack(rows)
