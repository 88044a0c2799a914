"""Convolutions and images on which the closed forms can be checked by hand."""

import torch
from torch import nn

from regroup.conversion.statistics import patches
from regroup.spec import ConvSpec


def correlated(count, channels, size, seed=0):
    """Images whose channels are mixed and rectified, so that they have means and covariances."""
    dice = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, channels, size, size, generator=dice)
    mix = torch.randn(channels, channels, generator=dice) / channels**0.5
    return torch.einsum("kc,nchw->nkhw", mix, noise).relu() + 0.3


def all_pairs(conv, images):
    """Every (unfolded input, output) of a convolution, as float64 rows."""
    x = images.double()
    with torch.no_grad():
        y = conv.double()(x)
    n, _, height, width = y.shape
    where = torch.cartesian_prod(*(torch.arange(n) for n in (n, height, width)))
    rows = patches(x, ConvSpec.of(conv), where).flatten(1)
    conv.float()
    return rows, y.permute(0, 2, 3, 1).flatten(0, 2)


def hidden_groups(channels, outputs, groups, kernel=3, seed=0):
    """A dense convolution that is grouped after permutations, and its groups of inputs and outputs."""
    dice = torch.Generator().manual_seed(seed)
    inputs = torch.randperm(channels, generator=dice).view(groups, -1)
    outs = torch.randperm(outputs, generator=dice).view(groups, -1)
    conv = nn.Conv2d(channels, outputs, kernel, padding=kernel // 2)
    keep = torch.zeros(outputs, channels, dtype=torch.bool)
    for a, b in zip(inputs, outs, strict=True):
        keep[b[:, None], a] = True
    with torch.no_grad():
        conv.weight.mul_(keep[:, :, None, None])
    return conv, inputs, outs
