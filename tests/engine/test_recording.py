"""What Python does beside the tensors of a network: the batch size, state, hooks, containers, memory."""

from __future__ import annotations

import contextvars
import copy
import dataclasses
import functools
import itertools
import os
import random
import re
import signal
import threading

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from regroup.engine.running import plans
from regroup.engine.running.compiled import Compiled, compile
from regroup.errors import EngineError
from regroup.ops.hooks import stateless

SIZE = (3, 6, 6)


class Net(nn.Module):
    """A convolution, and what a test does around it."""

    def __init__(self, forward=None, **attributes) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.does = forward
        for name, value in attributes.items():
            setattr(self, name, value)
        self.eval()

    def forward(self, x: Tensor):
        return self.does(self, x)


def images(batch: int) -> Tensor:
    return torch.randint(-3, 4, (batch, *SIZE)).float()


def whole(model: nn.Module) -> nn.Module:
    """Give weights that are small integers, so that results are exact in any order of summation."""
    for parameter in model.parameters():
        nn.init.constant_(parameter, 1.0)
    return model


def assert_equal(ours, theirs) -> None:
    ours, theirs = (torch.utils._pytree.tree_flatten(result) for result in (ours, theirs))
    assert ours[1] == theirs[1]
    for a, b in zip(ours[0], theirs[0], strict=True):
        assert type(a) is type(b)
        assert torch.equal(a, b) if isinstance(a, Tensor) else a == b


def assert_the_same(model: nn.Module, sizes=(2, 1, 2, 5, 3, 2, 5, 1), example: int = 2) -> Compiled:
    """Call a compiled network and a copy of the model, at several batch sizes."""
    whole(model)
    beside = copy.deepcopy(model)
    fast = compile(model, images(example))
    for batch in sizes:
        x = images(batch)
        theirs_x = x.clone()
        with torch.no_grad():
            theirs = beside(theirs_x)
        assert_equal(fast(x), theirs)
        assert torch.equal(x, theirs_x)
    return fast


BATCH_DEPENDENT = {
    "mean": lambda s, x: s.conv(x) / 2 ** x.shape[0],
    "skip": lambda s, x: s.conv(x) * 2 if x.shape[0] > 1 else s.conv(x),
    "loop": lambda s, x: functools.reduce(lambda y, i: y + i, range(x.shape[0]), s.conv(x)),
    "info": lambda s, x: {"y": s.conv(x), "shape": tuple(s.conv(x).shape)},
    "list of images": lambda s, x: list(s.conv(x).relu().clone().mul(2).split(1)),
    "squeeze": lambda s, x: s.conv(x).squeeze(),
    "across images": lambda s, x: s.conv(x) - s.conv(x).mean(0, keepdim=True),
    "threshold": lambda s, x: s.conv(x) if len(x) < 4 else s.conv(x).relu(),
    "transposed": lambda s, x: s.conv(x).transpose(0, 1).clone(),
    "into the channels": lambda s, x: s.conv(x).reshape(1, -1, 4, 4).relu(),
    "repeated": lambda s, x: s.conv(x).repeat(2, 1, 1, 1),
    "images in turn": lambda s, x: torch.cat([s.conv(x)[i : i + 1] * i for i in range(x.size(0))]),
    "flatten": lambda s, x: s.conv(x).flatten(),
    "size": lambda s, x: (s.conv(x), x.size(0)),
    "first": lambda s, x: s.conv(x)[0] + 1,
    "ones": lambda s, x: s.conv(x) + torch.ones(x.shape[0], 1, 1, 1),
    "numbers": lambda s, x: s.conv(x) * torch.arange(x.shape[0]).view(-1, 1, 1, 1),
}


@pytest.mark.parametrize("name", BATCH_DEPENDENT)
@pytest.mark.parametrize("example", [1, 5])
def test_what_depends_on_the_batch_size_is_right_at_every_one(name, example):
    assert_the_same(Net(BATCH_DEPENDENT[name]), example=example)


