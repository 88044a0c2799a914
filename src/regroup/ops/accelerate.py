"""Let the convolutions of any model go through regroup's operator, where that is quicker.

>>> model = nn.Sequential(nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 32, 1))
>>> print(accelerate(model))
1 of 2 convolutions accelerated
left alone: 1: groups of 32 channels are quicker as products of matrices
>>> decelerate(model)[0]
Conv2d(8, 8, kernel_size=(3, 3), stride=(1, 1), groups=8)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regroup.ops.functional import conv as convolve
from regroup.ops.passes import WIDEST


@dataclass(frozen=True)
class Accelerated:
    """What `accelerate` did.

    Attributes:
        layers: names of the convolutions that go through regroup's operator now.
        left: why not, by name, for the others.
    """

    layers: list[str] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        count = len(self.layers) + len(self.left)
        lines = [f"{len(self.layers)} of {count} convolutions accelerated"]
        reasons: dict[str, list[str]] = {}
        for name, why in self.left.items():
            reasons.setdefault(why, []).append(name)
        for why, names in reasons.items():
            shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
            lines.append(f"left alone: {shown}: {why}")
        return "\n".join(lines)


class _Accelerated:
    def forward(self, input: Tensor) -> Tensor:
        if not torch.jit.is_scripting():  # this line is all that TorchScript does not read
            return self._convolved(input)
        return self._conv_forward(input, self.weight, self.bias)  # type: ignore[missing-attribute]

    def _convolved(self, input: Tensor) -> Tensor:
        conv: Any = self
        if torch.onnx.is_in_onnx_export():  # which knows PyTorch's operators only
            return conv._conv_forward(input, conv.weight, conv.bias)
        padding = conv.padding
        if conv.padding_mode != "zeros":
            input = F.pad(input, conv._reversed_padding_repeated_twice, conv.padding_mode)
            padding = 0
        return convolve(input, conv.weight, conv.bias, conv.stride, padding, conv.dilation, conv.groups)


class AcceleratedConv1d(_Accelerated, nn.Conv1d):
    """nn.Conv1d through `regroup.ops.conv1d`: the same parameters, numbers and state dict."""


class AcceleratedConv2d(_Accelerated, nn.Conv2d):
    """nn.Conv2d through `regroup.ops.conv2d`: the same parameters, numbers and state dict."""


class AcceleratedConv3d(_Accelerated, nn.Conv3d):
    """nn.Conv3d through `regroup.ops.conv3d`: the same parameters, numbers and state dict."""


ACCELERATED = (AcceleratedConv1d, AcceleratedConv2d, AcceleratedConv3d)

_CLASSES: dict[type[nn.Module], type[nn.Module]] = dict(
    zip((nn.Conv1d, nn.Conv2d, nn.Conv3d), ACCELERATED, strict=True)
)


def accelerate(model: nn.Module) -> Accelerated:
    """Let every convolution of `model` that gains go through regroup's operator, in place.

    Parameters, results (within rounding), hooks and the state dict stay as they are; `decelerate` undoes it.
    `torch.jit.script` and ONNX, which know PyTorch's operators only, get PyTorch's convolutions.
    What gains are convolutions whose groups are narrow: depthwise ones, and groups of up to 16 channels.

    Args:
        model: any module of PyTorch; a convolution that is used twice is changed once.

    Returns:
        Which layers were changed, and why not the others.
    """
    result = Accelerated()
    for name, module in model.named_modules():
        if not isinstance(module, tuple(_CLASSES)):
            continue
        reason = _why_not(module)
        if reason is None:
            module.__class__ = _CLASSES.get(type(module), type(module))
            result.layers.append(name)
        else:
            result.left[name] = reason
    return result


def decelerate(model: nn.Module) -> nn.Module:
    """Undo `accelerate`; return the model."""
    plain = {ours: theirs for theirs, ours in _CLASSES.items()}
    for module in model.modules():
        module.__class__ = plain.get(type(module), type(module))
    return model


@contextmanager
def accelerated(model: nn.Module) -> Iterator[Accelerated]:
    """Accelerate what of `model` is not yet, inside of the `with` only."""
    done = accelerate(model)
    try:
        yield done
    finally:
        decelerate(model)


def _why_not(conv: Any) -> str | None:
    if type(conv) in ACCELERATED:
        return None
    if type(conv) not in _CLASSES:
        return f"its class {type(conv).__name__} computes in a way of its own"
    width = max(conv.in_channels, conv.out_channels) // conv.groups
    if width > WIDEST:
        return f"groups of {width} channels are quicker as products of matrices"
    return None
