"""What names in a model's code stand for may change after compilation: the next call sees it."""

from __future__ import annotations

import array
import os
import sys
import types
from collections import ChainMap, deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
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
PACKAGE = types.ModuleType("package")
IMPORTED = sys.modules.setdefault("imported_for_a_test", types.ModuleType("imported_for_a_test"))


class Slotted:
    __slots__ = ("weight",)


class Settings:
    bias = 1.0

    def __init__(self) -> None:
        self.power, self.unused = 1, 0

    def of(self, x: Tensor) -> Tensor:
        return x * self.power + self.bias + getattr(self, "extra", 0.0)


def act(x: Tensor) -> Tensor:
    return x * GAIN


class Metaclass(type):
    by_metaclass = 1.0


class Descriptor:
    value = 1.0

    def __get__(self, owner: object, kind: type) -> float:
        return self.value


class Around(metaclass=Metaclass):
    """What the tests change, made anew for each: names that stay, and what is in the objects."""

    settings = Settings()
    slotted = Slotted()
    namespace = types.SimpleNamespace(offset=1.0)
    queue: deque[float] = deque([1.0])
    row = np.ones(3)
    large = np.ones(10_000, np.float32)
    text = bytearray(b"12")
    numbers = array.array("d", [1.0, 2.0])
    chained = ChainMap({"a": 1.0}, {})
    proxied: dict[str, float] = {"a": 1.0}
    proxy = types.MappingProxyType(proxied)
    functions: dict[str, Callable[[Tensor], Tensor]] = {"act": torch.relu}
    layer = nn.Linear(1, 1, bias=False).requires_grad_(False)
    members = {1.0}
    counted: dict[str, float] = {}
    described = Descriptor()


def counted_by_default(x: Tensor, times: float = 1.0, *, more: float = 2.0) -> Tensor:
    return x * times + more + counted_by_default.extra


def by_names(x: Tensor) -> Tensor:
    import imported_for_a_test

    a = Around
    y = a.settings.of(x) * a.slotted.weight + a.namespace.offset + a.queue[0] + float(a.row[1])
    y = a.functions["act"](y + torch.from_numpy(a.large)[:4]) + a.text[0] + a.proxy["a"] + a.layer.weight
    y = y * a.numbers[0] + a.chained["a"] + a.described + a.by_metaclass
    y = y + PACKAGE.inner.value + imported_for_a_test.value + len(a.counted) + min(a.members)
    return counted_by_default(y)


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
        self.own = np.ones(2)
        self.slotted, self.queue = Slotted(), deque([1.0])
        self.slotted.weight = 1.0

    def forward(self, x: Tensor) -> Tensor:
        y = self.clipped(self.shifted(self.inner(self.conv(x)))) * self.slope
        return by_names(y) * float(self.own[1]) + self.slotted.weight + self.queue[0]


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
MODELS: list[Net] = []
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
    "an object's attribute": lambda n: setattr(Around.settings, "power", n),
    "an attribute that is asked for": lambda n: setattr(Around.settings, "extra", n),
    "an attribute of an object's class": lambda n: setattr(Settings, "bias", n),
    "an object's attribute that hides it": lambda n: setattr(Around.settings, "bias", n),
    "an object's method": lambda n: setattr(Settings, "of", lambda self, x: x * n),
    "an object's class": lambda n: setattr(
        Around.settings, "__class__", type("Other", (Settings,), {"bias": n})
    ),
    "another object": lambda n: setattr(Around, "settings", types.SimpleNamespace(of=lambda x: x + n)),
    "a slot": lambda n: setattr(Around.slotted, "weight", n),
    "a namespace": lambda n: setattr(Around.namespace, "offset", n),
    "a queue": lambda n: Around.queue.appendleft(n),
    "an array": lambda n: Around.row.__setitem__(1, n),
    "a large array": lambda n: Around.large.fill(n),
    "another array": lambda n: setattr(Around, "row", np.full(3, n)),
    "bytes": lambda n: Around.text.__setitem__(0, int(abs(n))),
    "an array of Python's": lambda n: Around.numbers.__setitem__(0, n),
    "a chain of dictionaries": lambda n: Around.chained.__setitem__("a", n),
    "a descriptor": lambda n: setattr(vars(Around)["described"], "value", n),
    "a metaclass": lambda n: setattr(Metaclass, "by_metaclass", n),
    "a read-only dictionary": lambda n: Around.proxied.__setitem__("a", n),
    "a function in a dictionary": lambda n: Around.functions.__setitem__("act", lambda x: x - n),
    "another module's parameter": lambda n: Around.layer.weight.fill_(n),
    "a parameter in its place": lambda n: setattr(
        Around.layer, "weight", nn.Parameter(torch.full((1, 1), float(n)), requires_grad=False)
    ),
    "a set": lambda n: Around.members.add(n),
    "a dictionary's length": lambda n: Around.counted.__setitem__(str(n), n),
    "defaults": lambda n: setattr(counted_by_default, "__defaults__", (n,)),
    "a keyword's default": lambda n: setattr(counted_by_default, "__kwdefaults__", {"more": n}),
    "inside of the defaults": lambda n: counted_by_default.__kwdefaults__.__setitem__("more", n),
    "a function's code": lambda n: setattr(
        counted_by_default, "__code__", (lambda x, times=1.0, *, more=2.0: x * more).__code__
    ),
    "a function's attribute": lambda n: setattr(counted_by_default, "extra", n),
    "a module in a module": lambda n: setattr(PACKAGE.inner, "value", n),
    "an imported module": lambda n: setattr(IMPORTED, "value", n),
    "a built-in's name": lambda n: setattr(HERE, "float", lambda x: n),
    "the model's own array": lambda n: MODELS[-1].own.__setitem__(1, n),
    "the model's own slot": lambda n: setattr(MODELS[-1].slotted, "weight", n),
    "the model's own queue": lambda n: MODELS[-1].queue.appendleft(n),
}


