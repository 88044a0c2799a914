"""Resizing, compiled: the same pixels as PyTorch's for all small sizes, factors, modes and corners."""

from __future__ import annotations

import os
from random import Random

import pytest
import torch
from torch import Tensor, nn

from regroup import compile
from regroup.ops.bounds import unit_roundoff, worst_ratio
from tests.kernels.test_resize import FACTORS, MODES, SIZES

FUZZ = int(os.environ.get("REGROUP_FUZZ", 0))
"""Resizings to try in the long run."""

TOGETHER = 24
"""Resizings that one network does, so that it is compiled once."""


class Resizings(nn.Module):
    """The same image, resized in several ways."""

    def __init__(self, ways: list[nn.Module]) -> None:
        super().__init__()
        self.ways = nn.ModuleList(ways)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(way(x) for way in self.ways)


def ways(height: int, width: int) -> list[nn.Upsample]:
    """Return every resizing of an image: a factor for each axis, and the sizes they lead to."""
    found = []
    for mode, corners in MODES:
        for down, across in zip(FACTORS, FACTORS[7:] + FACTORS[:7], strict=True):
            size = (int(height * down), int(width * across))
            if min(size) >= 1:
                align = corners if mode == "bilinear" else None
                found += [
                    nn.Upsample(scale_factor=(down, across), mode=mode, align_corners=align),
                    nn.Upsample(size=size, mode=mode, align_corners=align),
                ]
    return found


def check(resizings: list[nn.Upsample], x: Tensor) -> None:
    model = Resizings(resizings).eval()
    fast = compile(model, x)
    assert [part["runs"] for part in fast.explain(json=True)["segments"]] == ["native"]
    for way, y, want in zip(resizings, fast(x), model(x), strict=True):
        assert y.shape == want.shape
        # positions and weights are PyTorch's to the last bit (tests/kernels): sums of four products differ
        roundings = 8 if way.mode == "bilinear" else 0
        largest = x.abs().amax((2, 3), keepdim=True).double().expand_as(want)
        assert worst_ratio(y, want.double(), roundings * unit_roundoff(torch.float32) * largest) <= 1, way
    with_infinities = torch.where(torch.rand_like(x) < 0.1, 1 / torch.zeros(()), x)
    with_infinities[0, 0, 0, 0] = float("nan")
    for way, y, want in zip(resizings, fast(with_infinities), model(with_infinities), strict=True):
        assert torch.equal(y.isfinite(), want.isfinite()) and torch.equal(y.isnan(), want.isnan()), way


@pytest.mark.timeout(0 if FUZZ else 300)
def test_compiled_resizings_are_pytorchs():
    rng = Random(FUZZ)
    for _ in range(max(1, FUZZ // TOGETHER)):
        height, width = (rng.choice(SIZES) for _ in range(2)) if FUZZ else (3, 4)
        chosen = ways(height, width)
        check(
            rng.sample(chosen, min(len(chosen), TOGETHER)), torch.randn(2, rng.randint(1, 20), height, width)
        )


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
@pytest.mark.parametrize("factor", [(1.3, 1.5), (1.0, 2.05)], ids=["stays", "doubles"])
def test_a_size_that_stays_or_doubles_exactly_goes_by_the_size(mode, factor):
    check([nn.Upsample(scale_factor=factor, mode=mode)], torch.arange(12.0).reshape(1, 1, 3, 4))
