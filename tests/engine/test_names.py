"""What names in a model's code stand for may change after compilation: the next call sees it."""

from __future__ import annotations

import os
import sys
import types
from collections.abc import Callable

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from regroup import compile

HERE = sys.modules[__name__]
ELSEWHERE = types.ModuleType("elsewhere")

GAIN: object = 2.0
TABLE: dict = {"gains": [1.0, 2.0]}
SHIFT = torch.ones(1)
UNUSED = 0


def act(x: Tensor) -> Tensor:
    return x * GAIN


class Base(nn.Module):
    scale = 1.0

    def inner(self, x: Tensor) -> Tensor:
        return act(x) * self.scale * TABLE["gains"][1] + ELSEWHERE.offset + ELSEWHERE.more(x)

    @property
    def slope(self) -> float:
        return 1.0

    @staticmethod
    def clipped(x: Tensor) -> Tensor:
        return x.relu()


class Net(Base):
    def __init__(self, enclosed: Callable[[], float]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.shifted = lambda x: x + enclosed() * SHIFT

    def forward(self, x: Tensor) -> Tensor:
        return self.clipped(self.shifted(self.inner(self.conv(x)))) * self.slope


def closure() -> tuple[Callable[[], float], Callable[[float], None]]:
    number = 5.0

    def get() -> float:
        return number

    def put(value: float) -> None:
        nonlocal number
        number = value

    return get, put


def plus_one(x: Tensor) -> Tensor:
    return x + 1


PUT: list[Callable[[float], None]] = []
NUMBERS = (0.0, 1.0, -2.0, 3, 0.5)
PLACES: dict[str, Callable[[float], object]] = {
    "a global": lambda n: setattr(HERE, "GAIN", n),
    "a global, by a tensor": lambda n: setattr(HERE, "GAIN", torch.tensor(float(n))),
    "a global tensor": lambda n: setattr(HERE, "SHIFT", torch.full((1,), float(n))),
    "inside of a global": lambda n: TABLE["gains"].__setitem__(1, n),
    "a global dictionary": lambda n: setattr(HERE, "TABLE", {"gains": [n, n]}),
    "a global function": lambda n: setattr(HERE, "act", lambda x: x * GAIN + n),
    "a class's attribute": lambda n: setattr(Base, "scale", n),
    "an attribute that hides it": lambda n: setattr(Net, "scale", n),
    "a method": lambda n: setattr(Base, "inner", lambda self, x: act(x) * self.scale + n),
    "a property": lambda n: setattr(Base, "slope", property(lambda self: n)),
    "a static method": lambda n: setattr(Base, "clipped", staticmethod(lambda x: x * n)),
    "forward": lambda n: setattr(Net, "forward", lambda self, x: self.shifted(self.conv(x)) * n),
    "another module's": lambda n: setattr(ELSEWHERE, "offset", n),
    "another module's function": lambda n: setattr(ELSEWHERE, "more", lambda x: x.sum(1, keepdim=True) * n),
    "a variable of a closure": lambda n: PUT[-1](n),
}


@pytest.fixture(autouse=True)
def afresh(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GAIN", "SHIFT", "UNUSED", "act"):
        monkeypatch.setattr(HERE, name, getattr(HERE, name))
    monkeypatch.setattr(HERE, "TABLE", {"gains": [1.0, 2.0]})
    for kind, name in ((Base, "scale"), (Base, "inner"), (Net, "forward")):
        monkeypatch.setattr(kind, name, vars(kind)[name])
    for name in ("slope", "clipped"):
        monkeypatch.setattr(Base, name, vars(Base)[name])
    monkeypatch.setattr(Net, "scale", 1.0, raising=False)
    monkeypatch.delattr(Net, "scale")
    monkeypatch.setattr(ELSEWHERE, "offset", 3.0, raising=False)
    monkeypatch.setattr(ELSEWHERE, "more", plus_one, raising=False)


def model_of_integers() -> Net:
    get, put = closure()
    PUT[:] = [put]
    model = Net(get).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randint(-3, 4, parameter.shape).float())
    return model


def assert_same(model: Callable, fast: nn.Module, images: int = 2) -> None:
    x = torch.randint(-3, 4, (images, 3, 6, 6)).float()
    with torch.no_grad():
        assert torch.equal(fast(x), model(x))


@pytest.mark.parametrize("place", PLACES)
def test_a_name_that_stands_for_something_else_is_seen(place):
    model = model_of_integers()
    fast = compile(model, torch.zeros(2, 3, 6, 6))
    assert_same(model, fast)
    for number in NUMBERS:
        PLACES[place](number)
        assert_same(model, fast)
        assert_same(model, fast, 1)
    assert "native" in fast.summary()


@settings(
    max_examples=int(os.environ.get("REGROUP_FUZZ", 0)) // 10 or 5,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.lists(st.tuples(st.sampled_from(list(PLACES)), st.sampled_from(NUMBERS)), min_size=2, max_size=12))
def test_changes_of_names_in_any_order_are_seen(changes):
    model = model_of_integers()
    fast = compile(model, torch.zeros(2, 3, 6, 6))
    for i, (place, number) in enumerate(changes):
        PLACES[place](number)
        assert_same(model, fast, 1 + i % 3)


def test_what_is_equal_or_not_used_is_no_change():
    model = model_of_integers()
    fast = compile(model, torch.zeros(2, 3, 6, 6))
    before = fast._prepared.plan(2)
    HERE.GAIN = float("2.0")  # another object
    HERE.UNUSED = 1
    Base.scale = float("1.0")
    TABLE["gains"][1] = float("2.0")
    assert_same(model, fast)
    assert fast._prepared.plan(2) is before
    HERE.GAIN = 2  # another type
    assert_same(model, fast)
    assert fast._prepared.plan(2) is not before


def test_a_frozen_network_keeps_what_names_stood_for():
    model, x = model_of_integers(), torch.ones(2, 3, 6, 6)
    fast = compile(model, x, frozen=True)
    y = fast(x)
    HERE.GAIN = 7.0
    Base.scale = 9.0
    assert torch.equal(fast(x), y)


def test_functions_are_followed_as_modules_are():
    layer = model_of_integers().conv

    def function(x: Tensor) -> Tensor:
        return layer(x) * GAIN

    fast = compile(function, torch.zeros(2, 3, 6, 6))
    for number in NUMBERS:
        HERE.GAIN = number
        assert_same(function, fast)
