"""Kernels -> one native function for a whole network: step by step, each shared by the threads that come.

program = build([Step("conv1", (Part(conv, {"weight": w, "bias": b}),)), ...])
arena = program.new_arena(threads=2)
program.run([arena.ctypes.data, x.data_ptr(), y.data_ptr()], threads=2)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from regroup.errors import EngineError
from regroup.kernels.machine.target import Target
from regroup.kernels.program.arrangement import aligned
from regroup.kernels.program.code import Form, code_of_step, step_number
from regroup.kernels.program.crowd import Preference
from regroup.kernels.program.layout import Layout
from regroup.kernels.program.runner import FIELDS
from regroup.kernels.program.steps import Step
from regroup.kernels.templates.halo import Zeros

_IMAGES = FIELDS.index("images")


def build(
    steps: Sequence[Step],
    target: Target | None = None,
    *,
    arena_floats: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Program:
    """Choose a template for every part, generate, compile (or take from the cache) and pack.

    Args:
        steps: what to do, in order.
        target: the CPU, this one by default; it must be one that this machine can run.
        arena_floats: size of one thread's arena; the views' extent by default.
        progress: called with (kernels done, kernels in all).

    Raises:
        KernelError: a problem that no template covers; ask `why_not` first.
    """
    layout = Layout(steps, target or Target.host(), arena_floats, progress)
    return Program(layout, layout.arrangement.pack(steps))


@dataclass(frozen=True)
class Choice:
    """How a part is done: for people who read `explain()`."""

    template: str
    tile: str
    items: int


class Program:
    """A network's native code with its packed weights; immutable, so any number of threads may run it.

    Attributes:
        choices: per step, how each part is done.
        arena_floats: floats of one arena (see `new_arena`).
        layout: all that does not depend on the weights.
        weights: the packed weights.
    """

    def __init__(self, layout: Layout, weights: np.ndarray) -> None:
        self.layout, self.weights = layout, weights
        self.arena_floats = layout.arena_floats
        self.choices = tuple(
            tuple(Choice(k.template, k.tile, k.items) for k in kernels if not isinstance(k.problem, Zeros))
            for kernels in layout.kernels
        )

    def floats(self, threads: int, image_per_thread: bool = False) -> int:
        """Return the size of the first buffer of `run`, in floats: arenas, then threads' scratch memory."""
        arenas = threads if image_per_thread else 1
        return arenas * self.layout.arena_floats + threads * self.layout.scratch_floats

    def new_arena(self, threads: int, image_per_thread: bool = False) -> np.ndarray:
        """Return a buffer of `floats(...)` floats, aligned to 64 bytes; its content does not matter."""
        return aligned(self.floats(threads, image_per_thread))

    def run(
        self,
        buffers: Sequence[int],
        *,
        threads: int,
        images: int = 1,
        strides: Sequence[int] = (),
        image_per_thread: bool = False,
        steps: tuple[int, int] | None = None,
    ) -> None:
        """Run steps on images, one image after the other, or one per thread at a time.

        Args:
            buffers: addresses of the arena, then of the network's inputs and outputs: buffers 0, 2, 3, ...
                of the views. The arena is `new_arena(threads, image_per_thread)` and belongs to this call.
            threads: how many threads to use at most.
            images: batch size.
            strides: floats from one image to the next, for each of `buffers` but the arena.
            image_per_thread: each thread does whole images in an arena of its own, instead of all threads
                sharing each step.
            steps: a range of steps to run instead of all; for timing.

        Raises:
            EngineError: the buffers are not those that the views name.
        """
        call = Call(self, buffers[0], threads, image_per_thread, strides or [0] * (len(buffers) - 1), steps)
        call(images, buffers[1:])

    def code(self, step: int | str, form: Form = "listing") -> str:
        """Return the code of a step, which is what has been compiled.

        Args:
            step: its number from 0, or its name.
            form: "listing" (loops and vector operations), "llvm" (LLVM assembly) or "asm" (the CPU's).

        Raises:
            ParameterError: there is no such step, or form.
        """
        return code_of_step(self.layout, step_number(self.layout.names, step), form)

    def pack(self, steps: Sequence[Step]) -> Program:
        """Return a program of the same code with the parameters of `steps` (same problems) in it."""
        return Program(self.layout, self.layout.arrangement.pack(steps))


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
        self.preference = Preference()
        self._program, self._region, self._threads = program, layout.region, threads  # alive while this is
        first, last = steps or (0, len(layout.kernels))
        private = layout.arena_floats * (threads if image_per_thread else 1) + layout.table_floats
        self._board = layout.region.board(threads)
        self._chunks, self._claims = layout.chunks(threads)
        values = {
            "board": 0,
            "teams": 0,
            "parts": layout.parts.ctypes.data,
            "views": layout.views.ctypes.data,
            "steps": layout.steps.ctypes.data,
            "fetches": layout.fetches.ctypes.data,
            "first_step": first,
            "last_step": last,
            "chunks": self._chunks.ctypes.data,
            "claims": self._claims.ctypes.data,
            "patience": layout.region.patience(layout.longest(threads, image_per_thread)),
            "images": 0,
            "buffers": self._places.ctypes.data,
            "strides": self._gaps.ctypes.data,
            "buffer_count": len(self._places),
            "most_views": layout.most_views,
            "threads": threads,
            "image_per_thread": int(image_per_thread),
            "scratch": arena + 4 * private,
            "scratch_stride": layout.scratch_floats,
            "arena_stride": layout.arena_floats,
        }
        self._fields = np.array([values[name] for name in FIELDS], np.int64)

    def __call__(self, images: int, buffers: Sequence[int], *, ours: bool = False) -> None:
        """Run on so many images, which lie at `buffers`: addresses of the inputs, then of the outputs.

        Args:
            images: how many.
            buffers: where.
            ours: on threads of our own; else on those, our own or PyTorch's, with which it is faster.
        """
        self._places[2:] = buffers
        self._fields[_IMAGES] = images
        preference = None if ours else self.preference
        self._region.run(self._fields, self._threads, self._board.ctypes.data, preference)
