"""Images of other sizes than the example's: compiled when they first come, a bounded number kept."""

from __future__ import annotations

import copy
import pickle
import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import regroup
from regroup import compile
from regroup.errors import EngineError, ParameterError


class Net(nn.Module):
    """Small integers throughout, so that every result is exact."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.narrow = nn.Conv2d(8, 8, 3, padding=1, groups=4)
        self.head = nn.Linear(8, 5)
        for p in self.parameters():
            p.data = torch.randint(-2, 3, p.shape).float()
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        x = nn.functional.max_pool2d((self.narrow(x) + x).relu(), 2, ceil_mode=True)
        return self.head(x.amax((2, 3)))


def image(*size: int) -> Tensor:
    return torch.randint(-3, 4, size).float()


def kept(fast: regroup.engine.running.compiled.Compiled) -> list[tuple[int, ...]]:
    data = fast.explain(json=True)
    assert isinstance(data, dict)
    return [tuple(shapes[0][1:]) for shapes in data["sizes"]]


@settings(max_examples=12, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 3), st.integers(4, 17), st.integers(4, 17)), min_size=1, max_size=4))
def test_any_sizes_in_any_order(sizes):
    model = Net()
    fast = compile(model, image(1, 3, 9, 9), sizes=2)
    with torch.no_grad():
        for batch, height, width in [*sizes, *sizes]:
            x = image(batch, 3, height, width)
            assert torch.equal(fast(x), model(x))
    assert len(fast._forms) <= 2


def test_so_many_sizes_are_kept_and_the_oldest_goes():
    model = Net()
    fast = compile(model, image(1, 3, 8, 8), sizes=3)
    for size in (9, 10, 9, 11, 9):
        fast(image(2, 3, size, size))
    assert kept(fast) == [(10, 10), (11, 11), (8, 8)]  # explain() asks for the example's size
    assert "10x10" in str(fast.explain())


def test_another_size_is_an_error_where_that_is_asked_for():
    fast = compile(Net(), image(1, 3, 8, 8), dynamic=False)
    assert fast(image(4, 3, 8, 8)).shape == (4, 5)
    with pytest.raises(EngineError, match=r"\(1, 3, 8, 9\).*compiled for \(any, 3, 8, 8\).*other sizes"):
        fast(image(1, 3, 8, 9))


def test_sizes_that_the_model_does_not_take_are_its_own_error_and_nothing_is_lost():
    model = Net()
    fast = compile(model, image(1, 3, 8, 8))
    for x in (image(1, 4, 8, 8), image(1, 3, 8, 0)):
        with pytest.raises(Exception) as ours:
            fast(x)
        with pytest.raises(Exception) as pytorchs:
            model(x)
        assert type(ours.value) is type(pytorchs.value)
        assert str(ours.value) == str(pytorchs.value)
    assert kept(fast) == [(8, 8)]
    assert torch.equal(fast(image(1, 3, 8, 8) * 0), model(image(1, 3, 8, 8) * 0))


def test_changed_weights_are_those_of_every_size():
    model = Net()
    fast = compile(model, image(1, 3, 8, 8))
    inputs = [image(1, 3, size, size) for size in (8, 12, 5)]
    for x in inputs:
        fast(x)
    with torch.no_grad():
        model.stem.weight += 1
        for x in inputs:
            assert torch.equal(fast(x), model(x))


def test_threads_that_come_with_sizes_of_their_own():
    model, wrong = Net(), []
    fast = compile(model, image(1, 3, 8, 8), sizes=2)

    def call(size: int) -> None:
        x = image(1, 3, size, size + 1)
        with torch.no_grad():
            if not all(torch.equal(fast(x), model(x)) for _ in range(4)):
                wrong.append(size)

    threads = [threading.Thread(target=call, args=(size,)) for size in range(6, 12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_copies_are_asked_for_the_same():
    fast = compile(Net(), image(1, 3, 8, 8), dynamic=False, sizes=5, threads=3)
    for other in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):  # noqa: S301
        assert (other.dynamic, other.sizes, other.threads) == (False, 5, 3)


@pytest.mark.parametrize("sizes", [0, -1, 1.5, True])
def test_sizes_are_a_number(sizes):
    with pytest.raises(ParameterError, match="sizes"):
        compile(Net(), image(1, 3, 8, 8), sizes=sizes)
