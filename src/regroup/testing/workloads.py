"""Convolutions of real networks: the one list of shapes for tests, benchmarks and documents.

>>> layer = workload("resnext50_32x4d", "stages.0.1.conv2.conv")
>>> str(layer), layer.macs
('resnext50_32x4d 128->128 3x3 /1 g32 @56', 14450688)

A test builds each network and finds each of its layers there, at the size of image that it was published for.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

from regroup.errors import ParameterError
from regroup.spec import ConvSpec


@dataclass(frozen=True)
class _Layer:
    """A row of the table: the layer's name in the network, and its numbers."""

    layer: str
    inputs: int
    outputs: int
    size: int
    kernel: int = 1
    stride: int = 1
    groups: int = 1
    activation: str = "relu"
    residual: bool = False
    preactivated: bool = False


@dataclass(frozen=True)
class Workload(_Layer):
    """A convolution of a network, square, padded by half of its kernel.

    Attributes:
        layer: its name in the network.
        inputs: channels in.
        outputs: channels out.
        size: height and width of its input.
        kernel: height and width.
        stride: both ways.
        groups: as in PyTorch.
        activation: what follows it.
        residual: something as large as the output is added before the activation.
        preactivated: a norm and a ReLU go before it.
        network: a name of ours, or one of timm's after "timm:".
    """

    network: str = ""

    def __str__(self) -> str:
        groups = f" g{self.groups}" if self.groups > 1 else ""
        shape = (
            f"{self.inputs}->{self.outputs} {self.kernel}x{self.kernel} /{self.stride}{groups} @{self.size}"
        )
        return f"{self.network} {shape}"

    @property
    def spec(self) -> ConvSpec:
        """What the convolution must do, its groups aside."""
        return ConvSpec(self.inputs, self.outputs, self.kernel, self.stride, self.kernel // 2)

    @property
    def out(self) -> int:
        """Height and width of its output."""
        return self.spec.output_size((self.size, self.size))[0]

    @property
    def macs(self) -> int:
        """Multiply-adds for one image."""
        return self.spec.cost((self.size, self.size), self.groups).macs

    @property
    def group_width(self) -> int:
        """Input channels of a group."""
        return self.inputs // self.groups


def _of(network: str, *layers: _Layer) -> Iterator[Workload]:
    return (Workload(**vars(layer), network=network) for layer in layers)


WORKLOADS: tuple[Workload, ...] = (
    *_of(
        "mobilenet_v1_100",
        _Layer("stem.0.conv", 3, 32, 224, 3, 2),
        _Layer("stem.1.depthwise.conv", 32, 32, 112, 3, groups=32),
        _Layer("stem.1.pointwise.conv", 32, 64, 112),
    ),
    *_of(
        "mobilenet_v2_100",
        _Layer("stages.0.0.expand.conv", 16, 96, 112, activation="relu6"),
        _Layer("stages.0.0.depthwise.conv", 96, 96, 112, 3, 2, groups=96, activation="relu6"),
        _Layer("stages.0.0.project.conv", 96, 24, 56, activation="none"),
        _Layer("stages.0.1.expand.conv", 24, 144, 56, activation="relu6"),
        _Layer("stages.0.1.depthwise.conv", 144, 144, 56, 3, groups=144, activation="relu6"),
        _Layer("stages.0.1.project.conv", 144, 24, 56, activation="none"),
        _Layer("stages.1.1.expand.conv", 32, 192, 28, activation="relu6"),
        _Layer("stages.1.1.depthwise.conv", 192, 192, 28, 3, groups=192, activation="relu6"),
        _Layer("stages.1.1.project.conv", 192, 32, 28, activation="none"),
        _Layer("stages.2.5.expand.conv", 96, 576, 14, activation="relu6"),
        _Layer("stages.2.5.depthwise.conv", 576, 576, 14, 3, groups=576, activation="relu6"),
        _Layer("stages.2.5.project.conv", 576, 96, 14, activation="none"),
        _Layer("stages.3.3.expand.conv", 160, 960, 7, activation="relu6"),
        _Layer("stages.3.3.depthwise.conv", 960, 960, 7, 3, groups=960, activation="relu6"),
        _Layer("stages.3.3.project.conv", 960, 320, 7, activation="none"),
        _Layer("stages.2.1.depthwise.conv", 384, 384, 14, 3, groups=384, activation="relu6"),
    ),
    *_of(
        "igcv3_100",
        _Layer("stages.1.1.conv1.conv", 24, 144, 56, groups=2, activation="relu6"),
        _Layer("stages.1.1.conv2.conv", 144, 144, 56, 3, groups=144, activation="relu6"),
        _Layer("stages.1.1.conv3.conv", 144, 24, 56, groups=2, activation="none"),
        _Layer("stages.3.1.conv1.conv", 64, 384, 14, groups=2, activation="relu6"),
        _Layer("stages.3.1.conv2.conv", 384, 384, 14, 3, groups=384, activation="relu6"),
        _Layer("stages.3.1.conv3.conv", 384, 64, 14, groups=2, activation="none"),
    ),
    *_of(
        "shufflenet_v1_g3_100",
        _Layer("stem.conv", 3, 24, 224, 3, 2),
        _Layer("stages.1.1.compress.conv", 240, 60, 28, groups=3),
        _Layer("stages.1.1.depthwise.conv", 60, 60, 28, 3, groups=60, activation="none"),
        _Layer("stages.1.1.expand.conv", 60, 240, 28, groups=3, residual=True),
        _Layer("stages.2.1.compress.conv", 480, 120, 14, groups=3),
        _Layer("stages.2.1.depthwise.conv", 120, 120, 14, 3, groups=120, activation="none"),
        _Layer("stages.2.1.expand.conv", 120, 480, 14, groups=3, residual=True),
        _Layer("stages.3.1.compress.conv", 960, 240, 7, groups=3),
        _Layer("stages.3.1.depthwise.conv", 240, 240, 7, 3, groups=240, activation="none"),
        _Layer("stages.3.1.expand.conv", 240, 960, 7, groups=3, residual=True),
    ),
    *_of(
        "condensenet_74_g4",
        _Layer("stages.1.1.conv1.conv", 64, 64, 56, groups=4, preactivated=True),
        _Layer("stages.1.1.conv2.conv", 64, 16, 56, 3, groups=4),
        _Layer("stages.3.1.conv1.conv", 464, 256, 14, groups=4, preactivated=True),
        _Layer("stages.3.1.conv2.conv", 256, 64, 14, 3, groups=4),
        _Layer("stages.4.1.conv1.conv", 1168, 512, 7, groups=4, preactivated=True),
        _Layer("stages.4.1.conv2.conv", 512, 128, 7, 3, groups=4),
    ),
    *_of(
        "mixnet_s",
        _Layer("stages.1.1.depthwise.1", 120, 120, 28, 5, groups=120, activation="silu"),
        _Layer("stages.2.5.depthwise.0", 90, 90, 14, 3, groups=90, activation="silu"),
        _Layer("stages.2.5.depthwise.1", 90, 90, 14, 5, groups=90, activation="silu"),
        _Layer("stages.2.5.depthwise.2", 90, 90, 14, 7, groups=90, activation="silu"),
        _Layer("stages.2.5.depthwise.3", 90, 90, 14, 9, groups=90, activation="silu"),
        _Layer("stages.3.0.depthwise.3", 144, 144, 14, 9, 2, groups=144, activation="silu"),
        _Layer("stages.3.0.depthwise.4", 144, 144, 14, 11, 2, groups=144, activation="silu"),
    ),
    *_of(
        "mixnet_l",
        _Layer("stages.2.5.depthwise.3", 120, 120, 14, 9, groups=120, activation="silu"),
    ),
    *_of(
        "timm:efficientnet_b0",
        _Layer("blocks.4.1.conv_dw", 672, 672, 14, 5, groups=672, activation="silu"),
    ),
    *_of(
        "timm:convnext_tiny",
        _Layer("stages.0.blocks.0.conv_dw", 96, 96, 56, 7, groups=96, activation="none"),
    ),
    *_of(
        "resnext50_32x4d",
        _Layer("stages.0.1.conv2.conv", 128, 128, 56, 3, groups=32),
        _Layer("stages.1.0.conv2.conv", 256, 256, 56, 3, 2, groups=32),
        _Layer("stages.1.1.conv2.conv", 256, 256, 28, 3, groups=32),
        _Layer("stages.2.1.conv2.conv", 512, 512, 14, 3, groups=32),
        _Layer("stages.3.1.conv2.conv", 1024, 1024, 7, 3, groups=32),
    ),
    *_of(
        "igcv1_18_l100m2",
        _Layer("stages.0.1.conv1.conv.0", 200, 200, 56, 3, groups=100, activation="none"),
    ),
    *_of(
        "resnet50",
        _Layer("stem.conv", 3, 64, 224, 7, 2),
        _Layer("stages.0.1.conv1.conv", 256, 64, 56),
        _Layer("stages.0.1.conv2.conv", 64, 64, 56, 3),
        _Layer("stages.0.1.conv3.conv", 64, 256, 56, residual=True),
        _Layer("stages.1.1.conv1.conv", 512, 128, 28),
        _Layer("stages.1.1.conv2.conv", 128, 128, 28, 3),
        _Layer("stages.1.1.conv3.conv", 128, 512, 28, residual=True),
        _Layer("stages.2.1.conv1.conv", 1024, 256, 14),
        _Layer("stages.2.1.conv2.conv", 256, 256, 14, 3),
        _Layer("stages.2.1.conv3.conv", 256, 1024, 14, residual=True),
        _Layer("stages.3.1.conv1.conv", 2048, 512, 7),
        _Layer("stages.3.1.conv2.conv", 512, 512, 7, 3),
        _Layer("stages.3.1.conv3.conv", 512, 2048, 7, residual=True),
    ),
    *_of(
        "googlenet_bn",
        _Layer("stages.0.1.conv", 64, 192, 56, 3),
        _Layer("stages.1.0.0.conv", 192, 64, 28),
        _Layer("stages.1.1.1.1.conv", 128, 192, 28, 3),
        _Layer("stages.1.0.2.1.conv", 16, 32, 28, 3),
        _Layer("stages.2.1.1.1.conv", 112, 224, 14, 3),
        _Layer("stages.2.4.1.1.conv", 160, 320, 14, 3),
        _Layer("stages.3.1.1.1.conv", 192, 384, 7, 3),
    ),
    *_of(
        "squeezenet1_1",
        _Layer("stages.0.0.squeeze.conv", 64, 16, 55),
        _Layer("stages.0.0.expand.1.conv", 16, 64, 55, 3),
    ),
)
"""All of them, network by network."""


NETWORKS = (
    "condensenet_74_g4", "igcv3_100", "shufflenet_v1_g3_100", "mixnet_s", "mobilenet_v2_100",
    "resnext50_32x4d", "googlenet_bn", "mobilenet_v1_100", "squeezenet1_1", "resnet50",
)  # fmt: skip
"""Whole networks that are timed: those whose grouping promises most first."""

TRAINED = (
    "shufflenet_v1_g3_100", "mobilenet_v1_100", "mobilenet_v2_100", "mixnet_s", "igcv3_100",
    "timm:efficientnet_b0", "resnext50_32x4d",
)  # fmt: skip
"""Whole networks whose training is timed."""


def narrow(widest: int = 16) -> list[Workload]:
    """Return those with taps and groups of at most `widest` channels: what `regroup.accelerate` is for."""
    return [w for w in WORKLOADS if w.groups > 1 and w.kernel > 1 and w.group_width <= widest]


@functools.cache
def _by_name() -> dict[tuple[str, str], Workload]:
    return {(w.network, w.layer): w for w in WORKLOADS}


def workload(network: str, layer: str) -> Workload:
    """Return one of `WORKLOADS`.

    Raises:
        ParameterError: there is none of this name.
    """
    try:
        return _by_name()[network, layer]
    except KeyError:
        known = ", ".join(w.layer for w in WORKLOADS if w.network == network)
        raise ParameterError("layer", layer, f"one of {network!r} in the list: {known or 'none'}") from None