NO_IMAGES = {
    "twice as many": lambda s, x: s.conv(x).view(x.shape[0] * 2, 2, 4, 4),
    "tokens": lambda s, x: torch.cat([s.token.expand(len(x), -1, -1), s.conv(x).flatten(2)], 1),
    "a part": lambda s, x: s.conv(x)[: len(x) // 2].relu(),
}


@pytest.mark.parametrize("name", NO_IMAGES)
@pytest.mark.parametrize("example", [0, 2])
def test_a_batch_without_images_has_the_shapes_of_pytorch(name, example):
    """Any dimension of size 0 looks like its first one."""
    assert_the_same(Net(NO_IMAGES[name], token=nn.Parameter(torch.ones(1, 1, 16))), (0, 2, 0), example)


def test_one_plan_serves_all_batch_sizes_where_nothing_depends_on_them():
    fast = assert_the_same(Net(lambda s, x: s.conv(x).view(x.size(0), -1).relu()))
    assert len({id(fast._prepared.plan(batch)) for batch in (1, 2, 3, 5)}) == 1
    assert fast.explain(json=True)["batch_sizes"] == [1, 2, 3, 5]


def test_operators_of_pytorch_share_a_plan_where_they_have_no_batch_size_in_them():
    fast = assert_the_same(Net(lambda s, x: s.conv(x).cumsum(2)))
    assert len({id(fast._prepared.plan(batch)) for batch in (1, 2, 3, 5)}) == 1


def test_shapes_that_begin_with_the_batch_size_do_not_make_a_plan_for_each():
    def forward(s, x):
        y = s.conv(x)
        mean = y.mean((2, 3)).view(x.shape[0], 1, -1).cumsum(2).view(x.shape[0], -1, 1, 1)
        return y * mean.expand(x.shape[0], -1, *y.shape[2:])

    fast = compile(whole(Net(forward)), images(2))
    assert len({id(fast._prepared.plan(batch)) for batch in (1, 2, 3)}) == 1


def test_plans_are_bounded_and_the_oldest_goes(monkeypatch):
    monkeypatch.setattr(plans, "_MOST_SIZES", 12)
    fast = assert_the_same(Net(BATCH_DEPENDENT["mean"]), range(1, 31))
    prepared = fast._prepared._plans
    assert len(prepared._made) == 8 and len(prepared._of) <= 12
    assert {id(plan) for plan in prepared._of.values()} <= {id(plan) for _, plan in prepared._made}


# state


def _smooth(s, x):
    s.last = x if s.last is None else (s.last[:1] + x) / 2
    return s.conv(s.last)


def _count(s, x):
    s.calls += 1
    return s.conv(x) * s.calls


def _first_call(s, x):
    if not hasattr(s, "scale"):
        s.scale = nn.Parameter(x.abs().amax().view(1))
    return s.conv(x) * s.scale


def _cached(s, x):
    if x.shape[0] not in s.cache:
        s.cache[x.shape[0]] = s.conv(x)
    return s.cache[x.shape[0]] + 1


def _logged(s, x):
    s.log.append(x.shape[0])
    return s.conv(x) + len(s.log)


def _of_a_buffer(s, x):
    s.buffer = s.buffer + 1
    return s.conv(x) + s.buffer


def _counted_in_numpy(s, x):
    s.array += 1
    return s.conv(x) + float(s.array[0])


def _through_numpy(s, x):
    s.plain.numpy()[0] += 1
    return s.conv(x) + s.plain


def _through_data(s, x):
    s.conv.bias.data = s.conv.bias.data + 1
    return s.conv(x)


def _on_the_class(s, x):
    type(s).total = getattr(type(s), "total", 0) + 1
    return s.conv(x)


class _Box:
    __slots__ = ("content",)

    def __init__(self) -> None:
        self.content = 0


def _in_a_box(s, x):
    s.box.content += 1
    return s.conv(x) * s.box.content


STATEFUL = {
    "Net.last": (_smooth, {"last": None}, "keeps a tensor in Net.last"),
    "Net.calls": (_count, {"calls": 0}, "changes Net.calls"),
    "Net.scale": (_first_call, {}, "outside of the recording"),
    "Net.cache": (_cached, {"cache": {}}, "keeps a tensor in Net.cache"),
    "Net.log": (_logged, {"log": []}, "changes Net.log"),
    "buffer": (_of_a_buffer, {"buffer": nn.Buffer(torch.zeros(1))}, "changes Net.buffer"),
    "array": (_counted_in_numpy, {"array": np.zeros(2)}, "changes Net.array"),
    "plain": (_through_numpy, {"plain": torch.zeros(1)}, "changes a tensor's numbers"),
    "data": (_through_data, {}, "sets an attribute of a tensor"),
    "box": (_in_a_box, {"box": _Box()}, "changes _Box.content"),
    "python": (lambda s, x: s.conv(x) + random.randrange(9), {}, "Python's random numbers"),
    "numpy": (lambda s, x: s.conv(x) + float(np.random.randint(9)), {}, "NumPy's random numbers"),
    "torch": (lambda s, x: s.conv(x) + torch.randint(9, (1,)), {}, "random numbers"),
    "own": (lambda s, x: s.conv(x) + s.own.randrange(9), {"own": random.Random(3)}, "changes Net.own"),
}


def _seed() -> None:
    random.seed(7)
    np.random.seed(7)
    torch.manual_seed(7)


@pytest.mark.parametrize("name", STATEFUL)
def test_a_network_with_state_runs_in_pytorch_and_was_not_touched(name):
    forward, attributes, reason = STATEFUL[name]
    model = whole(Net(forward, **copy.deepcopy(attributes)))
    beside, xs = copy.deepcopy(model), [images(batch) for batch in (2, 2, 1, 3, 2)]
    _seed()
    fast = compile(model, xs[0])
    assert reason in fast.explain()
    ours = [fast(x) for x in xs]
    with torch.no_grad():
        ours.append(model(xs[0]))
        _seed()
        theirs = [beside(x) for x in (*xs, xs[0])]
    assert_equal(ours, theirs)


def test_a_network_that_prepares_itself_in_its_first_call_is_compiled_afterwards():
    def forward(s, x):
        if s.bias is None:
            s.bias = torch.ones(4, 1, 1)
        return s.conv(x) + s.bias

    fast = assert_the_same(Net(forward, bias=None))
    assert fast.explain(json=True)["segments"]


def test_what_is_set_to_an_equal_value_is_no_state():
    def forward(s, x):
        s.shape, s.twice = tuple(x.shape[1:]), s.conv.weight * 2
        return s.conv(x)

    model = whole(Net(forward))
    with torch.no_grad():
        model(images(1))
    fast = compile(model, images(1))
    assert fast.explain(json=True)["segments"]


@pytest.mark.parametrize(
    "norm", [nn.utils.weight_norm, nn.utils.spectral_norm, nn.utils.parametrizations.weight_norm]
)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_weights_that_pytorch_derives_are_followed(norm):
    model = nn.Sequential(norm(nn.Conv2d(3, 4, 3)), nn.ReLU()).eval()
    fast, x = compile(model, images(2)), images(2)
    assert fast.explain(json=True)["segments"]
    for _ in range(2):
        with torch.no_grad():
            torch.testing.assert_close(fast(x), model(x))
            for parameter in model.parameters():
                parameter.mul_(1.5)
    assert fast.explain(json=True)["segments"]


KEPT: list[Tensor] = []
COUNT = 0


def _count_globally(s, x):
    global COUNT
    COUNT += 1
    return s.conv(x) + COUNT


def _keep_globally(s, x):
    KEPT.append(s.conv(x))
    return s.conv(x) + len(KEPT)


def test_globals_are_as_they_were():
    global COUNT
    for forward in (_count_globally, _keep_globally):
        COUNT = 0
        KEPT.clear()
        fast = compile(whole(Net(forward)), images(2))
        assert COUNT == 0 and not KEPT
        with torch.no_grad():
            y = fast._prepared._model.conv(x := images(2))
        assert torch.equal(fast(x), y + 1) and torch.equal(fast(x), y + 2)


def test_a_closure_is_as_it_was():
    kept, calls = [], 0

    def forward(s, x):
        nonlocal calls
        calls += 1
        kept.append(x)
        return s.conv(x)

    fast = compile(Net(forward), images(2))
    assert not kept and not calls
    assert "calls" in fast.explain() or "kept" in fast.explain()
    fast(images(2))
    assert calls == 1 and len(kept) == 1


def test_an_iterator_is_not_looked_at():
    counter = itertools.count(1)
    model = whole(Net(lambda s, x: s.conv(x) * next(counter)))
    x = images(2)
    fast = compile(model, x)
    with torch.no_grad():
        y = model.conv(x)
    assert torch.equal(fast(x), y) and torch.equal(fast(x), 2 * y)
    assert "iterator" in fast.explain() or "count" in fast.explain()


def test_a_tensor_kept_where_nobody_can_look_is_named(monkeypatch):
    monkeypatch.setattr(os, "hidden", None, raising=False)
    model = Net(lambda s, x: (setattr(os, "hidden", x), s.conv(x))[1])
    assert "keeps a tensor" in compile(model, images(1)).explain()


OF_THE_CALLER = contextvars.ContextVar("of the caller", default=2.0)
OF_THE_THREAD = threading.local()
OF_THE_THREAD.gain = 2.0


@pytest.mark.parametrize(
    ("forward", "reason"),
    [
        (lambda s, x: s.conv(x) * OF_THE_CALLER.get(), "is a ContextVar"),
        (lambda s, x: s.conv(x) * OF_THE_THREAD.gain, "has a value for each caller"),
        (lambda s, x: s.conv(x) * globals()["GAIN"], r"finds names by globals\(\)"),
        (lambda s, x: s.conv(x) * eval("GAIN"), r"finds names by eval\(\)"),  # noqa: S307
    ],
    ids=["context", "thread", "globals", "eval"],
)
def test_names_that_cannot_be_followed_are_pytorchs(forward, reason):
    fast = assert_the_same(Net(forward))
    assert re.search(reason, fast.explain())


GAIN = 2.0


# hooks


def test_a_hook_is_called_with_every_call():
    seen = []
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()).eval()
    handle = model[0].register_forward_hook(lambda module, args, result: seen.append(result))
    fast = compile(model, images(1))
    assert not seen and "a hook watches Conv2d" in fast.explain()
    x = images(2)
    fast(x)
    with torch.no_grad():
        assert len(seen) == 1 and torch.equal(seen[0], model[0](x))
    handle.remove()


