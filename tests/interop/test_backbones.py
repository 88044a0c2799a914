"""Our networks and timm's carry decoders and detectors: their maps, by how often they halve the image."""

from __future__ import annotations

import pytest
import timm
import torch

from regroup.errors import NetworkError
from regroup.interop.detectors import Pyramid
from regroup.interop.features import Levels
from regroup.networks import create_model, networks
from tests.networks.representatives import representatives, shallow


@pytest.mark.parametrize("name", [n for n in representatives() if networks[n].claims.size[0] >= 128])
def test_a_pyramid_has_the_sizes_of_the_feature_maps(name: str) -> None:
    with torch.device("meta"):
        network = create_model(name, **shallow(name)).eval()
        x = torch.empty(1, 3, 256, 256)
        maps = network.forward_intermediates(x, 3, intermediates_only=True)
        levels = Levels(network)
        pyramid = Pyramid(levels, levels.depth - 2, 8, pooled=True)
        found = pyramid(x)
    assert list(found) == ["0", "1", "2", "pool"]
    for level, feature in zip(found.values(), maps, strict=False):
        assert level.shape == (1, 8, *feature.shape[2:])
    assert pyramid.strides == [2**k for k in range(levels.depth - 2, levels.depth + 2)]


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "regnetx_002", "efficientnet_b0"])
def test_timms_networks_give_the_maps_that_timm_extracts(name: str) -> None:
    torch.manual_seed(0)
    model, x = timm.create_model(name).eval(), torch.randn(1, 3, 64, 64)
    extractor = timm.create_model(name, features_only=True).eval()
    state = {key.replace(".", "_"): value for key, value in model.state_dict().items()}
    extractor.load_state_dict({key: state[key.replace(".", "_")] for key in extractor.state_dict()})
    levels = Levels(model)
    with torch.no_grad():
        wanted, found = extractor(x), levels(x)
    maps = {64 // level.shape[2]: level for level in found if level.shape[1]}
    for feature, reduction in zip(wanted, extractor.feature_info.reduction(), strict=True):
        assert torch.equal(maps[reduction], feature)
    assert [level.shape[1] for level in found] == levels.out_channels


def test_a_network_whose_maps_do_not_halve_the_image_is_refused() -> None:
    with pytest.raises(NetworkError, match="halve the image"):
        Levels(timm.create_model("vit_tiny_patch16_224"))
