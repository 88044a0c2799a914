"""Correlation of filters, against its definition."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from regroup.errors import ConfigError
from regroup.profiling.correlation import Correlation, correlation


def grouped(groups, channels=8):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, groups=groups),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.Conv2d(channels, channels, 1, groups=groups),
    )


def test_correlation_is_that_of_numpy():
    model, x = grouped(2).eval(), torch.randn(16, 8, 6, 6)
    with torch.no_grad():
        first, second = model[0](x), model(x)
    rows = torch.cat([first, second], 1).movedim(1, 0).flatten(1)
    expected = torch.corrcoef(rows.double()).abs()[8:, :8]
    assert torch.allclose(correlation(model, x, "0", "3").matrix.double(), expected)


def test_batches_add_up_to_one():
    model, x = grouped(2), torch.randn(16, 8, 6, 6) + 100
    whole = correlation(model, x, "0", "3").matrix
    assert torch.allclose(correlation(model, iter(x.split(4)), "0", "3").matrix, whole)


def test_groups_draw_blocks_and_a_dense_layer_does_not():
    x = torch.randn(64, 8, 8, 8)
    blocks = correlation(grouped(4), x, "0", "3")
    assert blocks.concentration(4) > 0.7
    assert abs(correlation(grouped(1), x, "0", "3").concentration(4)) < 0.3


def test_a_channel_that_never_changes_correlates_with_nothing():
    model = nn.Sequential(nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 1))
    nn.init.zeros_(model[0].weight[:1])
    matrix = correlation(model, torch.randn(8, 2, 4, 4), "0", "1").matrix
    assert not matrix[:, 0].any()
    assert (matrix[:, 1] > 0.99).all()


def test_a_larger_feature_map_is_averaged_down():
    model = nn.Sequential(nn.Identity(), nn.AvgPool2d(2))
    matrix = correlation(model, torch.randn(16, 3, 8, 8), "0", "1").matrix
    assert torch.allclose(matrix.diagonal(), torch.ones(3))


def test_the_share_inside_the_blocks_is_what_it_says():
    found = Correlation("a", "b", torch.tensor([[0.9, 0.1], [0.3, 0.7]]))
    assert found.inside(2) == pytest.approx(0.8)
    assert found.concentration(2) == pytest.approx(0.6)
    assert found.inside(1) == 1
    with pytest.raises(ConfigError, match="divisor of the 2 channels of b"):
        found.inside(3)


def test_a_layer_that_is_not_there_is_an_error():
    with pytest.raises(ConfigError, match="second='9'"):
        correlation(grouped(1), torch.randn(1, 8, 4, 4), "0", "9")