def test_a_hook_that_says_that_it_has_no_state_is_followed():
    model = whole(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()).eval())
    model[0].register_forward_hook(stateless(lambda module, args, result: 2 * result))
    fast, x = compile(model, images(1)), images(2)
    with torch.no_grad():
        assert torch.equal(fast(x), model(x))
    assert fast.explain(json=True)["segments"]


def test_a_global_hook_is_called_with_every_call():
    seen = []
    handle = nn.modules.module.register_module_forward_hook(lambda module, args, y: seen.append(type(module)))
    try:
        fast = compile(nn.Sequential(nn.Conv2d(3, 8, 3)).eval(), images(1))
        fast(images(1))
        assert seen == [nn.Conv2d, nn.Sequential, type(fast)]
    finally:
        handle.remove()


# results


@dataclasses.dataclass
class Out:
    y: Tensor


def _twice(s, x):
    y = s.conv(x)
    return y, {"again": y}


RESULTS = {
    "an unknown class": lambda s, x: [Out(s.conv(x)).y],
    "twice": _twice,
    "constants": lambda s, x: (s.conv(x), s.conv.bias * 2, torch.ones(2), 3, None, "name", 1.5, x.shape),
    "the input": lambda s, x: (s.conv(x), x),
    "a copy of the input": lambda s, x: (s.conv(x), x.clone()),
    "a copy": lambda s, x: (lambda y: (y, y.clone(), y + 0))(s.conv(x)),
    "nothing": lambda s, x: None,
    "empty": lambda s, x: {},
    "parts": lambda s, x: s.conv(x).chunk(2, 1),
    "a view": lambda s, x: (lambda y: (y, y.flatten(1)))(s.conv(x)),
    "a view of the input": lambda s, x: (s.conv(x), x.flatten(1)),
    "the input changed": lambda s, x: s.conv(x.mul_(2)),
    "a copy changed": lambda s, x: (lambda y: (y.transpose(2, 3).contiguous().add_(1), y))(s.conv(x)),
    "a view changed": lambda s, x: (lambda y: (y.transpose(2, 3).add_(1).sum(1), y * 1))(s.conv(x)),
}


