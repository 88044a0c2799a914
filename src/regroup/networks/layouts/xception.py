"""Xception, in timm's words, which are Cadene's."""

from __future__ import annotations

from regroup.networks.backbone import Backbone
from regroup.networks.layouts import Layout

PARTS = {"conv1": "depthwise", "skip": "shortcut.conv", "skipbn": "shortcut.norm", "bn": "norm"}


def _timm(model: Backbone) -> dict[str, str]:
    prefixes = {"fc": "classifier", "last_linear": "classifier"}  # timm's name, and Cadene's
    for i in (1, 2):
        prefixes |= {f"conv{i}": f"stem.{i - 1}.conv", f"bn{i}": f"stem.{i - 1}.norm"}
        prefixes |= {f"conv{i + 2}": f"stages.3.{i}", f"bn{i + 2}": f"stages.3.{i}.norm"}
    blocks = [name for *_, name in model.blocks() if hasattr(model.get_submodule(name), "convs")]
    for number, name in enumerate(blocks, 1):
        theirs = f"block{number}"
        prefixes[theirs] = name
        for i in range(len(list(model.get_submodule(f"{name}.convs").children()))):
            # a ReLU stands first in every group of three, but for the first block
            place = 3 * i + (0 if number == 1 else 1)
            prefixes[f"{theirs}.rep.{place}"] = f"{name}.convs.{i}"
            prefixes[f"{theirs}.rep.{place + 1}"] = f"{name}.convs.{i}.norm"
    return prefixes


XCEPTION = (Layout("timm", _timm, PARTS),)
