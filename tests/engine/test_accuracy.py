"""float32 against float64: a compiled network's error is no more than twice PyTorch's own."""

from __future__ import annotations

import copy
import os

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from regroup import compile
from tests.engine.models import load, randomise, settle

MOST = 2.0
"""Times PyTorch's error: root mean square over all numbers of a result, so that no single one decides."""

SEEDS = 10 if "REGROUP_FUZZ" in os.environ else 2

NETWORKS = [
    ("timm:lcnet_035", (65, 49)),
    ("timm:lcnet_035", (64, 64)),
    ("timm:efficientvit_b0", (64, 64)),
    ("torchvision:efficientnet_b1", (64, 64)),
    ("pytorchcv:sknet50", (64, 64)),
    ("pytorchcv:sknet50", (65, 49)),
    ("smp:DeepLabV3Plus/tu-mobilenetv3_large_100", (64, 64)),
]
"""Networks of hard-swish, SiLU, gates and selective kernels; in a normal run the first, of smallest cost."""


def times_worse(model: nn.Module, fast: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        exact = copy.deepcopy(model).double()(x.double())
        ours, theirs = ((y.double() - exact).square().mean().sqrt() for y in (fast(x), model(x)))
    return float(ours / theirs)


def conv(inputs: int, outputs: int, kernel: int, groups: int = 1) -> nn.Module:
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups)


STEPS = [
    *((f"mean of {n}x{n}", lambda: nn.AdaptiveAvgPool2d(1), (64, n, n)) for n in (7, 14, 28, 33, 56, 112)),
    *((f"{n}x{n} cells", lambda n=n: nn.AdaptiveAvgPool2d(n), (32, 64, 64)) for n in (2, 7)),
    *((f"average of {n}x{n}", lambda n=n: nn.AvgPool2d(n), (32, 64, 64)) for n in (3, 16, 32)),
    ("pointwise", lambda: conv(960, 160, 1), (960, 7, 7)),
    ("winograd", lambda: conv(512, 512, 3), (512, 7, 7)),
    ("depthwise", lambda: conv(64, 64, 5, 64), (64, 28, 28)),
    ("grouped", lambda: conv(128, 128, 3, 32), (128, 14, 14)),
    ("pre-activation", lambda: nn.Sequential(nn.BatchNorm2d(512), nn.SiLU(), conv(512, 64, 1)), (512, 7, 7)),
    ("linear", lambda: nn.Linear(2048, 1000), (2048,)),
    ("softmax", lambda: nn.Softmax(1), (1000,)),
    ("response norm", lambda: nn.LocalResponseNorm(5), (64, 9, 9)),
]


@pytest.mark.parametrize(("name", "make", "shape"), STEPS, ids=[step[0] for step in STEPS])
@pytest.mark.parametrize("positive", [True, False], ids=["positive", "signed"])
def test_a_steps_error_is_at_most_twice_pytorchs(name, make, shape, positive):
    torch.manual_seed(0)
    x, model = torch.randn(4, *shape), make().eval()
    x = x.abs() if positive else x
    assert times_worse(model, compile(model, x), x) <= MOST


@pytest.mark.timeout(0 if "REGROUP_FUZZ" in os.environ else 300)
@pytest.mark.parametrize(("name", "size"), NETWORKS if "REGROUP_FUZZ" in os.environ else NETWORKS[:1])
def test_a_networks_error_is_at_most_twice_pytorchs(name, size):
    model, fast, ratios = load(name), None, []
    x = torch.randn(4, 3, *size)
    for seed in range(SEEDS):
        torch.manual_seed(seed)
        for module in model.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
        settle(randomise(model, seed), x)
        x = torch.randn_like(x)
        fast = fast or compile(model.eval(), x)
        ratios.append(times_worse(model, fast, x))
    print(name, size, "times PyTorch's error:", *(f"{ratio:.2f}" for ratio in ratios))
    assert np.median(ratios) <= 0.75 * MOST and max(ratios) <= MOST, ratios
