"""CondenseNets v1 and v2 and dynamic ones: as they learn, with masks and heads; or as deployed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from regroup.errors import CheckpointError
from regroup.networks.backbone import Backbone
from regroup.networks.layouts import Layout, resnet
from regroup.networks.state_dicts import State
from regroup.networks.weights import load_weights
from regroup.ops.dynamic import DynamicGroupConv, packed
from regroup.strategies.condensed import CondensedLinear
from regroup.strategies.condensing import CondensingConv
from regroup.strategies.dynamic import DynamicConv
from regroup.strategies.learning import deploy, learned_modules, set_progress


def _official(model: Backbone) -> dict[str, str]:
    prefixes = {"features.init_conv": "stem", "features.norm_last": "tail.0", "bn_last": "tail.0"}
    for s, b, name in model.blocks():
        prefixes[f"features.denseblock_{s + 1}.denselayer_{b + 1}"] = name
    return prefixes | {"classifier.linear": "classifier"}


def _official_v2(model: Backbone) -> dict[str, str]:
    ends = {"fc": "hidden.2", "classifier": "classifier"}
    gate = {"features.se_last.fc.0": "hidden.0.reduce", "features.se_last.fc.2": "hidden.0.expand"}
    return _official(model) | ends | gate


def _pytorchcv(model: Backbone) -> dict[str, str]:
    prefixes = {"features.init_block.conv": "stem", "features.post_activ.bn": "tail.0"}
    prefixes |= {f"features.stage{s + 1}.unit{b + 1}": name for s, b, name in model.blocks()}
    return prefixes | {"output.linear": "classifier", "output": "classifier"}


def _adopt_learning(model: Backbone, state: State) -> State:
    """Take a state that the official code saved while it trained, with masks instead of indices.

    A learned network takes it as it is. For a deployed one condensing must be over; the state is deployed.

    Raises:
        CheckpointError: it is not over.
    """
    if not any(key.endswith("._mask") for key in state):
        return state
    network: Any = type(model)
    learning = model if learned_modules(model) else network(replace(model.config, learned=True))
    result = {k: v for k, v in state.items() if not k.endswith(("._count", "._stage", "._mask"))}
    for name, module in learned_modules(learning).items():
        if isinstance(module, CondensedLinear):
            result[f"{name}.kept"] = module.kept
        elif isinstance(module, CondensingConv) and f"{name}._mask" in state:
            result[f"{name}.kept"] = module.kept_of(state[f"{name}._mask"])
    if learning is model:
        return result
    load_weights(learning, result)
    if any(isinstance(m, CondensingConv) and not m.complete() for m in learning.modules()):
        raise CheckpointError("weights", "condensing is not over: load them with learned=True and train on")
    set_progress(learning, 1)
    return deploy(learning).state_dict()


def _list_rows(model: Backbone, state: State) -> State:
    """Turn matrices with one 1 in every row into the list of its columns; others stay, and do not fit."""
    for key in [key for key in state if key.endswith("reactivate.index") and state[key].ndim == 2]:
        matrix = state[key]
        if bool((matrix.count_nonzero(1) == 1).all() and (matrix.sum(1) == 1).all()):
            state[key] = matrix.argmax(1)
    return _adopt_learning(model, state)


HEAD = {
    "conv.weight": "conv.weight",
    "fc1.weight": "saliency.reduce.weight",
    "fc2.weight": "saliency.expand.weight",
    "fc2.bias": "saliency.expand.bias",
}
"""Parts of a head of theirs, and of all heads of ours."""


def _resnet(model: Backbone) -> dict[str, str]:
    prefixes = resnet.torchvision(model)
    for s, b, name in model.blocks():
        prefixes[f"layer{s + 1}.{b}.downsample.0"] = f"{name}.shortcut.0"
        prefixes[f"layer{s + 1}.{b}.downsample.1.norm"] = f"{name}.shortcut.1"
    return prefixes


def _join_heads(model: Backbone, state: State) -> State:
    """Put the heads, of which the official code has one module each, into one tensor for all."""
    result = dict(state)
    for name, layer in model.named_modules():
        first = f"{name}.headconv_0.conv.weight"
        if not isinstance(layer, (DynamicConv, DynamicGroupConv)) or first not in result:
            continue
        heads = [f"{name}.headconv_{i}" for i in range(layer.heads)]
        if any(f"{head}.{part}" not in result for head in heads for part in HEAD):
            continue
        for part, ours in HEAD.items():
            result[f"{name}.{ours}"] = torch.cat([result.pop(f"{head}.{part}") for head in heads])
        kernel, inactive = result.pop(f"{name}.conv.weight"), f"{name}._inactive_channels"
        if isinstance(layer, DynamicConv):
            result[f"{name}.conv.weight"] = kernel
            result[f"{name}.inactive"] = result.pop(inactive, layer.inactive).long()
            continue
        result[f"{name}.weight"] = packed(kernel, layer.heads)
        if inactive in result and int(result[inactive]) == layer.spec.in_channels - layer.kept:
            del result[inactive]  # any other number is reported as a key that does not fit
    return result


_CONVOLUTIONS = {"conv_1": "conv1", "conv_2": "conv2"}


_PARTS_V2 = {
    **_CONVOLUTIONS,
    "sfr": "reactivate",
    "se.fc.0": "squeeze.reduce",
    "se.fc.2": "squeeze.expand",
}


CONDENSENET = (
    Layout("ShichenLiu/CondenseNet", _official, _CONVOLUTIONS, _adopt_learning),
    Layout("pytorchcv", _pytorchcv, {"bn": "norm"}),
)
CONDENSENET_V2 = (Layout("jianghaojun/CondenseNetV2", _official_v2, _PARTS_V2, _list_rows),)
_NORMS = {"bn1": "norm1", "bn2": "norm2"}
DGC = (
    Layout("hellozhuo/dgc", _official, _CONVOLUTIONS, _join_heads),
    Layout("hellozhuo/dgc (ResNet)", _resnet, _NORMS, _join_heads),
)
