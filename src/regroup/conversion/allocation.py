"""What each layer becomes, so that the network keeps within its budget and is damaged least: exactly.

>>> dense, half = Candidate(0.0, {"time": 2.0}), Candidate(0.3, {"time": 1.0})
>>> allocate([[dense, half], [dense, Candidate(0.1, {"time": 1.0})]], {"time": 3.0})
[0, 1]

Minimise the sum of damages such that the sum of each cost is within its budget, with one candidate for each
layer: the multiple-choice knapsack, solved by branch and bound over its linear programme (HiGHS), to
optimality. With one budget in whole numbers the dynamic programme over its buckets gives the same; several
budgets at a time need this.

Sources: Frantar, Alistarh, SPDY, ICML 2022 (arXiv:2201.13096), section 3, for the problem; Shen et al.,
HALP, NeurIPS 2022 (arXiv:2110.10811), for measured latencies in it; Huangfu, Hall, Math. Prog. Comp. 10,
2018, for the solver.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

from regroup.errors import ConfigError


@dataclass(frozen=True)
class Candidate:
    """What a layer may become.

    Args:
        damage: what it does to the network.
        costs: of the layer then, by the name of a budget.
    """

    damage: float
    costs: Mapping[str, float]


def allocate(layers: Sequence[Sequence[Candidate]], budgets: Mapping[str, float]) -> list[int]:
    """Return which candidate each layer becomes.

    Args:
        layers: the candidates of each layer.
        budgets: what all layers together may cost, by name.

    Raises:
        ConfigError: no choice is within a budget; says what the least is.
    """
    for name, most in budgets.items():
        least = sum(min(each.costs[name] for each in candidates) for candidates in layers)
        if least > most:
            raise ConfigError(name, most, f"at least {least:.4g}, the least that the layers can come to")
    sizes = [len(candidates) for candidates in layers]
    flat = [each for candidates in layers for each in candidates]
    if not flat:
        return []
    once = np.zeros((len(layers), len(flat)))
    for row, (start, size) in enumerate(zip(np.cumsum([0, *sizes]), sizes, strict=False)):
        once[row, start : start + size] = 1
    constraints = [LinearConstraint(once, 1, 1)]
    for name, most in budgets.items():
        constraints.append(LinearConstraint(np.array([[each.costs[name] for each in flat]]), ub=most))
    damages = np.array([each.damage for each in flat])
    scale = damages.max() or 1.0  # the solver's tolerances are absolute
    solved = milp(
        damages / scale,
        constraints=constraints,
        integrality=np.ones(len(flat)),
        bounds=Bounds(0, 1),
        options={"mip_rel_gap": 0.0},
    )
    if solved.x is None:
        together = ", ".join(f"{name}={most:.4g}" for name, most in budgets.items())
        raise ConfigError("budget", together, "one that the layers can keep to, all parts of it together")
    return [int(part.argmax()) for part in np.split(solved.x, np.cumsum(sizes)[:-1])]
