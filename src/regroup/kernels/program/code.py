"""The code of a step of a program, for people: as a listing, as LLVM assembly, or as the machine's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from regroup.errors import ParameterError
from regroup.kernels.language.code import assembly
from regroup.kernels.language.listing import listing
from regroup.kernels.machine import jit
from regroup.kernels.problems import Problem
from regroup.kernels.program.layout import Layout
from regroup.kernels.templates.base import Kernel

Form = Literal["listing", "llvm", "asm"]
"""Loops and vector operations as pseudo-code, LLVM assembly, or machine code in the CPU's own assembly."""

_COMMENT = {"listing": "#", "llvm": ";", "asm": "#"}


def code_of_step(layout: Layout, number: int, form: Form = "listing") -> str:
    """Return the code of each kernel of a step, zeros around its outputs included, each kernel once."""
    if form not in _COMMENT:
        raise ParameterError("form", form, ", ".join(map(repr, _COMMENT)))
    kernels = dict.fromkeys(layout.kernels[number])
    head = f"{_COMMENT[form]} step {number}: {layout.names[number]}"
    return "\n\n".join([head, *(code_of_kernel(kernel, form) for kernel in kernels)])


def code_of_kernel(kernel: Kernel, form: Form = "listing", name: str = "kernel") -> str:
    """Return the code that `kernel` generates and that is compiled, with the function called `name`."""
    functions = kernel.emit(name)
    head = f"{_COMMENT[form]} {_words(kernel.problem)}: {kernel.items} work items"
    if form == "listing":
        body = listing(functions)
    elif form == "llvm":
        body = assembly(functions)
    else:
        body = jit.machine_assembly(assembly(functions), kernel.target)
    return f"{head}\n{body}"


def _words(problem: Problem) -> str:
    """Return a problem's name and sizes."""
    sizes = " -> ".join(f"{v.channels}x{v.height}x{v.width}" for v in (problem.x, problem.y))
    return f"{type(problem).__name__} {sizes}"


def step_number(names: Sequence[str], step: int | str) -> int:
    """Return the number of a step that is given by number (from 0) or by name.

    >>> step_number(["stem", "pool"], "pool"), step_number(["stem", "pool"], "0")
    (1, 0)

    Raises:
        ParameterError: there is none, or more than one of that name.
    """
    if isinstance(step, int) or (step.isdecimal() and step not in names):
        number = int(step)
        if not 0 <= number < len(names):
            raise ParameterError("step", step, f"0 to {len(names) - 1}, or a step's name")
        return number
    found = [i for i, name in enumerate(names) if name == step]
    found = found or [i for i, name in enumerate(names) if step in name.split(" | ")]
    found = found or [i for i, name in enumerate(names) if step in name]
    if len(found) != 1:
        several = ", ".join(f"{i} ({names[i]})" for i in found[:8]) + (", ..." if len(found) > 8 else "")
        remedy = f"it is part of the names of steps {several}" if found else "explain() lists them"
        raise ParameterError("step", step, f"the name of one step, or 0 to {len(names) - 1}", remedy)
    return found[0]
