"""Big-Little Net (arXiv:1807.03848): a deep branch at half the resolution beside a thin one at the full.

Names end in the paper's alpha (how thin the little branch is) and beta (how shallow) where not 2 and 4.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from regroup.errors import NetworkError
from regroup.networks import Claims, Family
from regroup.networks.backbone import Backbone, Config
from regroup.networks.blocks import ConvNorm, SqueezeExcite, Stage
from regroup.networks.layouts import biglittle as layouts
from regroup.networks.skeletons import check_depths
from regroup.strategies.biglittle import BigLittleSum

DEPTHS = {50: (3, 4, 6, 3), 101: (4, 8, 18, 3), 152: (5, 12, 30, 3)}


@dataclass(frozen=True, kw_only=True)
class BigLittleConfig(Config):
    """Numbers of a Big-Little ResNet or ResNeXt.

    Args:
        depths: blocks of each stage; in all but the last, one of them is the fusion.
        widths: base width of each stage; a bottleneck gives four times as many channels.
        alpha: how many times narrower the little branch is.
        beta: how many times shallower the little branch is.
        groups: of the 3x3 convolution in a bottleneck.
        group_width: channels of one group at base width 64; grows with the width.
        squeeze: squeeze and excite after each bottleneck, with a 16th of its channels.
    """

    depths: tuple[int, ...]
    widths: tuple[int, ...] = (64, 128, 256, 512)
    alpha: int = 2
    beta: int = 4
    groups: int = 1
    group_width: int = 64
    squeeze: bool = False


class Bottleneck(nn.Module):
    """1x1 down, 3x3 in groups, 1x1 up, and a shortcut that averages where the size halves.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        stride: of the 3x3 convolution.
        config: says groups, group width, squeeze and alpha.
        little: whether it belongs to a little branch: alpha times fewer groups.
        last_act: whether a ReLU follows the sum.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        config: BigLittleConfig,
        little: bool = False,
        last_act: bool = True,
    ) -> None:
        super().__init__()
        alpha = config.alpha if little else 1
        groups = max(1, config.groups // alpha)
        middle = out_channels * alpha // 4 * config.group_width // 64 * config.groups // alpha
        self.conv1 = ConvNorm(in_channels, middle)
        self.conv2 = ConvNorm(middle, middle, 3, stride, groups=groups)
        self.conv3 = ConvNorm(middle, out_channels, act="none")
        self.squeeze = SqueezeExcite(out_channels, out_channels // 16) if config.squeeze else nn.Identity()
        self.pool = nn.AvgPool2d(3, stride=2, padding=1) if stride == 2 else nn.Identity()
        same = in_channels == out_channels
        self.shortcut = nn.Identity() if same else ConvNorm(in_channels, out_channels, act="none")
        self.act = nn.ReLU() if last_act else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.squeeze(self.conv3(self.conv2(self.conv1(x))))
        return self.act(y + self.shortcut(self.pool(x)))


def branches(in_channels: int, out_channels: int, depth: int, config: BigLittleConfig) -> nn.Module:
    """Return the two branches of a stage and the ReLU after their sum.

    The big one halves the size and has all blocks but the fusion, the last of them without its ReLU unless
    it is the only one (a quirk of the official code); the little one has depth // beta - 1, but at least one.
    """

    def row(out: int, count: int, little: bool) -> list[nn.Module]:
        blocks: list[nn.Module] = [Bottleneck(in_channels, out, 1 if little else 2, config, little)]
        for i in range(1, count):
            blocks.append(Bottleneck(out, out, 1, config, little, last_act=little or i < count - 1))
        return blocks

    narrow = out_channels // config.alpha
    big = nn.Sequential(*row(out_channels, depth - 1, False))
    little = row(narrow, max(1, depth // config.beta - 1), True)
    expand = ConvNorm(narrow, out_channels, act="none")
    return nn.Sequential(BigLittleSum(big, nn.Sequential(*little, expand)), nn.ReLU())


def stem(in_channels: int, width: int, alpha: int) -> nn.Module:
    """Return 7x7 with stride 2, then a big and a little branch that both halve the size, then 1x1."""
    narrow = width // alpha
    big = ConvNorm(width, width, 3, 2, act="none")
    little = nn.Sequential(
        ConvNorm(width, narrow, 3), ConvNorm(narrow, narrow, 3, 2), ConvNorm(narrow, width, act="none")
    )
    return nn.Sequential(
        ConvNorm(in_channels, width, 7, 2), BigLittleSum(big, little), nn.ReLU(), ConvNorm(width, width)
    )


class BigLittleNet(Backbone):
    """Stages of two branches and a fusion that halves the size; the last stage is a plain ResNet's."""

    def __init__(self, config: BigLittleConfig) -> None:
        if not isinstance(config.alpha, int) or config.alpha < 1 or config.widths[0] % config.alpha:
            raise NetworkError("alpha", config.alpha, f"a divisor of {config.widths[0]} channels")
        check_depths(config.depths, len(config.widths))
        channels = config.widths[0]
        first = stem(config.in_chans, channels, config.alpha)
        stages, widths, reductions = [], [channels], [4]
        last = len(config.depths) - 1
        for index, (depth, width) in enumerate(zip(config.depths, config.widths, strict=True)):
            out, stride = 4 * width, 1 if index == last - 1 else 2
            if index < last:
                fusion = Bottleneck(out, out, stride, config)
                stages.append(Stage([branches(channels, out, depth, config), fusion]))
            else:
                blocks = [Bottleneck(channels, out, stride, config)]
                blocks += [Bottleneck(out, out, 1, config) for _ in range(1, depth)]
                stages.append(Stage(blocks))
            channels = out
            widths.append(channels)
            reductions.append(reductions[-1] * stride)
        super().__init__(config, first, stages, widths, reductions)

    def init_weights(self) -> None:
        """As by default, and every block starts as its shortcut."""
        super().init_weights()
        for module in self.modules():
            if isinstance(module, Bottleneck):
                nn.init.zeros_(module.conv3.norm.weight)


family = Family(BigLittleNet, paper="arXiv:1807.03848", source="IBM/BigLittleNet", layouts=layouts.BIG_LITTLE)

for depth, alpha, beta, counts, error in (
    (50, 2, 4, (26_694_568, 2856.1), (22.41, "R")),
    (50, 2, 2, (26_974_632, 2910.7), (22.72, "S")),
    (50, 4, 2, (26_306_856, 2490.8), (23.20, "S")),
    (50, 4, 4, (26_236_456, 2477.1), (23.15, "S")),
    (101, 2, 4, (41_851_560, 3893.3), (21.34, "R")),
    (101, 2, 2, (43_392_680, 4275.4), (None, "R")),
    (101, 4, 2, (41_361_704, 3528.0), (None, "R")),
    (101, 4, 4, (40_974_120, 3432.5), (None, "R")),
    (152, 2, 4, (57_359_016, 5039.7), (None, "R")),
):
    family.add(
        f"bl_resnet{depth}" + (f"_a{alpha}b{beta}" if (alpha, beta) != (2, 4) else ""),
        BigLittleConfig(depths=DEPTHS[depth], alpha=alpha, beta=beta),
        Claims(*counts, top1_error=error[0], stated=error[1]),
    )

for name, depth, groups, squeeze, counts, error in (
    ("bl_resnext50_32x4d", 50, 32, False, (26_192_168, 3027.1), 21.62),
    ("bl_resnext101_32x4d", 101, 32, False, (41_512_744, 4079.1), 20.87),
    ("bl_resnext101_64x4d", 101, 64, False, (77_355_816, 7142.3), 20.34),
    ("bl_seresnext50_32x4d", 50, 32, True, (28_767_120, 3029.6), 21.44),
    ("bl_seresnext101_32x4d", 101, 32, True, (45_881_952, 4083.5), 21.04),
):
    family.add(
        name,
        BigLittleConfig(depths=DEPTHS[depth], groups=groups, group_width=4, squeeze=squeeze),
        Claims(*counts, top1_error=error),
    )
