"""ScaleNet (arXiv:1904.09460): ResNets whose 3x3 convolutions work on the input pooled by 1, 2, 4 and 7.

How many outputs each scale of each block has was found by training: `scalenet.json` holds the published
numbers, for each stage and block the outputs of the four scales.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from regroup.errors import NetworkError
from regroup.networks import Claims, Family
from regroup.networks.backbone import Config
from regroup.networks.blocks import ConvNorm
from regroup.networks.layouts import resnet as layouts
from regroup.networks.skeletons import ResNetLike
from regroup.ops.resolution import maximum
from regroup.spec import ConvSpec
from regroup.strategies.scaled import ScaledConv
from regroup.strategies.scaled_learned import learned_allocation

SCALES = (1, 2, 4, 7)

Structure = tuple[tuple[tuple[int, ...], ...], ...]
"""For each stage, for each block, the outputs of the four scales; 0 leaves a scale out."""


@dataclass(frozen=True, kw_only=True)
class ScaleNetConfig(Config):
    """Numbers of a ScaleNet.

    Args:
        structure: outputs of each scale, by stage and block.
        widths: base width of each stage; a block gives four times as many channels.
    """

    structure: Structure
    widths: tuple[int, ...] = (64, 128, 256, 512)

    @property
    def depths(self) -> list[int]:
        """Blocks of each stage."""
        return [len(stage) for stage in self.structure]


class ScaledBlock(nn.Module):
    """1x1 down, 3x3 at four scales, 1x1 up, and a shortcut; a stride is a max-pool before all of it.

    Args:
        in_channels: channels of the input.
        width: channels that the scales read; the block gives four times as many.
        outputs: of each of `SCALES`.
        stride: of the max-pool.
        last: whether the block is in the last stage, where scale 7 sees one pixel of a 224 x 224 image and
            has a 1x1 kernel.
    """

    def __init__(
        self, in_channels: int, width: int, outputs: tuple[int, ...], stride: int, last: bool
    ) -> None:
        super().__init__()
        self.stride = stride
        self.conv1 = ConvNorm(in_channels, width)
        self.conv2 = ScaledConv(
            {
                r: ConvSpec(width, out, 1).with_kernel(1 if last and r == 7 else 3)
                for r, out in zip(SCALES, outputs, strict=True)
                if out
            }
        )
        self.conv3 = ConvNorm(sum(outputs), 4 * width, act="none")
        same = stride == 1 and in_channels == 4 * width
        self.shortcut = nn.Identity() if same else ConvNorm(in_channels, 4 * width, act="none")
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = maximum(x, [self.stride, self.stride])
        y = self.act(self.conv2(self.conv1(x)))
        return self.act(self.conv3(y) + self.shortcut(x))


class ScaleNet(ResNetLike):
    """A ResNet of `ScaledBlock`s.

    Raises:
        NetworkError: the structure does not give four numbers, not all 0, for every block of every stage.
    """

    def __init__(self, config: ScaleNetConfig) -> None:
        rows = [row for stage in config.structure for row in stage]
        if len(config.structure) != len(config.widths) or any(len(r) != 4 or not any(r) for r in rows):
            allowed = f"{len(config.widths)} stages of blocks of 4 numbers, not all 0"
            raise NetworkError("structure", config.structure, allowed)

        def block(in_channels: int, stage: int, index: int, stride: int) -> nn.Module:
            last = stage == len(config.structure) - 1
            outputs = config.structure[stage][index]
            return ScaledBlock(in_channels, config.widths[stage], outputs, stride, last)

        super().__init__(config, config.widths[0], [4 * width for width in config.widths], block)


def published_structures() -> dict[str, Structure]:
    """Return the structures of the official repository by network name."""
    content = json.loads(Path(__file__).with_suffix(".json").read_text())
    return {
        name: tuple(tuple(tuple(row) for row in stage) for stage in stages)
        for name, stages in content.items()
    }


def learned_structure(model: ScaleNet, outputs: Sequence[int], budget: float | None = None) -> Structure:
    """Return the structure that a trained seed found: in each block its most important neurons stay.

    A seed has more neurons than wanted, such as `structure=((w, w, w, w), ...)`. Train the network of the
    result from scratch: `create_model(name, structure=learned_structure(seed, outputs))`.

    Args:
        model: the trained seed.
        outputs: neurons that stay in each block, by stage.
        budget: the most MACs of a block's scales, as a share of those of `outputs` neurons at scale 1; None:
            as many as they take.
    """
    return tuple(
        tuple(
            _allocation(block, count, budget) for block in stage.modules() if isinstance(block, ScaledBlock)
        )
        for stage, count in zip(model.stages, outputs, strict=True)
    )


def _allocation(block: ScaledBlock, outputs: int, budget: float | None) -> tuple[int, ...]:
    found = learned_allocation(block.conv2, outputs, budget)
    return tuple(found.get(r, 0) for r in SCALES)


family = Family(ScaleNet, paper="arXiv:1904.09460", source="Eli-YiLi/ScaleNet", layouts=layouts.SCALENET)

CLAIMS = {
    "scalenet50_light": Claims(23_631_912, 2861.5, top1_error=22.80, top5_error=6.57),
    "scalenet50": Claims(31_483_618, 3818.4, top1_error=22.02, top5_error=6.05),
    "scalenet101": Claims(54_792_390, 7511.1, top1_error=20.82, top5_error=5.42),
    "scalenet152": Claims(77_220_070, 11212.0, top1_error=20.06, top5_error=5.18),
}
for name, structure in published_structures().items():
    family.add(name, ScaleNetConfig(structure=structure), CLAIMS[name])
