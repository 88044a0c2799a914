"""Strategies as text, the defaults of the interface, and what a mistyped strategy is told."""

import dataclasses

import pytest
import torch
from torch import nn

from regroup.errors import StrategyError, UnknownNameError
from regroup.spec import ConvSpec
from regroup.strategies import Strategy, check_groups, parse_strategy, sample_size, strategies
from regroup.strategies.grouped import Grouped
from regroup.strategies.mixed import Mixed
from regroup.strategies.separable import Separable


@pytest.mark.parametrize(
    ("text", "strategy"),
    [
        ("grouped", Grouped()),
        ("grouped:groups=8", Grouped(groups=8)),
        (" grouped : group_width = 4 ", Grouped(group_width=4)),
        ("grouped:groups=none,group_width=4", Grouped(group_width=4)),
        ("mixed:kernels=3+5,split=exponential,pointwise=false", Mixed((3, 5), "exponential", False)),
        ("separable:norm=true,act=relu6", Separable(norm=True, act="relu6")),
    ],
)
def test_text_becomes_a_strategy(text, strategy):
    assert parse_strategy(text) == strategy


@pytest.mark.parametrize("strategy", [v for name in strategies for v in strategies[name].variants()], ids=str)
def test_a_label_names_only_what_is_not_the_default_and_is_read_back(strategy):
    assert parse_strategy(strategy.label) == strategy == parse_strategy(str(strategy))
    values = {f.name: getattr(strategy, f.name) for f in dataclasses.fields(strategy)}
    named = [part.partition("=")[0] for part in strategy.label.partition(":")[2].split(",") if part]
    assert all(values[f.name] != f.default for f in dataclasses.fields(strategy) if f.name in named)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("groupd", UnknownNameError, "did you mean 'grouped'"),
        (
            "grouped:group=4",
            StrategyError,
            "option='group': must be one of group_width, groups of grouped; did you mean 'groups'",
        ),
        ("grouped:groups=four", StrategyError, "groups='four': must be of type int"),
        ("separable:norm=yes", StrategyError, "norm='yes': must be true or false"),
        ("dense:groups=2", StrategyError, "option='groups': must be left out: dense has none"),
        ("mixed:kernels=3+x", StrategyError, "kernels='x': must be of type int"),
    ],
)
def test_mistakes_in_the_text_are_named(text, error, message):
    with pytest.raises(error, match=message):
        parse_strategy(text)


class Depthwise(Strategy):
    def build(self, spec):
        return nn.Conv2d(4, 4, 3, padding=1, groups=4)


def test_build_alone_gives_cost_and_reach_by_measuring():
    spec = ConvSpec(4, 4, 3, padding=1)
    assert Depthwise().cost(spec, (5, 5)).parameters == 4 * 9 + 4
    assert Depthwise().cost(spec, (5, 5)).macs == 4 * 9 * 25
    assert torch.equal(Depthwise().reach(spec), torch.eye(4, dtype=torch.bool))
    assert Depthwise().why_not(spec) is None


def test_what_a_strategy_does_not_define_says_so():
    with pytest.raises(NotImplementedError, match=r"Strategy has no build"):
        Strategy().build(ConvSpec(1, 1))
    with pytest.raises(NotImplementedError, match=r"Depthwise has no reference"):
        Depthwise().reference(nn.Identity(), torch.zeros(1))


def test_why_not_gives_the_reason():
    assert "groups=4: must be a divisor of" in Grouped(groups=4).why_not(ConvSpec(6, 6))
    assert Grouped(groups=3).why_not(ConvSpec(6, 6)) is None


def test_check_groups_names_the_parameter():
    with pytest.raises(StrategyError, match="primary=4: must be a divisor of in_channels=6"):
        check_groups(ConvSpec(6, 8), 4, "primary")
    check_groups(ConvSpec(6, 9), 3)


@pytest.mark.parametrize(
    "spec",
    [ConvSpec(1, 1, 7, 2, 3), ConvSpec(1, 1, 3, 1, -2), ConvSpec(1, 1, (1, 9), (3, 1), (5, 0), 2)],
    ids=str,
)
def test_a_sample_has_eight_outputs_or_more_each_way(spec):
    assert min(spec.output_size(sample_size(spec))) >= 8
