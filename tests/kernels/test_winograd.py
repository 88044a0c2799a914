"""Winograd's algorithm where it is delicate: what is not finite, and tiles that the image's border cuts."""

from __future__ import annotations

import ctypes
from dataclasses import replace
from random import Random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from regroup.kernels import templates
from regroup.kernels.language.code import assembly
from regroup.kernels.machine import jit
from regroup.kernels.machine.target import Target
from regroup.kernels.problems import Conv, Epilogue
from regroup.kernels.problems.view import Halo, View
from regroup.kernels.program import aligned
from regroup.kernels.templates.parts.fetch import CURSOR
from regroup.kernels.templates.winograd import Winograd, candidates

_NOT_FINITE = [torch.nan, torch.inf, -torch.inf]


def _problem(height: int, width: int, inputs: int = 13, outputs: int = 35, **options) -> Conv:
    x, y = View.nhwc(height, width, inputs, halo=Halo(1, 1, 1, 1)), View.nhwc(height, width, outputs)
    return Conv(x, y, kernel_size=(3, 3), padding=(1, 1), **options)


def _apply(problem: Conv, image: Tensor, kernel: Winograd | None = None, **parameters: Tensor) -> Tensor:
    """Return what a kernel makes of an image (channels, height, width)."""
    kernel = kernel or candidates(problem, Target.host())[-1]
    loaded = jit.load([jit.compile_object(assembly(kernel.emit("kernel")), kernel.target)])
    weights, private = aligned(kernel.packed), aligned(CURSOR + kernel.scratch)
    weights[:] = kernel.pack({name: t.numpy() for name, t in parameters.items()})
    private[:CURSOR].view(np.int64)[:] = 0
    x, y = F.pad(image, (1, 1, 1, 1)).permute(1, 2, 0).contiguous(), torch.zeros(problem.y.floats)
    table = (ctypes.c_void_p * 3)(x.data_ptr() - 4 * problem.x.first, y.data_ptr(), weights.ctypes.data)
    call = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)
    call(loaded.address("kernel"))(table, 0, kernel.items, private.ctypes.data + 4 * CURSOR)
    return y.view(problem.y.height, problem.y.width, -1).permute(2, 0, 1)


def _definition(image: Tensor, weight: Tensor, groups: int = 1) -> Tensor:
    """Return the sum of all products, zeros around the image included, in float64."""
    windows = F.unfold(image.double()[None], 3, padding=1)[0].unflatten(0, (groups, -1))
    kernels = weight.double().flatten(1).unflatten(0, (groups, -1))
    products = kernels[..., None] * windows[:, None]
    return products.sum(2).flatten(0, 1).unflatten(1, image.shape[1:]).float()


def _integers(rng: Random, *shape: int) -> Tensor:
    return torch.randint(
        -2, 3, shape, generator=torch.Generator().manual_seed(rng.randrange(1 << 30))
    ).float()


def _same(got: Tensor, want: Tensor) -> bool:
    return torch.equal(got.nan_to_num(nan=7e37), want.nan_to_num(nan=7e37)) and torch.equal(
        got.isnan(), want.isnan()
    )


@pytest.mark.parametrize("value", _NOT_FINITE)
@pytest.mark.parametrize("size", [(4, 6), (5, 7), (1, 2), (3, 1)])
def test_what_is_not_finite_stays_where_the_definition_puts_it(size, value):
    rng, (height, width) = Random(f"{size}"), size
    problem, weight = _problem(*size), _integers(rng, 35, 13, 3, 3)
    for y in range(height):
        for x in range(width):
            image = _integers(rng, 13, *size)
            image[rng.randrange(13), y, x] = value
            assert _same(_apply(problem, image, weight=weight), _definition(image, weight)), (y, x)


