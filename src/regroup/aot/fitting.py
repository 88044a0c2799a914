"""Which smaller images a network could take in less memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from regroup.aot.network import whole_network
from regroup.errors import EngineError
from regroup.kernels.machine.target import Target
from regroup.kernels.program import Arrangement
from regroup.kernels.program.entry import memory_floats

_STEPS = 16
"""Sizes that are thought of: sixteenths of the one given, so that four tries find the largest."""

_WHOLE = 8
"""Sides are multiples of this, more or less what networks reduce images by."""


def smaller_image(
    model: Callable[..., Any], example: Any, target: Target, ram: int
) -> tuple[int, int] | None:
    """Return height and width of the largest smaller images that fit in `ram` bytes, None if none is found.

    Args:
        model: what is to be exported.
        example: its input; nothing is found but for a single image.
        target: the CPU.
        ram: bytes for the arena, inputs and outputs.
    """
    if not isinstance(example, Tensor) or example.dim() != 4:
        return None
    low, high = 0, _STEPS  # the largest that fits lies between; the one given does not
    while high - low > 1:
        middle = (low + high) // 2
        if _fits(model, example, _side(example, middle), target, ram):
            low = middle
        else:
            high = middle
    return _side(example, low) if low else None


def _side(example: Tensor, steps: int) -> tuple[int, int]:
    height, width = (max(1, size * steps // _STEPS // _WHOLE) * _WHOLE for size in example.shape[2:])
    return height, width


def _fits(model: Any, example: Tensor, side: tuple[int, int], target: Target, ram: int) -> bool:
    try:
        network = whole_network(model, torch.zeros(1, example.shape[1], *side), target)
    except EngineError:  # the network does not take such small images
        return False
    arrangement = Arrangement(network.schedule.steps, target, network.schedule.arena_floats)
    floats = sum(port.floats for port in (*network.inputs, *network.outputs))
    return 4 * (memory_floats(arrangement) + floats) <= ram
