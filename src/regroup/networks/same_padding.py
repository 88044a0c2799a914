"""Padding as TensorFlow does it: what it takes for ceil(size / stride) outputs, the odd pixel behind.

At stride 1 that is the usual padding. At stride 2 and an even size it is lopsided: a 3x3 kernel gets nothing
above and left, one row below and one column right. Weights trained in TensorFlow or Keras expect it.
"""

from __future__ import annotations

from math import inf

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regroup.errors import NetworkError
from regroup.spec import Size

SAME, SYMMETRIC = "same", "symmetric"


def check_padding(padding: object) -> None:
    """Hold that a network's field `padding` is a word for one.

    Raises:
        NetworkError: it is another word.
    """
    if isinstance(padding, str) and padding not in (SAME, SYMMETRIC):
        raise NetworkError("padding", padding, f"{SYMMETRIC!r} or {SAME!r}, as in TensorFlow")


def same_padding(size: int, kernel_size: int, stride: int) -> tuple[int, int]:
    """Return the zeros before and behind one side of an image.

    >>> same_padding(224, 3, 2), same_padding(225, 3, 2)
    ((0, 1), (1, 1))
    """
    total = max((-(-size // stride) - 1) * stride + kernel_size - size, 0)
    return total // 2, total - total // 2


@torch.fx.wrap
def pad_same(x: Tensor, kernel_size: Size, stride: Size, value: float = 0.0) -> Tensor:
    """Pad an image (N, C, H, W) for a window of that size and stride."""
    rows = same_padding(x.shape[2], kernel_size[0], stride[0])
    columns = same_padding(x.shape[3], kernel_size[1], stride[1])
    return F.pad(x, [columns[0], columns[1], rows[0], rows[1]], value=value)


class SameConv2d(nn.Conv2d):
    """A convolution with that padding."""

    def forward(self, input: Tensor) -> Tensor:
        """Convolve: (N, C, H, W) -> (N, K, ceil(H / stride), ceil(W / stride))."""
        return super().forward(pad_same(input, self.kernel_size, self.stride))  # type: ignore[bad-argument-type]


class SameMaxPool2d(nn.Module):
    """A maximum pooling with that padding, which is never the maximum."""

    def __init__(self, kernel_size: int, stride: int) -> None:
        super().__init__()
        self.kernel_size, self.stride = (kernel_size, kernel_size), (stride, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Pool: (N, C, H, W) -> (N, C, ceil(H / stride), ceil(W / stride))."""
        return F.max_pool2d(pad_same(x, self.kernel_size, self.stride, -inf), self.kernel_size, self.stride)


def pad_as_tensorflow(model: nn.Module) -> None:
    """Give every padded layer of `model` with a stride that padding; at stride 1 both are the same."""
    for parent in list(model.modules()):
        for name, layer in parent.named_children():
            if isinstance(layer, nn.MaxPool2d) and layer.stride != 1 and layer.padding:
                parent.add_module(name, SameMaxPool2d(layer.kernel_size, layer.stride))  # type: ignore[bad-argument-type]
            if isinstance(layer, nn.Conv2d) and max(layer.stride) > 1 and layer.padding != (0, 0):
                same = SameConv2d(
                    layer.in_channels,
                    layer.out_channels,
                    layer.kernel_size,  # type: ignore[bad-argument-type]
                    layer.stride,  # type: ignore[bad-argument-type]
                    groups=layer.groups,
                    bias=layer.bias is not None,
                )
                parent.add_module(name, same)