def fresh_around() -> dict[str, Any]:
    proxied = {"a": 1.0}
    slotted, layer = Slotted(), nn.Linear(1, 1, bias=False).requires_grad_(False)
    slotted.weight = layer.weight[:] = 1.0
    return {
        **{"settings": Settings(), "slotted": slotted, "namespace": types.SimpleNamespace(offset=1.0)},
        **{"queue": deque([1.0]), "row": np.ones(3), "large": np.ones(10_000, np.float32)},
        **{"text": bytearray(b"12"), "proxied": proxied, "proxy": types.MappingProxyType(proxied)},
        **{"numbers": array.array("d", [1.0, 2.0]), "chained": ChainMap({"a": 1.0}, {})},
        **{"functions": {"act": torch.relu}, "layer": layer, "members": {1.0}, "counted": {}},
    }


def afresh() -> None:
    """Put everything back, in place of what the last example has left."""
    vars(HERE).update(GAIN=2.0, SHIFT=torch.ones(1), UNUSED=0, TABLE={"gains": [1.0, 2.0]}, act=_START["act"])
    vars(HERE).pop("float", None)
    for kind in (Base, Net, Settings):
        for name in {*vars(kind)} - {*_CLASSES[kind]}:
            delattr(kind, name)
        for name, value in _CLASSES[kind].items():
            if vars(kind)[name] is not value:
                setattr(kind, name, value)
    for name, value in fresh_around().items():
        setattr(Around, name, value)
    vars(Around)["described"].value = Metaclass.by_metaclass = 1.0
    vars(ELSEWHERE).update(offset=3.0, more=plus_one)
    PACKAGE.inner = types.ModuleType("package.inner")
    PACKAGE.inner.value = IMPORTED.value = 1.0
    counted_by_default.__code__, counted_by_default.extra = _START["code"], 0.0
    counted_by_default.__defaults__, counted_by_default.__kwdefaults__ = (1.0,), {"more": 2.0}


_START: dict[str, Any] = {"act": act, "code": counted_by_default.__code__}
_CLASSES = {kind: dict(vars(kind)) for kind in (Base, Net, Settings)}


@pytest.fixture(autouse=True)
def put_back() -> Iterator[None]:
    afresh()
    yield
    afresh()


def model_of_integers() -> Net:
    get, put = closure()
    model = Net(get).eval()
    PUT[:], MODELS[:] = [put], [model]
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
    afresh()
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


def test_methods_of_libraries_networks_are_followed(monkeypatch):
    block = torchvision.models.resnet.BasicBlock
    model = torchvision.models.ResNet(block, [1, 1, 1, 1], num_classes=3).eval()
    x, forward = torch.randn(1, 3, 32, 32), block.forward
    fast = compile(model, x)
    before = fast(x)
    monkeypatch.setattr(block, "forward", lambda self, x: 0 * forward(self, x))
    with torch.no_grad():
        assert torch.equal(fast(x), model(x)) and not torch.equal(fast(x), before)


def test_functions_are_followed_as_modules_are():
    layer = model_of_integers().conv

    def function(x: Tensor) -> Tensor:
        return layer(x) * GAIN

    fast = compile(function, torch.zeros(2, 3, 6, 6))
    for number in NUMBERS:
        HERE.GAIN = number
        assert_same(function, fast)
