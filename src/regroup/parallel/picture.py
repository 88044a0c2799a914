"""A picture of what each device holds, in the manner of figure 2 of the AlexNet paper.

Each device has a row, each layer a box: as wide as its channels on this device, as high as its map. Lines
between rows are what the devices send each other.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LAYERS = ("Conv1d", "Conv2d", "Conv3d", "Linear")
_ROW = 1.4  # from device to device; the largest box is about 1 high
_FACE, _TOP, _SIDE, _SENT = "#d9e4ef", "#eef3f8", "#b9cbdd", "#b5482a"


def draw(plan: Any, path: str | Path, *, most: int = 40) -> None:
    """Draw a plan into a file, whose ending says its format.

    Args:
        plan: of `regroup.parallel.plan`.
        path: such as "towers.svg" or "towers.png".
        most: layers and devices that are drawn; of those beyond nothing is shown.
    """
    from matplotlib.figure import Figure

    layers = [layer for layer in plan.layers if layer.kind in _LAYERS and layer.shape][:most]
    devices = min(plan.devices, most)
    figure = Figure(figsize=(max(4.0, 1.25 * len(layers) + 0.6), 2.1 * devices + 0.7), layout="constrained")
    axes = figure.add_subplot()
    boxes = [_box(layer, plan) for layer in layers]
    for i, (layer, box) in enumerate(zip(layers, boxes, strict=True)):
        for device in range(devices):
            _cuboid(axes, i, -_ROW * device, box)
            axes.annotate(_share(layer, plan), (i, -_ROW * device - 0.62), ha="center", va="top", fontsize=7)
        axes.annotate(_name(layer), (i, 0.78), ha="center", va="bottom", fontsize=7, color="#444444")
        if i:
            _lines(axes, i, devices, layer, boxes[i - 1], box)
    axes.set_xlim(-0.7, len(layers) - 0.3)
    axes.set_ylim(-_ROW * (devices - 1) - 0.9, 1.05)
    axes.set_axis_off()
    figure.savefig(path, metadata={"Date": None} if str(path).endswith(".svg") else None)


def _box(layer: Any, plan: Any) -> tuple[float, float]:
    """Return width (channels of a device) and height (pixels) of a layer's box, on logarithmic scales."""
    side = max(layer.shape[2:], default=1)
    channels = layer.shape[1] / plan.devices
    return 0.07 + 0.035 * math.log2(channels + 1), 0.14 + 0.11 * math.log2(side)


def _cuboid(axes: Axes, x: float, y: float, box: tuple[float, float]) -> None:
    from matplotlib.patches import Polygon

    (w, h), depth = box, 0.3 * box[1]
    left, low = x - w / 2 - depth / 4, y - h / 2 - depth / 4
    front = [(left, low), (left + w, low), (left + w, low + h), (left, low + h)]
    back = [(a + depth / 2, b + depth / 2) for a, b in front]
    top, side = [front[3], front[2], back[2], back[3]], [front[1], back[1], back[2], front[2]]
    for corners, colour in ((top, _TOP), (side, _SIDE), (front, _FACE)):
        axes.add_patch(Polygon(corners, facecolor=colour, edgecolor="#33475b", linewidth=0.7, zorder=3))


def _lines(
    axes: Axes, i: int, devices: int, layer: Any, before: tuple[float, float], box: tuple[float, float]
) -> None:
    """Draw a line from each device to itself, and one to each other if this layer makes them talk."""
    ends = i - 1 + before[0] / 2 + 0.15 * before[1], i - box[0] / 2 - 0.1 * box[1]
    talks = layer.forward > 0
    for a in range(devices):
        for b in range(devices):
            if a == b or talks:
                colour, width = ("#33475b", 0.9) if a == b else (_SENT, 1.1)
                axes.plot(
                    ends,
                    (-_ROW * a, -_ROW * b),
                    color=colour,
                    linewidth=width,
                    zorder=1,
                    solid_capstyle="round",
                )


def _share(layer: Any, plan: Any) -> str:
    channels = math.ceil(layer.shape[1] / plan.devices)
    return f"{'x'.join(map(str, layer.shape[2:]))}x{channels}" if layer.shape[2:] else f"{channels}"


def _name(layer: Any) -> str:
    name = layer.name.removesuffix(".conv")
    return name if len(name) <= 14 else "..." + name[-12:]
