"""Layers that choose their inputs for each image, as native code."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from regroup.engine.running.compiled import compile
from regroup.kernels.problems.dynamic import Largest
from regroup.kernels.problems.view import View
from regroup.kernels.program import Part, Step, build
from regroup.networks.anywhere import create_any_model
from regroup.ops.dynamic import DynamicGroupConv, dynamic_conv, largest
from regroup.ops.one_operator import as_one_operator
from regroup.spec import ConvSpec
from tests.engine.models import randomise
from tests.engine.test_compiled import assert_as_good_as_pytorch


def operators(fast) -> list[str]:
    """Return what PyTorch runs."""
    segments = fast.explain(json=True)["segments"]
    return [o["why"] for s in segments if s["runs"] == "PyTorch" for o in s["operators"]]


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("kept", [1, 7, 16])
def test_a_layer_runs_natively_and_every_image_chooses_for_itself(kept, batch):
    torch.manual_seed(kept)
    layer = DynamicGroupConv(ConvSpec(16, 24, 3, 2, 1, bias=True), 3, kept, norm=True, act="relu")
    x, layer = torch.randn(batch, 16, 9, 8), randomise(layer)
    fast = compile(layer, x[:1])
    assert not operators(fast)
    assert_as_good_as_pytorch(layer, fast(x), x)


def test_a_network_runs_natively_with_sums_and_norms_fused():
    torch.manual_seed(0)
    model, x = randomise(create_any_model("dgc_resnet18")), torch.randn(2, 3, 64, 64)
    fast = compile(model, x)
    assert not operators(fast)
    assert_as_good_as_pytorch(model, fast(x), x)
    (segment,) = fast.explain(json=True)["segments"]
    work = [part["work"] for step in segment["steps"] for part in step["parts"]]
    assert work.count("chosen conv + add + relu") == 8


def test_the_operator_is_what_the_layer_computes():
    torch.manual_seed(1)
    layer, x = randomise(DynamicGroupConv(ConvSpec(12, 8, 3, padding=1), 2, 5)), torch.randn(3, 12, 6, 7)
    layer, x = layer.double(), x.double()
    saliency = layer.saliency(x).flatten(1)
    y = dynamic_conv(x, saliency, layer.weight, 5, (1, 1), (1, 1), (1, 1))
    order = torch.arange(8).view(2, 4).t().flatten()
    assert (y[:, order] - layer(x)).abs().max() < 1e-12
    with as_one_operator():
        assert (layer(x) - y[:, order]).abs().max() < 1e-12


@pytest.mark.parametrize(
    "scores",
    [
        [1.0, 3.0, 2.0, 0.0, 3.0, -4.0, 0.5],
        [0.0] * 40,
        [-0.0, 0.0, 5e-324, 1e-45, 2e-45, 1e38],
        [float("inf"), 1.0, float("nan"), float("inf"), -float("nan"), 2.0] * 4,
    ],
)
def test_the_choice_is_that_of_pytorch_for_ties_and_nan_too(scores):
    count = len(scores)
    for kept in {1, 2, count // 2, count}:
        x, y = View.vector(count).placed(0), View.vector(2 * kept).placed(64)
        program = build([Step("choose", (Part(Largest(x, y)),))])
        arena = program.new_arena(1)
        arena[:count] = np.array(scores, np.float32)
        want = largest(torch.tensor([scores]), kept)[0].sort().values
        program.run([arena.ctypes.data], threads=1)
        assert arena[64 : 64 + kept].astype(int).tolist() == want.tolist()
        sizes = torch.tensor(scores).abs()[want]
        assert np.array_equal(arena[64 + kept : 64 + 2 * kept], sizes.numpy(), equal_nan=True)


def test_an_input_that_no_head_chooses_does_not_matter():
    layer = DynamicGroupConv(ConvSpec(8, 4, 1), heads=1, kept=4).eval()
    with torch.no_grad():
        for parameter in layer.saliency.parameters():
            parameter.zero_()
        layer.saliency.expand.bias[:] = torch.arange(8.0, 0.0, -1.0)
    x = torch.randn(1, 8, 3, 3)
    fast, calm = compile(layer, x), x.clone()
    x[:, 6] = 1e30
    calm[:, 6] = 0
    assert torch.equal(fast(x), fast(calm))
