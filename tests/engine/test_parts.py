"""Networks that cannot be recorded as a whole: modules run natively, and all else is as in eager mode."""

from __future__ import annotations

import copy
import threading
import warnings
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from regroup import compile
from regroup.engine.running import parts
from regroup.engine.running.stand_ins import StandIns, can_be_stood_in_for
from regroup.errors import EngineError, EngineWarning
from regroup.interop.detectors import detector
from tests.engine.models import randomise


def whole(*shape: int) -> Tensor:
    """Return an image of small whole numbers: with weights of such, every order of sums gives the same."""
    return torch.randint(-3, 4, shape).float()


X = whole(2, 3, 12, 12)


@pytest.fixture(autouse=True)
def _whatever_their_size(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Modules run natively however little they multiply."""
    monkeypatch.setattr(parts, "_LEAST_MACS", 1)
    torch.manual_seed(0)
    return


def rounded(model: nn.Module) -> nn.Module:
    """Give a network weights that are whole numbers."""
    for weight in model.parameters():
        weight.data = whole(*weight.shape)
    return model


def body(channels: int = 8) -> nn.Module:
    return rounded(nn.Sequential(nn.Conv2d(3, channels, 3, padding=1), nn.ReLU(), nn.Conv2d(channels, 3, 1)))


class Chooses(nn.Module):
    """What it returns depends on numbers: no recording knows its shape."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head, self.calls = body(), rounded(nn.Conv2d(3, 2, 1)), 0

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        kept = y[y.mean((1, 2, 3)) > -1e9]
        return self.head(kept).flatten()


def native(fast: nn.Module) -> list[str]:
    """Return the names of the modules that run natively."""
    found = fast._prepared._parts
    return [] if found is None else [part.name for part in found.native]


def test_modules_of_a_network_that_looks_at_numbers_are_native() -> None:
    model = Chooses().eval()
    fast = compile(model, X, strict=True)
    for images in (2, 1, 3, 0):
        x = whole(images, 3, 12, 12)
        with torch.no_grad():
            assert torch.equal(fast(x), model(x))
    assert native(fast) == ["body", "head"]
    assert "2 modules of it are native: cannot record" in fast.summary()
    table, data = fast.explain(), fast.explain(json=True)
    assert "its modules run one by one: cannot record" in table
    assert [one["module"] for one in data["segments"]] == ["body", "head"]
    assert data["total"]["macs"] == 12 * 12 * (3 * 9 * 8 + 8 * 3 + 3 * 2)
    assert "conv" in fast.code(0)


def test_a_callers_autocast_changes_nothing() -> None:
    model = Chooses().eval()
    with torch.no_grad():
        want = model(X)
        fast = compile(model, X)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(fast(X), want)
        assert native(fast) == ["body", "head"]


def test_other_sizes_and_threads_are_right() -> None:
    model = Chooses().eval()
    fast = compile(model, X)
    expected = {}
    for side in (12, 7, 9):
        x = whole(2, 3, side, side)
        with torch.no_grad():
            expected[side] = x, model(x)
    wrong = []

    def call() -> None:
        for x, y in list(expected.values()) * 3:
            if not torch.equal(fast(x), y):
                wrong.append(x.shape)

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_changes_of_weights_and_modules_are_followed() -> None:
    model = Chooses().eval()
    fast = compile(model, X)
    fast(X)
    changes = [
        lambda: model.body[0].weight.data.mul_(2),
        lambda: model.head.load_state_dict({"weight": whole(2, 3, 1, 1), "bias": whole(2)}),
        lambda: setattr(model, "body", body(5).eval()),
        lambda: model.body.append(nn.ReLU()),
        lambda: setattr(model, "head", nn.Identity()),
        lambda: setattr(model.body[0], "stride", (2, 2)),
    ]
    for change in changes:
        with torch.no_grad():
            change()
            assert torch.equal(fast(X), model(X))
    frozen = compile(model, X, frozen=True)
    with torch.no_grad():
        before = model(X)
        model.body[0].weight.zero_()
    assert torch.equal(frozen(X), before)


class Keeps(nn.Module):
    """Does with its modules and itself what a program may."""

    called = 0

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([body(), body()])
        self.named = nn.ModuleDict({"head": rounded(nn.Conv2d(3, 3, 1))})
        self.again = self.layers[0]
        self.seen: list = []
        self.calls, self.last = 0, None
        self.register_buffer("total", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        type(self).called += 1
        self.total += x.sum()
        self.last = self.layers[-1]
        self.seen.append(len(list(self.children())))
        same = self.again is self.layers[0] and self.again == self.layers[0] and self.again in self.layers
        known = isinstance(self.again, nn.Sequential) and self.again.__class__ is nn.Sequential
        if not (same and known and len(list(self.named_modules())) == 12):
            raise AssertionError("modules are not what they are in eager mode")
        for layer in self.layers:
            x = layer(x)
        if (x > 1e9).any():
            raise ValueError("too large")
        return self.named["head"](x) + {self.again: 1.0}[self.layers[0]]


def test_what_a_network_keeps_it_keeps() -> None:
    Keeps.called = 0
    model = Keeps().eval()
    other = copy.deepcopy(model)
    fast = compile(model, X)
    for _ in range(8):
        x = whole(2, 3, 12, 12)
        with torch.no_grad():
            assert torch.equal(fast(x), other(x))
    assert model.calls == other.calls == 8 and model.seen == other.seen
    assert torch.equal(model.total, other.total) and Keeps.called == 16
    assert model.last is model.layers[-1] and type(model.last) is nn.Sequential
    assert native(fast) == ["layers.0", "layers.1", "named.head"]
    assert model.state_dict().keys() == other.state_dict().keys()
    with pytest.raises(ValueError, match="too large"):
        fast(torch.full((2, 3, 12, 12), 1e20))


def test_a_network_that_draws_random_numbers_draws_the_same() -> None:
    class Draws(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = body()

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x + torch.randint_like(x, 9))

    model = Draws().eval()
    fast = compile(model, X)
    for seed in range(8):
        results = []
        for one in (fast, model):
            torch.manual_seed(seed)
            with torch.no_grad():
                results.append(one(X))
        assert torch.equal(*results)
    assert native(fast) == ["body"]


def test_hooks_are_called_with_the_module_they_are_on() -> None:
    model, seen = Chooses().eval(), []
    fast = compile(model, X)
    fast(X)
    model.body[1].register_forward_hook(lambda module, args, result: seen.append(module))
    with torch.no_grad():
        assert torch.equal(fast(X), model(X))
    assert seen == [model.body[1]] * 2 and all(one is model.body[1] for one in seen)


def test_a_module_that_is_given_something_else_by_every_call_is_left_to_pytorch() -> None:
    class Crops(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = body()

        def forward(self, x: Tensor) -> list[Tensor]:
            many = int(x[0, 0, 0, 0].item())
            return [self.body(x[:, :, : k + 1, : many + 1]) for k in range(12)]

    model = Crops().eval()
    fast = compile(model, X)
    for many in range(6):
        x = whole(1, 3, 12, 12)
        x[0, 0, 0, 0] = many
        with torch.no_grad():
            assert all(torch.equal(one, other) for one, other in zip(fast(x), model(x), strict=True))
    (part,) = fast._prepared._parts._parts.values()
    assert part.calls == 72 and part.made <= 18 and len(part.forms) <= 8


@pytest.mark.parametrize("kind", ["slots", "type", "subclasses", "attributes", "script"])
def test_what_cannot_have_a_stand_in_is_itself(kind: str) -> None:
    class Slots(Chooses):
        __slots__ = ("other",)

    class ComparesTypes(Chooses):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + (type(self.body) is nn.Sequential)

    class Registered(Chooses):
        def __init_subclass__(cls) -> None:
            raise AssertionError

    class Attributes(Chooses):
        def __getattribute__(self, name: str) -> object:
            return super().__getattribute__(name)

    classes = {"slots": Slots, "type": ComparesTypes, "subclasses": Registered, "attributes": Attributes}
    model = torch.jit.script(body()) if kind == "script" else classes[kind]()
    assert not can_be_stood_in_for(model)
    assert StandIns(lambda *call: None).of(model) is model
    if kind != "script":
        fast = compile(model.eval(), X)
        with torch.no_grad():
            assert torch.equal(fast(X), model(X))


def test_who_asks_for_no_silent_fall_back_is_told_after_the_first_call() -> None:
    class Looks(Chooses):
        def forward(self, x: Tensor) -> Tensor:
            y = self.body(x)
            return (y[y > -1e9].reshape(len(x), -1, 12) @ torch.ones(12, 4000)).sum()

    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        fast = compile(Looks().eval(), X)
        assert not found
        for _ in range(2):
            fast(X)
    (text,) = [str(w.message) for w in found if w.category is EngineWarning]
    assert "only 2% of the network's multiply-adds" in text and "cannot be recorded as a whole" in text
    with pytest.raises(EngineError, match="only 2%"):
        compile(Looks().eval(), X, strict=True)(X)


@pytest.mark.parametrize(
    ("head", "names"),
    [
        ("ssdlite", ["backbone", "head"]),
        ("fcos", ["backbone", "head"]),
        ("fasterrcnn", ["backbone", "rpn.head"]),  # of its boxes, products of vectors are left, and most
    ],
)
def test_a_detector_is_native_up_to_its_boxes(head: str, names: list[str]) -> None:
    """Boxes are chosen by numbers, so of those that are nearly as likely others may be chosen: few here."""
    narrow = {} if head == "ssdlite" else {"pyramid_channels": 32, "first_level": 4}
    model = randomise(detector(head, "shufflenet_v2_050", num_classes=3, **narrow))
    images = [torch.randn(3, 160, 160), torch.randn(3, 160, 130)]
    fast = compile(model, [images], strict=head != "fasterrcnn")
    with torch.no_grad():
        ours, theirs = fast(images), model(images)
        exact = model.double()([image.double() for image in images])
    assert native(fast) == names
    assert len(ours) == len(theirs) == 2
    for one, other, truth in zip(ours, theirs, exact, strict=True):
        assert one.keys() == other.keys() and len(one["boxes"]) == len(other["boxes"])
        scores = [torch.sort(found["scores"].double()).values for found in (one, other, truth)]
        error, known = (float((found - scores[2]).abs().max()) for found in scores[:2])
        assert error <= 2 * known + torch.finfo(torch.float32).eps
