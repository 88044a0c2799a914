"""Two forms of one network compute the same function: towers and groups, branches and groups."""

from __future__ import annotations

import pytest
import torch
import torchvision

from regroup.networks import create_model, networks
from regroup.networks.alexnet import Towers
from regroup.networks.resnet import Bottleneck
from regroup.networks.resnext import SplitBottleneck
from regroup.networks.weights import load_weights
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
    assert largest_error(model.stages[0].pool[0](x), paper) < 1e-12
    caffe = create_model("alexnet_caffe", hidden=8, widths=(16, 16, 16, 16, 16)).stages[0].pool[0]
    assert largest_error(caffe(x), x / (1 + 1e-4 / 5 * squares) ** 0.75) < 1e-12


def test_auxiliary_head_of_inception_equals_torchvisions() -> None:
    theirs = torchvision.models.inception_v3(weights=None, init_weights=False, num_classes=10).double().eval()
    fill(theirs)
    ours = create_model("inception_v3", aux=True, num_classes=10).double().eval()
    load_weights(ours, theirs.state_dict(), networks["inception_v3"].layouts)
    x = torch.randn(2, 768, 17, 17, dtype=torch.float64)
    assert largest_error(ours.heads["2_4"](x), theirs.AuxLogits(x)) < 1e-10


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("googlenet_bn", 13_004_888), ("inception_v3", 27_161_264), ("shufflenet_v2_large", 140_685_664)],
)
def test_auxiliary_heads_are_counted_trained_and_reset(name: str, parameters: int) -> None:
    with torch.device("meta"):
        model = create_model(name, aux=True).train()
        assert sum(p.numel() for p in model.parameters()) == parameters
        size = networks[name].claims.size
        outputs = model(torch.empty(2, 3, *size))
        assert [tuple(y.shape) for y in outputs] == [(2, 1000)] * len(outputs) and len(outputs) > 1
        model.reset_classifier(7)
        assert {tuple(y.shape) for y in model(torch.empty(2, 3, *size))} == {(2, 7)}
        assert model.eval()(torch.empty(2, 3, *size)).shape == (2, 7)
