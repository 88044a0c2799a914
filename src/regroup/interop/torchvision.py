"""Our networks under torchvision's detectors.

>>> from torchvision.models.detection import FasterRCNN
>>> from regroup.networks import create_model
>>> backbone = PyramidBackbone(create_model("shufflenet_v2_050"), out_channels=64)
>>> detector = FasterRCNN(backbone, num_classes=11)
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool

from regroup.networks.backbone import Backbone


class PyramidBackbone(nn.Module):
    """A network and a feature pyramid on its maps: (N, C, H, W) -> maps "0", "1", ..., "pool" of equal width.

    FasterRCNN's default anchors expect four levels and the pooled one: five maps.

    Args:
        network: its classifier and what stands behind the last map are dropped.
        out_channels: of every map of the pyramid.
        levels: which of the network's feature maps, the last four by default.

    Source: Lin et al. (arXiv:1612.03144).
    """

    def __init__(
        self, network: Backbone, out_channels: int = 256, levels: int | Sequence[int] | None = 4
    ) -> None:
        super().__init__()
        self.levels = network.prune_intermediate_layers(levels)
        self.body = network
        widths = [network.feature_info[level]["num_chs"] for level in self.levels]
        self.fpn = FeaturePyramidNetwork(widths, out_channels, LastLevelMaxPool())
        self.out_channels = out_channels

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        maps = self.body.forward_intermediates(x, self.levels, intermediates_only=True)
        return self.fpn(OrderedDict((str(i), feature) for i, feature in enumerate(maps)))
