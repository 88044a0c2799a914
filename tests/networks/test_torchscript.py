"""TorchScript: what `torch.jit.script` and `torch.jit.trace` make of a network gives its bits."""

from __future__ import annotations

import os
from functools import partial
from unittest import mock

import pytest
import torch
from torch import nn

from regroup.errors import NetworkError
from regroup.networks import create_model, list_models, networks
from regroup.ops.dynamic import DynamicGroupConv
from regroup.spec import ConvSpec
from regroup.strategies import strategies
from regroup.strategies.learning import Learned, deploy

from .representatives import representatives, side, small

pytestmark = [
    pytest.mark.filterwarnings("ignore:The TorchScript type system:UserWarning"),  # of any graph by FX
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
]

LONG = int(os.environ.get("REGROUP_FUZZ", "0"))
FAMILIES = {networks[name].build: name for name in reversed(representatives())}
TRACED = ("condensenetv2_a", "mobilenet_v3_small_075", "oct_resnetv2_26_a075", "shufflenet_v2_050")
NAMES = list_models() if LONG else sorted(FAMILIES.values())


def holds_undecided_layers(model: torch.nn.Module) -> bool:
    return any(isinstance(layer, (Learned, DynamicGroupConv)) for layer in model.modules())


def as_traced(model: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Return the result with kept inputs in the order of a trace, which sorts them: sums round so."""
    with mock.patch("torch.jit.is_tracing", return_value=True):
        return model(x)


def images(name: str) -> list[torch.Tensor]:
    """Return images of two sizes, and another number of them, which no script may have baked in."""
    least = side(name)
    return [torch.randn(2, 3, least, least), torch.randn(1, 3, least + 9, least + 6)]


def test_graphs_by_the_tracers_of_timm_and_torchvision_are_scriptable() -> None:
    from timm.models import create_feature_extractor as by_timm
    from torchvision.models.feature_extraction import create_feature_extractor as by_torchvision

    from regroup.interop.timm import untraceable  # timm knows these from now on

    whole = {"autowrap_functions": untraceable}
    tracers = {
        "shufflenet_v2_050": partial(by_timm, return_nodes=["classifier"]),
        "oct_resnetv2_26_a075": partial(by_torchvision, return_nodes=["classifier"], tracer_kwargs=whole),
    }
    for name, tracer in tracers.items():
        model = create_model(name, **small(name)).eval()
        x = images(name)[0]
        with torch.no_grad():
            assert torch.equal(torch.jit.script(tracer(model))(x)["classifier"], model(x))


@pytest.mark.parametrize("name", NAMES)
def test_scripted_and_traced_networks_give_the_same_bits(name: str) -> None:
    options = {"num_classes": 4, "drop_rate": 0.0} if LONG else small(name)
    model = create_model(name, **options).eval()
    undecided = holds_undecided_layers(model)
    with torch.no_grad():
        if undecided:
            with pytest.raises(NetworkError, match="deploy what was learned, or use"):
                torch.jit.script(model)
            model = deploy(model)
        if not holds_undecided_layers(model):  # dynamic layers look at values, deployed or not
            scripted = torch.jit.script(model)
            for x in images(name):
                assert torch.equal(scripted(x), model(x)), tuple(x.shape)
        if not (LONG or undecided or name in TRACED):
            return
        x = images(name)[0]
        traced = torch.jit.trace(model, x, check_trace=False)
        assert torch.equal(traced(x), as_traced(model, x))


@pytest.mark.parametrize("name", list(strategies))
@pytest.mark.parametrize("deployed", [False, True])
def test_layers_of_every_strategy_give_the_same_bits_or_one_error(name, deployed):
    layer = strategies[name]().build(ConvSpec(16, 16, 3, padding=1)).eval()
    model = nn.Sequential(deploy(layer) if deployed else layer)
    undecided = holds_undecided_layers(model)
    if undecided:
        with pytest.raises(NetworkError, match="deploy what was learned, or use"):
            torch.jit.script(model)
        return
    x = torch.randn(2, 16, 9, 11)
    right = model(x)
    assert torch.equal(torch.jit.script(model)(x), right)


def test_a_script_keeps_the_mode_the_weights_and_their_names() -> None:
    model = create_model("mixnet_s", num_classes=4)
    scripted = torch.jit.script(model)
    assert scripted.training and scripted.state_dict().keys() == model.state_dict().keys()
    before = model.state_dict()["stem.0.norm.running_mean"].clone()
    scripted(torch.randn(2, 3, 64, 64)).sum().backward()
    assert not torch.equal(before, model.state_dict()["stem.0.norm.running_mean"])
    assert all(p.grad is not None for p in model.parameters())


def test_tensorflows_padding_is_scripted_at_every_size() -> None:
    model = create_model("mobilenet_v2_035", num_classes=4, padding="same").eval()
    scripted = torch.jit.script(model)
    for size in (32, 33, 47, 64):
        x = torch.randn(1, 3, size, size)
        with torch.no_grad():
            assert torch.equal(scripted(x), model(x)), size
