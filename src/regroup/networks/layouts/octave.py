"""Octave networks: four paths under names of their own, or in one weight."""

from __future__ import annotations

from regroup.networks.backbone import Backbone
from regroup.networks.layouts import Layout, resnet
from regroup.networks.state_dicts import State
from regroup.strategies.octave import OctaveConv


def _mobilenet_v1(model: Backbone) -> dict[str, str]:
    prefixes = {"features.0.0": "stem.conv", "features.0.1": "stem.norm", "fc": "classifier"}
    for number, (_, _, name) in enumerate(model.blocks(), 1):
        prefixes |= {f"features.{number}.0": f"{name}.conv1", f"features.{number}.1": f"{name}.conv2"}
    return prefixes


def _split_fused(model: Backbone, state: State) -> State:
    """Cut pytorchcv's one weight of all four paths."""
    for name, layer in model.named_modules():
        if not isinstance(layer, OctaveConv) or f"{name}.weight" not in state:
            continue
        whole = state.pop(f"{name}.weight")
        rows, columns = layer.h2h.get_parameter("weight").shape[:2]
        for path, _ in layer.named_children():
            part = whole[:rows] if path[2] == "h" else whole[rows:]
            state[f"{name}.{path}.weight"] = part[:, :columns] if path[0] == "h" else part[:, columns:]
    return state


PATHS = {f"conv.conv_{path}": f"conv.{path}" for path in ("h2h", "h2l", "l2h", "l2l")}
NORMS = {"bn_h": "norm.high.0", "bn_l": "norm.low.0"}
SHORTCUT = {f"downsample.0.{theirs}": f"shortcut.{ours}" for theirs, ours in (PATHS | NORMS).items()}

RESNET = (
    Layout("d-li14/octconv.pytorch", resnet.torchvision, SHORTCUT | PATHS | NORMS),
    Layout("pytorchcv", resnet.pytorchcv, {"h_bn": "norm.high.0", "l_bn": "norm.low.0"}, _split_fused),
)
MOBILENET_V1 = (Layout("d-li14/octconv.pytorch", _mobilenet_v1, PATHS | NORMS),)
