"""IGCV3, in pytorchcv's words."""

from __future__ import annotations

from regroup.networks.backbone import Backbone
from regroup.networks.layouts import Layout


def _pytorchcv(model: Backbone) -> dict[str, str]:
    prefixes = {"features.init_block": "stem", "features.final_block": "tail", "output": "classifier"}
    for s, b, name in model.blocks():
        prefixes[f"features.stage{s + 1}.unit{b + 1}"] = name
    return prefixes


IGCV3 = (Layout("pytorchcv", _pytorchcv, {"bn": "norm"}),)
