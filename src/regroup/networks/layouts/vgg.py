"""VGG: torchvision numbers convolutions, norms, ReLUs and poolings in one row."""

from __future__ import annotations

from regroup.networks.backbone import Backbone
from regroup.networks.layouts import Layout


def _torchvision(model: Backbone) -> dict[str, str]:
    prefixes = {"classifier.0": "hidden.1", "classifier.3": "hidden.4", "classifier.6": "classifier"}
    step, index = 3 if model.config.norm else 2, 0
    stem = [f"stem.{i}" for i in range(model.config.depths[0])]
    stages = [[n for s, _, n in model.blocks() if s == i] for i in range(len(model.stages) - 1)]
    for names in (stem, *stages):
        for name in names:
            prefixes |= {f"features.{index}": f"{name}.conv", f"features.{index + 1}": f"{name}.norm"}
            index += step
        index += 1  # the pooling
    return prefixes


VGG = (Layout("torchvision", _torchvision),)
