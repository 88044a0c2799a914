"""ONNX: what is exported computes the same under onnxruntime, at any batch size; all with REGROUP_FUZZ."""

from __future__ import annotations

import os
from collections.abc import Sequence

import pytest
import torch
from torch import nn

from regroup.networks import create_model
from regroup.ops.shifted import _power, _power_by_search
from regroup.spec import ConvSpec
from regroup.strategies import parse_strategy, strategies
from tests.networks.representatives import side, small

LONG = "REGROUP_FUZZ" in os.environ

HARD = ["dynamic", "shifted:bits=3,block=32,mantissa=6"]
"""Those that PyTorch runs by operators that ONNX has not: bits of floats, a stable sort, `frexp`."""


@pytest.mark.parametrize("text", [*strategies, *HARD[1:]] if LONG else HARD)
@pytest.mark.filterwarnings("ignore")
def test_a_strategy_is_exported(text: str) -> None:
    torch.manual_seed(0)
    module = parse_strategy(text).build(ConvSpec(64, 64, 3, padding=1)).eval()
    assert_exported(module, (64, 12, 12), batches=(1, 2, 5))


@pytest.mark.parametrize("batches", [(1, 2, 5), (2,)] if LONG else [(1, 2, 5)], ids=str)
@pytest.mark.filterwarnings("ignore")
def test_a_network_of_dynamic_groups_is_exported(batches: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    name = "dgc_condensenet_cifar_86"
    model = create_model(name, **small(name)).eval()
    assert_exported(model, (3, side(name), side(name)), batches)


def assert_exported(model: nn.Module, shape: tuple[int, ...], batches: Sequence[int]) -> None:
    """Compare with float64, as PyTorch's own results are; of several batch sizes the file leaves it open."""
    ort = pytest.importorskip("onnxruntime")
    sizes = ({0: torch.export.Dim("batch", min=1)},) if len(batches) > 1 else None
    program = torch.onnx.export(
        model, (torch.randn(2, *shape),), dynamo=True, verbose=False, dynamic_shapes=sizes
    )
    assert program is not None
    session = ort.InferenceSession(program.model_proto.SerializeToString())
    for batch in batches:
        x = torch.randn(batch, *shape)
        with torch.no_grad():
            exact, theirs = model.double()(x.double()), model.float()(x)
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
