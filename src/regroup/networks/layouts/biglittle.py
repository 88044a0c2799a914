"""Big-Little networks: the branches of a stage are lists of their own."""

from __future__ import annotations

from torch import nn

from regroup.networks.backbone import Backbone
from regroup.networks.layouts import Layout
from regroup.networks.layouts.resnet import convolutions


def _official(model: Backbone) -> dict[str, str]:
    parts = {"conv1": "0.conv", "bn1": "0.norm", "b_conv0": "1.big.conv", "bn_b0": "1.big.norm"}
    parts |= {"bl_init": "3.conv", "bn_bl_init": "3.norm"}
    for i in range(3):
        parts |= {f"l_conv{i}": f"1.little.{i}.conv", f"bn_l{i}": f"1.little.{i}.norm"}
    prefixes = {theirs: f"stem.{ours}" for theirs, ours in parts.items()} | {"fc": "classifier"}
    for ours, block in model.named_modules():
        if not hasattr(block, "shortcut"):
            continue
        _, stage, *path = ours.split(".")
        layer = f"layer{int(stage) + 1}"
        if len(path) == 4:  # 0.0.big.1 and the like
            theirs = f"{layer}.{path[2]}.{path[3]}"
        else:
            theirs = f"{layer}.{path[0]}" if int(stage) == len(model.stages) - 1 else f"{layer}.fusion.0"
        first = 0 if isinstance(block.pool, nn.Identity) else 1  # their pooling has number 0
        prefixes[theirs] = ours
        prefixes[f"{theirs}.downsample.{first}"] = f"{ours}.shortcut.conv"
        prefixes[f"{theirs}.downsample.{first + 1}"] = f"{ours}.shortcut.norm"
    for s in range(len(model.stages) - 1):
        little = model.get_submodule(f"stages.{s}.0.0.little")
        expand = f"stages.{s}.0.0.little.{len(list(little.children())) - 1}"
        prefixes[f"layer{s + 1}.little_e.0"] = f"{expand}.conv"
        prefixes[f"layer{s + 1}.little_e.1"] = f"{expand}.norm"
    return prefixes


BIG_LITTLE = (
    Layout(
        "IBM/BigLittleNet",
        _official,
        {
            **convolutions(1, 2, 3),
            "se_layer.fc1": "squeeze.reduce",
            "se_layer.fc2": "squeeze.expand",
        },
    ),
)
