"""How far rounding can take a network's outputs and gradients, whatever the order of its sums.

An output is a sum over paths through the network, each a product of weights and an input. Every sum of K
terms on the way rounds each path by K u at most (ops/bounds.py), so the bound grows with the sum of all K and
with the sum over paths of the products' magnitudes: what the network of absolute weights computes of absolute
inputs, without activations, and with sums for maxima. Gradients are sums over the same paths.
"""

import copy
import math

import torch
from torch import nn

from regroup.ops.bounds import rounding_bound, unit_roundoff, worst_ratio


class _Summed(nn.Module):
    def __init__(self, pool):
        super().__init__()
        self.area = pool.kernel_size**2
        self.pool = nn.AvgPool2d(pool.kernel_size, pool.stride, pool.padding)

    def forward(self, x):
        return self.area * self.pool(x)


def absolute(module):
    """Put in place of activations and maxima what bounds them, and their gradients, from above."""
    for name, child in module.named_children():
        if isinstance(child, (nn.ReLU, nn.ReLU6)):
            setattr(module, name, nn.Identity())
        elif isinstance(child, nn.MaxPool2d):
            setattr(module, name, _Summed(child))
        else:
            absolute(child)
    return module


def magnitude(model, x, weights):
    """Return outputs and gradients of the absolute network for the loss (output * weights).sum()."""
    twin = absolute(copy.deepcopy(model).eval())
    with torch.no_grad():
        for name, tensor in [*twin.named_parameters(), *twin.named_buffers()]:
            if tensor.is_floating_point():
                tensor.copy_(-tensor.abs() if name.endswith("running_mean") else tensor.abs())
    out = twin(x.abs())
    (out * weights.abs()).sum().backward()
    return out.detach(), {n: p.grad for n, p in twin.named_parameters()}


def terms(model, positions):
    """Return the products and additions on one way through the network and back, to one weight's gradient."""
    layers = [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    return positions + 2 * sum(m.weight[0].numel() + 8 for m in layers)


def worst(found, exact, magnitude, model, positions=0):
    """Return the largest difference as a share of twice the bound: both have rounded.

    Args:
        found: by one order of sums, in float64.
        exact: by another.
        magnitude: of `magnitude`.
        model: the network.
        positions: over how many pixels and images a weight's gradient is summed.
    """
    bound = rounding_bound(exact, magnitude, terms(model, positions), torch.float64, torch.float64)
    return worst_ratio(found, exact, 2 * bound)


def digits(found, exact):
    """Return the share of its digits in which a tensor agrees with another, measured at the largest number.

    A mistake is as large in float64 as in float32, while rounding is not: half the digits tell them apart.
    """
    error = float((found - exact).abs().max() / exact.abs().max().clamp_min(1e-300))
    unit = unit_roundoff(found.dtype)
    return 1.0 if error == 0 else math.log(error) / math.log(unit)
