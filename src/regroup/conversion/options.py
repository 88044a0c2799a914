"""What a dense convolution may become: so many groups, or a strategy that starts from its weights.

>>> conv = nn.Conv2d(64, 64, 3, padding=1)
>>> options_of(conv, strategies=("separable",))
['dense', 'grouped:groups=2', 'grouped:groups=4', 'grouped:groups=8', 'separable']
>>> options_of(nn.Conv2d(3, 64, 7))
['dense']

An option is the text of a strategy. Groups are chosen and repaired (`regroup.conversion.regrouping`); the
others are taken as near as their closed form comes without data.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from regroup.spec import ConvSpec, divisors
from regroup.strategies import parse_strategy
from regroup.strategies.grouped import Grouped

DENSE = "dense"

NARROWEST = 8
"""Channels of a group, at least: with fewer the time seldom falls any more (E2GC, arXiv:2006.15100)."""

STRATEGIES = ("separable", "separable:multiplier=2", "flattened:stages=1")
"""Those that approximate trained weights in closed form with less work, of kernels larger than 1x1."""


def options_of(
    conv: nn.Conv2d, *, narrowest: int = NARROWEST, strategies: Sequence[str] = STRATEGIES
) -> list[str]:
    """Return what a convolution may become, itself first.

    Args:
        conv: with one group.
        narrowest: inputs and outputs of a group, at least.
        strategies: that may stand in for it, besides groups.
    """
    spec, found = ConvSpec.of(conv), [DENSE]
    inputs, outputs = spec.in_channels, spec.out_channels
    for groups in divisors(inputs, outputs)[1:]:
        if min(inputs, outputs) // groups >= narrowest:
            found.append(Grouped(groups=groups).label)
    if min(inputs, outputs) >= 2 * narrowest and spec.taps > 1:
        found += [text for text in strategies if parse_strategy(text).why_not(spec) is None]
    return found


def groups_in(option: str) -> int | None:
    """Return the number of groups that an option means; None if it is another strategy."""
    strategy = parse_strategy(option)
    return strategy.groups if isinstance(strategy, Grouped) else None