@pytest.mark.parametrize("name", RESULTS)
def test_a_result_is_what_eager_gives_and_hangs_together_as_there(name):
    model = whole(Net(RESULTS[name]))
    fast = assert_the_same(model)
    x = images(2)
    results = {}
    for run in (model, fast):
        given = x.clone()
        with torch.no_grad():
            leaves = torch.utils._pytree.tree_leaves(run(given))
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        for position, tensor in enumerate(tensors):  # who else sees a change
            tensor[(0,) * tensor.dim()] += 100 * (position + 1)
        results[run] = [*tensors, given, [[a is b for a in leaves] for b in leaves]]
    for ours, theirs in zip(results[fast], results[model], strict=True):
        assert torch.equal(ours, theirs) if isinstance(ours, Tensor) else ours == theirs


def test_an_unknown_class_as_a_result_is_left_to_pytorch():
    model = whole(Net(lambda s, x: Out(s.conv(x))))
    fast, x = compile(model, images(2)), images(2)
    with torch.no_grad():
        assert torch.equal(fast(x).y + 1, model(x).y + 1)
    assert "holds a Out" in fast.explain()


def test_a_constant_is_a_fresh_one_for_every_caller_and_a_buffer_is_the_buffer():
    model = whole(Net(lambda s, x: (s.conv(x), s.buffer * 2, s.buffer), buffer=nn.Buffer(torch.ones(3))))
    fast = compile(model, images(1))
    first = fast(images(1))
    first[1].mul_(100)
    second = fast(images(1))
    assert torch.equal(second[1], torch.full((3,), 2.0))
    assert first[2] is second[2] is model.buffer


