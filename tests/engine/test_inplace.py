"""Outputs written over residuals: less memory, the same bits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from regroup.engine.placing import schedule as scheduling
from regroup.engine.placing.inplace import written_over
from regroup.engine.placing.places import Place, Slab
from regroup.engine.placing.tasks import Task
from regroup.engine.running.compiled import compile
from tests.engine.models import load


def task(reads: list[Place], writes: Place, *over: Place) -> Task:
    return Task("", tuple(reads), writes, lambda: pytest.fail("not run"), None, over)


def whole(*size: int) -> Place:
    slab = Slab(*size)
    return Place(slab, tuple(range(slab.channels)))


def merged(*steps: list[Task]) -> list[list[Slab]]:
    return [[one.slab, *one.followers] for one in written_over(scheduling._lifetimes(steps), steps)]


def test_blocks_in_a_row_are_all_written_over_the_first():
    a, b, c, inner = whole(4, 4, 8), whole(4, 4, 8), whole(4, 4, 8), whole(4, 4, 3)
    steps = [[task([], a)], [task([a], inner)], [task([inner, a], b, a)], [task([b], c, b)]]
    assert merged(*steps) == [[a.slab, b.slab, c.slab], [inner.slab]]


def test_what_is_read_later_or_beside_or_lies_otherwise_stays():
    a, b, c = whole(4, 4, 8), whole(4, 4, 8), whole(4, 4, 8)
    assert len(merged([task([], a)], [task([a], b, a)], [task([a, b], c)])) == 3  # read later
    assert len(merged([task([], a)], [task([a], b, a), task([a], c)])) == 3  # read at the same time
    assert len(merged([task([], a)], [task([a, a], b, a)])) == 2  # read in two ways, as by a chain
    part, wide = whole(4, 4, 8), whole(4, 4, 9)
    assert len(merged([task([], a)], [task([a], wide, a)])) == 2
    half = Place(part.slab, tuple(range(4)))
    assert len(merged([task([], part)], [task([half], b, half)])) == 2


def test_lifetimes_of_one_place_are_one():
    a, b = whole(4, 4, 8), whole(4, 4, 8)
    steps = [[task([], a)], [task([a], b, a)], [task([b], whole(1, 1, 1))]]
    life, _ = written_over(scheduling._lifetimes(steps), steps)
    assert (life.first, life.last) == (0, 2)


class Mixed(nn.Module):
    """Residuals after kernels of many kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Conv2d(32, 32, k, padding=k // 2, groups=g)
            for k, g in ((1, 1), (3, 1), (3, 2), (3, 8), (3, 32), (5, 32), (1, 4))
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x.sigmoid()
        for layer in self.layers:
            x = (x + layer(x)).relu()
        return x.mean((2, 3))


@pytest.mark.parametrize(
    "name", ["mixed", "torchvision:resnet18", "timm:mobilenetv2_100", "timm:resnetv2_50"]
)
def test_memory_shrinks_and_no_bit_changes(name, monkeypatch):
    torch.manual_seed(0)
    model = Mixed().eval() if name == "mixed" else load(name)
    x = torch.randn(2, 32, 14, 15) if name == "mixed" else torch.randn(2, 3, 64, 64)

    def run() -> tuple[Tensor, int]:
        fast = compile(model, x)
        return fast(x), fast.explain(json=True)["total"]["arena_bytes"]

    result, size = run()
    monkeypatch.setattr(scheduling, "written_over", lambda lives, steps: lives)
    apart, larger = run()
    assert torch.equal(result, apart)
    assert size <= larger
