"""TensorFlow's padding: layers against timm's, networks against others' and against explicit padding."""

from __future__ import annotations

import os

import pytest
import torch
import torch.fx
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import regroup
from regroup.errors import NetworkError
from regroup.networks import create_model, networks
from regroup.networks.same_padding import SameConv2d, SameMaxPool2d
from regroup.networks.weights import load_weights
from tests.networks.test_equality import fill, largest_error

CASES = int(os.environ.get("REGROUP_FUZZ", "60"))
NARROW = {
    "mobilenet_v1_025": {},
    "mobilenet_v2_035": {"rows": ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 1, 2)), "head": 32},
    "mobilenet_v3_small_100": {"hidden": 16},
    "mixnet_s": {},
    "xception": {"middle": 1, "entry": (16, 16, 24), "exit": (24, 32, 32)},
}


@settings(max_examples=CASES, deadline=None)
@given(
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    kernel=st.sampled_from([1, 2, 3, 4, 5, 7, 11]),
    stride=st.integers(1, 4),
)
def test_layers_are_timms(size: tuple[int, int], kernel: int, stride: int) -> None:
    from timm.layers import Conv2dSame
    from timm.layers.pool2d_same import MaxPool2dSame

    x = torch.randint(-4, 5, (1, 2, *size)).float()
    ours, theirs = SameConv2d(2, 3, kernel, stride), Conv2dSame(2, 3, kernel, stride)
    theirs.weight.data = ours.weight.data = torch.randint(-4, 5, ours.weight.shape).float()
    theirs.bias.data = ours.bias.data = torch.arange(3.0)
    assert torch.equal(ours(x), theirs(x))
    assert torch.equal(SameMaxPool2d(kernel, stride)(x), MaxPool2dSame(kernel, stride)(x))


class Explicit(nn.Module):
    """A layer with a stride of 2, after the zeros (or nothing) that TensorFlow adds, counted one by one."""

    def __init__(self, layer: nn.Module, kernel: int, value: float) -> None:
        super().__init__()
        self.layer, self.kernel, self.value = layer, kernel, value
        layer.padding = (0, 0) if isinstance(layer, nn.Conv2d) else 0

    def forward(self, x: Tensor) -> Tensor:
        for dim in (2, 3):
            behind, outputs = True, -(-x.shape[dim] // 2)  # the first pixel goes behind, the next before
            while (x.shape[dim] - self.kernel) // 2 + 1 < outputs:
                pixel = torch.full_like(x.narrow(dim, 0, 1), self.value)
                x = torch.cat([x, pixel] if behind else [pixel, x], dim)
                behind = not behind
        return self.layer(x)


def explicit(model: nn.Module) -> nn.Module:
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, nn.Conv2d) and layer.stride == (2, 2) and layer.padding != (0, 0):
                setattr(parent, name, Explicit(layer, layer.kernel_size[0], 0.0))
            elif isinstance(layer, nn.MaxPool2d):
                setattr(parent, name, Explicit(layer, layer.kernel_size, float("-inf")))
    return model


@pytest.mark.parametrize("name", NARROW)
def test_networks_equal_explicit_padding(name: str) -> None:
    ours = create_model(name, padding="same", num_classes=3, **NARROW[name]).double().eval()
    symmetric = create_model(name, num_classes=3, **NARROW[name]).double().eval()
    fill(ours)
    load_weights(symmetric, ours.state_dict())
    theirs = explicit(create_model(name, num_classes=3, **NARROW[name]).double().eval())
    theirs.load_state_dict(dict(zip(theirs.state_dict(), ours.state_dict().values(), strict=True)))
    for size in ((64, 64), (63, 65), (40, 61), (33, 32)):
        x = torch.randn(1, 3, *size, dtype=torch.float64)
        assert largest_error(ours(x), theirs(x)) < 1e-12, size
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    assert largest_error(symmetric(x), theirs(x)) > 1e-3, "the padding makes a difference"


def test_xception_with_keras_epsilon_is_timms_with_that() -> None:
    import timm

    theirs = timm.create_model("legacy_xception", num_classes=4)
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-3
    theirs = theirs.double().eval()
    fill(theirs)
    ours = create_model("xception", num_classes=4, eps=1e-3).double().eval()
    load_weights(ours, theirs.state_dict(), networks["xception"].layouts)
    x = torch.randn(1, 3, 71, 71, dtype=torch.float64)
    assert largest_error(ours(x), theirs(x)) < 1e-10


@pytest.mark.parametrize("name", ["mobilenet_v1_025", "xception"])
def test_what_runs_networks_runs_these_too(name: str) -> None:
    narrow = NARROW[name] or {"rows": ((16, 1, 1), (32, 1, 2))}
    model = create_model(name, padding="same", num_classes=4, **narrow).eval()
    x = torch.randn(1, 3, 38, 40)
    expected = model(x)
    assert torch.equal(torch.fx.symbolic_trace(model)(x), expected)
    assert torch.equal(torch.export.export(model, (x,)).module()(x), expected)
    assert largest_error(regroup.compile(model, x)(x), expected) < 1e-3
    assert regroup.profile(model, x, time=False).total.macs > 0


def test_another_word_is_an_error() -> None:
    with pytest.raises(
        NetworkError, match="padding='valid': must be 'symmetric' or 'same', as in TensorFlow"
    ):
        create_model("mobilenet_v1_100", padding="valid")
