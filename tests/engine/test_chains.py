from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given, settings
from torch import Tensor, nn

from regroup.engine.placing import chains
from regroup.engine.running.compiled import compile
from tests.engine.models import RandomNet, load
from tests.engine.test_lowering import PROGRAMS, emulate


@pytest.fixture
def all_chains(monkeypatch):
    monkeypatch.setattr(chains, "_SHARE", 0)
    monkeypatch.setattr(chains, "_ROWS", 1)
    monkeypatch.setattr(chains, "_TWICE", 10)


def _chained(schedules: list) -> list[str]:
    return [task.name for s in schedules for group in s.tasks for task in group if " > " in task.name]


@pytest.mark.usefixtures("all_chains")
def test_inverted_residuals_become_chains_that_compute_the_same():
    model, x = load("timm:mobilenetv2_100"), torch.randn(1, 3, 64, 64)
    (result,), schedules = emulate(model, x.double())
    with torch.no_grad():
        exact = model.double()(x.double())
    assert (exact - result).abs().max() <= 1e-5 * exact.abs().max()
    assert _chained(schedules).count("conv + relu6 > conv + relu6 > conv + add") == 10


@pytest.mark.usefixtures("all_chains")
@settings(max_examples=60, deadline=None)
@given(PROGRAMS)
def test_chains_in_random_networks_of_integers_are_exact(program):
    model = RandomNet(program)
    x = torch.randint(-3, 4, (2, RandomNet.CHANNELS, 5, 6)).float()
    with torch.no_grad():
        exact = model.double()(x.double())
    assume(exact.abs().max() < 2**24)
    (result,), _ = emulate(model.float(), x.double())
    assert torch.equal(result, exact)


class Bottleneck(nn.Module):
    """Stem and pooling; then an inverted residual, its input needed until the end."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU6(), nn.MaxPool2d(3, 2, 1))
        self.block = nn.Sequential(
            nn.Conv2d(8, 24, 1),
            nn.ReLU6(),
            nn.Conv2d(24, 24, 3, 1, 1, groups=24),
            nn.ReLU6(),
            nn.Conv2d(24, 8, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return x + self.block(x)


@pytest.mark.usefixtures("all_chains")
@pytest.mark.parametrize("threads", [1, 2])
def test_a_chain_of_integers_is_exact_in_native_code(threads):
    model, before = Bottleneck().eval(), torch.get_num_threads()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randint(-1, 2, parameter.shape).float())
        x = torch.randint(-3, 4, (2, 3, 37, 29)).float()
        expected = model(x)
    torch.set_num_threads(threads)
    try:
        fast = compile(model, x)
        assert torch.equal(fast(x), expected)
    finally:
        torch.set_num_threads(before)
    assert fast.explain().count(" > ") == 3


def test_small_results_are_not_worth_a_chain():
    _, schedules = emulate(Bottleneck().eval(), torch.randn(1, 3, 56, 56).double())
    assert not _chained(schedules)
    _, schedules = emulate(Bottleneck().eval(), torch.randn(1, 3, 112, 112).double())
    assert _chained(schedules)


def test_a_convolution_that_is_quicker_by_winograd_is_not_chained_to_its_pooling():
    model = nn.Sequential(nn.Conv2d(64, 96, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2, 1)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randint(-1, 2, parameter.shape).float())
        x = torch.randint(-3, 4, (2, 64, 57, 56)).float()
        expected = model(x)
    fast = compile(model, x)
    assert torch.equal(fast(x), expected)
    table = fast.explain()
    assert "winograd" in table and " > " not in table
