"""Where the pixels of a resized image come from, against PyTorch for all small sizes and many factors."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from regroup.kernels.problems import Resize
from regroup.kernels.problems.view import View
from regroup.kernels.templates.resize import Positions, tables

SIZES = (*range(1, 41), 64, 70, 100)
FACTORS = (
    0.1, 0.2, 0.25, 0.3, 1 / 3, 0.4, 0.5, 0.6, 2 / 3, 0.7, 0.75, 0.8, 0.9, 0.99, 1.0, 1.01, 1.05, 1.1, 1.2,
    1.25, 1.3, 4 / 3, 1.5, 1.9, 2.0, 2.01, 2.05, 2.5, 3.0, math.pi,
)  # fmt: skip
MODES = [("nearest", False), ("nearest-exact", False), ("bilinear", False), ("bilinear", True)]


def resized(x: Tensor, mode: str, corners: bool, **how: object) -> Tensor:
    return F.interpolate(x, mode=mode, align_corners=corners if mode == "bilinear" else None, **how)


def ours(mode: str, corners: bool, size: Tensor, out: Tensor, scale: tuple) -> tuple[Positions, Positions]:
    views = (View.nhwc(*shape[2:], shape[1]) for shape in (size, out))
    return tables(Resize(*views, mode, corners, scale))


def weights(axis: Positions, source: int) -> np.ndarray:
    """Return the matrix (source, out) that resizes one axis, made as PyTorch sums it."""
    found, outputs = np.zeros((source, len(axis.first)), np.float32), np.arange(len(axis.first))
    found[axis.first, outputs] = np.float32(1) - axis.weight
    found[axis.second, outputs] += axis.weight
    return found


@pytest.mark.parametrize(("mode", "corners"), MODES)
@pytest.mark.parametrize("width", [1, 130], ids=["small", "large"])
def test_rows_come_from_where_pytorch_takes_them(mode, corners, width):
    """Each image of one-hot columns shows which rows an output row is made of, to the last bit."""
    for size in SIZES if width == 1 else SIZES[::7]:
        x = torch.eye(size)[None, :, :, None].expand(1, size, size, width).contiguous()
        hows = [({"scale_factor": (factor, 1.0)}, (factor, 1.0)) for factor in FACTORS if size * factor >= 1]
        hows += [({"size": (math.floor(f * size), width)}, (None, None)) for f in FACTORS if size * f >= 1]
        for how, scale in hows:
            y = resized(x, mode, corners, **how)
            rows, columns = ours(mode, corners, x.shape, y.shape, scale)
            assert np.array_equal(weights(rows, size), y[0, :, :, 0].numpy()), (size, how)
            assert np.array_equal(columns.first, np.arange(width))


@pytest.mark.parametrize(("mode", "corners"), MODES)
def test_rows_and_columns_have_factors_of_their_own(mode, corners):
    x = torch.arange(12 * 17.0).view(1, 1, 12, 17)
    for down, across in zip(FACTORS, FACTORS[::-1], strict=True):
        y = resized(x, mode, corners, scale_factor=(down, across))
        rows, columns = ours(mode, corners, x.shape, y.shape, (down, across))
        want = weights(rows, 12).T.astype(float) @ x[0, 0].double().numpy() @ weights(columns, 17)
        # four products of numbers up to 203 and weights below 1, summed in float32
        assert np.abs(want - y[0, 0].numpy()).max() <= (0 if mode != "bilinear" else 8 * 203 * 2**-24)


def test_a_factor_that_pytorch_computes_again_from_the_sizes_counts_for_nothing():
    x = torch.eye(7).view(1, 7, 7, 1)
    y = F.interpolate(x, scale_factor=(1.7, 1.0), mode="bilinear", recompute_scale_factor=True)
    rows, _ = ours("bilinear", False, x.shape, y.shape, (None, None))
    assert np.array_equal(weights(rows, 7), y[0, :, :, 0].numpy())
