"""What `regroup.compile` returns, as a module: of any kind of model, for inputs of any form, anywhere."""

from __future__ import annotations

import copy
import functools
import io
import multiprocessing
import os
import pickle
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.utils._pytree import tree_flatten, tree_leaves

import regroup
from regroup.engine.frontend.inputs import take
from regroup.engine.running.compiled import compile
from regroup.errors import ConfigError, EngineError


def integers(*shape: int) -> Tensor:
    return torch.randint(-3, 4, shape).float()


def network() -> nn.Sequential:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=2), nn.Flatten()).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(integers(*parameter.shape))
    return model


@pytest.fixture
def model() -> nn.Sequential:
    return network()


@pytest.fixture
def x() -> Tensor:
    return integers(2, 3, 7, 7)


def assert_same(a: Any, b: Any) -> None:
    (ours, structure), (theirs, wanted) = tree_flatten(a), tree_flatten(b)
    assert structure == wanted
    for x, y in zip(ours, theirs, strict=True):
        if isinstance(y, Tensor):
            torch.testing.assert_close(x, y, rtol=0, atol=0, equal_nan=True)
        else:
            assert type(x) is type(y) and x == y


# ---- kinds of model -----------------------------------------------------------------------------------


def exported(model: nn.Module) -> nn.Module:
    size = {0: torch.export.Dim("batch")}
    return torch.export.export(model, (integers(2, 3, 7, 7),), dynamic_shapes=(size,)).module()


KINDS: dict[str, Callable[[nn.Module], Any]] = {
    "scripted": torch.jit.script,
    "traced": lambda model: torch.jit.trace(model, integers(2, 3, 7, 7)),
    "exported": exported,
    "symbolically traced": torch.fx.symbolic_trace,
    "data parallel": lambda model: nn.DataParallel(model).eval(),
    "compiled by PyTorch": lambda model: torch.compile(model, backend="eager"),
    "a function compiled by PyTorch": lambda model: torch.compile(lambda x: model(x), backend="eager"),
    "a function": lambda model: lambda x: model(x),
    "a method": lambda model: model.forward,
    "bound arguments": lambda model: functools.partial(lambda layers, x: layers[0](x), [model]),
    "compiled already": lambda model: compile(model, integers(1, 3, 7, 7)),
    "averaged": lambda model: torch.optim.swa_utils.AveragedModel(model).eval(),
}


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_model(model, x, kind):
    made = KINDS[kind](model)
    fast = compile(made, x)
    with torch.no_grad():
        for images in (x, x[:1], torch.cat([x, x])):
            assert_same(fast(images), made(images))
        inner = made.module if kind == "averaged" else model
        next(inner.parameters()).mul_(2)
        assert_same(fast(x), made(x)) if kind != "averaged" else None


def test_a_frozen_script(model, x):
    frozen = torch.jit.freeze(torch.jit.script(model))
    assert_same(compile(frozen, x)(x), model(x).detach())


@pytest.mark.parametrize("kind", [k for k in KINDS if k not in ("a function", "a method", "bound arguments")])
def test_frozen_copies_of_kinds_of_model(model, x, kind):
    made = KINDS[kind](model)
    if kind.startswith("a function"):
        with pytest.raises(EngineError, match="pass a module"):
            compile(made, x, frozen=True)
        return
    wanted, fast = model(x).detach(), compile(made, x, frozen=True)
    with torch.no_grad():
        next(model.parameters()).mul_(2)
    assert_same(fast(x), wanted)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda model: torch.export.export(model, (integers(2, 3, 7, 7),)), "module()"),
        (lambda model: nn.ReLU, "type"),
        (lambda model: nn.DataParallel(model), "eval"),
        (lambda model: "resnet18", "no file of ONNX's; regroup.create_model"),
    ],
)
def test_what_is_no_model_is_one_clear_error(model, x, make, message):
    with pytest.raises(EngineError, match=message):
        compile(make(model), x)


