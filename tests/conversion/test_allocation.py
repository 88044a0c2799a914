"""The allocation is held against all choices there are."""

import itertools
import random

import pytest

from regroup.conversion.allocation import Candidate, allocate
from regroup.errors import ConfigError


def best_of_all(layers, budgets):
    def within(chosen):
        return all(sum(c.costs[name] for c in chosen) <= most for name, most in budgets.items())

    allowed = [sum(c.damage for c in chosen) for chosen in itertools.product(*layers) if within(chosen)]
    return min(allowed) if allowed else None


@pytest.mark.parametrize("seed", range(25))
def test_nothing_is_better_within_the_budgets(seed):
    dice = random.Random(seed)
    names = ["time", "macs"][: 1 + seed % 2]
    # whole numbers and eighths, so that sums are exact and no choice is within by rounding alone
    layers = [
        [
            Candidate(dice.randrange(64) / 8, {name: dice.randrange(1, 20) for name in names})
            for _ in range(dice.randrange(1, 5))
        ]
        for _ in range(dice.randrange(1, 6))
    ]
    budgets = {name: dice.randrange(8, 60) for name in names}
    expected = best_of_all(layers, budgets)
    if expected is None:
        with pytest.raises(ConfigError):
            allocate(layers, budgets)
        return
    chosen = [candidates[i] for candidates, i in zip(layers, allocate(layers, budgets), strict=True)]
    assert all(sum(c.costs[name] for c in chosen) <= most for name, most in budgets.items())
    assert sum(c.damage for c in chosen) == expected


def test_what_cannot_be_reached_says_what_can():
    layer = [Candidate(0, {"time": 4.0}), Candidate(1, {"time": 3.0})]
    with pytest.raises(ConfigError, match=r"time=5: must be at least 6"):
        allocate([layer, layer], {"time": 5})


def test_no_layers_and_no_budget():
    assert allocate([], {"time": 1}) == []
    assert allocate([[Candidate(2, {}), Candidate(1, {})]], {}) == [1]
