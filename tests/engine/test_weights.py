"""Every change of a model is seen, by machine code as by Python."""

from __future__ import annotations

import argparse
import dataclasses
from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

from regroup.engine.running.compiled import Compiled, compile
from regroup.engine.watching import held, proof, weights
from regroup.engine.watching.weights import Watch
from regroup.errors import EngineError


@pytest.fixture(params=["machine code", "machine code without dictionaries' tags", "Python"])
def watch(request, monkeypatch):
    found = proof.interfaces()
    assert found is not None
    if request.param != "machine code":
        other = None if request.param == "Python" else dataclasses.replace(found, tag_at=0)
        for module in (held, weights):
            monkeypatch.setattr(module, "interfaces", lambda: other)
    return Watch


@dataclasses.dataclass
class Settings:
    scale: float = 1.5
    sizes: list[int] = dataclasses.field(default_factory=lambda: [1, 2])


class Own:
    def __init__(self) -> None:
        self.gain, self.of = 1.0, [1]


class Scaled(nn.Module):
    """Settings and tensors in every place where a module can have them."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.sizes, self.names, self.chosen = 2.0, [1, [2, 3]], {"a": 1}, {1, 2}
        self.settings, self.namespace, self.own = Settings(), argparse.Namespace(gain=1), Own()
        self.__dict__["plain"] = torch.ones(3)
        self.several = (torch.ones(2), {"of": [torch.ones(2)]})
        self.hidden = [nn.Linear(2, 2)]


@pytest.fixture
def model() -> nn.Module:
    layers = (nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Sequential(nn.Linear(4, 2, bias=False)), Scaled())
    return nn.Sequential(*layers).eval()


def _reorder(model: nn.Module) -> None:
    modules = model[0]._parameters
    modules["weight"] = modules.pop("weight")  # the same objects, in another order


def _swap(model: nn.Module) -> None:
    torch.utils.swap_tensors(model[0].weight, nn.Parameter(model[0].weight.detach() + 1))


def _load(model: nn.Module, **options: bool) -> None:
    model.load_state_dict({name: value + 1 for name, value in model.state_dict().items()}, **options)


def _load_swapped(model: nn.Module) -> None:
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        _load(model)
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)


def _step(model: nn.Module) -> None:
    model[0].weight.grad = torch.ones_like(model[0].weight)
    torch.optim.SGD(model.parameters(), 0.1).step()


def _in_inference_mode(model: nn.Module) -> None:
    with torch.inference_mode():
        other = nn.Parameter(torch.zeros(2, 4), requires_grad=False)
    torch.utils.swap_tensors(model[2][0].weight, other)


CHANGES = {
    "in place": lambda m: nn.init.zeros_(m[2][0].weight),
    "in place, uncounted": lambda m: m[0].weight.data.add_(1),
    "in place, by NumPy": lambda m: np.multiply(w := m[2][0].weight.detach().numpy(), 2, out=w),
    "one number, uncounted": lambda m: m[0].weight.data.view(-1)[50].add_(1),
    "one sign, uncounted": lambda m: m[1].weight.data[2:3].neg_(),
    "other numbers": lambda m: setattr(m[0].bias, "data", torch.zeros(4)),
    "a view of other numbers": lambda m: setattr(m[0].bias, "data", torch.zeros(9)[2:6]),
    "other strides": lambda m: setattr(m[0].weight, "data", m[0].weight.data.transpose(2, 3)),
    "another shape": lambda m: setattr(m[0].weight, "data", m[0].weight.data[:2]),
    "another type": lambda m: setattr(m[1].running_var, "data", m[1].running_var.data.view(torch.int32)),
    "another storage": lambda m: m[1].running_var.set_(torch.ones(4)),
    "a swap": _swap,
    "a swap with one that counts no changes": _in_inference_mode,
    "an optimiser": _step,
    "load_state_dict": _load,
    "load_state_dict, assigned": lambda m: _load(m, assign=True),
    "load_state_dict, swapped": _load_swapped,
    "other numbers' type": lambda m: m.double(),
    "other order of numbers": lambda m: m.to(memory_format=torch.channels_last),
    "another device": lambda m: m.to("meta"),
    "another tensor": lambda m: setattr(m[0], "bias", nn.Parameter(torch.zeros(4))),
    "another buffer": lambda m: setattr(m[1], "running_var", torch.ones(4)),
    "a tensor less": lambda m: m[0].register_parameter("bias", None),
    "an entry less": lambda m: delattr(m[0], "bias"),
    "a tensor more": lambda m: m[2][0].register_parameter("scale", nn.Parameter(torch.ones(1))),
    "a buffer more": lambda m: m[1].register_buffer("scale", torch.ones(1)),
    "another module": lambda m: m[2].__setitem__(0, nn.Linear(4, 2, bias=False)),
    "a module more": lambda m: m[2].append(nn.Linear(2, 2)),
    "a module less": lambda m: m[2].__delitem__(0),
    "an order": _reorder,
    "tied weights": lambda m: setattr(m[1], "bias", m[1].weight),
    "a parametrisation": lambda m: parametrize.register_parametrization(m[0], "weight", nn.Identity()),
    "weight normalisation": lambda m: parametrizations.weight_norm(m[0]),
    "pruning": lambda m: prune.l1_unstructured(m[0], "weight", 0.5),
    "a setting": lambda m: setattr(m[0], "stride", (2, 2)),
    "a number": lambda m: setattr(m[3], "scale", 3.0),
    "a sign": lambda m: setattr(m[3], "scale", -m[3].scale),
    "a number of another type": lambda m: setattr(m[3], "scale", 2),
    "a new setting": lambda m: setattr(m[3], "new", 1),
    "a setting less": lambda m: delattr(m[3], "scale"),
    "a list": lambda m: m[3].sizes.append(3),
    "an item of a list": lambda m: m[3].sizes.__setitem__(0, 3),
    "a list in a list": lambda m: m[3].sizes[1].reverse(),
    "a dictionary": lambda m: m[3].names.update(a=2),
    "a key of a dictionary": lambda m: m[3].names.update(b=m[3].names.pop("a")),
    "a set": lambda m: m[3].chosen.add(3),
    "a dataclass": lambda m: setattr(m[3].settings, "scale", 2.0),
    "an object of one's own": lambda m: setattr(m[3].own, "gain", 2.0),
    "a list in an object of one's own": lambda m: m[3].own.of.append(1),
    "a new attribute of an object": lambda m: setattr(m[3].own, "bias", 2.0),
    "another object of the same class": lambda m: setattr(m[3].own, "of", Own()),
    "a list in a dataclass": lambda m: m[3].settings.sizes.append(1),
    "a namespace": lambda m: setattr(m[3].namespace, "gain", 2),
    "a tensor that is no buffer": lambda m: m[3].plain.add_(1),
    "a tensor in a tuple": lambda m: m[3].several[0].add_(1),
    "a tensor in a list in a dictionary": lambda m: m[3].several[1]["of"][0].add_(1),
    "a module in a list": lambda m: m[3].hidden[0].weight.data.add_(1),
    "training, of a part": lambda m: m[1].train(),
    "a hook": lambda m: m[0].register_forward_hook(lambda *_: None),
    "a hook before": lambda m: m[0].register_forward_pre_hook(lambda *_: None, with_kwargs=True),
    "another class": lambda m: setattr(m[3], "__class__", nn.Identity),
    "other attributes": lambda m: setattr(m[3], "__dict__", dict(vars(m[3]), scale=7)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_seen(watch, model, change):
    looking = watch(model)
    assert looking.unchanged() and looking.unchanged()
    CHANGES[change](model)
    assert not looking.unchanged() and not looking.unchanged()
    if change != "a swap with one that counts no changes":
        assert watch(model).unchanged()


def test_hooks_of_all_modules_are_seen(watch, model):
    looking = watch(model)
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        assert not looking.unchanged()
    finally:
        handle.remove()
    assert looking.unchanged()


EQUAL = {
    "a number": lambda m: setattr(m[3], "scale", float("2.0")),
    "a text": lambda m: setattr(m[0], "padding_mode", "".join(("ze", "ros"))),
    "a tuple": lambda m: setattr(m[0], "stride", tuple(map(int, "11"))),
    "a list": lambda m: setattr(m[3], "sizes", [1, [2, 3]]),
    "a dictionary": lambda m: setattr(m[3], "names", {"a": 1}),
    "a set": lambda m: setattr(m[3], "chosen", {2, 1}),
    "forth and back": lambda m: (setattr(m[3], "scale", 3.0), setattr(m[3], "scale", 2.0)),
    "into training and back": lambda m: m.train().eval(),
    "a hook and none": lambda m: m[0].register_forward_hook(lambda *_: None).remove(),
    "batches counted": lambda m: m[1].num_batches_tracked.add_(1),
    "a gradient": lambda m: setattr(m[0].weight, "grad", torch.ones_like(m[0].weight)),
    "no gradients": lambda m: m.requires_grad_(False),
    "a saved state": lambda m: m.state_dict(),
    "a moved module": lambda m: m.to("cpu"),
}


@pytest.mark.parametrize("change", EQUAL)
def test_what_is_equal_is_no_change(watch, model, change):
    looking = watch(model)
    EQUAL[change](model)
    assert looking.unchanged() and looking.unchanged()
    nn.init.ones_(model[0].weight)
    assert not looking.unchanged()


def test_anything_without_tensors_never_changes(watch):
    assert watch(nn.Identity()).unchanged() and watch(lambda x: x).unchanged()


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor", "ignore:The PyTorch API of nested")
def test_tensors_of_every_kind_can_be_watched(watch):
    model = nn.Module()
    values = {
        "scalar": torch.tensor(1.0), "empty": torch.zeros(0, 3), "bytes": torch.zeros(77, dtype=torch.uint8),
        "spread": torch.zeros(40, 40)[::2, ::3], "expanded": torch.zeros(1, 3).expand(5, 3),
        "half": torch.zeros(100, dtype=torch.bfloat16), "complex": torch.zeros(9, dtype=torch.complex64),
        "deep": torch.zeros(2, 2, 2, 2, 2, 2, 2), "sparse": torch.eye(3).to_sparse(),
        "away": torch.zeros(3, device="meta"), "offset": torch.zeros(100)[3:],
        "quantised": torch.quantize_per_tensor(torch.zeros(9), 0.1, 0, torch.quint8),
        "nested": torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]),
    }  # fmt: skip
    for name, value in values.items():
        model.register_buffer(f"{name}_", value)
    looking = watch(model)
    assert looking.unchanged()
    for name in ("scalar", "bytes", "spread", "half", "complex", "deep", "away", "offset"):
        getattr(model, f"{name}_").add_(1)
        assert not looking.unchanged()
        looking = watch(model)
        assert looking.unchanged()


def test_tensors_whose_changes_are_not_counted_are_an_error(watch):
    with torch.inference_mode():
        model = nn.Linear(2, 2)
    with pytest.raises(EngineError, match="frozen=True"):
        watch(model)


def test_every_number_is_read_after_so_many_looks(watch):
    model = nn.Sequential(nn.Linear(100, 33), nn.Linear(33, 9))
    looking = watch(model)
    assert 1 < looking.turns <= 16
    for position in range(0, 3300, 97):
        model[0].weight.data.view(-1)[position] += 1
        seen = [looking.unchanged() for _ in range(looking.turns)]
        assert not all(seen)
        looking = watch(model)


def test_a_twentieth_of_the_numbers_is_seen_at_once(watch):
    model, draw = nn.Linear(500, 40), torch.Generator().manual_seed(0)
    looking = watch(model)
    for _ in range(20):
        model.weight.data.mul_(torch.rand(40, 500, generator=draw) > 0.05)
        assert not looking.unchanged()
        looking = watch(model)
        model.weight.data.add_(torch.rand(40, 500, generator=draw))
        looking = watch(model)


def test_storage_that_was_looked_at_is_not_given_out_again(watch):
    """A block that is freed is the next one given out: pruning twice came back to the address of before."""
    model = nn.Linear(64, 64)
    keep = torch.ones(64, 64)
    keep[1::2] = 0  # not the numbers that a first or a middle sample reads
    looking = watch(model)
    for _ in range(50):
        model.weight.data = model.weight.data * keep
        model.weight.data = model.weight.data * 1.0
        assert not looking.unchanged()
        looking = watch(model)


def test_a_watched_tensor_can_still_be_swapped_and_resized(watch):
    model = nn.Linear(3, 3)
    looking = watch(model)
    torch.utils.swap_tensors(model.weight, nn.Parameter(torch.zeros(3, 3)))
    assert not looking.unchanged()
    looking = watch(model)
    model.bias.requires_grad_(False).resize_(100).zero_()
    assert not looking.unchanged()


def test_parts_that_hold_each_other_are_walked_once(watch):
    a, b = nn.Module(), nn.Module()
    a.__dict__["other"], b.__dict__["other"] = b, a
    a.loop = loop = []
    loop.append(loop)
    looking = watch(a)
    assert looking.unchanged()
    b.x = 1
    assert not looking.unchanged()


# -- compiled: of whole numbers, so that every order of summation gives the same -------------------


def _integers(*shape: int) -> Tensor:
    return torch.randint(-8, 9, shape).float()


def _equal(model: nn.Module, fast: Compiled, x: Tensor) -> bool:
    with torch.no_grad():
        return torch.equal(fast(x), model(x))


def _convolution(channels: int, filters: int, **options: int) -> nn.Conv2d:
    layer = nn.Conv2d(channels, filters, 3, **options)
    with torch.no_grad():
        layer.weight.copy_(_integers(*layer.weight.shape))
        layer.bias.copy_(_integers(filters))
    return layer


def test_weights_that_pytorch_swaps_are_followed():
    model, x = nn.Sequential(_convolution(16, 16), nn.Flatten()).eval(), _integers(1, 16, 8, 8)
    fast = compile(model, x)
    for _ in range(3):
        _load_swapped(model)
        assert _equal(model, fast, x)
    torch.utils.swap_tensors(model[0].weight, nn.Parameter(_integers(16, 16, 3, 3)))
    assert _equal(model, fast, x)


def test_iterative_pruning_is_followed():
    model, x = nn.Sequential(_convolution(8, 8), nn.ReLU(), nn.Flatten()).eval(), _integers(1, 8, 6, 6)
    fast, weight = compile(model, x), model[0].weight
    for _ in range(12):
        weight.data = weight.data * (torch.rand_like(weight) > 0.1)
        weight.data = weight.data * 1.0
        assert _equal(model, fast, x)


def test_settings_and_hooks_are_followed():
    class Gain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gain, self.sizes = 2.0, OrderedDict(step=2)

        def forward(self, x: Tensor) -> Tensor:
            return x[:, :: self.sizes["step"]] * self.gain

    model, x = nn.Sequential(_convolution(3, 8, padding=1), Gain()).eval(), _integers(2, 3, 8, 8)
    fast = compile(model, x)
    model[1].gain = 3.0
    assert _equal(model, fast, x)
    model[0].stride = (2, 2)
    assert _equal(model, fast, x)
    model[1].sizes["step"] = 4
    assert _equal(model, fast, x)
    handle = model[0].register_forward_hook(lambda module, inputs, output: output * 2)
    assert _equal(model, fast, x)
    handle.remove()
    assert _equal(model, fast, x)


_GLOBAL = torch.ones(1)


def test_tensors_in_closures_and_globals_are_followed():
    enclosed = torch.ones(1)

    class Gain(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * enclosed + _GLOBAL + torch.tensor([2.0])

    model, x = nn.Sequential(_convolution(3, 4), Gain()).eval(), _integers(2, 3, 8, 8)
    fast = compile(model, x)
    for tensor in (enclosed, _GLOBAL, enclosed.data, _GLOBAL):
        tensor.mul_(3)
        assert _equal(model, fast, x) and _equal(model, fast, x[:1])


MISTAKES = {
    "a weight in float64": lambda m: setattr(m[0], "weight", nn.Parameter(m[0].weight.double())),
    "a complex weight": lambda m: setattr(m[0], "weight", nn.Parameter(m[0].weight.to(torch.complex64))),
    "more outputs than biases": lambda m: setattr(m[0], "weight", nn.Parameter(torch.ones(9, 3, 3, 3))),
    "a norm in float16": lambda m: m[1].half(),
    "means in float64": lambda m: setattr(m[1], "running_mean", m[1].running_mean.double()),
    "no memory": lambda m: m[0].weight.untyped_storage().resize_(0),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_weights_that_pytorch_refuses_are_its_error(mistake):
    model, x = nn.Sequential(_convolution(3, 8), nn.BatchNorm2d(8)).eval(), _integers(2, 3, 8, 8)
    fast = compile(model, x)
    MISTAKES[mistake](model)
    with pytest.raises(RuntimeError) as theirs:
        model(x)
    with pytest.raises(RuntimeError) as ours:
        fast(x)
    assert str(ours.value) == str(theirs.value)