@pytest.mark.parametrize("value", _NOT_FINITE)
def test_weights_that_are_not_finite_go_by_the_definition(value):
    rng = Random(f"{value}")
    for tap in range(9):
        image, weight = _integers(rng, 13, 5, 6), _integers(rng, 35, 13, 3, 3)
        weight[rng.randrange(35), rng.randrange(13), tap // 3, tap % 3] = value
        assert _same(_apply(_problem(5, 6), image, weight=weight), _definition(image, weight)), tap


def test_infinities_of_both_signs_in_one_tile_meet_only_in_windows_that_hold_both():
    image, weight = torch.zeros(13, 6, 6), torch.ones(35, 13, 3, 3)
    image[2, 1, 1], image[5, 4, 4] = torch.inf, -torch.inf
    got = _apply(_problem(6, 6), image, weight=weight)
    assert _same(got, _definition(image, weight)) and got.isposinf().any() and got.isneginf().any()


def test_an_overflow_inside_of_the_algorithm_does_not_reach_the_result():
    image, weight = torch.zeros(13, 6, 6), torch.zeros(35, 13, 3, 3)
    image[3, ::2], image[3, 1::2], weight[:, 3, 1, 1] = 3e38, -3e38, 1.0
    assert _same(_apply(_problem(6, 6), image, weight=weight), _definition(image, weight))
    image, weight[:, 3] = _integers(Random(0), 13, 6, 6).clamp(0, 1), 3e38
    image[:, :, 1:], image[:, ::3] = 0, 0
    assert _definition(image, weight).isfinite().any()
    assert _same(_apply(_problem(6, 6), image, weight=weight), _definition(image, weight))


def test_a_channel_that_no_weight_reads_may_hold_anything():
    rng = Random(0)
    order = tuple(c for c in range(16) if c != 4) * 2
    image, weight = _integers(rng, 16, 5, 5), _integers(rng, 35, 30, 3, 3)
    image[4, 2, 2] = torch.nan
    problem = replace(_problem(5, 5, 16), order=order)
    assert _same(_apply(problem, image, weight=weight), _definition(image[list(order)], weight))


def test_groups_keep_what_is_not_finite_apart():
    rng = Random(0)
    image, weight = _integers(rng, 40, 5, 5), _integers(rng, 34, 20, 3, 3)
    image[7, 2, 2] = torch.inf
    got = _apply(_problem(5, 5, 40, 34, groups=2), image, weight=weight)
    assert _same(got, _definition(image, weight, 2)) and got[17:].isfinite().all()


def test_what_is_not_finite_goes_through_bias_and_activation():
    rng = Random(0)
    image, weight, bias = _integers(rng, 13, 5, 5), _integers(rng, 35, 13, 3, 3), _integers(rng, 35)
    image[1, 0, 0], image[2, 4, 4] = torch.nan, -torch.inf
    problem = _problem(5, 5, epilogue=Epilogue(bias=True, activation="relu"))
    want = (_definition(image, weight) + bias[:, None, None]).relu()
    assert _same(_apply(problem, image, weight=weight, bias=bias), want)


def test_finite_numbers_do_without_the_weights_as_given():
    kernel = candidates(_problem(9, 9), Target.host())[-1]
    packed = kernel.pack
    kernel.pack = lambda parameters: np.r_[packed(parameters)[: -kernel.rare], np.full(kernel.rare, np.nan)]
    got = _apply(kernel.problem, torch.randn(13, 9, 9), kernel, weight=torch.randn(35, 13, 3, 3))
    assert got.isfinite().all()


@pytest.mark.parametrize("layer", [(64, 192, 56), (128, 128, 28), (256, 256, 14), (16, 64, 55)])
def test_layers_that_compute_much_are_done_by_winograd(layer):
    inputs, outputs, size = layer
    assert templates.choose(_problem(size, size, inputs, outputs), Target.avx512()).template == "winograd"


@pytest.mark.parametrize("layer", [(3, 64, 56), (8, 8, 56), (1024, 1024, 3)])
def test_layers_that_transforms_or_weights_would_slow_down_are_not(layer):
    inputs, outputs, size = layer
    assert templates.choose(_problem(size, size, inputs, outputs), Target.avx512()).template != "winograd"
