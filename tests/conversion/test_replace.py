import copy

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


@pytest.mark.parametrize(
    ("conv", "size"),
    [
        (nn.Conv1d(8, 12, 5, padding=4, dilation=2), (20,)),
        (nn.Conv1d(8, 12, 4, padding="same"), (20,)),
        (nn.Conv3d(8, 12, (3, 1, 3), stride=(1, 2, 1), padding=(1, 0, 1)), (4, 6, 5)),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["dense", "grouped", "separable", "condensed", "mixed:kernels=1+2"])
@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_sound_and_video_are_regrouped_likewise(conv, size, name):
    model = nn.Sequential(conv, nn.ReLU()).eval()
    x = torch.randn(2, 8, *size)
    before = model(x)
    changes = regroup.replace(model, name, where="0")
    if changes.replaced:
        assert model(x).shape == before.shape
    else:
        assert "mixed" in name and "kernels=(1, 2): must be centred" in changes.left["0"]


def test_linear_layers_on_tokens_are_taken_where_they_alone_are_chosen():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.query, self.conv = nn.Linear(12, 8), nn.Conv1d(8, 8, 3, padding=1)
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x):
            y = self.conv(self.query(x).transpose(1, 2)).transpose(1, 2)
            return self.attention(y, y, y)[0]

    model, x = Block().eval(), torch.randint(-8, 8, (2, 5, 12)).float()
    for parameter in model.query.parameters():
        parameter.data = torch.randint_like(parameter, -8, 8)
    expected, weight, bias = model.query(x), model.query.weight, model.query.bias
    assert regroup.replace(copy.deepcopy(model), "dense", where="*").replaced == ["conv"]
    changes = regroup.replace(model, "dense", where=nn.Linear)
    assert str(changes).startswith("replaced 1 of 2 linear layers by dense")
    assert "MultiheadAttention reads its weights" in changes.left["attention.out_proj"]
    assert torch.equal(model.query(x), expected)
    for tokens in (x[0, 0], x[0], x[:, :, None], x[:0]):
        assert torch.equal(model.query(tokens), nn.functional.linear(tokens, weight, bias))
    assert model(x).shape == (2, 5, 8)
    with pytest.raises(ConfigError, match="where"):
        regroup.replace(model, "dense", where=lambda name, layer: layer.stride == (7,))
