import pytest
import timm
import torch
import torchvision
from torch import nn

import regroup
from regroup.errors import ConfigError
from regroup.strategies import strategies


def small_network():
    return torchvision.models.resnet18(num_classes=10).eval()


def test_only_the_chosen_layers_change_and_the_rest_keeps_its_weights():
    model = small_network()
    before = {n: p.clone() for n, p in model.named_parameters()}
    changes = regroup.replace(model, "grouped:groups=4", where="layer1.*.conv2")
    assert changes.replaced == ["layer1.0.conv2", "layer1.1.conv2"]
    assert len(changes.layers) == 20
    for name, parameter in model.named_parameters():
        if name.removesuffix(".weight") not in changes.replaced:
            assert torch.equal(parameter, before[name]), name


@pytest.mark.parametrize(
    "where, count",
    [(3, 16), ((7, 7), 1), ("layer4.*", 5), (lambda name, conv: conv.stride == (2, 2), 7), (None, 16)],
)
def test_where_chooses_by_kernel_size_pattern_or_function(where, count):
    assert len(regroup.replace(small_network(), "dense", where=where).replaced) == count


@pytest.mark.parametrize("name", list(strategies))
def test_every_strategy_keeps_the_shapes_of_a_torchvision_and_a_timm_network(name):
    x = torch.randn(2, 3, 64, 64)
    for model in (small_network(), timm.create_model("resnet18", num_classes=10).eval()):
        changes = regroup.replace(model, name, weights="fresh")
        assert len(changes.replaced) + len(changes.left) == len(changes.layers)
        assert changes.replaced, changes.left
        assert model(x).shape == (2, 10)
        assert not any(m.training for m in model.modules())


def test_what_cannot_be_replaced_is_left_with_the_reason():
    model = nn.Sequential(
        nn.Conv2d(6, 6, 3, groups=2),
        nn.Conv2d(6, 9, 3),
        nn.Conv2d(9, 9, 3, padding_mode="reflect"),
        nn.Conv2d(9, 9, 3),
    )
    model[3].register_forward_hook(lambda *_: None)
    left = regroup.replace(model, "grouped:groups=2").left
    assert "2 groups already" in left["0"]
    assert "use one of 1, 3" in left["1"]
    assert "padding_mode='reflect'" in left["2"]
    assert "hooks" in left["3"]


def test_a_shared_layer_stays_shared():
    conv = nn.Conv2d(8, 8, 3, padding=1)
    model = nn.Sequential(conv, nn.ReLU(), conv)
    regroup.replace(model, "grouped:groups=2")
    assert model[0] is model[2]
    assert model[0].groups == 2


def test_a_new_layer_takes_the_dtype_and_the_mode_of_the_old_one():
    model = nn.Sequential(nn.Conv2d(8, 8, 3)).double().eval()
    regroup.replace(model, "separable:norm=true")
    assert {p.dtype for p in model.parameters()} == {torch.float64}
    assert not any(m.training for m in model.modules())


def test_a_choice_that_matches_nothing_is_an_error():
    with pytest.raises(ConfigError, match="where='nothing'"):
        regroup.replace(small_network(), "dense", where="nothing")
    with pytest.raises(ConfigError, match=r"ConvSpec\.of"):
        regroup.replace(nn.Conv2d(4, 4, 3), "dense")


def test_the_summary_names_every_layer():
    text = str(regroup.replace(small_network(), "grouped:groups=4", where="layer1.0.conv1"))
    assert text.splitlines()[0] == "replaced 1 of 20 convolutions by grouped:groups=4"
    assert "layer1.0.conv1" in text
    assert "left: not chosen by where" in text
