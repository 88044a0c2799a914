"""A network's kernels, joined into one native function."""

from __future__ import annotations

from regroup.kernels.program.arrangement import Arrangement, aligned, at_origin, why_not
from regroup.kernels.program.program import Call, Program, build
from regroup.kernels.program.steps import Part, Step

__all__ = ["Arrangement", "Call", "Part", "Program", "Step", "aligned", "at_origin", "build", "why_not"]
