"""DSConv's layers as native code: integers times shifts, activations in block floating point."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from regroup import deploy, parse_strategy, set_progress
from regroup.engine.running.compiled import compile
from regroup.kernels import problems as kernels
from regroup.kernels.problems.view import View
from regroup.ops.bitpacking import packed_bytes
from regroup.ops.shifted import ShiftedConv, ShiftedForm
from regroup.spec import ConvSpec
from tests.engine.models import randomise
from tests.engine.test_compiled import assert_as_good_as_pytorch
from tests.engine.test_dynamic import operators
from tests.kernels.integers import defined


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


def words(fast) -> list[str]:
    """Return what the steps do."""
    segments = fast.explain(json=True)["segments"]
    return [part["work"] for s in segments for step in s.get("steps", []) for part in step["parts"]]


def by_definition(layer: ShiftedConv, x: torch.Tensor) -> torch.Tensor:
    """Return what a layer gives for one image, by exact sums of integers."""
    spec, form, (height, width) = layer.spec, layer.form, x.shape[2:]
    bits = form.bits + (not form.clamp)
    blocks = kernels.Blocks(x.shape[1], form.block, form.mantissa, form.exponent, layer.groups)
    rows, columns = spec.output_size((height, width))
    given, y = View.nhwc(height, width, x.shape[1]), View.nhwc(rows, columns, spec.out_channels)
    window = spec.kernel_size, spec.stride, spec.padding, spec.dilation
    problem = kernels.IntegerConv(given, y, given, kernels.Integers(blocks, 2 ** (bits - 1)), bits, *window)
    named = (("weight", layer.integers), ("shifts", layer.shifts), ("bias", layer.bias))
    weights = {name: t.detach().float().numpy() for name, t in named if t is not None}
    return torch.from_numpy(defined(problem, x[0].permute(1, 2, 0).numpy(), weights)).permute(2, 0, 1)[None]


@pytest.mark.parametrize("form", [
    ShiftedForm(bits=3, block=32, mantissa=6), ShiftedForm(bits=7, block=18, mantissa=6, exponent=4),
    ShiftedForm(bits=2, block=64, mantissa=3, clamp=False),
], ids=str)  # fmt: skip
@pytest.mark.parametrize("groups", [1, 2])
def test_a_layer_is_bit_by_bit_what_its_integers_say(form, groups):
    torch.manual_seed(groups)
    layer = ShiftedConv(ConvSpec(40, 24, 3, (2, 1), (1, 0), (1, 2), bias=True), form, groups).eval()
    x = torch.randn(3, 40, 9, 12)
    fast = compile(layer, x[:1])
    assert "to integers" in words(fast) and not operators(fast)
    for image, result in zip(x.split(1), fast(x).split(1), strict=True):
        assert torch.equal(result, by_definition(layer, image))
    with torch.no_grad():  # changed integers are seen
        layer.integers.copy_(-layer.integers.clamp(min=1 - 2 ** (form.bits - 1)))
    assert torch.equal(fast(x[:1]), by_definition(layer, x[:1]))


@pytest.mark.parametrize("form", [
    ShiftedForm(bits=3, block=32, mantissa=8), ShiftedForm(bits=8, clamp=False, mantissa=6),
    ShiftedForm(bits=3, block=32, mantissa=6, exponent=8), ShiftedForm(block=2, mantissa=6),
    ShiftedForm(bits=8, block=16, mantissa=7),
], ids=str)  # fmt: skip
def test_what_is_no_matter_of_bytes_is_done_in_floats(form):
    layer, x = ShiftedConv(ConvSpec(40, 24, 3, padding=1), form).eval(), torch.randn(1, 40, 8, 8)
    fast = compile(layer, x)
    assert "block floating point" in words(fast) and not operators(fast)
    assert_as_good_as_pytorch(layer, fast(x), x)


def test_integers_beyond_what_their_form_says_are_done_in_floats():
    layer = ShiftedConv(ConvSpec(40, 24, 3, padding=1), ShiftedForm(bits=3, mantissa=6)).eval()
    x = torch.randn(1, 40, 8, 8)
    fast = compile(layer, x)
    assert "to integers" in words(fast)
    with torch.no_grad():
        layer.integers[3, 4, 1, 1] = 100
    assert_as_good_as_pytorch(layer, fast(x), x)
    assert "block floating point" in words(fast)


def test_layers_that_read_the_same_share_its_integers():
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            form = ShiftedForm(bits=3, mantissa=6)
            self.layers = nn.ModuleList(ShiftedConv(ConvSpec(16, 9, 3, padding=1), form) for _ in range(2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layers[0](x) + self.layers[1](x)

    model, x = Two().eval(), torch.randn(1, 16, 8, 8)
    fast = compile(model, x)
    assert words(fast).count("to integers") == 1
    assert_as_good_as_pytorch(model, fast(x), x)


@pytest.mark.parametrize("bits", [2, 3, 5, 8])
def test_a_plan_keeps_weights_at_their_bits(bits):
    form = ShiftedForm(bits=bits, block=32, mantissa=6)
    layer = ShiftedConv(ConvSpec(64, 64, 3, padding=1, bias=True), form).eval()
    fast = compile(layer, torch.randn(1, 64, 8, 8))
    (segment,) = fast._prepared.plan(1).segments
    weights, shifts, bias = 64 * 64 * 9, 64 * 2 * 9, 64
    assert segment.program.weights.nbytes == packed_bytes(weights, bits) + 4 * (shifts + bias)


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_share_a_layer_and_change_no_bit(threads):
    torch.manual_seed(0)
    layer = ShiftedConv(ConvSpec(64, 160, 3, padding=1), ShiftedForm(bits=3, block=32, mantissa=6)).eval()
    x = torch.randn(1, 64, 14, 14)
    fast = compile(layer, x, threads=threads)
    want = by_definition(layer, x)
    for _ in range(20):
        assert torch.equal(fast(x), want)
