"""Exported networks as they run: the bits of the engine, in memory with fences, on each machine there is."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from regroup.aot.targets import MACHINES
from regroup.networks import create_model
from regroup.ops.bounds import rounding_bound, worst_ratio
from tests.aot.running import RUNNABLE, Built, engine, require
from tests.engine.models import RandomNet, randomise, settle
from tests.engine.test_compiled import assert_as_good_as_pytorch

PROGRAM = [
    (0, 0, 1),
    (1, 1, 3),
    (3, 2, 2),
    (7, 1, 17),
    (4, 0, 0),
    (2, 3, 3),
    (5, 0, 0),
    (8, 2, 0),
    (10, 0, 5),
]
"""Convolutions in groups, a shuffle, sums, pooling, gates, concatenations, and channels in another order."""

NETWORKS = [("shufflenet_v1_g3_025", name) for name in RUNNABLE]
"""Channel orders and chains, on every machine."""

NETWORKS += [
    ("mobilenet_v3_small_075", name) for name in ("x86-64-avx2", "aarch64", "wasm32-simd128", "cortex-m4")
]
"""Hard swish, gates of sigmoids, depthwise convolutions of 5 x 5: with fused multiply-adds and without."""


class Two(nn.Module):
    """Several inputs, of which one is not read, and several results; all are integers."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Conv2d(4, 8, 3, 2, 1), nn.Linear(5, 8)
        for parameter in self.parameters():
            parameter.data = torch.randint(-2, 3, parameter.shape).float()

    def forward(self, images: Tensor, unread: Tensor, vector: Tensor) -> dict[str, object]:
        gate = self.other(vector)
        y = self.one(images)
        return {"image": y.relu(), "none": None, "more": [gate, F.adaptive_max_pool2d(y, 1).flatten(1)]}


@pytest.fixture(params=RUNNABLE)
def machine(request):
    return require(request.param)


@pytest.mark.parametrize("apart", [False, True], ids=["inside", "apart"])
def test_integers_are_exact_and_no_memory_around_is_touched(machine, apart, tmp_path):
    model = RandomNet(PROGRAM)
    x = torch.randint(-3, 4, (1, RandomNet.CHANNELS, 9, 7)).float()
    (result,) = Built(model, x, machine, tmp_path, apart=apart)(x)
    with torch.no_grad():
        assert torch.equal(result.double(), model.double()(x.double()))


@pytest.mark.parametrize(("name", "on"), NETWORKS)
def test_a_network_is_as_good_as_pytorch_with_the_bits_of_the_engine(name, on, tmp_path):
    machine = require(on)
    torch.manual_seed(0)
    model, x = randomise(create_model(name)), torch.randn(1, 3, 48, 48)
    settle(model, x)
    built = Built(model, x, machine, tmp_path)
    (result,) = built(x)
    assert_as_good_as_pytorch(model, result, x)
    if machine.name.startswith("x86"):
        assert torch.equal(result, *engine(built.network, [x]))
    if machine.more:  # a CPU that has not got all
        (result,) = built(x, emulator="qemu-x86_64 -cpu Haswell")
        assert torch.equal(result, *engine(built.networks[0], [x]))


def test_a_convolution_is_within_the_rounding_bound(machine, tmp_path):
    torch.manual_seed(0)
    model, x = nn.Conv2d(48, 40, 3, 2, 1, groups=8).eval(), torch.randn(1, 48, 13, 11)
    (result,) = Built(model, x, machine, tmp_path)(x)
    with torch.no_grad():
        exact = model.double()(x.double())
        model.weight.abs_(), model.bias.abs_()
        bound = rounding_bound(exact, model(x.abs().double()), 9 * 6 + 1)
    assert worst_ratio(result, exact, bound) <= 1


def test_several_inputs_and_results(machine, tmp_path):
    torch.manual_seed(0)
    model, sizes = Two().eval(), [(1, 4, 8, 6), (1, 3), (1, 5)]
    inputs = [torch.randint(-3, 4, size).float() for size in sizes]
    built = Built(model, inputs, machine, tmp_path)
    names = [port.name for port in built.network.inputs], [port.name for port in built.network.outputs]
    assert names == (["input_0", "input_1", "input_2"], ["output_image", "output_more_0", "output_more_1"])
    with torch.no_grad():
        right = model(*inputs)
    assert all(map(torch.equal, built(*inputs), [right["image"], *right["more"]]))


def test_machines_that_are_only_compiled_are_few():
    assert set(MACHINES) - set(RUNNABLE) == {"aarch64-android", "aarch64-apple"}
