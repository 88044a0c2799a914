"""Activations over all of their range, small values included."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from regroup.kernels.machine.target import Target
from regroup.kernels.problems import Pointwise
from regroup.kernels.problems.fused import Epilogue
from regroup.kernels.problems.view import View
from regroup.kernels.program import Part, Step, build
from tests.kernels.reference import ACTIVATION, Rounded, U

TARGETS = [Target.host(), Target.avx2()] if Target.host().name == "AVX-512" else [Target.host()]


EAGER = {
    "silu": F.silu, "hardswish": F.hardswish, "hardsigmoid": F.hardsigmoid, "sigmoid": torch.sigmoid,
    "tanh": torch.tanh, "gelu": F.gelu, "gelu_tanh": partial(F.gelu, approximate="tanh"), "mish": F.mish,
    "elu:1.0,1.0,1.0": F.elu, "elu:1.6732632423543772,1.0507009873554805,1.0": F.selu,
    "softplus:1.0,20.0": F.softplus,
}  # fmt: skip


def computed(name: str, x: Tensor, target: Target) -> Tensor:
    source, result = View.vector(len(x), buffer=2), View.vector(len(x), buffer=3)
    work = Pointwise(source, result, epilogue=Epilogue(activation=name))
    program = build([Step(name, (Part(work),))], target)
    arena, y = program.new_arena(1), torch.empty_like(x)
    program.run([arena.ctypes.data, x.data_ptr(), y.data_ptr()], threads=1)
    return y


def units_off(y: Tensor, exact: Tensor) -> Tensor:
    """Return errors in units in the last place, positive where the result is too large in magnitude."""
    unit = torch.from_numpy(np.spacing(exact.abs().float().numpy())).double()
    return (y.double() - exact) / unit * exact.sign()


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
@pytest.mark.parametrize("name", ACTIVATION)
def test_an_activation_is_right_from_the_smallest_to_the_largest(name, target):
    x = torch.linspace(-8, 8, 1 << 15)
    want = Rounded.of(x).activated(name)
    assert bool(((computed(name, x, target).double() - want.exact).abs() <= want.error).all())


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
@pytest.mark.parametrize("name", EAGER)
def test_an_activation_rounds_as_little_as_pytorchs_and_to_no_side(name, target):
    """Errors to one side add up from layer to layer: 0.3 units a hard-swish made networks 3 times worse."""
    x = torch.linspace(-4, 4, 1 << 17)
    exact = ACTIVATION[name](x.double())
    ours, theirs = (units_off(y, exact) for y in (computed(name, x, target), EAGER[name](x)))
    assert ours.square().mean().sqrt() <= 1.25 * theirs.square().mean().sqrt()
    assert ours.abs().max() <= 2 * theirs.abs().max().clamp(min=1)
    assert ours.mean().abs() <= theirs.mean().abs().clamp(min=0.02)


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
@pytest.mark.parametrize("name", EAGER)
def test_an_activation_is_defined_far_out(name, target):
    x = torch.tensor([float("nan"), float("inf"), -1e38, -1e4, -120.0, -90.0, -87.5, 87.5, 90.0, 120.0, 1e38])
    y, exact = computed(name, x, target), ACTIVATION[name](x.double())
    assert torch.equal(y.isnan(), exact.isnan())
    assert bool(
        ((y - exact).nan_to_num(0.0, 0.0).abs() <= 8 * U * exact.abs().nan_to_num(0, 0) + 1e-35).all()
    )
