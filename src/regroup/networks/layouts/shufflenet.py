"""ShuffleNets v1 and v2. The order of channels shows in the keys: each implementation has one of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from regroup.networks.backbone import Backbone
from regroup.networks.layouts import Layout
from regroup.networks.layouts.googlenet import head_not_there
from regroup.networks.state_dicts import State


def _official_v1(model: Backbone) -> dict[str, str]:
    prefixes = {"first_conv.0": "stem.conv", "first_conv.1": "stem.norm", "classifier.0": "classifier"}
    for index, (*_, name) in enumerate(model.blocks()):
        first, second = f"features.{index}.branch_main_1", f"features.{index}.branch_main_2"
        prefixes |= {f"{first}.0": f"{name}.compress.conv", f"{first}.1": f"{name}.compress.norm"}
        prefixes |= {f"{first}.3": f"{name}.depthwise.conv", f"{first}.4": f"{name}.depthwise.norm"}
        prefixes |= {f"{second}.0": f"{name}.expand.conv", f"{second}.1": f"{name}.expand.norm"}
    return prefixes


def _pytorchcv_v1(model: Backbone) -> dict[str, str]:
    stem = "features.init_block"
    prefixes = {f"{stem}.conv": "stem.conv", f"{stem}.bn": "stem.norm", "output": "classifier"}
    for s, b, name in model.blocks():
        unit = f"features.stage{s}.unit{b + 1}"
        for theirs, ours in (("compress_{}1", "compress"), ("dw_{}2", "depthwise"), ("expand_{}3", "expand")):
            prefixes[f"{unit}.{theirs.format('conv')}"] = f"{name}.{ours}.conv"
            prefixes[f"{unit}.{theirs.format('bn')}"] = f"{name}.{ours}.norm"
    return prefixes


# places of convolutions and norms in a row of (conv, norm, ReLU), (depthwise, norm), (conv, norm, ReLU)
BRANCH = {"0": "0.conv", "1": "0.norm", "3": "1.conv", "4": "1.norm", "5": "2.conv", "6": "2.norm"}
PASSING = {"0": "0.conv", "1": "0.norm", "2": "1.conv", "3": "1.norm"}


def _rows(unit: str, passing: str, branch: str, name: str) -> dict[str, str]:
    rows = {f"{unit}.{branch}.{theirs}": f"{name}.branch.{ours}" for theirs, ours in BRANCH.items()}
    return rows | {f"{unit}.{passing}.{theirs}": f"{name}.passing.{ours}" for theirs, ours in PASSING.items()}


def _torchvision_v2(model: Backbone) -> dict[str, str]:
    prefixes = {"conv1.0": "stem.conv", "conv1.1": "stem.norm", "fc": "classifier"}
    prefixes |= {"conv5.0": "tail.conv", "conv5.1": "tail.norm"}
    for s, b, name in model.blocks():
        prefixes |= _rows(f"stage{s + 1}.{b}", "branch1", "branch2", name)
    return prefixes


def _official_v2(model: Backbone) -> dict[str, str]:
    prefixes = {"first_conv.0": "stem.conv", "first_conv.1": "stem.norm", "classifier.0": "classifier"}
    prefixes |= {"conv_last.0": "tail.conv", "conv_last.1": "tail.norm"}
    for index, (*_, name) in enumerate(model.blocks()):
        prefixes |= _rows(f"features.{index}", "branch_proj", "branch_main", name)
    return prefixes


def _pytorchcv_v2(model: Backbone) -> dict[str, str]:
    prefixes = {"features.init_block.conv": "stem", "features.final_block": "tail", "output": "classifier"}
    for s, b, name in model.blocks():
        unit = f"features.stage{s}.unit{b + 1}"
        for i, theirs in enumerate(("conv1", "dconv", "conv2")):
            prefixes[f"{unit}.{theirs}"] = f"{name}.branch.{i}"
        for i, theirs in enumerate(("shortcut_dconv", "shortcut_conv")):
            prefixes[f"{unit}.{theirs}"] = f"{name}.passing.{i}"
    return prefixes


def _official_v2_large(model: Backbone) -> dict[str, str]:
    prefixes = {f"first_conv.{i}": f"stem.{i}" for i in range(len(model.config.stem))}
    prefixes |= {"conv_last": "tail", "fc": "classifier"}
    for s, b, name in model.blocks():
        unit = f"features.{s}.{s + 2}{chr(ord('a') + b)}"  # 2a, 2b, ...
        prefixes |= {f"{unit}.proj": f"{name}.passing", f"{unit}.down": f"{name}.mix"}
        prefixes |= {f"{unit}.branch_main.{i}": f"{name}.branch.{i}" for i in range(3)}
        for i, part in ((1, "reduce"), (2, "expand")):
            prefixes[f"{unit}.se_fc{i}"] = f"{name}.squeeze.{part}"
            prefixes[f"{unit}.se_block.{2 * i - 2}"] = f"{name}.squeeze.{part}"  # the same layer
    for s, depth in enumerate(model.config.depths[:-1]):
        head, ours = f"predict_{56 >> s}", f"heads.{s}_{depth - 1}"
        prefixes |= {f"{head}.conv.{i}": f"{ours}.convs.{i}" for i in range(2)}
        prefixes[f"{head}.fc"] = f"{ours}.classifier"
    return prefixes


def _official_v2_plus(model: Backbone) -> dict[str, str]:
    prefixes = {"first_conv.0": "stem.conv", "first_conv.1": "stem.norm", "classifier.0": "classifier"}
    prefixes |= {"conv_last.0": "tail.conv", "conv_last.1": "tail.norm", "fc.0": "hidden.2"}
    prefixes |= _gate("LastSE.SE_opr", "hidden.0")
    for index, (*_, name) in enumerate(model.blocks()):
        unit, place = f"features.{index}", 0
        for i, layer in enumerate(model.get_submodule(f"{name}.branch").children()):
            for part in ("conv", "norm"):
                prefixes[f"{unit}.branch_main.{place}"] = f"{name}.branch.{i}.{part}"
                place += 1
            place += not isinstance(layer.act, nn.Identity)
        passing = {
            f"{unit}.branch_proj.{theirs}": f"{name}.passing.{ours}" for theirs, ours in PASSING.items()
        }
        prefixes |= passing | _gate(f"{unit}.branch_main.{place}.SE_opr", f"{name}.squeeze")
    return prefixes


def _gate(theirs: str, ours: str) -> dict[str, str]:
    parts = {"1": "reduce.conv", "2": "reduce.norm", "4": "expand"}
    return {f"{theirs}.{place}": f"{ours}.{part}" for place, part in parts.items()}


def _official_v2_exlarge(model: Backbone) -> dict[str, str]:
    prefixes = {f"first_conv.{i}": f"stem.{i}" for i in range(len(model.config.stem))}
    prefixes["fc.fc"] = "classifier"
    for s, b, name in model.blocks():
        unit = f"features.{s}.{b}"
        if b == model.config.depths[s]:
            prefixes[unit] = name
            continue
        prefixes[f"{unit}.proj"] = f"{name}.passing"
        prefixes |= {f"{unit}.branch_main.{i}": f"{name}.branch.{i}" for i in range(4)}
        for i, part in ((1, "reduce"), (2, "expand")):
            prefixes[f"{unit}.se_fc{i}.fc"] = f"{name}.squeeze.{part}"
            prefixes[f"{unit}.se_block.{2 * i - 2}.fc"] = f"{name}.squeeze.{part}"  # the same layer
    for s, depth in enumerate(model.config.depths[:-1]):
        head, ours = f"predict_{56 >> s}", f"heads.{s}_{depth}"
        prefixes |= {f"{head}.conv.{i}": f"{ours}.convs.{i}" for i in range(2)}
        prefixes[f"{head}.fc"] = f"{ours}.classifier"
    return prefixes


def _form(order: str, **fields: Any) -> Callable[[State], dict[str, Any]]:
    """Say which form of the network weights are for; whether the classifier has a bias they show."""
    return lambda state: {"order": order, "bias": "classifier.bias" in state, **fields}


V1 = (
    Layout("official", _official_v1, implies=_form("official")),
    Layout("pytorchcv", _pytorchcv_v1, implies=_form("paper")),
)
V2 = (
    Layout("torchvision", _torchvision_v2, implies=_form("paper", uneven=False)),
    Layout("official", _official_v2, implies=_form("official", uneven=True)),
    Layout("pytorchcv", _pytorchcv_v2, {"bn": "norm"}, implies=_form("paper")),
)
V2_PLUS = (Layout("official", _official_v2_plus),)
V2_EXLARGE = (Layout("official", _official_v2_exlarge, {"bn": "norm"}, unused=head_not_there),)
V2_LARGE = (Layout("official", _official_v2_large, {"bn": "norm"}, unused=head_not_there),)
