"""SqueezeNet: fire modules in one row, or in stages."""

from __future__ import annotations

from regroup.networks.backbone import Backbone
from regroup.networks.layouts import Layout


def _parts(fires: dict[str, str], suffix: str = "") -> dict[str, str]:
    """Return the prefixes of the convolutions of fire modules, given those of the modules."""
    prefixes = {}
    for theirs, name in fires.items():
        prefixes[f"{theirs}.squeeze{suffix}"] = f"{name}.squeeze.conv"
        for i, kernel in enumerate(("1x1", "3x3")):
            prefixes[f"{theirs}.expand{kernel}{suffix}"] = f"{name}.expand.{i}.conv"
    return prefixes


def _torchvision(model: Backbone) -> dict[str, str]:
    # in torchvision's row of modules stand the first convolution, its ReLU, and a pooling before each stage
    fires = {f"features.{index + s + 3}": name for index, (s, _, name) in enumerate(model.blocks())}
    return {"features.0": "stem.conv", "classifier.1": "classifier"} | _parts(fires)


def _pytorchcv(model: Backbone) -> dict[str, str]:
    fires = {f"features.stage{s + 1}.unit{b + 1}": name for s, b, name in model.blocks()}
    ends = {"features.init_block.conv": "stem.conv", "output.final_conv": "classifier"}
    return ends | _parts(fires, ".conv")


SQUEEZENET = (Layout("torchvision", _torchvision), Layout("pytorchcv", _pytorchcv))
