"""Where the layout puts channels, as the kernels find them; numbers are small integers: results are exact."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from regroup.engine.frontend.recognise import record
from regroup.engine.passes import optimise
from regroup.engine.placing.schedule import schedule
from regroup.engine.running.compiled import compile
from regroup.kernels.machine.target import Target
from regroup.kernels.problems import Conv, Problem
from regroup.kernels.templates.parts.blocks import block_runs
from tests.engine.models import BATCH


def integers(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        for p in [*model.parameters(), *model.buffers()]:
            if p.is_floating_point():
                p.copy_(torch.randint(-2, 3, p.shape))
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_var.fill_(1 - norm.eps)
    return model.eval()


def exactly(model: nn.Module, x: torch.Tensor) -> None:
    with torch.no_grad():
        assert torch.equal(compile(model, x)(x), model(x))


def problems(model: nn.Module, x: torch.Tensor) -> list[Problem]:
    graph = record(model, [x], BATCH).graph
    optimise(graph)
    return [part.problem for step in schedule(graph).steps for part in step.parts]


def shuffled(groups: int, width: int) -> nn.Module:
    middle = 8 * groups
    return nn.Sequential(
        nn.Conv2d(8, middle, 1, groups=groups),
        nn.ChannelShuffle(groups),
        nn.Conv2d(middle, 4 * width, 3, padding=1, groups=4),
    )


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("width", [1, 2, 4, 8, 16])
def test_a_shuffle_before_narrow_groups_is_exact(groups, width):
    exactly(integers(shuffled(groups, width)), torch.randint(-3, 4, (2, 8, 9, 14)).float())


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_inputs_of_two_groups_of_a_vector_lie_side_by_side(groups):
    half = Target.host().lanes // 2
    found = problems(shuffled(groups, half), torch.randn(1, 8, 9, 14))
    conv = [problem for problem in found if isinstance(problem, Conv)][-1]
    assert all(run.block.repeats for run in block_runs(conv, 2))


@pytest.mark.parametrize("size", [2, 16])
def test_norm_before_more_weights_than_inputs_is_a_step_of_its_own(size):
    model = nn.Sequential(nn.Conv2d(3, 32, 1), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 32, 1))
    after = nn.Sequential(nn.Conv2d(32, 32, 1))

    class Both(nn.Module):
        """The first convolution has a second reader, so that the norm cannot be folded into it."""

        def __init__(self) -> None:
            super().__init__()
            self.stem, self.branch, self.after = model[0], model[1:], after

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.stem(x)
            return torch.cat([self.branch(x), self.after(x)], 1)

    both, x = integers(Both()), torch.randint(-3, 4, (2, 3, size, size)).float()
    exactly(both, x)
    names = [type(problem).__name__ for problem in problems(both, x)]
    assert names.count("Pointwise") == 1 + (size == 2)  # one writes the output


def test_an_image_of_one_pixel_can_be_padded():
    exactly(integers(nn.Conv2d(3, 8, 3, padding=1)), torch.randint(-3, 4, (2, 3, 1, 1)).float())


@pytest.mark.parametrize("side", [64, 63, 32])
@pytest.mark.parametrize(("kernel", "groups"), [(1, 1), (3, 8)], ids=["pointwise", "grouped"])
def test_planes_a_power_of_two_apart_are_exact(side, kernel, groups):
    """Their lines share cache sets, so that such maps are read in another order than others."""
    layer = integers(nn.Conv2d(128, 16, kernel, groups=groups))
    exactly(layer, torch.randint(-3, 4, (1, 128, side, side)).float())
