"""MobileNets v1, v2 and v3: blocks in rows, in stages, or in one list."""

from __future__ import annotations

from typing import Any

from regroup.networks.backbone import Backbone
from regroup.networks.layouts import Layout
from regroup.networks.state_dicts import State

STEM = {
    "conv_stem": "stem.0.conv",
    "bn1": "stem.0.norm",
    "features.init_block": "stem.0",
    "output": "classifier",
}
TIMM = {
    "conv_dw": "depthwise.conv",
    "bn1": "depthwise.norm",
    "conv_pw": "pointwise.conv",
    "bn2": "pointwise.norm",
}
PYTORCHCV = {
    "dw_conv.conv": "depthwise.conv",
    "dw_conv.bn": "depthwise.norm",
    "pw_conv.conv": "pointwise.conv",
    "pw_conv.bn": "pointwise.norm",
    "bn": "norm",
}


def units(model: Backbone) -> list[str]:
    """Return the names of all blocks of a mobile network, those in the stem first."""
    return [f"stem.{i}" for i in list(model.stem._modules)[1:]] + [name for *_, name in model.blocks()]


def _parts(model: Backbone, name: str) -> list[str]:
    """Return the names of the parts of an inverted residual that have weights."""
    return [part for part in model.get_submodule(name)._modules if part != "act"]


def _rows(model: Backbone, gated: bool) -> dict[str, str]:
    """Return the prefixes where each block is one row of modules, with its activations: d-li14's, tonylins'.

    If `gated`, there is a place for a gate in every block: before the activation where there is an expansion.
    """
    prefixes = {"features.0.0": "stem.0.conv", "features.0.1": "stem.0.norm"}
    names = units(model)
    for before in ("conv", f"features.{len(names) + 1}"):  # d-li14's tail, and tonylins'
        prefixes |= {f"{before}.0": "tail.conv", f"{before}.1": "tail.norm"}
    for index, name in enumerate(names, 1):
        at = f"features.{index}.conv"
        depthwise = 3 if "expand" in _parts(model, name) else 0
        places = {"expand": 0, "depthwise": depthwise, "project": depthwise + (4 if gated else 3)}
        gate = f"{at}.{depthwise + (2 if depthwise else 3)}.fc"
        prefixes |= {f"{gate}.0": f"{name}.squeeze.reduce", f"{gate}.2": f"{name}.squeeze.expand"}
        for part in set(places) & set(_parts(model, name)):
            prefixes[f"{at}.{places[part]}"] = f"{name}.{part}.conv"
            prefixes[f"{at}.{places[part] + 1}"] = f"{name}.{part}.norm"
    return prefixes


def _rows_v2(model: Backbone) -> dict[str, str]:
    return _rows(model, gated=False) | {"classifier.1": "classifier"}


def _rows_v3(model: Backbone) -> dict[str, str]:
    return _rows(model, gated=True) | {"classifier.0": "hidden.1", "classifier.3": "classifier"}


def _gate_last(state: State) -> dict[str, Any]:
    return {"gate_first": False}


def _gate_first(state: State) -> dict[str, Any]:
    return {"gate_first": True, "eps": 1e-5}


def timm_rows(model: Backbone, repeats: list[int]) -> dict[str, str]:
    """Return timm's prefixes of the blocks of a mobile network: 'blocks.ROW.INDEX'."""
    numbers = [f"blocks.{row}.{i}" for row, count in enumerate(repeats) for i in range(count)]
    return dict(zip(numbers, units(model), strict=True))


def _pytorchcv_units(model: Backbone) -> dict[str, str]:
    """Return pytorchcv's prefixes of the blocks of a mobile network: the first stage is in our stem."""
    stem = {f"features.stage1.unit{i}": f"stem.{i}" for i in list(model.stem._modules)[1:]}
    return stem | {f"features.stage{s + 2}.unit{b + 1}": name for s, b, name in model.blocks()}


def _timm_v1(model: Backbone) -> dict[str, str]:
    return STEM | timm_rows(model, [repeats for _, repeats, _ in model.config.rows])


def _pytorchcv_v1(model: Backbone) -> dict[str, str]:
    return STEM | _pytorchcv_units(model)