@pytest.mark.parametrize(
    "look",
    [
        lambda y: torch.from_numpy(y.detach().numpy() * 2),
        lambda y: torch.tensor(np.asarray(y) * 2),
        lambda y: torch.tensor(y.tolist()),
        lambda y: y * y.sum().item(),
        lambda y: y + float(y.data_ptr() != 0),
        lambda y: torch.from_dlpack(y) * 2,
        lambda y: torch.utils.dlpack.from_dlpack(torch.utils.dlpack.to_dlpack(y)) * 2,
        lambda y: copy.deepcopy(y) * 2,
        lambda y: torch.frombuffer(bytearray(y.numpy()), dtype=torch.float32).view(y.shape),
        lambda y: y + len(repr(y)),
        lambda y: y + y.untyped_storage().nbytes(),
        lambda y: y.transpose(2, 3).as_strided(y.shape, y.stride()) * 1,
    ],
)  # fmt: skip
def test_who_looks_at_numbers_runs_in_pytorch(look):
    assert_the_same(Net(lambda s, x: look(s.conv(x))))


def test_a_network_that_fails_raises_what_pytorch_raises():
    def forward(s, x):
        s.seen = x
        raise KeyError(f"no such layer for {x.shape[0]}")

    model = Net(forward)
    fast = compile(model, images(2))
    assert not hasattr(model, "seen")
    with pytest.raises(KeyError, match="no such layer for 3"):
        fast(images(3))


def test_an_exception_that_the_network_keeps_does_not_keep_a_tensor():
    def forward(s, x):
        try:
            raise ValueError(x)
        except ValueError as error:
            s.error = error
        return s.conv(x)

    model = Net(forward)
    fast = compile(model, images(2))
    assert not hasattr(model, "error") and "Net.error" in fast.explain()


# processes and threads


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_child_that_is_forked_while_a_plan_is_made_does_not_wait_for_it():
    inside, leave = threading.Event(), threading.Event()
    slow: set[int] = set()  # threads

    def forward(s, x):
        if threading.get_ident() in slow:
            s.seen = x
            inside.set()
            leave.wait(60)
            del s.seen
        return s.conv(x)

    model = whole(Net(forward))
    fast = compile(model, images(1))

    def work() -> None:
        slow.add(threading.get_ident())
        fast(images(2))

    thread = threading.Thread(target=work)
    thread.start()
    assert inside.wait(60)
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        os._exit(0 if fast(images(3)).shape == (3, 4, 4, 4) and not hasattr(model, "seen") else 1)
    status = os.waitpid(child, 0)[1]
    leave.set()
    thread.join()
    assert status == 0


def test_an_error_of_use_is_still_one():
    with pytest.raises(EngineError, match="compiled for"):
        compile(Net(lambda s, x: s.conv(x)), images(1))(torch.randn(3, 7, 7))


class _WithNumbers(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def save_under_a_number(self):
        return next(_NUMBERS)

    def forward(self, x):
        return self.conv(x)


class _ThatCounts(_WithNumbers):
    def forward(self, x):
        getattr(self, "save_under_" + "a_number"[:8])()
        return self.conv(x)


def test_of_methods_only_those_count_that_forward_can_call():
    """A counter cannot be looked at; beside forward it does not matter, however a method may be found."""
    x = torch.randn(1, 3, 6, 6)
    beside = compile(_WithNumbers().eval(), x).explain(json=True)
    assert [segment["runs"] for segment in beside["segments"]] == ["native"]
    before = next(_NUMBERS)
    counting = compile(_ThatCounts().eval(), x)
    assert "is a count" in counting.explain()
    counting(x)
    assert next(_NUMBERS) == before + 2


_NUMBERS = itertools.count()


def test_a_fault_of_the_engine_leaves_the_network_to_pytorch_and_says_so(monkeypatch):
    def faulty(*args):
        raise IndexError("of an empty list")

    monkeypatch.setattr(plans, "build_plan", faulty)
    model, x = nn.Sequential(nn.Conv2d(3, 4, 3)).eval(), torch.randn(2, 3, 6, 6)
    with pytest.warns(UserWarning, match="IndexError: of an empty list"):
        fast = compile(model, x)
    with torch.no_grad():
        assert torch.equal(fast(x), model(x))
    assert "please report it" in fast.explain()
