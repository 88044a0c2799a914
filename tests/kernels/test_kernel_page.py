"""docs/kernel.md: each level of its kernel computes the convolution, within the rounding bound."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from docs import kernel

from regroup.kernels.machine.target import Target
from regroup.ops.bounds import rounding_bound, worst_ratio

NAMES = kernel.page()
LEVELS = kernel.levels(NAMES)


def layer(inputs):
    lanes = Target.host().lanes
    return replace(kernel.LAYER, inputs=inputs, outputs=4 * lanes, size=28)


@pytest.mark.parametrize("inputs", [1, 2, 5])
@pytest.mark.parametrize("level", LEVELS, ids=lambda level: level.write.__name__)
def test_a_level_computes_the_convolution(level, inputs):
    shape = layer(inputs)
    image, weight, bias = kernel.numbers_of(shape)
    found = kernel.Prepared(level, NAMES, shape, (image, weight, bias))()
    x = torch.from_numpy(image).double().permute(2, 0, 1)[None]
    w, b = torch.from_numpy(weight).double(), torch.from_numpy(bias).double()
    b = b if level.fused else torch.zeros_like(b)
    exact = F.conv2d(x, w, b, padding=1)
    bound = rounding_bound(exact, F.conv2d(x.abs(), w.abs(), b.abs(), padding=1), 9 * inputs + 1)
    exact = exact.relu() if level.fused else exact
    result = torch.from_numpy(np.ascontiguousarray(found)).permute(2, 0, 1)[None]
    assert worst_ratio(result, exact, bound) <= 1


def test_a_level_keeps_nan():
    image, weight, bias = kernel.numbers_of(layer(2))
    image[3, 4, 1] = np.nan
    for level in LEVELS:
        found = kernel.Prepared(level, NAMES, layer(2), (image, weight, bias))()
        assert np.isnan(found[2:5, 3:6]).all() and np.isnan(found).sum() == 9 * found.shape[2]
