"""GoogLeNet and Inception v3, in torchvision's words."""

from __future__ import annotations

from regroup.networks.backbone import Backbone
from regroup.networks.layouts import SEPARATORS, Layout

MODULES = ("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b")
CAFFE_BRANCHES = {
    "1x1": "0",
    "3x3_reduce": "1.0",
    "3x3": "1.1",
    "5x5_reduce": "2.0",
    "5x5": "2.1",
    "pool_proj": "3.1",
}


def _googlenet(model: Backbone) -> dict[str, str]:
    prefixes = {"conv1": "stem", "conv2": "stages.0.0", "conv3": "stages.0.1", "fc": "classifier"}
    modules = [name for s, _, name in model.blocks() if s > 0]
    for theirs, ours in zip(MODULES, modules, strict=True):
        prefixes |= {f"inception{theirs}.branch{i + 1}": f"{ours}.{i}" for i in range(4)}
    for theirs, ours in (("aux1", "heads.2_0"), ("aux2", "heads.2_3")):
        prefixes |= {f"{theirs}.conv": f"{ours}.conv", f"{theirs}.fc1": f"{ours}.hidden"}
        prefixes[f"{theirs}.fc2"] = f"{ours}.classifier"
    return prefixes


def _steps(branch: str, count: int, fan: bool = False) -> dict[str, str]:
    """Torchvision's names of the layers of a branch -> ours; a fan has two layers side by side at its end."""
    names = {f"{branch}_{i + 1}": str(i) for i in range(count)}
    return names | (
        {f"{branch}_{count + 1}{side}": f"{count}.{i}" for i, side in enumerate("ab")} if fan else {}
    )


PLAIN, POOL = {"branch1x1": "0"}, {"branch_pool": "1"}
FINE = (PLAIN, _steps("branch5x5", 2), _steps("branch3x3dbl", 3), POOL)
MIDDLE = (PLAIN, _steps("branch7x7", 3), _steps("branch7x7dbl", 5), POOL)
COARSE = (PLAIN, _steps("branch3x3", 1, fan=True), _steps("branch3x3dbl", 2, fan=True), POOL)
INCEPTION_V3_MODULES = {
    **dict.fromkeys(("5b", "5c", "5d"), FINE),
    "6a": ({"branch3x3": "0"}, _steps("branch3x3dbl", 3)),
    **dict.fromkeys(("6b", "6c", "6d", "6e"), MIDDLE),
    "7a": (_steps("branch3x3", 2), _steps("branch7x7x3", 4)),
    **dict.fromkeys(("7b", "7c"), COARSE),
}


def _inception_v3(model: Backbone) -> dict[str, str]:
    prefixes = {"fc": "classifier", "AuxLogits.fc": "heads.2_4.classifier"}
    prefixes |= {f"AuxLogits.conv{i}": f"heads.2_4.convs.{i}" for i in range(2)}
    convs = ("1a_3x3", "2a_3x3", "2b_3x3", "3b_1x1", "4a_3x3")
    ours = ("stem.0", "stem.1", "stem.2", "stages.0.0", "stages.0.1")
    prefixes |= {f"Conv2d_{theirs}": name for theirs, name in zip(convs, ours, strict=True)}
    names = [name for s, _, name in model.blocks() if s > 0]
    for (module, branches), name in zip(INCEPTION_V3_MODULES.items(), names, strict=True):
        for i, layers in enumerate(branches):
            prefixes |= {
                f"Mixed_{module}.{theirs}": f"{name}.{i}.{layer}" for theirs, layer in layers.items()
            }
    return prefixes


def _caffe(model: Backbone) -> dict[str, str]:
    prefixes = {}
    modules = [name for s, _, name in model.blocks() if s > 0]
    for x in SEPARATORS:
        prefixes |= {f"conv1{x}7x7_s2": "stem.conv", f"loss3{x}classifier": "classifier"}
        prefixes |= {f"conv2{x}3x3_reduce": "stages.0.0.conv", f"conv2{x}3x3": "stages.0.1.conv"}
        for theirs, ours in zip(MODULES, modules, strict=True):
            for layer, place in CAFFE_BRANCHES.items():
                prefixes[f"inception_{theirs}{x}{layer}"] = f"{ours}.{place}.conv"
        for loss, head in (("loss1", "heads.2_0"), ("loss2", "heads.2_3")):
            prefixes |= {f"{loss}{x}conv": f"{head}.conv.conv", f"{loss}{x}fc": f"{head}.hidden"}
            prefixes[f"{loss}{x}classifier"] = f"{head}.classifier"
    return prefixes


def head_not_there(model: Backbone, key: str) -> bool:
    """Say of a weight whether it is of an auxiliary head that the model does not have."""
    return key.startswith("heads.") and not model.config.aux


GOOGLENET = (
    Layout("torchvision", _googlenet, {"bn": "norm"}, unused=head_not_there),
    Layout("Caffe", _caffe, unused=head_not_there),
)
INCEPTION_V3 = (Layout("torchvision", _inception_v3, {"bn": "norm"}, unused=head_not_there),)
