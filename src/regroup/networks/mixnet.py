"""MixNet (arXiv:1907.09595): inverted residuals found by search, whose depthwise kernels have several sizes.

The 1x1 convolutions of many blocks work in two groups, without a shuffle. Padding is symmetric, as in timm's
own weights and pytorchcv's; TensorFlow's, at strides, is not.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from regroup.networks import Claims, Family
from regroup.networks.backbone import Backbone, Config
from regroup.networks.blocks import ConvNorm, SqueezeExcite, round_channels, split_at_strides
from regroup.networks.mobilenet_v1 import STEM, timm_rows, units
from regroup.networks.weights import Layout, State
from regroup.ops.layers import ACTIVATIONS
from regroup.spec import ConvSpec
from regroup.strategies.mixed import MixedConv


@dataclass(frozen=True)
class Row:
    """One block: kernels, groups of the two 1x1 convolutions, expansion, channels, stride, gate.

    The hidden channels of the gate are `squeeze` times those of the block's input. Blocks with a gate have
    swish, the others ReLU.
    """

    kernels: tuple[int, ...]
    groups: tuple[int, int]
    expansion: int
    channels: int
    stride: int = 1
    squeeze: float = 0.0


SMALL = (
    Row((3,), (1, 1), 1, 16),
    Row((3,), (2, 2), 6, 24, 2),
    Row((3,), (2, 2), 3, 24),
    Row((3, 5, 7), (1, 1), 6, 40, 2, 0.5),
    *[Row((3, 5), (2, 2), 6, 40, 1, 0.5)] * 3,
    Row((3, 5, 7), (1, 2), 6, 80, 2, 0.25),
    *[Row((3, 5), (1, 2), 6, 80, 1, 0.25)] * 2,
    Row((3, 5, 7), (2, 2), 6, 120, 1, 0.5),
    *[Row((3, 5, 7, 9), (2, 2), 3, 120, 1, 0.5)] * 2,
    Row((3, 5, 7, 9, 11), (1, 1), 6, 200, 2, 0.5),
    *[Row((3, 5, 7, 9), (1, 2), 6, 200, 1, 0.5)] * 2,
)
MEDIUM = (
    Row((3,), (1, 1), 1, 24),
    Row((3, 5, 7), (2, 2), 6, 32, 2),
    Row((3,), (2, 2), 3, 32),
    Row((3, 5, 7, 9), (1, 1), 6, 40, 2, 0.5),
    *[Row((3, 5), (2, 2), 6, 40, 1, 0.5)] * 3,
    Row((3, 5, 7), (1, 1), 6, 80, 2, 0.25),
    *[Row((3, 5, 7, 9), (2, 2), 6, 80, 1, 0.25)] * 3,
    Row((3,), (1, 1), 6, 120, 1, 0.5),
    *[Row((3, 5, 7, 9), (2, 2), 3, 120, 1, 0.5)] * 3,
    Row((3, 5, 7, 9), (1, 1), 6, 200, 2, 0.5),
    *[Row((3, 5, 7, 9), (1, 2), 6, 200, 1, 0.5)] * 3,
)


@dataclass(frozen=True, kw_only=True)
class MixNetConfig(Config):
    """Numbers of a MixNet.

    Args:
        rows: the blocks.
        stem: channels of the first convolution.
        width: multiplies all channels but the last 1536, rounded to a multiple of 8.
        eps: of the batch norms; TensorFlow's weights expect 1e-3.
    """

    rows: tuple[Row, ...]
    stem: int
    width: float = 1.0
    eps: float = 1e-5
    drop_rate: float = 0.25


class MixedBlock(nn.Module):
    """1x1 up, mixed depthwise, gate, 1x1 down, and a shortcut."""

    def __init__(self, in_channels: int, out_channels: int, row: Row, eps: float) -> None:
        super().__init__()
        middle, act = in_channels * row.expansion, "silu" if row.squeeze else "relu"
        self.expand = nn.Identity()
        if row.expansion > 1:
            self.expand = ConvNorm(in_channels, middle, groups=row.groups[0], act=act, eps=eps)
        self.depthwise = MixedConv(ConvSpec(middle, middle, 3, row.stride, 1), row.kernels)
        self.norm = nn.BatchNorm2d(middle, eps=eps)
        self.act = ACTIVATIONS[act]()
        self.squeeze = nn.Identity()
        if row.squeeze:
            self.squeeze = SqueezeExcite(middle, int(in_channels * row.squeeze), act)
        self.project = ConvNorm(middle, out_channels, groups=row.groups[1], act="none", eps=eps)
        self.residual = row.stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.norm(self.depthwise(self.expand(x))))
        y = self.project(self.squeeze(y))
        return x + y if self.residual else y


class MixNet(Backbone):
    """A 3x3 convolution, mixed blocks, a wide 1x1 convolution."""

    def __init__(self, config: MixNetConfig) -> None:
        channels = round_channels(config.stem * config.width)
        conv = ConvNorm(config.in_chans, channels, 3, 2, eps=config.eps)
        blocks = []
        for row in config.rows:
            out = round_channels(row.channels * config.width)
            blocks.append((MixedBlock(channels, out, row, config.eps), row.stride, out))
            channels = out
        first, stages, widths = split_at_strides(conv.conv.out_channels, blocks)
        super().__init__(
            config,
            nn.Sequential(conv, *first),
            stages,
            widths,
            [2 ** (i + 1) for i in range(len(widths))],
            tail=ConvNorm(channels, 1536, eps=config.eps),
            num_features=1536,
        )


def _repeats(model: Backbone) -> list[int]:
    channels = [row.channels for row in model.config.rows]
    return [channels.count(c) for c in dict.fromkeys(channels)]  # a row of theirs is a run of equal widths


def _parts(model: Backbone, theirs: str, ours: str, convs: list[str], norms: list[str]) -> dict[str, str]:
    """Return the prefixes of one block, given their names of its (two or three) convolutions and norms."""
    block = model.get_submodule(ours)
    assert isinstance(block, MixedBlock)
    single = ".0" if len(block.depthwise) == 1 else ""
    targets = [
        ("expand.conv", "expand.norm"),
        (f"depthwise{single}", "norm"),
        ("project.conv", "project.norm"),
    ]
    prefixes = {}
    for conv, norm, target in zip(convs, norms, targets[-len(convs) :], strict=True):
        prefixes[f"{theirs}.{conv}"], prefixes[f"{theirs}.{norm}"] = (f"{ours}.{t}" for t in target)
    return prefixes


def _timm(model: Backbone) -> dict[str, str]:
    prefixes = STEM | {"conv_head": "tail.conv", "bn2": "tail.norm"}
    for theirs, ours in timm_rows(model, _repeats(model)).items():
        whole = not isinstance(model.get_submodule(ours + ".expand"), nn.Identity)
        convs = ["conv_pw", "conv_dw", "conv_pwl"] if whole else ["conv_dw", "conv_pw"]
        prefixes |= _parts(model, theirs, ours, convs, ["bn1", "bn2", "bn3"][: len(convs)])
        prefixes |= {f"{theirs}.se.conv_{part}": f"{ours}.squeeze.{part}" for part in ("reduce", "expand")}
    return prefixes


def _pytorchcv(model: Backbone) -> dict[str, str]:
    prefixes = {"output": "classifier"}
    for theirs, ours in (("features.init_block.conv1", "stem.0"), ("features.final_block", "tail")):
        prefixes |= {f"{theirs}.conv": f"{ours}.conv", f"{theirs}.bn": f"{ours}.norm"}
    *repeats, before_last, last = _repeats(model)
    numbers = [(r, i) for r, count in enumerate([*repeats, before_last + last]) for i in range(count)]
    for (row, i), ours in zip(numbers, units(model), strict=True):
        theirs = f"features.stage{row}.unit{i + 1}" if row else "features.init_block.conv2"
        names = ["exp_conv", "conv1", "conv2"] if row else ["conv1", "conv2"]
        convs, norms = [f"{n}.conv" for n in names], [f"{n}.bn" for n in names]
        prefixes |= _parts(model, theirs, ours, convs, norms)
        prefixes |= {f"{theirs}.se.conv{k}": f"{ours}.squeeze.{p}" for k, p in ((1, "reduce"), (2, "expand"))}
    return prefixes


def _join_groups(model: Backbone, state: State) -> State:
    """Put the two convolutions that others have for two groups into one weight."""
    for key in [key for key in state if key.endswith((".expand.conv.0.weight", ".project.conv.0.weight"))]:
        other = key.replace(".conv.0.", ".conv.1.")
        if other in state:
            state[key.replace(".conv.0.", ".conv.")] = torch.cat([state.pop(key), state.pop(other)])
    return state


family = Family(
    MixNet,
    paper="arXiv:1907.09595",
    source="tensorflow/tpu",
    layouts=(
        Layout("timm", _timm, adjust=_join_groups),
        Layout("pytorchcv", _pytorchcv, adjust=_join_groups),
    ),
)

for name, config, counts, accuracy in (
    ("s", MixNetConfig(rows=SMALL, stem=16, drop_rate=0.2), (4_134_606, 239.2), (75.8, 92.8)),
    ("m", MixNetConfig(rows=MEDIUM, stem=24), (5_014_382, 339.2), (77.0, 93.3)),
    ("l", MixNetConfig(rows=MEDIUM, stem=24, width=1.3), (7_329_252, 555.3), (78.9, 94.2)),
):
    top1, top5 = (round(100 - a, 1) for a in accuracy)
    family.add(
        f"mixnet_{name}",
        config,
        Claims(*counts, top1_error=top1, top5_error=top5, stated="M"),
        pretrained=f"timm:mixnet_{name}.ft_in1k",
    )