def test_weights_that_a_function_reaches_are_watched(x):
    weight = integers(4, 3, 3, 3)
    for function in (lambda x: F.conv2d(x, weight), functools.partial(F.conv2d, weight=weight)):
        fast = compile(function, x)
        assert_same(fast(x), function(x))
        weight.mul_(2)
        assert_same(fast(x), function(x))


# ---- pickled and copied -------------------------------------------------------------------------------


def through_a_file(fast: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(fast, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES: dict[str, Callable[[Any], Any]] = {
    "pickled": lambda fast: pickle.loads(pickle.dumps(fast)),  # noqa: S301
    "deep copy": copy.deepcopy,
    "copy": copy.copy,
    "saved": through_a_file,
}


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("how", COPIES)
def test_copies_are_compiled_anew(model, x, how, frozen):
    fast = compile(model, x, frozen=frozen)
    other = COPIES[how](fast)
    assert type(other) is type(fast) and other.frozen == frozen
    assert (other.original is fast.original) == (how == "copy" and not frozen)
    assert_same(other(x[:1]), fast(x[:1]))


def test_a_copy_keeps_the_form_of_its_inputs(x):
    fast = compile(Scaled(), {"images": {"x": x}, "gain": 2.0})
    assert_same(copy.deepcopy(fast)(images={"x": x}, gain=3.0), Scaled()({"x": x}, 3.0).detach())


@pytest.mark.parametrize("kind", ["scripted", "exported"])
def test_what_cannot_be_pickled_says_how_it_is_saved(model, x, kind):
    with pytest.raises(EngineError, match=r"torch\.(jit|export)\.save"):
        pickle.dumps(compile(KINDS[kind](model), x))


def _answer(fast: Any, x: Tensor, queue: Any) -> None:
    queue.put(fast(x).tolist())


@pytest.mark.slow
def test_a_spawned_process_takes_it(model, x):
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    fast = compile(model, x)
    process = context.Process(target=_answer, args=(fast, x, queue))
    process.start()
    assert queue.get(timeout=120) == fast(x).tolist()
    process.join()


# ---- forms of input -----------------------------------------------------------------------------------


class Pair(NamedTuple):
    x: Tensor
    number: int


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 3)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(integers(*parameter.shape))
        self.eval()

    def forward(self, images: Any, gain: Any = 1.0, mode: str | None = None, others: Any = ()) -> Any:
        x = images["x"] if isinstance(images, dict) else images[0] if isinstance(images, tuple) else images
        y = self.conv(x) * gain
        y = y.relu() if mode == "relu" else y
        for other in others:
            if not isinstance(other, Tensor) or other.dim() == 0:
                y = y + other
            elif len(other) == len(x):
                y = y + other.flatten(1).sum(1).reshape(-1, 1, 1, 1) if other.dim() > 1 else y * other.sum()
            else:
                y = y + other.sum()
        return {"y": y, "mode": mode} if mode else y


X = integers(2, 3, 6, 6)
CALLS: dict[str, tuple[Any, list[tuple[tuple, dict[str, Any]]]]] = {
    "by name": ({"images": X}, [((), {"images": X}), ((X[:1],), {}), ((), {"images": torch.cat([X, X])})]),
    "numbers": (
        X,
        [((X,), {}), ((X, 3.0), {}), ((X,), {"gain": 2}), ((X,), {"gain": True}), ((X, -0.0), {})],
    ),
    "strings": ((X, 1.0, "relu"), [((X, 1.0, "relu"), {}), ((X, 1.0, "other"), {}), ((X, 2.0, None), {})]),
    "dictionary": (({"x": X},), [(({"x": X},), {}), (({"x": X[:1]},), {"gain": 2.0})]),
    "named tuple": ((Pair(X, 1),), [((Pair(X, 1),), {}), ((Pair(X[:1], 2),), {})]),
    "batch sizes": ((X, 1.0, None, [X[:1]]), [((X, 1.0, None, [X[:1]]), {}), ((X, 1.0, None, [X]), {})]),
    "a scalar": ((X, torch.tensor(2.0)), [((X, torch.tensor(3.0)), {}), ((X[:1], torch.tensor(-1.0)), {})]),
    "a vector": ({"images": X, "others": [torch.ones(2)]}, [((X,), {"others": [integers(2)]})]),
    "integers": (
        {"images": X, "others": (torch.tensor([1, 2]), 3)},
        [((X,), {"others": (torch.tensor([5, -2]), 4)}), ((X[:1],), {"others": (torch.tensor([7, 8]), 4)})],
    ),
}


@pytest.mark.parametrize("case", CALLS)
def test_forms_of_input(case):
    example, calls = CALLS[case]
    model = Scaled()
    fast = compile(model, example)
    with torch.no_grad():
        for args, kwargs in [*calls, *calls]:
            assert_same(fast(*args, **kwargs), model(*args, **kwargs))


def test_constants_that_look_alike_are_told_apart():
    fast, model = compile(Scaled(), X), Scaled()
    gains = (1, True, 1.0, 0.0, -0.0, float("nan"), 2**60, 2.0**60, 0, False)
    for gain in (*gains, float("nan")):
        with torch.no_grad():
            assert_same(fast(X, gain), model(X, gain))
    assert len(fast._forms) <= 8
    assert len({take((X, gain), {}).form for gain in gains}) == len(gains)
    assert take((X, float("nan")), {}).form == take((X, float("nan")), {}).form


NESTED = st.recursive(
    st.one_of(
        st.sampled_from([(2,), (2, 3), (4,), (1, 3, 2), ()]).map(lambda shape: integers(*shape)),
        st.sampled_from([None, 1, 2.5, "a", True, torch.float32]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from("abc"), inner, max_size=3)
    ),
    max_leaves=6,
)


class Sums(nn.Module):
    """All that it is given, in numbers, and what it was."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        total, words = x * 2, []
        for leaf in tree_leaves((args, kwargs)):
            if isinstance(leaf, Tensor):
                total = total + leaf.sum()
            elif isinstance(leaf, (int, float)):
                total = total * leaf
            else:
                words.append(leaf)
        return total, words


@settings(max_examples=int(os.environ.get("REGROUP_FUZZ", 25)), deadline=None)
@given(st.lists(NESTED, max_size=2), st.dictionaries(st.sampled_from("pq"), NESTED, max_size=2))
def test_nested_inputs_of_any_kind(args, kwargs):
    model, x = Sums().eval(), integers(2, 3, 2, 2)
    fast = compile(model, x) if not (args or kwargs) else compile(model, (x, *args)) if not kwargs else None
    fast = fast or compile(model, {"x": x, **kwargs})
    call = {"x": x, **kwargs} if kwargs else {}
    for grown in (x, torch.cat([x, x])):
        given = (() if kwargs else (grown, *args)), (call | {"x": grown} if kwargs else {})
        assert_same(fast(*given[0], **given[1]), model(*given[0], **given[1]))


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((X, X), {}, "compiled for 1 tensor, called with 2"),
        ((), {}, "called with none"),
        ((X.numpy(),), {}, "ndarray"),
        ((X,), {"gain": object()}, "type object"),
        ((X[0],), {}, "compile it again for other dimensions"),
        ((X,), {"loudness": 3.0}, "loudness"),
    ],
)
def test_inputs_that_do_not_fit_are_one_clear_error(args, kwargs, message):
    with pytest.raises((EngineError, TypeError), match=message):
        compile(Scaled(), X)(*args, **kwargs)


def test_profiles_take_the_same_forms_of_input():
    model = Scaled()
    plain = regroup.profile(model, X, time=False)
    for inputs in ({"images": X}, ({"x": X},), (X, 2.0, None)):
        found = regroup.profile(model, inputs, time=False)
        assert [layer.name for layer in found.layers()] == [layer.name for layer in plain.layers()]
        assert found.total.macs == plain.total.macs
    assert regroup.profile(compile(model, X), X, time=False) == plain
    with pytest.raises(ConfigError, match="tensor"):
        regroup.profile(model, {"images": 3}, time=False)


# ---- a module -----------------------------------------------------------------------------------------


def test_it_stands_for_its_model(model, x):
    fast = compile(model, x)
    assert list(fast.state_dict()) == list(model.state_dict())
    assert [*map(id, fast.parameters())] == [*map(id, model.parameters())]
    assert [name for name, _ in fast.named_modules()] == [name for name, _ in model.named_modules()]
    assert fast.eval() is fast and not fast.training and fast.float() is fast and fast.cpu() is fast
    fast.load_state_dict({name: tensor * 2 for name, tensor in model.state_dict().items()})
    assert_same(fast(x), model(x).detach())
    fast.note = "kept by the model"
    assert model.note == fast.note
    lines = repr(fast).splitlines()
    assert len(lines) <= 7 and "Sequential" in repr(fast) and "native steps" in repr(fast)


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda fast, x: fast.train(), "train the model"),
        (lambda fast, x: nn.Sequential(fast).train(), "train the model"),
        (lambda fast, x: fast.half(), "float16"),
        (lambda fast, x: fast.to("meta"), "meta"),
        (lambda fast, x: nn.Sequential(fast).double(), "float64"),
        (lambda fast, x: fast(x.requires_grad_()), "detach"),
        (lambda fast, x: fast(x.to("meta")), "CPU"),
        (lambda fast, x: setattr(compile(fast, x, frozen=True), "note", 1), "frozen"),
    ],
)
def test_what_it_cannot_do_is_one_clear_error(model, x, use, message):
    with pytest.raises(EngineError, match=message):
        use(compile(model, x), x)


def test_it_is_a_part_of_others(model, x):
    fast = compile(model, x)
    outer = nn.Sequential(fast, nn.ReLU()).eval()
    wanted = model(x).detach().relu()
    assert_same(outer(x), wanted)
    assert_same(compile(outer, x)(x), wanted)
    assert next(iter(outer.state_dict())) == "0.0.weight"
    with torch.no_grad():
        model[0].weight.mul_(2)
    assert_same(compile(outer, x)(x), model(x).detach().relu())
    called: list[Any] = []
    fast.register_forward_hook(lambda module, args, result: called.append(result))
    assert called == [] and fast(x) is called[0]


TRACERS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "traced": lambda fast, x: torch.jit.trace(fast, x)(x),
    "exported": lambda fast, x: torch.export.export(fast, (x,)).module()(x),
    "compiled by PyTorch": lambda fast, x: torch.compile(fast, backend="eager", fullgraph=True)(x),
    "compiled as a part": lambda fast, x: torch.compile(nn.Sequential(fast).eval(), backend="regroup")(x),
    "fx": lambda fast, x: torch.fx.symbolic_trace(nn.Sequential(fast).eval())(x),
    "vmap": lambda fast, x: torch.vmap(fast)(x[:, None])[:, 0],
    "jvp": lambda fast, x: torch.func.jvp(fast, (x,), (x,))[0],
    "functional call": lambda fast, x: torch.func.functional_call(fast, dict(fast.named_parameters()), (x,)),
}


@pytest.mark.parametrize("tracer", TRACERS)
def test_who_traces_it_sees_the_model(model, x, tracer):
    with torch.no_grad():
        assert_same(TRACERS[tracer](compile(model, x), x), model(x))


def test_fake_tensors_never_reach_native_code(model, x):
    fast = compile(model, x)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        assert fast(mode.from_tensor(x)).shape == model(x).shape
    for fake in (x, FakeTensorMode().from_tensor(x)):
        with FakeTensorMode(), pytest.raises(Exception, match=r"FakeTensor|fake"):
            fast(fake)
    assert_same(fast(x), model(x).detach())
