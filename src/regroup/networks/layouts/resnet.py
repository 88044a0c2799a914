"""ResNets and what is built like one: torchvision's names are those of almost everyone."""

from __future__ import annotations

from regroup.networks.backbone import Backbone
from regroup.networks.layouts import Layout
from regroup.networks.state_dicts import State


def torchvision(model: Backbone) -> dict[str, str]:
    """Return the prefixes of a ResNet's stem, blocks and classifier."""
    blocks = {f"layer{s + 1}.{b}": name for s, b, name in model.blocks()}
    return {"conv1": "stem.conv", "bn1": "stem.norm", "fc": "classifier", **blocks}


def pytorchcv(model: Backbone) -> dict[str, str]:
    """Return the prefixes of the same in pytorchcv's words."""
    stem = "features.init_block" if getattr(model.config, "small", False) else "features.init_block.conv"
    prefixes = {f"{stem}.conv": "stem.conv", f"{stem}.bn": "stem.norm", "output": "classifier"}
    for s, b, name in model.blocks():
        unit = f"features.stage{s + 1}.unit{b + 1}"
        prefixes |= {f"{unit}.body": name, f"{unit}.identity_conv": f"{name}.shortcut"}
    return prefixes


def convolutions(*numbers: int) -> dict[str, str]:
    """Return torchvision's parts of a block: these convolutions with their norms, and the shortcut."""
    parts = {f"conv{i}": f"conv{i}.conv" for i in numbers} | {f"bn{i}": f"conv{i}.norm" for i in numbers}
    return parts | {"downsample.0": "shortcut.conv", "downsample.1": "shortcut.norm"}


def _constant(model: Backbone, key: str) -> bool:
    """Say whether it is one of the matrices that every layer of theirs carries."""
    return key.endswith((".conv2.D", ".conv2.I"))


def _not_fixed(model: Backbone, state: State) -> State:
    """Add that no grouping is fixed."""
    result = dict(state)
    for key, buffer in model.named_buffers():
        if key.endswith("conv2.fixed") and f"{key.removesuffix('fixed')}gates" in result:
            result.setdefault(key, buffer.new_full(buffer.shape, -1))
    return result


def _prlz77(model: Backbone) -> dict[str, str]:
    prefixes = {"conv_1_3x3": "stem.conv", "bn_1": "stem.norm"}
    for s, b, name in model.blocks():
        prefixes[f"stage_{s + 1}.stage_{s + 1}_bottleneck_{b}"] = name
    return prefixes


def _cadene(model: Backbone) -> dict[str, str]:
    prefixes = {"features.0": "stem.conv", "features.1": "stem.norm", "last_linear": "classifier"}
    places = {"0.0.0": "conv1.conv", "0.0.1": "conv1.norm", "0.0.3": "conv2.conv", "0.0.4": "conv2.norm"}
    places |= {"0.1": "conv3.conv", "0.2": "conv3.norm", "1.0": "shortcut.conv", "1.1": "shortcut.norm"}
    for s, b, name in model.blocks():
        for theirs, ours in places.items():
            prefixes[f"features.{s + 4}.{b}.0.{theirs}"] = f"{name}.{ours}"
    return prefixes


_PRLZ77 = {
    "conv_reduce": "conv1.conv",
    "bn_reduce": "conv1.norm",
    "conv_conv": "conv2.conv",
    "bn": "conv2.norm",
    "conv_expand": "conv3.conv",
    "bn_expand": "conv3.norm",
    "shortcut_conv": "conv",
    "shortcut_bn": "norm",
}
_GROUPABLE = {"conv2.gate": "conv2.gates", "bn2": "norm2", **convolutions(1, 3)}
_SCALES = {
    **{f"conv2.{i}": f"conv2.convs.{r}" for i, r in enumerate((1, 2, 4, 7))},
    **{f"bn2.{i}": f"conv2.norms.{r}.0" for i, r in enumerate((1, 2, 4, 7))},
    **convolutions(1, 3),
}

RESNET = (
    Layout("torchvision", torchvision, convolutions(1, 2, 3)),
    Layout("pytorchcv", pytorchcv, {"bn": "norm"}),
    Layout("prlz77/ResNeXt.pytorch", _prlz77, _PRLZ77),
    Layout("Cadene/pretrained-models.pytorch", _cadene),
)
G_RESNEXT = (Layout("d-li14/dgconv.pytorch", torchvision, _GROUPABLE, _not_fixed, _constant),)
SCALENET = (Layout("Eli-YiLi/ScaleNet", torchvision, _SCALES),)
