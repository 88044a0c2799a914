"""timm's own assertions about its models (its tests/test_models.py), over all that it has from us."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import timm
import torch
from timm.models import group_parameters
from torch import nn

import regroup.interop.timm as interop
from regroup.networks import list_models, networks
from regroup.networks.backbone import Backbone
from regroup.ops.shapes import without_numbers
from tests.networks.representatives import representatives, shallow, side, small

KINDS = pytest.mark.parametrize("name", [n for n in representatives() if n in interop.registered])


def shadow(name: str, **options: object) -> nn.Module:
    with without_numbers():
        return timm.create_model(name, **options).eval()


def alike() -> list[str]:
    """Return every name, or those whose networks are the same once they are shallow as one."""
    found: dict[object, list[str]] = {}
    for name in interop.registered:
        network = networks[name]
        found.setdefault((network.build, replace(network.config, **shallow(name)), side(name)), []).append(
            name
        )
    return [",".join(names) for names in found.values()]


def test_names_that_timm_has_stay_timms() -> None:
    taken = sorted(set(list_models()) - set(interop.registered))
    print(f"\n{len(interop.registered)} networks registered with timm; it has {taken}")
    assert "resnet50" in taken and "resnext50_32x4d" in taken
    for name in taken:
        assert timm.model_entrypoint(name).__module__.startswith("timm.")
    assert set(interop.registered) <= set(timm.list_models())


@pytest.mark.parametrize("names", alike())
@without_numbers()
def test_features_only_gives_what_feature_info_says(names: str) -> None:
    name = names.partition(",")[0]
    model = shadow(name, features_only=True, **shallow(name))
    x = torch.empty(1, 3, side(name), side(name))
    outputs = model(x)
    channels, reductions = model.feature_info.channels(), model.feature_info.reduction()
    assert len(outputs) == len(channels) >= 3
    for output, width, reduction in zip(outputs, channels, reductions, strict=True):
        assert output.shape[:2] == (1, width)
        assert output.shape[2] <= math.ceil(x.shape[2] / reduction) + 1


@KINDS
@without_numbers()
def test_some_features_and_no_head_are_timms_to_ask_for(name: str) -> None:
    x = torch.empty(1, 3, side(name), side(name))
    everything = shadow(name, features_only=True, **shallow(name))(x)
    first, last = shadow(name, features_only=True, out_indices=(0, 2), **shallow(name))(x)
    assert (first.shape, last.shape) == (everything[0].shape, everything[2].shape)
    model = shadow(name, num_classes=0, global_pool="", **shallow(name))
    assert model(x).ndim == 4 and not model.state_dict().keys() & {"classifier.weight"}
    assert model.default_cfg["architecture"] == name and model.default_cfg["input_size"][0] == 3


@KINDS
def test_every_parameter_belongs_to_a_group_from_image_to_classifier(name: str) -> None:
    model = shadow(name, **shallow(name))
    for coarse in (False, True):
        groups = group_parameters(model, model.group_matcher(coarse), return_values=False)
        grouped = [p for group in groups.values() for p in group]
        assert sorted(grouped) == sorted(n for n, _ in model.named_parameters())
        assert groups[0] and all(p.startswith("stem") for p in groups[0])


@KINDS
def test_backward_reaches_every_parameter_also_with_checkpointing(name: str) -> None:
    model = timm.create_model(name, **small(name, num_classes=42)).train()
    model.set_grad_checkpointing()
    output = model(torch.randn(2, 3, side(name), side(name)))
    output.mean().backward()
    assert output.shape[1] == 42 and not output.isnan().any()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []


@KINDS
def test_fx_traces_forward_and_features(name: str) -> None:
    from timm.models import create_feature_extractor

    model = timm.create_model(name, **small(name)).eval()
    x = torch.randn(2, 3, side(name), side(name))
    nodes = {info["module"]: str(i) for i, info in enumerate(model.feature_info)}
    extractor = create_feature_extractor(model, {**nodes, "classifier": "logits"})
    with torch.no_grad():
        outputs, maps = extractor(x), model.forward_intermediates(x, intermediates_only=True)
        if type(model).forward_head is Backbone.forward_head:  # some have layers behind the classifier
            assert torch.equal(outputs["logits"], model(x))
        if type(model).join is Backbone.join:  # of a pair of tensors a node shows one
            assert all(torch.equal(outputs[str(i)], expected) for i, expected in enumerate(maps))
