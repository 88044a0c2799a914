"""Layers that choose their inputs by image are understood: nothing in them is assumed to mix everything."""

import torch
from torch import nn

from regroup.ops.dynamic import DynamicGroupConv
from regroup.profiling.reach import mixing
from regroup.spec import ConvSpec


def test_a_dynamic_layer_mixes_and_nothing_is_assumed():
    torch.manual_seed(0)
    spec = ConvSpec(16, 16, 3, padding=1)
    for size in (4, 12, 40):
        for kept in (2, 8, 16):
            model = nn.Sequential(nn.Conv2d(16, 16, 1, groups=16), DynamicGroupConv(spec, 4, kept))
            found = mixing(model.eval(), torch.rand(1, 16, size, size))
            assert (found.depth, found.assumed) == (2, ()), (size, kept)
