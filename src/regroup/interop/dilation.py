"""Strides that become dilation, so that the last maps of a network are larger: what DeepLab reads.

>>> from regroup.networks import create_model
>>> levels = Levels(create_model("resnet18"))
>>> dilate(levels, 16)
>>> [tuple(level.shape[2:]) for level in levels(torch.zeros(1, 3, 64, 64))]
[(64, 64), (32, 32), (16, 16), (8, 8), (4, 4), (4, 4)]

A convolution that no longer skips every other position leaves them to those behind it, which reach twice as
far apart (Chen et al., Rethinking Atrous Convolution, arXiv:1706.05587, section 3.1). Every second value of a
map is then what it was; an average pooling is taken over its neighbours as they are.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from regroup.errors import NetworkError
from regroup.interop.features import Levels

_STRIDED: Any = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)


def dilate(levels: Levels, output_stride: int) -> None:
    """Let no map be smaller than the image by more than so much; changes strides and dilations in place.

    Args:
        levels: of a network whose layers are modules of PyTorch's or derived from them.
        output_stride: a power of two.

    Raises:
        NetworkError: it has layers that are smaller by something else than the strides of such modules.
    """
    side = 4 << levels.depth
    wanted = [min(2**k, output_stride) if levels.out_channels[k] else 2**k for k in range(levels.depth + 1)]
    try:
        for module, height in _seen(levels, side).items():
            _change(module, max(1, side // height), output_stride)
        sizes = [side // level.shape[2] for level in _shown(levels, side)]
    except RuntimeError:  # the image is too small for it, or maps no longer fit together
        sizes = []
    if sizes != wanted:
        allowed = f"a network that shrinks maps by strides alone, for an output stride of {output_stride}"
        raise NetworkError("model", type(levels.body).__name__, allowed)


def _seen(levels: Levels, side: int) -> dict[nn.Module, int]:
    """Return each module that may stride, with the height of what it is given."""
    found: dict[nn.Module, int] = {}

    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        found[module] = max(found.get(module, 0), inputs[0].shape[2])

    hooks = [m.register_forward_pre_hook(note) for m in levels.modules() if isinstance(m, _STRIDED)]
    try:
        _shown(levels, side)
    finally:
        for hook in hooks:
            hook.remove()
    return found


@torch.no_grad()
def _shown(levels: Levels, side: int) -> list[Tensor]:
    """Return the maps of a blank image; norms remember nothing of it."""
    mode = levels.training
    weight = next(levels.parameters())
    try:
        image = torch.zeros(1, levels.in_chans, side, side, device=weight.device, dtype=weight.dtype)
        return levels.eval()(image)
    finally:
        levels.train(mode)


def _change(module: Any, reduction: int, output_stride: int) -> None:
    """Give a module that sees the image reduced so far the stride and the dilation that it should have."""
    kernel, stride = (_pair(getattr(module, name)) for name in ("kernel_size", "stride"))
    rate, most = max(1, reduction // output_stride), max(1, output_stride // reduction)
    kept = stride[0] <= most and stride[1] <= most
    module.stride = tuple(min(step, most) for step in stride)
    if not isinstance(module, nn.Conv2d):
        if not kept and kernel == stride:  # each value of one window
            module.kernel_size = module.stride
        return
    if rate > 1 and kernel != (1, 1):
        module.dilation = tuple(step * rate for step in _pair(module.dilation))
        if not isinstance(module.padding, str):
            module.padding = tuple(side * rate for side in _pair(module.padding))


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)
