"""MixNet: others have a module for each group of a 1x1 convolution."""

from __future__ import annotations

import torch
from torch import nn

from regroup.networks.backbone import Backbone
from regroup.networks.layouts import Layout
from regroup.networks.layouts.mobilenet import STEM, timm_rows, units
from regroup.networks.state_dicts import State


def _repeats(model: Backbone) -> list[int]:
    channels = [row.channels for row in model.config.rows]
    return [channels.count(c) for c in dict.fromkeys(channels)]  # a row of theirs is a run of equal widths


def _parts(model: Backbone, theirs: str, ours: str, convs: list[str], norms: list[str]) -> dict[str, str]:
    """Return the prefixes of one block, given their names of its (two or three) convolutions and norms."""
    kernels = model.get_submodule(f"{ours}.depthwise")
    single = ".0" if len(list(kernels.children())) == 1 else ""
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


def _romulus(model: Backbone) -> dict[str, str]:
    prefixes = {}
    for theirs, ours in (("stem_conv", "stem.0"), ("head_conv", "tail")):
        prefixes |= {f"{theirs}.0": f"{ours}.conv", f"{theirs}.1": f"{ours}.norm"}
    for index, ours in enumerate(units(model)):
        parts = [p for p, m in model.get_submodule(ours).named_children() if not isinstance(m, nn.Identity)]
        place = 0
        for part in ("expand", "depthwise", "squeeze", "project"):
            if part not in parts:
                continue
            theirs = f"layers.{index}.conv.{place}"
            place += 1
            if part == "squeeze":
                prefixes |= {f"{theirs}.se_{way}": f"{ours}.squeeze.{way}" for way in ("reduce", "expand")}
            elif part == "depthwise":
                prefixes[f"{theirs}.0.mixed_depthwise_conv"] = f"{ours}.depthwise"
                prefixes[f"{theirs}.1"] = f"{ours}.norm"
            else:
                single = ".0" if model.get_submodule(f"{ours}.{part}.conv").groups == 1 else ""
                prefixes[f"{theirs}.0.grouped_conv{single}"] = f"{ours}.{part}.conv"
                prefixes[f"{theirs}.1"] = f"{ours}.{part}.norm"
    return prefixes


def _join_groups(model: Backbone, state: State) -> State:
    """Put the two convolutions that others have for two groups into one weight."""
    for key in [key for key in state if key.endswith((".expand.conv.0.weight", ".project.conv.0.weight"))]:
        other = key.replace(".conv.0.", ".conv.1.")
        if other in state:
            state[key.replace(".conv.0.", ".conv.")] = torch.cat([state.pop(key), state.pop(other)])
    return state


MIXNET = (
    Layout("timm", _timm, adjust=_join_groups),
    Layout("pytorchcv", _pytorchcv, adjust=_join_groups),
    Layout("romulus0914/MixNet-PyTorch", _romulus, adjust=_join_groups),
)
