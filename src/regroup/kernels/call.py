"""A call of a program, prepared: what changes from run to run is set in microseconds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from regroup.errors import EngineError
from regroup.kernels.runner import FIELDS

if TYPE_CHECKING:
    from regroup.kernels.program import Program

_IMAGES = FIELDS.index("images")


class Call:
    """A program's argument in memory, made once for many runs with the same arena, of one at a time.

    Args:
        program: what to run.
        arena: address of memory as `Program.new_arena` gives it.
        threads: as for `Program.run`, like all that follows.
        image_per_thread: whether each thread does whole images.
        strides: floats from one image to the next, for each input and output.
        steps: a range of steps to run instead of all.
    """

    def __init__(
        self,
        program: Program,
        arena: int,
        threads: int,
        image_per_thread: bool,
        strides: Sequence[int],
        steps: tuple[int, int] | None = None,
    ) -> None:
        layout = program.layout
        if len(strides) != layout.buffer_count - 2:
            given = f"{1 + len(strides)}"
            raise EngineError(f"a program of {layout.buffer_count - 1} buffers was given {given}")
        self._places = np.array([arena, program.weights.ctypes.data, *strides], np.int64)
        self._gaps = np.array([0, 0, *strides], np.int64)
        self._program, self._region, self._threads = program, layout.region, threads  # alive while this is
        first, last = steps or (0, len(layout.kernels))
        private = layout.arena_floats * (threads if image_per_thread else 1) + layout.table_floats
        values = {
            "parts": layout.parts.ctypes.data,
            "views": layout.views.ctypes.data,
            "steps": layout.steps.ctypes.data,
            "fetches": layout.fetches.ctypes.data,
            "first_step": first,
            "last_step": last,
            "images": 0,
            "buffers": self._places.ctypes.data,
            "strides": self._gaps.ctypes.data,
            "buffer_count": len(self._places),
            "most_views": layout.most_views,
            "image_per_thread": int(image_per_thread),
            "scratch": arena + 4 * private,
            "scratch_stride": layout.scratch_floats,
            "arena_stride": layout.arena_floats,
        }
        self._fields = layout.region.fields(values, threads)
        self._address = self._fields.ctypes.data

    def __call__(self, images: int, buffers: Sequence[int]) -> None:
        """Run on so many images, which lie at `buffers`: addresses of the inputs, then of the outputs."""
        self._places[2:] = buffers
        self._fields[_IMAGES] = images
        self._region.run(self._address, self._threads)
