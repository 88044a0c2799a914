"""Our networks carry detectors and segmenters; the examples of both train on glyph scenes."""

from __future__ import annotations

import pytest
import torch

from regroup.interop.torchvision import PyramidBackbone
from regroup.networks import create_model, networks
from regroup.ops.shapes import without_numbers
from tests.networks.representatives import representatives, shallow


@pytest.mark.parametrize("name", [n for n in representatives() if networks[n].claims.size[0] >= 128])
def test_pyramid_has_the_sizes_of_the_feature_maps(name: str) -> None:
    with without_numbers():
        network = create_model(name, **shallow(name)).eval()
        x = torch.empty(1, 3, 256, 256)
        maps = network.forward_intermediates(x, 3, intermediates_only=True)
        pyramid = PyramidBackbone(network, out_channels=8, levels=3)(x)
    assert list(pyramid) == ["0", "1", "2", "pool"]
    for level, feature in zip(pyramid.values(), maps, strict=False):
        assert level.shape == (1, 8, *feature.shape[2:])
