"""The feature maps of a network by how often they halve the image: what decoders and pyramids stand on.

>>> from regroup.networks import create_model
>>> maps = Levels(create_model("shufflenet_v2_050"))
>>> maps.out_channels
[3, 24, 24, 48, 96, 192]
>>> [tuple(level.shape[2:]) for level in maps(torch.zeros(1, 3, 64, 64))]
[(64, 64), (32, 32), (16, 16), (8, 8), (4, 4), (2, 2)]
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from regroup.errors import NetworkError


class Levels(nn.Module):
    """A network without its classifier: (N, C, H, W) -> maps that are the image halved 0, 1, 2, ... times.

    The first is the image itself, unless the network has a map of its size. Where it has none of a size, the
    map of that size has no channels, as in segmentation_models_pytorch.

    Args:
        body: one of ours, or of timm's with `forward_intermediates`; its classifier is dropped.
        in_chans: channels of the image.

    Raises:
        NetworkError: it gives no feature maps, or not such that halve the image.
    """

    def __init__(self, body: Any, in_chans: int = 3) -> None:
        super().__init__()
        name = type(body).__name__
        if not hasattr(body, "forward_intermediates") or not hasattr(body, "prune_intermediate_layers"):
            allowed = (
                "a network that gives feature maps: one of ours, or of timm's with forward_intermediates"
            )
            raise NetworkError("model", name, allowed)
        reductions = [info["reduction"] for info in body.feature_info]
        if any(r & (r - 1) for r in reductions) or sorted(set(reductions)) != reductions:
            allowed = "a network whose maps halve the image, once or several times each"
            raise NetworkError("model", name, allowed, f"its maps are 1/{reductions} of it")
        count = len(reductions)
        self.reductions = reductions
        self.indices = body.prune_intermediate_layers(list(range(count)))
        self.body = body
        self.in_chans = in_chans
        self.depth = reductions[-1].bit_length() - 1
        widths = {info["reduction"]: info["num_chs"] for info in body.feature_info[:count]}
        self.out_channels = [widths.get(1, in_chans)] + [
            widths.get(2**k, 0) for k in range(1, self.depth + 1)
        ]

    @property
    def output_stride(self) -> int:
        """By how much the last map is smaller than the image."""
        return 2**self.depth

    def forward(self, x: Tensor) -> list[Tensor]:
        found = self.body.forward_intermediates(x, indices=self.indices, intermediates_only=True)
        maps = dict(zip(self.reductions, found, strict=True))
        height, width = x.shape[2:]
        levels = [maps.get(1, x)]
        for k in range(1, self.depth + 1):
            empty = (x.shape[0], 0, height >> k, width >> k)
            levels.append(maps[2**k] if 2**k in maps else x.new_empty(empty))
        return levels
