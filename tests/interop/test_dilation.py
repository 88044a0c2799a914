"""Networks of fewer strides: each value that is left is what it was, and DeepLab stands on them."""

import pytest
import timm
import torch
from torch import nn

from regroup.errors import NetworkError
from regroup.interop.dilation import dilate
from regroup.interop.features import Levels
from regroup.loading.named import create
from regroup.networks import create_model, networks
from regroup.ops.shapes import without_numbers
from tests.engine.models import randomise
from tests.networks.representatives import representatives, shallow

EXACT = ["resnet18", "resnext50_32x4d", "shufflenet_v2_050", "mobilenetv2_050"]
"""Networks whose maps depend on places alone: of no mean over the map, of no pooling with an overlap."""


@pytest.mark.parametrize("stride", [8, 16])
@pytest.mark.parametrize("name", [name for name in EXACT if name in networks])
def test_a_map_of_fewer_strides_has_the_values_that_it_had_between_others(name, stride):
    """To the rounding of float64, in which sums are taken in another order."""
    torch.manual_seed(0)
    model = randomise(create_model(name)).double()
    plain, dilated = (Levels(each) for each in (model, randomise(create_model(name)).double()))
    dilated.load_state_dict(plain.state_dict())
    dilate(dilated, stride)
    x = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    with torch.no_grad():
        for wanted, found in zip(plain.eval()(x), dilated.eval()(x), strict=True):
            step = found.shape[2] // wanted.shape[2]
            assert found.shape[2] == max(64 // stride, wanted.shape[2])
            torch.testing.assert_close(found[:, :, ::step, ::step], wanted)


def test_timm_dilates_resnet_likewise():
    torch.manual_seed(0)
    theirs = timm.create_model("resnet18", output_stride=16, features_only=True).eval()
    ours = Levels(timm.create_model("resnet18"))
    dilate(ours, 16)
    ours.body.load_state_dict(theirs.state_dict(), strict=False)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        found, expected = ours.eval()(x)[-1], theirs(x)[-1]
    assert found.shape == expected.shape == (1, 512, 4, 4)
    different = [
        (name, one.dilation, other.dilation)
        for (name, one), other in zip(
            ours.body.named_modules(),
            (m for m in theirs.modules() if not isinstance(m, nn.Sequential)),
            strict=False,
        )
        if isinstance(one, nn.Conv2d) and isinstance(other, nn.Conv2d) and one.dilation != other.dilation
    ]
    assert different == []


CHANGING = {"dgc", "g_resnext"}  # whose layers choose channels while they run


@pytest.mark.parametrize("name", [n for n in representatives() if not n.startswith(tuple(CHANGING))])
@without_numbers()
def test_every_family_is_dilated_or_refused(name):
    model = create_model(name, **shallow(name))
    try:
        levels = Levels(model)
        dilate(levels, 8)
    except NetworkError as error:
        assert "maps" in str(error)
        return
    least = min(level.shape[2] for level in levels.eval()(torch.empty(1, 3, 128, 128)))
    assert least == max(16, 128 >> levels.depth)


@pytest.mark.parametrize("head", ["deeplabv3", "deeplabv3plus"])
@pytest.mark.parametrize("backbone", ["shufflenet_v1_g3_050", "timm:mobilenetv3_small_050", "resnet18"])
def test_deeplab_stands_on_ours_and_timms(head, backbone):
    for stride in (8, 16):
        with torch.device("meta"):
            model = create(f"{head}:{backbone}", num_classes=5, encoder_output_stride=stride).eval()
            assert model(torch.empty(2, 3, 96, 128)).shape == (2, 5, 96, 128)


def test_a_network_that_strides_otherwise_is_told():
    class Skipping(nn.Module):
        feature_info = ({"reduction": 2, "num_chs": 3}, {"reduction": 4, "num_chs": 3})

        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def prune_intermediate_layers(self, indices):
            return indices

        def forward_intermediates(self, x, indices, intermediates_only):
            one = self.conv(x[:, :, ::2, ::2])
            return [one, one[:, :, ::2, ::2]]

    with pytest.raises(NetworkError, match="shrinks maps by strides alone"):
        dilate(Levels(Skipping()), 2)
