"""NaN and infinity stay where the arithmetic puts them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from regroup.kernels.problems import Conv, Epilogue, Pool
from regroup.kernels.problems.view import Halo, View
from regroup.kernels.program import Part, Step, build

_ROOM = Halo(1, 1, 1, 1)


def _apply(problem: Conv | Pool, x: torch.Tensor, **parameters: torch.Tensor) -> torch.Tensor:
    program = build([Step("one", (Part(problem, {k: v.numpy() for k, v in parameters.items()}),))])
    arena = program.new_arena(1)
    arena[:] = 0
    place, y = problem.x, problem.y
    source = np.lib.stride_tricks.as_strided(
        arena[place.offset :],
        (place.height, place.width, place.channels),
        (place.row_pitch * 4, place.pixel_pitch * 4, 4),
    )
    source[:] = x[0].permute(1, 2, 0).numpy()
    program.run([arena.ctypes.data], threads=1)
    out = torch.from_numpy(arena[y.offset : y.offset + y.floats].copy())
    return out.view(1, y.height, y.width, y.channels).permute(0, 3, 1, 2)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("width", [1, 2, 3, 4, 8, 16, 20])
def test_nan_in_one_group_stays_in_its_group(width, value):
    groups, torch_groups = 5, 5
    x, y = View.nhwc(6, 7, groups * width, halo=_ROOM).placed(0), View.nhwc(6, 7, groups * width)
    conv = Conv(x, y.placed(x.floats), kernel_size=(3, 3), padding=(1, 1), groups=torch_groups)
    weight = torch.ones(groups * width, width, 3, 3)
    image = torch.ones(1, groups * width, 6, 7)
    image[0, 2 * width, 3, 3] = value
    got = _apply(conv, image, weight=weight)
    want = F.conv2d(image, weight, padding=1, groups=groups)
    assert torch.equal(got.isfinite(), want.isfinite())
    touched = (~got.isfinite()).any(dim=(0, 2, 3))
    assert touched.nonzero().flatten().tolist() == list(range(2 * width, 3 * width))


@pytest.mark.parametrize(
    "activation", ["none", "relu", "relu6", "silu", "hardswish", "sigmoid", "tanh", "gelu"]
)
def test_activations_hand_nan_on(activation):
    x, y = View.nhwc(2, 2, 20).placed(0), View.nhwc(2, 2, 20).placed(80)
    image = torch.ones(1, 20, 2, 2)
    image[0, 0, 0, 0] = torch.nan
    weight = torch.eye(20)[:, :, None, None]
    got = _apply(Conv(x, y, epilogue=Epilogue(activation=activation)), image, weight=weight)
    assert got[0, :, 0, 0].isnan().all() and got[0, :, 0, 1:].isfinite().all()


@pytest.mark.parametrize("kind", ["max", "average"])
def test_pooling_hands_nan_on_wherever_it_stands_in_the_window(kind):
    x, y = View.nhwc(4, 4, 17).placed(0), View.nhwc(4, 4, 17).placed(272)
    pool = Pool(x, y, kind=kind, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), padded=(1, 1))
    for place in range(16):
        image = torch.randn(1, 17, 4, 4)
        image[0, 5].view(-1)[place] = torch.nan
        want = F.max_pool2d(image, 3, 1, 1) if kind == "max" else F.avg_pool2d(image, 3, 1, 1)
        assert torch.equal(_apply(pool, image).isnan(), want.isnan())
