"""Every network is a classifier, a feature extractor and a backbone, as timm's are; on shapes alone."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from regroup.errors import NetworkError, SpecError
from regroup.networks import create_model
from regroup.networks.backbone import Backbone
from regroup.ops.shapes import without_numbers
from tests.networks.representatives import representatives, shallow, side


def images(model: Backbone) -> torch.Tensor:
    return torch.empty(2, *model.pretrained_cfg["input_size"])


def twin(model: Backbone) -> Backbone:
    """Return a model of the same parts that can get others."""
    result = copy.copy(model)
    result._modules = dict(model._modules)
    return result


@without_numbers()
def test_features_have_the_widths_and_sizes_that_feature_info_says(shadow: Backbone) -> None:
    x = images(shadow)
    last, maps = shadow.forward_intermediates(x)
    assert last.shape[1] == shadow.num_features
    assert tuple(last.shape[2:]) == shadow.pretrained_cfg["pool_size"]
    assert len(maps) == len(shadow.feature_info) >= 3
    reductions = [info["reduction"] for info in shadow.feature_info]
    assert reductions == [reductions[0] * 2**i for i in range(len(maps))], "pyramids halve at each level"
    parts = [n for n, _ in shadow.named_modules(remove_duplicate=False)]
    assert len(parts) == len(list(shadow.modules())), "a module stands in two places"
    for feature, info in zip(maps, shadow.feature_info, strict=True):
        assert feature.shape[1] == info["num_chs"], info
        padded = math.ceil(x.shape[2] / info["reduction"])  # some stems do not pad and lose a few pixels
        assert padded - 4 <= feature.shape[2] <= padded + 1, info
        shadow.get_submodule(info["module"])


@without_numbers()
def test_head_can_be_replaced_and_removed(shadow: Backbone) -> None:
    height, width = shadow.pretrained_cfg["pool_size"]
    features = torch.empty(2, shadow.num_features, height, width)
    assert shadow.forward_head(features).shape == (2, shadow.config.num_classes)
    assert shadow.forward_head(features, pre_logits=True).shape == (2, shadow.head_hidden_size)
    model = twin(shadow)
    model.reset_classifier(7)
    assert model.forward_head(features).shape == (2, 7) and model.num_classes == 7
    model.reset_classifier(0)
    assert model.forward_head(features).shape == (2, model.head_hidden_size)
    model.reset_classifier(0, "")
    assert model.forward_head(features).shape == features.shape


def test_layers_that_the_description_names_exist(shadow: Backbone) -> None:
    config, keys = shadow.pretrained_cfg, shadow.state_dict().keys()
    assert config["first_conv"] + ".weight" in keys and config["classifier"] + ".weight" in keys
    assert shadow.get_classifier() is shadow.get_submodule(config["classifier"])


@without_numbers()
def test_other_image_sizes_work(shadow: Backbone) -> None:
    least = side(shadow.pretrained_cfg["architecture"])
    x = torch.empty(1, 3, least, least + 32)
    assert shadow(x).shape == (1, shadow.config.num_classes)


@pytest.mark.parametrize("name", representatives())
@without_numbers()
def test_other_channels_classes_and_no_head_at_all_work(name: str) -> None:
    model = create_model(name, in_chans=1, num_classes=3, **shallow(name)).eval()
    assert model(torch.empty(2, 1, side(name), side(name))).shape == (2, 3)
    bare = create_model(name, num_classes=0, global_pool="", **shallow(name)).eval()
    x = torch.empty(2, 3, side(name), side(name))
    assert bare(x).shape == bare.forward_features(x).shape


@pytest.mark.parametrize("name", representatives())
@without_numbers()
def test_image_with_wrong_channels_or_too_small_is_one_clear_error(name: str) -> None:
    model = create_model(name, **shallow(name)).eval()
    with pytest.raises(SpecError, match="in_chans"):
        model(torch.empty(2, 5, 224, 224))
    if model.min_size > 1:
        with pytest.raises(SpecError, match=f"at least {model.min_size}"):
            model(torch.empty(2, 3, model.min_size - 1, 224))
        model(torch.empty(2, 3, model.min_size, model.min_size))


def test_parameters_of_a_network_are_parameters_of_create_model() -> None:
    model = create_model("resnet_small", widths=[8, 16, 32], depths=[1, 2, 1], drop_rate=0.5, num_classes=4)
    assert [info["num_chs"] for info in model.feature_info] == [8, 16, 32]
    assert model.drop.p == 0.5 and model.num_classes == 4


def test_unknown_network_suggests_the_nearest() -> None:
    with pytest.raises(NetworkError.__mro__[1], match="did you mean 'resnet50'"):
        create_model("resnt50")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"widths": (8, 16, 32, 64)}, "out_channels=0: must be"),
        ({"width": 8}, "resnext50_32x4d has .*depths, widths"),
        ({"num_classes": -1}, "num_classes=-1"),
        ({"global_pool": "median"}, "'avg', 'max' or ''"),
        ({"num_classes": 10, "global_pool": ""}, "0 where global_pool is ''"),
    ],
)
def test_impossible_parameters_name_the_numbers(options: dict[str, object], message: str) -> None:
    with without_numbers(), pytest.raises(NetworkError, match=message):
        create_model("resnext50_32x4d", **options)


def test_stages_after_the_features_asked_for_are_pruned() -> None:
    model = create_model("resnet_small")
    assert model.prune_intermediate_layers([0, 1]) == [0, 1]
    x = torch.randn(1, 3, 32, 32)
    low, middle = model.forward_intermediates(x, [0, 1], intermediates_only=True)
    assert (low.shape[2], middle.shape[2]) == (32, 16) and len(model.stages) == 2
    with pytest.raises(NetworkError, match="indices"):
        model.forward_intermediates(x, [5])


def test_checkpointing_changes_no_gradient() -> None:
    model = create_model("resnet_small").double().eval()
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    gradients = []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        model(x).sum().backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
