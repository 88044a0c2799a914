"""Networks with any number of inputs and outputs, and with tensors that have no numbers at all."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from regroup.engine.running.compiled import compile
from regroup.engine.running.plan import NativeSegment
from tests.engine.fences import run_fenced

CHANNELS = 6


def integers(*shape: int) -> Tensor:
    return torch.randint(-3, 4, shape).float()


class Calls(nn.Module):
    """A convolution of integers, and a function that is given it."""

    def __init__(self, function: Callable) -> None:
        super().__init__()
        self.conv, self.function = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1), function
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(integers(*parameter.shape))

    def forward(self, *inputs: Tensor) -> object:
        return self.function(self.conv, *inputs)


def assert_same(function: Callable, *inputs: Tensor) -> None:
    model = Calls(function).eval()
    with torch.no_grad():
        wanted = model(*inputs)
    torch.testing.assert_close(compile(model, inputs)(*inputs), wanted, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("number", [1, 60, 61, 62, 200, 1000])
def test_any_number_of_inputs_and_outputs(number):
    assert_same(lambda conv, *xs: [F.relu(x) for x in xs], *integers(number, 2, 1, 2, 2))


def test_many_outputs_of_one_input_and_one_of_many(number=200):
    assert_same(lambda conv, x: [conv(x) + i for i in range(number)], integers(2, CHANNELS, 3, 3))
    assert_same(lambda conv, *xs: (torch.cat(xs, 1), sum(xs)), *integers(number, 2, 1, 2, 2))


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_that_take_images_each_have_addresses_of_their_own(threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert_same(lambda conv, x: [conv(x) + i for i in range(70)], integers(7, CHANNELS, 3, 3))
    finally:
        torch.set_num_threads(before)


EMPTY: dict[str, Callable[[nn.Module, Tensor], object]] = {
    "a part of a concatenation": lambda conv, x: conv(torch.cat([x.new_empty(len(x), 0, 5, 5), x], 1)),
    "a constant part": lambda conv, x: torch.cat([conv(x), torch.zeros(len(x), 0, 5, 5)], 1),
    "a slice put back": lambda conv, x: torch.cat([conv(x)[:, :0], x], 1),
    "all parts": lambda conv, x: torch.cat([x[:, :0], conv(x)[:, 3:3]], 1),
    "a result": lambda conv, x: (x[:, :0], conv(x)[:, :0], conv(x)[:, :, 2:2]),
    "elementwise work": lambda conv, x: (F.relu(conv(x)[:, 2:2]) + x[:, :0], conv(x)),
    "parts of a split": lambda conv, x: torch.split(conv(x), [0, 2, 4, 0], 1),
    "a mean": lambda conv, x: torch.cat(
        [F.adaptive_avg_pool2d(conv(x)[:, :0], 1).flatten(1), x[..., 0, 0]], 1
    ),
    "no mean": lambda conv, x: conv(x)[:, :0].mean(1),
    "a sum over nothing": lambda conv, x: conv(x) * conv(x)[:, :0].sum(1, keepdim=True),
    "inputs of a convolution": lambda conv, x: F.conv2d(x[:, :0], torch.zeros(3, 0, 1, 1)),
    "inputs of a layer": lambda conv, x: F.linear(x[:, :0, 0, 0], torch.zeros(3, 0), torch.ones(3)),
    "outputs of a layer": lambda conv, x: F.linear(conv(x)[..., 0, 0], torch.zeros(0, CHANNELS)),
    "a normalisation": lambda conv, x: F.batch_norm(x[:, :0], torch.zeros(0), torch.ones(0)),
    "padding": lambda conv, x: F.pad(conv(x)[:, :0], (1, 1, 1, 1)),
    "a vector": lambda conv, x: conv(x)[:, :0].flatten(1),
    "no result": lambda conv, x: (),
    "None": lambda conv, x: None,
}


@pytest.mark.parametrize("case", EMPTY)
def test_tensors_without_numbers(case):
    assert_same(EMPTY[case], integers(2, CHANNELS, 5, 5))


SLICES = st.lists(st.tuples(st.integers(0, CHANNELS), st.integers(0, CHANNELS)), min_size=1, max_size=5)


@settings(max_examples=15, deadline=None)
@given(SLICES, st.booleans(), st.booleans())
def test_any_slices_put_together(slices, convolved, active):
    def function(conv: nn.Module, x: Tensor) -> Tensor:
        y = conv(x) if convolved else x
        return torch.cat([F.relu(y[:, a:b]) if active else y[:, a:b] for a, b in slices], 1)

    assert_same(function, integers(2, CHANNELS, 5, 5))


MOVES: list[Callable[[nn.Module, Tensor, Tensor], Tensor]] = [
    lambda conv, a, b: a[:, b.shape[1] % 3 :],
    lambda conv, a, b: a.flatten(1),
    lambda conv, a, b: torch.cat([a, b], 1) if a.shape[2:] == b.shape[2:] else a,
    lambda conv, a, b: torch.cat([a.flatten(1), b.flatten(1)], 1),
    lambda conv, a, b: torch.cat([a, a.flip(1), a[:, :0]], 1),
    lambda conv, a, b: F.relu(a),
    lambda conv, a, b: a[..., 0, 0] if a.dim() == 4 else a[:, :, None, None],
    lambda conv, a, b: conv(a[:, :CHANNELS]) if a.dim() == 4 and a.shape[1] >= CHANNELS else a * 2,
    lambda conv, a, b: a + b if a.shape == b.shape else a.flip(1),
    lambda conv, a, b: a[:, :0],
]
PROGRAMS = st.lists(
    st.tuples(st.integers(0, len(MOVES) - 1), *[st.integers(0, 7)] * 2), min_size=1, max_size=7
)


@settings(max_examples=int(os.environ.get("REGROUP_FUZZ", 30)), deadline=None)
@given(PROGRAMS)
@example([(3, 0, 1)])  # wrote beyond its memory: images as vectors, side by side
def test_slices_vectors_and_concatenations_of_any_kind_keep_to_their_memory(program):
    def function(conv: nn.Module, *inputs: Tensor) -> list[Tensor]:
        made = list(inputs)
        for move, a, b in program:
            result = MOVES[move](conv, made[a % len(made)], made[b % len(made)])
            if result[0].numel() < 500:
                made.append(result)
        return made[len(inputs) :]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(NativeSegment, "run", run_fenced)
        assert_same(function, integers(3, CHANNELS, 2, 3), integers(3, CHANNELS))


def test_an_input_without_numbers():
    assert_same(
        lambda conv, x, y: torch.cat([conv(x), y], 1), integers(2, CHANNELS, 5, 5), integers(2, 0, 5, 5)
    )
