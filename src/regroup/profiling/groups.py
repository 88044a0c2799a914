"""Which numbers of groups are fast on this machine: promised and measured speed-up over them.

>>> layer = Layer(("conv",), 8, 8, (3, 3), (1, 1), (1, 1), (1, 1), (14, 14))
>>> found = bench([layer], seconds=0.01)
>>> [point.groups for point in found.layers[0].points]
[1, 2, 4, 8]
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from regroup.ops.explain import calls_of
from regroup.ops.functional import conv2d
from regroup.profiling.clock import measure_in_turns
from regroup.profiling.machine import Machine, machine
from regroup.spec import Size, divisors

WAYS, WHO = ("forward", "training"), ("PyTorch", "regroup")
FORMATS = (torch.contiguous_format, torch.channels_last)


@dataclass(frozen=True)
class Layer:
    """A convolution of images, whatever its groups.

    Attributes:
        names: layers that are such a one; those of a network, or one of the user's.
        in_channels: channels of its input.
        out_channels: channels of its output.
        kernel_size: (height, width).
        stride: (height, width).
        padding: (height, width).
        dilation: (height, width).
        size: (height, width) of its input.
        groups: those it has in its network.
    """

    names: tuple[str, ...]
    in_channels: int
    out_channels: int
    kernel_size: Size
    stride: Size
    padding: Size
    dilation: Size
    size: Size
    groups: int = 1

    def __str__(self) -> str:
        kernel = "x".join(map(str, self.kernel_size))
        stride = "" if self.stride == (1, 1) else f", stride {self.stride[0]}"
        size = "x".join(map(str, self.size))
        return f"{self.in_channels} -> {self.out_channels}, {kernel}{stride}, at {size}"


@dataclass(frozen=True)
class Point:
    """What one number of groups promises and gives.

    Attributes:
        groups: their number.
        macs: of a forward pass.
        promised: speed-up over the dense layer, by MACs: that number.
        seconds: by way ("forward", "training": forward and both gradients) and who ("PyTorch", "regroup"),
            in the better of the two memory formats.
        measured: speed-up by way and who over the dense layer in PyTorch.
    """

    groups: int
    macs: int
    promised: float
    seconds: dict[str, dict[str, float]]
    measured: dict[str, dict[str, float]]


@dataclass(frozen=True)
class Curve:
    """A layer and its points, by rising number of groups."""

    layer: Layer
    points: tuple[Point, ...]

    def best(self, way: str = "training", who: str = "regroup") -> Point:
        """Return the fastest point."""
        return min(self.points, key=lambda point: point.seconds[way][who])


@dataclass(frozen=True)
class Speeds:
    """Everything that was measured, and where."""

    machine: Machine
    batch: int
    layers: tuple[Curve, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, for JSON: "layers" with "points" and the fastest number of groups of each."""
        layers = [
            asdict(curve) | {"fastest": {way: curve.best(way).groups for way in WAYS}}
            for curve in self.layers
        ]
        return {"machine": self.machine.to_dict(), "batch": self.batch, "layers": layers}


def layers_of(model: torch.nn.Module, images: Tensor) -> list[Layer]:
    """Return the convolutions of images that a network runs: equal ones are one, of several names."""
    found: dict[tuple, list[str]] = {}
    for name, call in calls_of(model, images):
        if len(call.stride) == 2:
            sizes = call.x[1], call.y[1], call.weight[2:], call.stride, call.padding, call.dilation
            found.setdefault((*sizes, call.x[2:], call.groups), []).append(name)
    return [Layer(tuple(dict.fromkeys(names)), *sizes) for sizes, names in found.items()]


def bench(
    layers: Sequence[Layer],
    *,
    batch: int = 1,
    groups: Iterable[int] | None = None,
    seconds: float = 0.1,
    say: Callable[[str], None] = lambda line: None,
) -> Speeds:
    """Measure layers with every number of groups that they can have, in float32 on the CPU.

    Args:
        layers: what to measure; `layers_of` finds those of a network.
        batch: images.
        groups: only these numbers, and 1; those that a layer cannot have are left out.
        seconds: to spend on each figure.
        say: called with what is being measured.
    """
    asked = None if groups is None else {1, *groups}
    curves = []
    for i, layer in enumerate(layers):
        able = [g for g in divisors(layer.in_channels, layer.out_channels) if asked is None or g in asked]
        spent = {}
        for g in able:
            say(f"layer {i + 1} of {len(layers)}: {layer}: {g} group{'s' if g > 1 else ''}")
            spent[g] = _seconds(layer, g, batch, seconds)
        curves.append(Curve(layer, tuple(_point(layer, batch, g, spent) for g in able)))
    return Speeds(machine(), batch, tuple(curves))


def _point(layer: Layer, batch: int, groups: int, spent: dict[int, dict[str, dict[str, float]]]) -> Point:
    axes = zip(layer.size, layer.kernel_size, layer.stride, layer.padding, layer.dilation, strict=True)
    macs = batch * layer.in_channels // groups * layer.out_channels
    for n, k, s, p, d in axes:
        macs *= k * ((n + 2 * p - d * (k - 1) - 1) // s + 1)
    mine, dense = spent[groups], spent[1]
    measured = {way: {who: dense[way]["PyTorch"] / mine[way][who] for who in WHO} for way in WAYS}
    return Point(groups, macs, float(groups), mine, measured)


def _seconds(layer: Layer, groups: int, batch: int, seconds: float) -> dict[str, dict[str, float]]:
    """Return the median seconds by way and who: of the memory format that is quicker."""
    contenders: dict[tuple[str, str, int], Callable[[], object]] = {}
    for i, layout in enumerate(FORMATS):
        x = torch.randn(batch, layer.in_channels, *layer.size).contiguous(memory_format=layout)
        weight = torch.randn(layer.out_channels, layer.in_channels // groups, *layer.kernel_size)
        for who, conv in (("PyTorch", F.conv2d), ("regroup", conv2d)):
            run = partial(
                conv,
                stride=layer.stride,
                padding=layer.padding,
                dilation=layer.dilation,
                groups=groups,
            )
            contenders["forward", who, i] = partial(_forward, run, x, weight)
            contenders["training", who, i] = partial(_training, run, x, weight)
    taken = measure_in_turns(
        {str(key): call for key, call in contenders.items()}, seconds=seconds, warmup=seconds / 2
    )
    return {
        way: {who: min(taken[str((way, who, i))].median for i in range(len(FORMATS))) for who in WHO}
        for way in WAYS
    }


def _forward(run: Callable[..., Tensor], x: Tensor, weight: Tensor) -> Tensor:
    with torch.no_grad():
        return run(x, weight)


def _training(run: Callable[..., Tensor], x: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
    x, weight = x.detach().requires_grad_(), weight.detach().requires_grad_()
    y = run(x, weight)
    return torch.autograd.grad(y, (x, weight), y.detach())
