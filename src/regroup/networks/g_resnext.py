"""G-ResNeXt (arXiv:1908.05867): a ResNeXt that learns how many groups each 3x3 convolution has, and which.

The authors published no code; d-li14/dgconv.pytorch is followed. The networks are as they learn, with dense
masked kernels: `regroup.deploy` turns them into ResNeXts of unequal layers when the gates have settled.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from regroup.networks import Claims, Family
from regroup.networks.backbone import Backbone, Config
from regroup.networks.blocks import ConvNorm, Stage
from regroup.networks.resnet import shortcut
from regroup.networks.weights import Layout, State
from regroup.spec import ConvSpec
from regroup.strategies.groupable import GroupableConv


@dataclass(frozen=True, kw_only=True)
class GroupableResNeXtConfig(Config):
    """Numbers of a G-ResNeXt.

    Args:
        depths: blocks of each stage.
        middle: channels of the 3x3 convolutions of each stage; even.
        budget: the number of groups whose connections are allowed, see `groupable`.
    """

    depths: tuple[int, ...]
    middle: tuple[int, ...] = (128, 256, 512, 1024)
    budget: int = 32


class GroupableBottleneck(nn.Module):
    """1x1 down, 3x3 in learned groups, 1x1 up, and a shortcut."""

    def __init__(self, in_channels: int, out_channels: int, middle: int, stride: int, budget: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(in_channels, middle)
        self.conv2 = GroupableConv(ConvSpec(middle, middle, 3, stride, 1), budget)
        self.norm2 = nn.BatchNorm2d(middle)
        self.conv3 = ConvNorm(middle, out_channels, act="none")
        self.shortcut = shortcut(in_channels, out_channels, stride)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.norm2(self.conv2(self.conv1(x))))
        return self.act(self.conv3(y) + self.shortcut(x))


class GroupableResNeXt(Backbone):
    """A ResNet of groupable bottlenecks; each stage after the first halves the size."""

    def __init__(self, config: GroupableResNeXtConfig) -> None:
        channels = 64
        stem = ConvNorm(config.in_chans, channels, 7, 2)
        widths, stages = [channels], []
        for index, (depth, middle) in enumerate(zip(config.depths, config.middle, strict=True)):
            out, blocks = 256 * 2**index, []
            for i in range(depth):
                stride = 2 if i == 0 and index else 1
                blocks.append(GroupableBottleneck(channels, out, middle, stride, config.budget))
                channels = out
            stages.append(Stage(blocks, None if index else nn.MaxPool2d(3, stride=2, padding=1)))
            widths.append(channels)
        super().__init__(config, stem, stages, widths, [2, *(4 * 2**i for i in range(len(stages)))])


def _d_li14(model: Backbone) -> dict[str, str]:
    blocks = {f"layer{s + 1}.{b}": name for s, b, name in model.blocks()}
    return {"conv1": "stem.conv", "bn1": "stem.norm", "fc": "classifier", **blocks}


def _without_constants(model: Backbone, state: State) -> State:
    """Drop the matrices that every layer of theirs carries, and add that no grouping is fixed."""
    result = {key: v for key, v in state.items() if not key.endswith((".conv2.D", ".conv2.I"))}
    for key, buffer in model.named_buffers():
        if key.endswith("conv2.fixed") and f"{key.removesuffix('fixed')}gates" in result:
            result.setdefault(key, buffer.new_full(buffer.shape, -1))
    return result


PARTS = {
    "conv2.gate": "conv2.gates",
    "bn2": "norm2",
    **{f"conv{i}": f"conv{i}.conv" for i in (1, 3)},
    **{f"bn{i}": f"conv{i}.norm" for i in (1, 3)},
    "downsample.0": "shortcut.conv",
    "downsample.1": "shortcut.norm",
}

family = Family(
    GroupableResNeXt,
    paper="arXiv:1908.05867",
    source="d-li14/dgconv.pytorch",
    layouts=(Layout("d-li14/dgconv.pytorch", _d_li14, PARTS, _without_constants),),
)

family.add(
    "g_resnext50",
    GroupableResNeXtConfig(depths=(3, 4, 6, 3)),
    Claims(68_883_377, 11398.0, top1_error=21.408, top5_error=5.894),
)
family.add(
    "g_resnext101",
    GroupableResNeXtConfig(depths=(3, 4, 23, 3), middle=(256, 512, 1024, 2048)),
    Claims(419_627_627, 75546.2),
)
