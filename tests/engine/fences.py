"""Run a compiled network's native code in memory with fences around: nothing may be written beyond it."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from regroup.engine.running.plan import NativeSegment
from regroup.kernels.program import Call

_WIDTH, _POST = 1024, np.float32(12345.678)


class Fenced:
    """Memory of so many floats, aligned to 64 bytes, between two fences."""

    def __init__(self, floats: int) -> None:
        self._whole = np.full(floats + 2 * _WIDTH + 16, _POST, np.float32)
        self._start = _WIDTH - (self._whole.ctypes.data // 4 + _WIDTH) % 16 + 16
        self.inside = self._whole[self._start : self._start + floats]

    @property
    def address(self) -> int:
        return self.inside.ctypes.data

    @property
    def is_intact(self) -> bool:
        end = self._start + len(self.inside)
        return bool((self._whole[: self._start] == _POST).all() and (self._whole[end:] == _POST).all())


def run_fenced(segment: NativeSegment, inputs: list[Tensor], threads: int | None = None) -> list[Tensor]:
    """Do what `segment.run` does, each thread with images of its own or not, and look at the fences."""
    images, inputs = len(inputs[0]), [x.contiguous() for x in inputs]
    strides = [math.prod(value.shape) for value in (*segment.inputs, *segment.outputs)]
    results: list[list[Tensor]] = []
    for apart in (False, True):
        arena = Fenced(segment.program.floats(2, apart))
        outputs = [Fenced(images * stride) for stride in strides[len(inputs) :]]
        places = [x.data_ptr() for x in inputs] + [output.address for output in outputs]
        Call(segment.program, arena.address, 2, apart, strides)(images, places)
        assert all(memory.is_intact for memory in (arena, *outputs)), "written beyond its memory"
        shapes = [(images, *value.shape) for value in segment.outputs]
        results.append([torch.from_numpy(o.inside).view(s) for o, s in zip(outputs, shapes, strict=True)])
    assert all(map(torch.equal, *results))
    return results[0]
