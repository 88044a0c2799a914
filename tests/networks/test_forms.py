"""Two forms of one network compute the same function: towers and groups, branches and groups."""

from __future__ import annotations

import torch

from regroup.networks import create_model
from regroup.networks.alexnet import Towers
from regroup.networks.resnet import Bottleneck
from regroup.networks.resnext import SplitBottleneck
from tests.networks.test_equality import fill, largest_error


def test_resnext_form_b_equals_form_c() -> None:
    model = create_model("resnext50_32x4d", depths=(1, 2), widths=(64, 128)).double().eval()
    fill(model)
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    expected = model(x)
    replaced = 0
    for stage in model.stages:
        for name, block in list(stage.named_children()):
            if isinstance(block, Bottleneck):
                setattr(stage, name, SplitBottleneck(block))
                replaced += 1
    assert replaced == 3
    assert largest_error(model(x), expected) < 1e-10


def test_alexnet_with_two_groups_equals_two_towers() -> None:
    model = create_model("alexnet", hidden=32, num_classes=10).double().eval()
    fill(model)
    x = torch.randn(2, 3, 99, 99, dtype=torch.float64)
    assert largest_error(Towers(model)(x), model(x)) < 1e-10


def test_alexnet_norms_follow_their_formulas() -> None:
    x = torch.randn(2, 16, 3, 3, dtype=torch.float64)
    model = create_model("alexnet", hidden=8, widths=(16, 16, 16, 16, 16))
    squares = torch.stack([x.square()[:, max(0, c - 2) : c + 3].sum(1) for c in range(16)], 1)
    towers = [x[:, :8], x[:, 8:]]
    squares_of = [
        torch.stack([t.square()[:, max(0, c - 2) : c + 3].sum(1) for c in range(8)], 1) for t in towers
    ]
    paper = x / (2 + 1e-4 * torch.cat(squares_of, 1)) ** 0.75
    assert largest_error(model.stem[1](x), paper) < 1e-12
    caffe = create_model("alexnet_caffe", hidden=8, widths=(16, 16, 16, 16, 16)).stem[1]
    assert largest_error(caffe(x), x / (1 + 1e-4 / 5 * squares) ** 0.75) < 1e-12
