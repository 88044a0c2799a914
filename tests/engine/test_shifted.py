"""DSConv's layers as native code: integers times shifts, activations in block floating point."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from regroup import deploy, parse_strategy, set_progress
from regroup.engine.running.compiled import compile
from regroup.spec import ConvSpec
from tests.engine.models import randomise
from tests.engine.test_compiled import assert_as_good_as_pytorch
from tests.engine.test_dynamic import operators


def deployed(text: str, spec: ConvSpec) -> nn.Module:
    """Return a layer of integers, as it is after training."""
    layer = parse_strategy(text).build(spec)
    set_progress(layer, 1)
    return deploy(layer)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("text", ["shifted:bits=3,block=8", "shifted:bits=3,block=8,mantissa=6"])
def test_nothing_of_a_layer_is_left_to_pytorch(text, batch):
    torch.manual_seed(batch)
    first, second = ConvSpec(12, 20, 3, 2, 1, bias=True), ConvSpec(20, 9, 1)
    last = deployed(
        "shifted:channels=true", second
    )  # rounding what has been rounded may turn on the last bit
    layers = deployed(text, first), nn.BatchNorm2d(20), nn.ReLU(), last
    model, x = randomise(nn.Sequential(*layers)), torch.randn(batch, 12, 9, 8)
    fast = compile(model, x[:1])
    assert not operators(fast)
    assert_as_good_as_pytorch(model, fast(x), x)
