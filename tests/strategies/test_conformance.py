"""Every strategy that is registered, in every variant, holds its contract."""

from regroup.strategies import strategies
from regroup.testing import strategy_checks

EXPECTED = {
    "biglittle",
    "condensed",
    "dense",
    "dynamic",
    "fire",
    "flattened",
    "groupable",
    "grouped",
    "inception",
    "interleaved",
    "mixed",
    "mixed_learned",
    "octave",
    "reactivated",
    "scaled",
    "scaled_learned",
    "separable",
    "shifted",
    "shuffled",
}


def test_the_groupings_are_all_there():
    assert set(strategies) >= EXPECTED


@strategy_checks()
def test_strategy_conforms(strategy, check):
    for result in check(strategy):
        assert result.outcome in ("passed", "refused") or strategy.name not in EXPECTED, str(result)