def _torchvision_v2(model: Backbone) -> dict[str, str]:
    names = units(model)
    prefixes = {"features.0": "stem.0", f"features.{len(names) + 1}": "tail", "classifier.1": "classifier"}
    for index, name in enumerate(names, 1):
        parts = _parts(model, name)
        for k, part in enumerate(parts[:-1]):
            prefixes[f"features.{index}.conv.{k}"] = f"{name}.{part}"
        last = len(parts) - 1
        prefixes[f"features.{index}.conv.{last}"] = f"{name}.project.conv"
        prefixes[f"features.{index}.conv.{last + 1}"] = f"{name}.project.norm"
    return prefixes


def _timm_v2(model: Backbone) -> dict[str, str]:
    head = {"conv_head": "tail.conv", "bn2": "tail.norm"}
    return STEM | head | _timm_parts(model, timm_rows(model, [row[2] for row in model.config.rows]))


def _timm_parts(model: Backbone, rows: dict[str, str]) -> dict[str, str]:
    """Return timm's prefixes of the parts of inverted residuals, given those of the blocks."""
    prefixes = {}
    for theirs, name in rows.items():
        convs = [part for part in _parts(model, name) if part != "squeeze"]
        kinds = ("conv_pw", "conv_dw", "conv_pwl") if len(convs) == 3 else ("conv_dw", "conv_pw")
        for i, (kind, part) in enumerate(zip(kinds, convs, strict=True), 1):
            prefixes[f"{theirs}.{kind}"] = f"{name}.{part}.conv"
            prefixes[f"{theirs}.bn{i}"] = f"{name}.{part}.norm"
        prefixes[f"{theirs}.se"] = f"{name}.squeeze"
    return prefixes


def _pytorchcv_v2(model: Backbone) -> dict[str, str]:
    prefixes = STEM | {"features.final_block": "tail"}
    for theirs, name in _pytorchcv_units(model).items():
        for i, part in enumerate(("expand", "depthwise", "project"), 1):
            prefixes[f"{theirs}.conv{i}"] = f"{name}.{part}"
    return prefixes


def _zero_bias(model: Backbone, state: State) -> State:
    """The classifier of pytorchcv has no bias."""
    weight = state.get("classifier.weight")
    return state if weight is None else {"classifier.bias": weight.new_zeros(len(weight)), **state}


def _torchvision_v3(model: Backbone) -> dict[str, str]:
    names = units(model)
    prefixes = {"features.0": "stem.0", f"features.{len(names) + 1}": "tail"}
    prefixes |= {"classifier.0": "hidden.1", "classifier.3": "classifier"}
    for index, name in enumerate(names, 1):
        for k, part in enumerate(_parts(model, name)):
            prefixes[f"features.{index}.block.{k}"] = f"{name}.{part}"
    return prefixes


def _timm_v3(model: Backbone) -> dict[str, str]:
    channels = [row.channels for row in model.config.rows]
    repeats = [channels.count(c) for c in dict.fromkeys(channels)]  # a row of timm is a run of equal widths
    last = f"blocks.{len(repeats)}.0"
    head = {f"{last}.conv": "tail.conv", f"{last}.bn1": "tail.norm", "conv_head": "hidden.1"}
    return STEM | head | _timm_parts(model, timm_rows(model, repeats))


V1 = (Layout("timm", _timm_v1, TIMM), Layout("pytorchcv", _pytorchcv_v1, PYTORCHCV))
V2 = (
    Layout("torchvision", _torchvision_v2, {"0": "conv", "1": "norm"}),
    Layout("timm", _timm_v2),
    Layout("pytorchcv", _pytorchcv_v2, {"bn": "norm"}, _zero_bias),
    Layout("tonylins or d-li14", _rows_v2),
)
_TORCHVISION_V3 = {"0": "conv", "1": "norm", "fc1": "reduce", "fc2": "expand"}
V3 = (
    Layout("torchvision", _torchvision_v3, _TORCHVISION_V3, implies=_gate_last),
    Layout("timm", _timm_v3, {"conv_reduce": "reduce", "conv_expand": "expand"}, implies=_gate_last),
    Layout("d-li14/mobilenetv3.pytorch", _rows_v3, implies=_gate_first),
)
