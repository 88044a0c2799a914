"""What is found in a moment of tensors without numbers is what PyTorch finds, and what is with numbers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from regroup.networks import create_model
from regroup.ops.shapes import _ACTIVATIONS, _FILLING, result_of, without_numbers

ATEN = torch.ops.aten
FLOATS = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
TYPES = [*FLOATS * 4, torch.int64, torch.bool, torch.complex64]
ARGUMENTS = {"uniform_": (0.0, 1.0), "normal_": (0.0, 1.0), "clamp_": (0.0, 1.0)}
pytestmark = pytest.mark.filterwarnings("ignore:ComplexHalf")
quick = settings(max_examples=25, deadline=None, derandomize=True, database=None)


@st.composite
def tensors(draw: st.DrawFn, sides: tuple[int, ...] | None = None) -> Tensor:
    """A tensor on the meta device: dense in any order of its dimensions, with gaps, or expanded."""
    sides = sides or tuple(draw(st.lists(st.integers(0, 4), max_size=5)))
    order = draw(st.permutations(range(len(sides))))
    dtype = draw(st.sampled_from(TYPES))
    x = torch.empty([sides[i] for i in order], dtype=dtype, device="meta")
    x = x.permute([order.index(i) for i in range(len(sides))])
    if sides and draw(st.integers(0, 3)) == 0:
        return torch.cat([x, x], 0)[::2] if draw(st.booleans()) else x[:1].expand_as(x)
    return x


def look(t: Tensor) -> tuple:
    """Return what tells a tensor without numbers; how far apart what lies that is not there is nothing."""
    steps = [step for step, side in zip(t.stride(), t.shape, strict=True) if side > 1 and t.numel()]
    return t.shape, steps, t.dtype, t.device


def same(func: object, *args: object) -> None:
    """Require the same results, or the same kind of error, with and without what is known."""
    outcomes = []
    for function in (func, lambda *given: result_of(func, given, {})):
        try:
            found = tree_leaves(function(*args))
            outcomes.append([(look(t), t is args[0]) for t in found])
        except Exception as error:
            outcomes.append(type(error))
    assert outcomes[0] == outcomes[1], (func, *args)


@pytest.mark.parametrize("name", [*_ACTIVATIONS.split(), *_FILLING.split()])
def test_what_treats_each_number_by_itself(name: str) -> None:
    @quick
    @given(tensors())
    def holds(x: Tensor) -> None:
        same(getattr(ATEN, name).default, x, *ARGUMENTS.get(name, ()))

    holds()


@pytest.mark.parametrize("name", ["add", "sub", "mul"])
def test_sums_and_products_of_tensors_and_numbers(name: str) -> None:
    sides = st.lists(st.integers(1, 3), max_size=4)

    @settings(quick, max_examples=150)
    @given(st.data(), sides)
    def holds(data: st.DataObject, shape: list[int]) -> None:
        x = data.draw(tensors(tuple(shape)))
        other = tuple(data.draw(st.sampled_from((n, n, 1, 4))) for n in shape[data.draw(st.integers(0, 1)) :])
        number = st.sampled_from([2, 0.5, True, 1j])
        same(getattr(ATEN, name).Tensor, x, data.draw(tensors(other) | tensors(tuple(shape)) | number))

    holds()


@quick
@given(st.data(), st.integers(0, 3), st.booleans(), st.booleans())
def test_norms(data: st.DataObject, rank: int, affine: bool, training: bool) -> None:
    x = data.draw(tensors((2, 3, *[4] * rank)))
    mean, weight = (torch.empty(3, dtype=data.draw(st.sampled_from((x.dtype, torch.float32))), device="meta")
                    for _ in range(2))  # fmt: skip
    weights = (weight, weight) if affine else (None, None)
    if x.is_floating_point():
        given = (x, *weights, mean, mean, training, 0.1, 1e-5)
        right = ATEN.native_batch_norm.default(*given)
        found = result_of(ATEN.native_batch_norm.default, given, {})
        kept = 3 if training else 1  # what else there is of one that has learned differs by device
        assert list(map(look, found[:kept])) == list(map(look, right[:kept]))


@settings(quick, max_examples=300)
@given(st.data(), st.integers(1, 3))
def test_convolutions(data: st.DataObject, rank: int) -> None:
    def numbers(low: int, high: int) -> list[int]:
        return [data.draw(st.integers(low, high)) for _ in range(rank)]

    groups, per, images = (data.draw(st.integers(1, 3)) for _ in range(3))
    channels = data.draw(st.sampled_from((groups * per, groups * per, groups * per, 5)))
    x = torch.empty(images, channels, *numbers(1, 7), device="meta")
    weight = torch.empty(2 * groups, per, *numbers(1, 4), device="meta")
    bias = data.draw(st.sampled_from((None, torch.empty(2 * groups, device="meta"))))
    if data.draw(st.integers(0, 9)) == 0:
        x = x.double()
    sizes = numbers(1, 3), numbers(0, 2), numbers(1, 2)
    transposed = data.draw(st.integers(0, 9)) == 0
    same(ATEN.convolution.default, x, weight, bias, *sizes, transposed, [0] * rank, groups)


def both(model: nn.Module) -> list[object]:
    """Return what a network gives in training, and its maps."""
    x = torch.zeros(2, 3, 96, 80)
    return [model.train()(x), model.eval().forward_intermediates(x)]


@pytest.mark.parametrize("name", ["mixnet_s", "oct_mobilenetv2_100_a0375", "inception_v3"])
def test_a_network_has_the_shapes_that_it_has_with_numbers(name: str) -> None:
    with without_numbers():
        model = create_model(name, num_classes=4)
        outputs = both(model)
    real = create_model(name, num_classes=4)
    with torch.no_grad():
        right = both(real)
    found, wanted = tree_leaves((outputs, model.state_dict())), tree_leaves((right, real.state_dict()))
    assert [(t.shape, t.dtype) for t in found] == [(t.shape, t.dtype) for t in wanted]
    assert all(t.is_meta for t in found)


def test_numbers_that_there_are_are_computed() -> None:
    x = torch.tensor([-1.0, 2.0])
    with without_numbers():
        assert torch.equal(x.relu() + 1, torch.tensor([1.0, 3.0], device="cpu"))
        assert torch.equal(nn.init.ones_(x), torch.tensor([1.0, 1.0], device="cpu"))
        assert x.uniform_(2, 3).min() >= 2
