"""Activations over all of their range, small values included."""

from __future__ import annotations

import pytest
import torch

from regroup.kernels.fused import ACTIVATIONS, Epilogue
from regroup.kernels.problem import Pointwise
from regroup.kernels.program import Part, Step, build
from regroup.kernels.target import Target
from regroup.kernels.view import View
from tests.kernels.reference import Rounded

TARGETS = [Target.host(), Target.avx2()] if Target.host().name == "AVX-512" else [Target.host()]


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_is_right_from_the_smallest_to_the_largest(name, target):
    x = torch.linspace(-8, 8, 1 << 15)
    source, result = View.vector(len(x), buffer=2), View.vector(len(x), buffer=3)
    work = Pointwise(source, result, epilogue=Epilogue(activation=name))
    program = build([Step(name, (Part(work),))], target)
    arena, y = program.new_arena(1), torch.empty_like(x)
    program.run([arena.ctypes.data, x.data_ptr(), y.data_ptr()], threads=1)
    want = Rounded.of(x).activated(name)
    assert bool(((y.double() - want.exact).abs() <= want.error).all())
