"""Every change of a model's tensors is seen, by machine code as by Python."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from regroup.engine import weights
from regroup.engine.weights import Watch
from regroup.errors import EngineError


@pytest.fixture(params=["machine code", "Python"])
def watch(request, monkeypatch):
    if request.param == "Python":
        monkeypatch.setattr(weights, "_interfaces", lambda: None)
    else:
        assert weights._interfaces() is not None
    return Watch


@pytest.fixture
def model() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Sequential(nn.Linear(4, 2, bias=False)))


def _swap(model: nn.Module) -> None:
    modules = model[0]._parameters
    modules["weight"] = modules.pop("weight")  # the same objects, in another order


CHANGES = {
    "in place": lambda m: nn.init.zeros_(m[2][0].weight),
    "in place, uncounted": lambda m: m[0].weight.data.add_(1),
    "in place, by NumPy": lambda m: np.multiply(w := m[2][0].weight.detach().numpy(), 2, out=w),
    "other numbers": lambda m: setattr(m[0].bias, "data", torch.zeros(4)),
    "a view of other numbers": lambda m: setattr(m[0].bias, "data", torch.zeros(9)[2:6]),
    "another tensor": lambda m: setattr(m[0], "bias", nn.Parameter(torch.zeros(4))),
    "another buffer": lambda m: setattr(m[1], "running_var", torch.ones(4)),
    "a tensor less": lambda m: m[0].register_parameter("bias", None),
    "an entry less": lambda m: delattr(m[0], "bias"),
    "a tensor more": lambda m: m[2][0].register_parameter("scale", nn.Parameter(torch.ones(1))),
    "a buffer more": lambda m: m[1].register_buffer("scale", torch.ones(1)),
    "another module": lambda m: m[2].__setitem__(0, nn.Linear(4, 2, bias=False)),
    "a module more": lambda m: m[2].append(nn.Linear(2, 2)),
    "a module less": lambda m: m[2].__delitem__(0),
    "an order": _swap,
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_seen(watch, model, change):
    looking = watch(model)
    assert looking.unchanged() and looking.unchanged()
    CHANGES[change](model)
    assert not looking.unchanged()
    assert watch(model).unchanged()


def test_what_does_not_matter_is_no_change(watch, model):
    looking = watch(model)
    model[1].num_batches_tracked.add_(1)
    model[0].weight.grad = torch.ones_like(model[0].weight)
    model.requires_grad_(False).eval()
    assert looking.unchanged()


def test_anything_without_tensors_never_changes(watch):
    assert watch(nn.Identity()).unchanged() and watch(lambda x: x).unchanged()


def test_tensors_whose_changes_are_not_counted_are_an_error(watch):
    with torch.inference_mode():
        model = nn.Linear(2, 2)
    with pytest.raises(EngineError, match="frozen=True"):
        watch(model)
