"""Layout, lowering, schedule and arena, with PyTorch in the place of the kernels: indices, not arithmetic."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from regroup.engine.frontend.recognise import record
from regroup.engine.graph import Torch
from regroup.engine.passes import optimise
from regroup.engine.placing.partition import partition
from regroup.engine.placing.schedule import schedule
from tests.engine.emulator import Emulator
from tests.engine.models import BATCH, RandomNet, load


def emulate(model: nn.Module, x: Tensor) -> tuple[list[Tensor], list]:
    graph = record(model, [x.float()], BATCH).graph
    optimise(graph)
    env, schedules = {graph.inputs[0]: x}, []
    for segment in partition(graph, lambda node: not isinstance(node.op, Torch)):
        inputs = [env[value] for value in segment.graph.inputs]
        if segment.native:
            schedules.append(schedule(segment.graph))
            outputs = [torch.full((len(x), *v.shape), float("nan")).to(x) for v in segment.graph.outputs]
            Emulator(schedules[-1].steps, schedules[-1].arena_floats)(inputs, outputs)
        else:
            outputs = segment.graph.evaluate(inputs)
        env.update(zip(segment.graph.outputs, outputs, strict=True))
    return [env[value] for value in graph.outputs], schedules


@pytest.mark.parametrize(
    "name",
    [
        "torchvision:resnet18",
        "torchvision:googlenet",
        "torchvision:shufflenet_v2_x1_0",
        "timm:mixnet_s",
        "timm:mobilenetv3_large_100",
        "timm:ghostnet_100",
        "timm:resnetv2_50",
        "timm:seresnet50",
        "pytorchcv:shufflenet_g3_w1",
        "pytorchcv:condensenet74_c4_g4",
        "regroup:dgc_condensenet_cifar_86",
    ],
)
def test_the_kernel_problems_of_a_network_compute_it(name):
    model, x = load(name), torch.randn(2, 3, 64, 64)
    (result,), schedules = emulate(model, x.double())
    with torch.no_grad():
        exact = model.double()(x.double())
    # weights pass through float32 on their way
    assert (exact - result).abs().max() <= 1e-5 * exact.abs().max()
    copies = [t.name for s in schedules for group in s.tasks for t in group if t.name.startswith("copy")]
    assert not copies, "channel orders must cost nothing in these networks"


PROGRAMS = st.lists(
    st.tuples(st.integers(0, 10), st.integers(0, 12), st.integers(0, 23)), min_size=1, max_size=14
)


@settings(max_examples=120, deadline=None)
@given(PROGRAMS)
def test_random_networks_of_integers_are_exact(program):
    model = RandomNet(program)
    x = torch.randint(-3, 4, (2, RandomNet.CHANNELS, 5, 6)).float()
    with torch.no_grad():
        exact = model.double()(x.double())
    assume(exact.abs().max() < 2**24)
    (result,), _ = emulate(model.float(), x.double())
    assert torch.equal(result, exact)


def test_padding_that_no_convolution_takes_is_a_copy_into_a_frame_of_zeros():
    class Framed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.max_pool2d(nn.functional.pad(x.relu(), (1, 2, 3, 0)), 3, 2)

    x = torch.randn(2, 5, 6, 7).double()
    (result,), schedules = emulate(Framed().eval(), x)
    assert torch.equal(result, Framed()(x))
    assert [task.name for group in schedules[0].tasks for task in group][1:3] == ["relu", "pad"]


def test_an_image_of_one_channel_becomes_a_vector_of_its_pixels():
    class Pixels(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Conv2d(12, 5, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x.relu().view(-1, 12, 1, 1))

    model, x = Pixels().eval(), torch.randn(2, 1, 3, 4)
    (result,), _ = emulate(model, x.double())
    with torch.no_grad():
        exact = model.double()(x.double())
    assert (result - exact).abs().max() < 1e-6


def test_wide_groups_whose_inputs_are_scattered_read_a_copy_side_by_side():
    model = nn.Sequential(
        nn.Conv2d(160, 160, 1, groups=10),
        nn.ChannelShuffle(16),
        nn.Conv2d(160, 160, 3, padding=1, groups=10),
        nn.Conv2d(160, 8, 1),
    ).eval()
    for parameter in model.parameters():
        parameter.data = torch.randint(-2, 3, parameter.shape).float()
    x = torch.randint(-2, 3, (2, 160, 5, 6)).double()
    (result,), schedules = emulate(model, x)
    with torch.no_grad():
        assert torch.equal(result, model.double()(x))
    names = [task.name for group in schedules[0].tasks for task in group]
    assert [name.split()[0] for name in names] == ["read", "conv", "copy", "conv", "conv", "write"]
