from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from regroup import compile
from regroup.engine.frontend.capture import capture
from regroup.engine.frontend.recognise import record
from regroup.engine.graph import Torch
from regroup.engine.operators.concat import Concat
from regroup.engine.operators.convolution import Conv
from regroup.engine.operators.local_response_norm import Lrn
from regroup.engine.operators.select import Select
from regroup.errors import EngineError
from tests.engine.models import BATCH, Shuffle, load


def _recognised(model: nn.Module, x: Tensor, batch: int = BATCH):
    return record(model.eval(), [x], batch).graph


@pytest.mark.parametrize(
    "name",
    ["timm:mixnet_s", "pytorchcv:shufflenet_g3_w1", "pytorchcv:condensenet74_c4_g4", "torchvision:googlenet"],
)
def test_a_recorded_network_computes_what_the_model_computes(name):
    model, x = load(name), torch.randn(2, 3, 64, 64)
    graph = _recognised(model, x)
    assert not [node for node in graph.nodes if isinstance(node.op, Torch)]
    with torch.no_grad():
        exact = model.double()(x.double())
    (result,) = graph.evaluate([x.double()])
    assert torch.equal(exact.argmax(1), result.argmax(1))
    assert (exact - result).abs().max() <= 1e-12 * exact.abs().max()


def test_shuffles_in_a_row_are_one_channel_order():
    graph = _recognised(nn.Sequential(Shuffle(3), Shuffle(2)), torch.randn(1, 12, 4, 4))
    assert [type(node.op) for node in graph.nodes] == [Select]


def test_chunks_of_channels_are_channel_orders():
    class Swap(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            a, b = x.chunk(2, 1)
            return torch.cat([b, a.flip(1)], 1)

    graph = _recognised(Swap(), torch.randn(1, 6, 4, 4))
    assert {type(node.op) for node in graph.nodes} == {Select, Concat}
    x = torch.randn(2, 6, 4, 4)
    assert torch.equal(graph.evaluate([x])[0], Swap()(x))


def test_what_moves_pixels_is_no_channel_order():
    class Corner(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[:, :, 1:, 1:].cos()

    graph = _recognised(Corner(), torch.randn(1, 6, 4, 4), batch=2)
    assert not any(isinstance(node.op, Select) for node in graph.nodes)
    x = torch.randn(2, 6, 4, 4)
    assert torch.equal(graph.evaluate([x])[0], Corner()(x))


def test_what_depends_on_weights_alone_is_computed_once():
    class Standardised(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
            return torch.nn.functional.conv2d(x, weight, self.bias)

    graph = _recognised(Standardised(4, 8, 3), torch.randn(1, 4, 8, 8))
    (node,) = graph.nodes
    assert isinstance(node.op, Conv)
    assert node.op.weight.mean((1, 2, 3)).abs().max() < 1e-6


def test_random_numbers_are_not_frozen_into_the_graph():
    class Noise(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + torch.rand(3, 1, 1)

    with pytest.raises(EngineError, match="random numbers"):
        capture(Noise(), [torch.randn(1, 3, 4, 4)], 1)


def test_in_place_operators_on_views_are_recorded_as_functions():
    class InPlace(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = x * 2
            y[:, :2] += 1
            return y.relu_()

    x = torch.randn(2, 6, 4, 4)
    graph = _recognised(InPlace(), x, batch=2)
    assert torch.equal(graph.evaluate([x])[0], InPlace()(x))


def test_flow_that_depends_on_numbers_is_an_error():
    class Branch(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(EngineError, match="cannot record"):
        capture(Branch(), [torch.randn(1, 3, 4, 4)], 1)


def test_a_structured_result_is_put_together_again():
    class Two(nn.Module):
        def forward(self, x: Tensor) -> dict:
            return {"double": x * 2, "more": (x.relu(), 7)}

    x = torch.randn(1, 3, 4, 4)
    recorded = capture(Two(), [x], 1)
    result = recorded.results.put_together(recorded.graph.evaluate([x]), [x])
    assert torch.equal(result["double"], x * 2)
    assert result["more"][1] == 7


@pytest.mark.parametrize("size", [1, 4, 5])
def test_local_response_normalisation_is_one_op(size):
    model, x = nn.LocalResponseNorm(size, 1e-2, 0.7, 2.0), torch.randn(2, 8, 4, 4)
    graph = _recognised(model, x)
    (node,) = graph.nodes
    assert isinstance(node.op, Lrn)
    assert torch.equal(graph.evaluate([x])[0], model(x))


def test_channels_added_onto_zeros_are_a_convolution():
    class Scatter(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            index = torch.tensor([4, 0, 4])
            return x.new_zeros(len(x), 6, *x.shape[2:]).index_add(1, index, x)

    x = torch.randn(2, 3, 4, 4)
    graph = _recognised(Scatter(), x)
    assert [type(node.op) for node in graph.nodes] == [Conv]
    assert torch.equal(graph.evaluate([x])[0], Scatter()(x))


def test_a_generator_of_its_own_is_left_to_pytorch():
    class Drawn(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + torch.rand(3, 1, 1, generator=torch.Generator().manual_seed(0))

    with pytest.raises(EngineError, match="generator"):
        capture(Drawn(), [torch.randn(1, 3, 4, 4)], 1)


def test_channels_last_beside_numbers_of_another_type_have_pytorchs_type():
    class Promoted(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.relu().permute(0, 2, 3, 1) * torch.full((6,), 1 / 3, dtype=torch.float64)

    x = torch.randn(2, 6, 4, 4)
    assert torch.equal(compile(Promoted().eval(), x)(x), Promoted()(x))
