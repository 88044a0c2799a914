"""Count parameters and MACs by running a module, not by knowing it.

>>> count(nn.Conv2d(8, 8, 3, padding=1, groups=4), (5, 5))
Cost(parameters=152, macs=3600)

PyTorch's own counter is right for the forward pass of a grouped convolution and wrong for its backward
pass: it does not divide the weight gradient by the groups, so that G groups read (1 + G) / 2 times too much.
`convolution_backward_flops` is the right formula; every count here uses it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from regroup.spec import Cost


def convolution_backward_flops(
    grad_out_shape: Sequence[int],
    x_shape: Sequence[int],
    w_shape: Sequence[int],
    _bias: object,
    _stride: object,
    _padding: object,
    _dilation: object,
    transposed: bool,
    _output_padding: object,
    _groups: int,
    output_mask: Sequence[bool],
    out_shape: object = None,
    **_: object,
) -> int:
    """Return the FLOPs (2 x MACs) of aten.convolution_backward, for any number of groups.

    The gradients of input and weight each take as many MACs as the forward pass: every product of an
    input, a weight and an output gradient occurs once in each of the three. The weight has its input
    channels already divided by the groups, so that the forward's count needs no groups at all.
    """
    per_pixel = math.prod(w_shape)
    pixels = x_shape if transposed else grad_out_shape
    forward = 2 * pixels[0] * math.prod(pixels[2:]) * per_pixel
    return forward * sum(bool(wanted) for wanted in output_mask[:2])


def flop_counter(display: bool = False) -> FlopCounterMode:
    """Return PyTorch's counter with the right formula for grouped convolutions in training."""
    return FlopCounterMode(
        display=display, custom_mapping={torch.ops.aten.convolution_backward: convolution_backward_flops}
    )


def executed_flops(func: torch._ops.OpOverload, args: tuple, kwargs: dict, out: object) -> int | None:
    """Return the FLOPs (2 x MACs) of one call of an operator, or None if no formula is known for it.

    Formulas are PyTorch's, those registered by `torch.utils.flop_counter.register_flop_formula` for custom
    operators, and the correct one for grouped convolutions in training.
    """
    formula = flop_counter().flop_registry.get(func.overloadpacket)
    return None if formula is None else formula(*args, **kwargs, out_val=out)


def count(module: nn.Module, size: tuple[int, int], in_channels: int | None = None) -> Cost:
    """Return the parameters of a module and the MACs it executes on one image of `size`.

    Runs a copy of the module in eval mode on shapes alone (the meta device): no time, no memory.

    Args:
        module: takes (1, in_channels, *size).
        size: (height, width).
        in_channels: of the input; by default those of the first convolution or linear layer.
    """
    if in_channels is None:
        in_channels = _first_channels(module)
    shadow = copy.deepcopy(module).to("meta", torch.float32).eval()
    return Cost(
        sum(p.numel() for p in module.parameters()),
        count_macs(shadow, torch.empty(1, in_channels, *size, device="meta")),
    )


def count_macs(module: nn.Module, *inputs: Tensor) -> int:
    """Return the MACs of one forward pass on these inputs."""
    with flop_counter() as counter, torch.no_grad():
        module(*inputs)
    return counter.get_total_flops() // 2


def _first_channels(module: nn.Module) -> int:
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            return layer.in_channels
        if isinstance(layer, nn.Linear):
            return layer.in_features
    raise ValueError("the module has no convolution or linear layer: give in_channels")
