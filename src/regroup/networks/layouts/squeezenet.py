"""SqueezeNet: fire modules in one row, or in stages."""

from __future__ import annotations

from typing import Any

from regroup.networks.backbone import Backbone
from regroup.networks.layouts import SEPARATORS, Layout
from regroup.networks.state_dicts import State


def _parts(fires: dict[str, str], squeeze: str = ".squeeze", suffix: str = "") -> dict[str, str]:
    """Return the prefixes of the convolutions of fire modules, given those of the modules."""
    prefixes = {}
    for theirs, name in fires.items():
        prefixes[f"{theirs}{squeeze}{suffix}"] = f"{name}.squeeze.conv"
        for i, kernel in enumerate(("1x1", "3x3")):
            prefixes[f"{theirs}{squeeze[0]}expand{kernel}{suffix}"] = f"{name}.expand.{i}.conv"
    return prefixes


def _torchvision(model: Backbone) -> dict[str, str]:
    # in torchvision's row of modules stand the first convolution, its ReLU, and a pooling before each stage
    fires = {f"features.{index + s + 3}": name for index, (s, _, name) in enumerate(model.blocks())}
    return {"features.0": "stem.conv", "classifier.1": "classifier"} | _parts(fires)


def _pytorchcv(model: Backbone) -> dict[str, str]:
    fires = {f"features.stage{s + 1}.unit{b + 1}": name for s, b, name in model.blocks()}
    ends = {"features.init_block.conv": "stem.conv", "output.final_conv": "classifier"}
    return ends | _parts(fires, suffix=".conv")


def _caffe(model: Backbone) -> dict[str, str]:
    prefixes = {"conv1": "stem.conv", "conv10": "classifier"}
    for separator in SEPARATORS:
        fires = {f"fire{index}": name for index, (*_, name) in enumerate(model.blocks(), 2)}
        prefixes |= _parts(fires, f"{separator}squeeze1x1")
    return prefixes


def _unpadded(state: State) -> dict[str, Any]:
    return {"padding": 0}


def _padded(state: State) -> dict[str, Any]:
    """The last convolution of version 1.0, which is known by its large first kernel."""
    return {"padding": int(state["stem.conv.weight"].shape[-1] == 7)}


SQUEEZENET = (
    Layout("torchvision", _torchvision, implies=_unpadded),
    Layout("pytorchcv", _pytorchcv, implies=_unpadded),
    Layout("Caffe", _caffe, implies=_padded),
)
