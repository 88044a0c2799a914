"""Conformance checks for strategies, ours and yours.

>>> results = check_strategy("grouped:groups=2")
>>> {result.outcome for result in results}
{'passed'}

With pytest, one test for each strategy and check:

    @regroup.testing.strategy_checks(MyStrategy(), MyStrategy(width=8))
    def test_conformance(strategy, check):
        check(strategy)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from regroup.spec import ConvSpec
from regroup.strategies import Strategy, parse_strategy, strategies
from regroup.testing.checks import CHECKS, Check, Result, raise_failures
from regroup.testing.specs import ODD_SPECS, SPECS, conv_specs

__all__ = [
    "CHECKS",
    "ODD_SPECS",
    "SPECS",
    "Check",
    "Result",
    "check_strategy",
    "conv_specs",
    "strategy_checks",
]


def check_strategy(strategy: Strategy | str, specs: Sequence[ConvSpec] | None = None) -> list[Result]:
    """Hold a strategy against its contract, on many convolutions.

    Args:
        strategy: the strategy, or its label.
        specs: convolutions to try; by default `SPECS`.

    Returns:
        One result for each check and convolution. Those that are 'noted' say what could not be checked, such
        as equality to a definition that the strategy does not give.

    Raises:
        AssertionError: the strategy does not conform; the message lists every failure.
    """
    strategy = parse_strategy(strategy) if isinstance(strategy, str) else strategy
    results = [r for check in CHECKS for r in check.results(strategy, specs or SPECS)]
    on_specs = [r for r in results if r.spec]
    if all(r.outcome == "refused" for r in on_specs):
        results.append(Result("check", "failed", f"refuses every convolution: {on_specs[0].message}"))
    return raise_failures(strategy, results)


def strategy_checks(*chosen: Strategy | str) -> Callable:
    """Return a pytest decorator: one test for each strategy and check.

    Args:
        chosen: strategies or their labels; by default all variants of all that are registered.
    """
    import pytest

    given = [parse_strategy(s) if isinstance(s, str) else s for s in chosen]
    given = given or [variant for name in strategies for variant in strategies[name].variants()]
    pairs = [pytest.param(s, check, id=f"{s}-{check}") for s in given for check in CHECKS]
    return pytest.mark.parametrize(("strategy", "check"), pairs)
