"""Zeros around a tensor: written in the step that writes the tensor."""

from __future__ import annotations

from dataclasses import dataclass

from regroup.kernels.language.code import Code, Operand
from regroup.kernels.machine.target import Target
from regroup.kernels.problems import Problem
from regroup.kernels.problems.view import View
from regroup.kernels.templates.base import Kernel
from regroup.kernels.templates.parts.walk import address, vectors


@dataclass(frozen=True)
class Zeros(Problem):
    """Zero the halo of `y`; there is no input, `x` is `y`."""

    @property
    def views(self) -> tuple[View, ...]:
        """The one tensor."""
        return (self.y,)


class Border(Kernel):
    """Zeros left and right of every row, and whole rows above and below."""

    template = "halo"
    tile = "1x1"

    def __init__(self, problem: Zeros, target: Target) -> None:
        super().__init__(problem, target)
        halo = problem.y.halo
        self.items = halo.top + problem.y.height + halo.bottom
        self.cycles = float(self.items)

    def _emit(self, name: str) -> list[Code]:
        code, (pointer,) = self._open(name)
        _, low, high, _ = code.arguments
        view, halo = self.problem.y, self.problem.y.halo

        def columns(y: Operand, start: int, stop: int) -> None:
            for x in code.each(start, stop, name="column") if stop > start else ():
                for c, count in vectors(code, view.channels):
                    code.store(code.vec(0.0), address(view, pointer, y, x) + c, count)

        for item in code.each(low, high, name="item"):
            y = item - halo.top
            inside = code.compare("ult", y, view.height)
            for _ in code.when(inside):
                columns(y, -halo.left, 0)
                columns(y, view.width, view.width + halo.right)
            outside = code.compare("uge", y, view.height)
            for _ in code.when(outside):
                columns(y, -halo.left, view.width + halo.right)
        return [code]
