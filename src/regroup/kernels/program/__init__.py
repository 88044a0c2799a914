"""A network's kernels, joined into one native function."""

from __future__ import annotations

from regroup.kernels.program.layout import at_origin, why_not
from regroup.kernels.program.program import Call, Program, aligned, build
from regroup.kernels.program.steps import Part, Step

__all__ = ["Call", "Part", "Program", "Step", "aligned", "at_origin", "build", "why_not"]
