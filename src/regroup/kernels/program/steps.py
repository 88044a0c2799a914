"""What a program is made of: steps of problems, with the numbers that they need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from regroup.kernels.problems import Problem


@dataclass(frozen=True)
class Part:
    """One problem and the numbers it needs, by the names and shapes of `problem.parameters`."""

    problem: Problem
    parameters: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Step:
    """Parts that do not depend on each other; the next step begins when all of them are done.

    The halo of every output is zeroed in the same step.
    """

    name: str
    parts: tuple[Part, ...]
