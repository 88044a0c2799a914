"""ONNX: what is exported computes the same under onnxruntime, at any batch size; all with REGROUP_FUZZ."""

from __future__ import annotations

import os

import pytest
import torch

from regroup.ops.shifted import _power, _power_by_search
from regroup.spec import ConvSpec
from regroup.strategies import parse_strategy, strategies

HARD = ["dynamic", "shifted:bits=3,block=32,mantissa=6"]
"""Those that PyTorch runs by operators that ONNX has not: bits of floats, a stable sort, `frexp`."""


@pytest.mark.parametrize("text", [*strategies, *HARD[1:]] if "REGROUP_FUZZ" in os.environ else HARD)
@pytest.mark.filterwarnings("ignore")
def test_a_strategy_is_exported(text: str) -> None:
    ort = pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    module = parse_strategy(text).build(ConvSpec(64, 64, 3, padding=1)).eval()
    size = {0: torch.export.Dim("batch", min=1)}
    program = torch.onnx.export(
        module, (torch.randn(2, 64, 12, 12),), dynamo=True, verbose=False, dynamic_shapes=(size,)
    )
    assert program is not None
    session = ort.InferenceSession(program.model_proto.SerializeToString())
    for batch in (1, 2, 5):
        x = torch.randn(batch, 64, 12, 12)
        with torch.no_grad():
            exact, theirs = module.double()(x.double()), module.float()(x)
        ours = torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])
        error, known = ((y - exact).square().mean().sqrt() for y in (ours, theirs))
        assert error <= 4 * known + 4 * torch.finfo(torch.float32).eps * exact.abs().mean()


@pytest.mark.parametrize("exponent", range(2, 9))
def test_a_power_of_two_found_by_comparisons_is_exact(exponent: int) -> None:
    bound = 2 ** (exponent - 1)
    x = 2.0 ** torch.arange(-bound, bound, dtype=torch.float64)
    x = torch.cat([x, *(x * (1 + torch.rand(100, len(x), dtype=torch.float64)))])
    x = x.float().clamp(2.0**-bound, 2.0 ** (bound - 1))
    near = [torch.nextafter(x, torch.tensor(to)) for to in (0.0, float("inf"))]
    x = torch.cat([x, *near]).clamp(2.0**-bound, 2.0 ** (bound - 1))
    assert torch.equal(_power_by_search(x, exponent), _power(x))
