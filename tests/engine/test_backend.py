"""`torch.compile(backend="regroup")`: whatever PyTorch captures, it computes, natively or not."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from regroup.engine.running.dynamo import backend, reports


def integers(*shape: int) -> Tensor:
    return torch.randint(-3, 4, shape).float()


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def assert_same(function: Callable, *inputs: object, **options: object) -> None:
    wanted = function(*inputs)
    got = torch.compile(function, backend=backend, **options)(*inputs)
    torch.testing.assert_close(got, wanted, rtol=0, atol=0, equal_nan=True)


X, SMALL, WEIGHT = integers(2, 3, 9, 9), integers(4, 3, 5, 5), integers(8, 3, 3, 3)
CONV = nn.Conv2d(3, 4, 3).eval()
with torch.no_grad():
    for parameter in CONV.parameters():
        parameter.copy_(integers(*parameter.shape))

CASES: dict[str, tuple[Callable, tuple]] = {
    "a weight in the closure": (lambda x: F.conv2d(x, WEIGHT), (X,)),
    "a weight as an input": (F.conv2d, (X, WEIGHT)),
    "two batch sizes": (lambda x, z: F.conv2d(x, WEIGHT).sum() + F.conv2d(z, WEIGHT), (X, SMALL)),
    "a Siamese tracker": (lambda x, z: F.conv2d(CONV(x), CONV(z)), (X, SMALL)),
    "a scalar": (lambda x, s: CONV(x) * s, (X, torch.tensor(2.0))),
    "a scalar first": (lambda s, x: CONV(x) * s, (torch.tensor(2.0), X)),
    "only a scalar": (lambda s: s * 2 + 1, (torch.tensor(2.0),)),
    "numbers": (lambda x, n, f: CONV(x) * n + f, (X, 3, 0.5)),
    "no input": (lambda: torch.ones(3) * 2, ()),
    "an input as the result": (lambda x: (x, CONV(x), x), (X,)),
    "a constant beside None": (lambda x: (CONV(x), None, torch.arange(3), 7), (X,)),
    "float64": (lambda x: F.conv2d(x, WEIGHT.double()), (X.double(),)),
    "bfloat16": (lambda x: x * 2, (X.bfloat16(),)),
    "complex numbers": (lambda x: x * 2, (X.to(torch.complex64),)),
    "integers": (lambda x: x // 2 + 1, (X.long(),)),
    "integers beside images": (lambda x, i: CONV(x)[:, i], (X, torch.tensor([0, 2]))),
    "booleans": (lambda x, mask: torch.where(mask, x, 0.0), (X, X > 0)),
    "an empty batch": (lambda x: CONV(x).relu(), (X[:0],)),
    "no channels": (lambda x: torch.cat([x[:, :0], x], 1).relu(), (X,)),
    "meta": (lambda x: x * 2, (X.to("meta"),)),
    "the batch size": (lambda x: CONV(x) / (2.0 if x.shape[0] > 1 else 4.0), (X,)),
    "an input written to": (lambda x: x.clone().add_(1), (X,)),
    "a broken graph": (lambda x: CONV(x) * int(x.sum().item() > 0), (X,)),
    "lists and dictionaries": (lambda d: {"y": [CONV(d["x"]), d["n"]]}, ({"x": X, "n": 2},)),
    "random numbers": (lambda x: torch.rand_like(x) * 0 + x, (X,)),
    "dropout that does nothing": (lambda x: F.dropout(x, 0.5, training=False) + 1, (X,)),
}


@pytest.mark.parametrize("case", CASES)
def test_what_pytorch_captures_it_computes(case):
    function, inputs = CASES[case]
    with torch.no_grad():
        assert_same(function, *inputs)


@pytest.mark.parametrize("case", CASES)
def test_autocast_and_the_default_type_are_obeyed(case):
    function, inputs = CASES[case]
    compiled = torch.compile(function, backend=backend)

    def check(*around: AbstractContextManager) -> None:
        with torch.no_grad(), ExitStack() as stack:
            for context in around:
                stack.enter_context(context)
            torch.testing.assert_close(compiled(*inputs), function(*inputs), rtol=0, atol=0)

    check()
    check(torch.autocast("cpu", torch.bfloat16))
    check(torch.autocast("cpu", torch.float16))
    torch.set_default_dtype(torch.float64)
    try:
        check()
    finally:
        torch.set_default_dtype(torch.float32)
    check()


@pytest.mark.parametrize("case", ["a weight as an input", "a Siamese tracker", "a scalar", "numbers"])
def test_symbolic_shapes(case):
    function, inputs = CASES[case]
    compiled = torch.compile(function, backend=backend, dynamic=True)
    with torch.no_grad():
        for grown in (inputs, tuple(F.pad(a, (0, 1)) if a is X else a for a in inputs)):
            assert torch.equal(compiled(*grown), function(*grown))


def test_an_input_that_is_changed_is_changed():
    def double(x: Tensor) -> Tensor:
        return x.mul_(2) + CONV(x).sum()

    x, y = X.clone(), X.clone()
    with torch.no_grad():
        assert torch.equal(torch.compile(double, backend=backend)(x), double(y)) and torch.equal(x, y)


def test_training_goes_as_in_pytorch():
    models = [nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten()) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    for run in (models[0], torch.compile(models[1], backend=backend)):
        run(X).square().sum().backward()
        with torch.no_grad():
            run(X)
    for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(a, b) and torch.equal(a.grad, b.grad)
    assert all(map(torch.equal, models[0].buffers(), models[1].buffers()))


def test_it_says_what_runs_where():
    with torch.no_grad():
        torch.compile(CONV, backend=backend)(X)
        assert "2 native steps" in str(reports()[-1])
        torch.compile(lambda x: x * 2, backend=backend)(X.double())
        assert "float64" in str(reports()[-1])
    torch.compile(CONV, backend=backend)(X.clone().requires_grad_())
    assert "torch.no_grad" in str(reports()[-1])


MOVES: list[Callable[[Tensor, Tensor], Tensor]] = [
    lambda a, b: F.relu(a),
    lambda a, b: a * 2 - 1,
    lambda a, b: a + b if a.shape == b.shape else a + 1,
    lambda a, b: a * b if a.dim() >= b.dim() and a.shape[a.dim() - b.dim() :] == b.shape else a,
    lambda a, b: torch.cat([a, b], 0) if a.dim() == b.dim() > 0 and a.shape[1:] == b.shape[1:] else a,
    lambda a, b: torch.cat([a, b], 1) if _lie_beside(a, b) else a,
    lambda a, b: a.transpose(0, -1) if a.dim() else a,
    lambda a, b: a.sum(0),
    lambda a, b: a.flatten(1) if a.dim() > 2 else a,
    lambda a, b: F.conv2d(a, b) if _convolves(a, b) else a,
    lambda a, b: a[:, : b.shape[0]] if a.dim() > 1 and b.dim() else a,
    lambda a, b: a / a.shape[0] if a.dim() and a.shape[0] in (1, 2, 4) else a,
    lambda a, b: a.permute(list(reversed(range(a.dim())))),
    lambda a, b: a @ b if a.dim() == b.dim() == 2 and a.shape[1] == b.shape[0] else a,
]
SIZES = [(2, 2, 2, 2), (2, 3), (2,), (), (3, 2, 2, 2), (1, 2, 4, 4), (2, 2)]
SHAPES = st.lists(st.sampled_from(SIZES), max_size=3)
STEPS = st.tuples(st.integers(0, len(MOVES) - 1), st.integers(0, 7), st.integers(0, 7))


def _lie_beside(a: Tensor, b: Tensor) -> bool:
    return a.dim() == b.dim() > 1 and a.shape[:1] == b.shape[:1] and a.shape[2:] == b.shape[2:]


def _convolves(a: Tensor, b: Tensor) -> bool:
    fits = a.dim() == b.dim() == 4 and a.shape[1] == b.shape[1]
    return fits and a.shape[2] >= b.shape[2] and a.shape[3] >= b.shape[3]


@settings(
    max_examples=int(os.environ.get("REGROUP_FUZZ", 25)),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(SHAPES, st.lists(STEPS, min_size=1, max_size=6), st.booleans())
def test_functions_of_inputs_of_any_shapes(shapes, program, is_dynamic):
    torch._dynamo.reset()

    def function(*inputs: Tensor) -> list[Tensor]:
        made = list(inputs) or [torch.ones(2, 2)]
        for move, a, b in program:
            made.append(MOVES[move](made[a % len(made)], made[b % len(made)]))
        return made[len(inputs) :]

    with torch.no_grad():
        assert_same(function, *(integers(*shape) for shape in shapes), dynamic=is_dynamic)
