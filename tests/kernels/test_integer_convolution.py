"""Convolutions of integers are bit by bit what integers say, in every way of summing, on every target."""

from __future__ import annotations

import ctypes
import itertools
import os
from dataclasses import replace
from random import Random

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from regroup.kernels import problems as p
from regroup.kernels import templates
from regroup.kernels.language.code import assembly
from regroup.kernels.machine import jit
from regroup.kernels.machine.target import Target
from regroup.kernels.problems.view import Halo, View
from regroup.kernels.program import aligned
from regroup.kernels.templates.base import Kernel
from regroup.kernels.templates.integers.convolution import IntegerSums
from regroup.kernels.templates.integers.packing import BATCH, pack, planes
from regroup.kernels.templates.integers.sums import Pairs, fits, ways
from regroup.kernels.templates.parts.fetch import CURSOR
from regroup.ops.bitpacking import packed_bytes
from regroup.ops.bounds import rounding_bound, worst_ratio
from regroup.ops.shifted import block_floating_point
from tests.kernels.integers import defined, integers_of

HOST = Target.host()
TARGETS = [HOST]
if HOST.name == "AVX-512":  # without VNNI, and with it on vectors half as wide
    half = [Target.avx2(features="+avxvnni")] if "+avxvnni" in HOST.features.split(",") else []
    TARGETS += [replace(Target.avx512(), triple=HOST.triple), Target.avx2(), *half]

EDGE = 8
"""Floats around a tensor that must stay as they are."""
MARK = np.float32(-77.25)


_LOADED: dict[tuple[object, ...], jit.Loaded] = {}


def run(kernel: Kernel, views: dict[str, tuple[View, np.ndarray]], weights: dict[str, np.ndarray], cuts=()):
    """Run a kernel on arrays (height, width, channels); return its output, its halo left out."""
    problem, buffers, pointers = kernel.problem, [], []
    for name, view in zip(problem.view_names, problem.views, strict=True):
        buffer = np.full(view.floats + 2 * EDGE, MARK)
        if name in views:
            inner = _inside(view, buffer[EDGE:], halo=True)
            inner[:] = 0
            _inside(view, buffer[EDGE:])[:] = views[name][1]
        buffers.append(buffer)
        pointers.append(buffer.ctypes.data + 4 * (EDGE - view.first))
    packed, private = aligned(kernel.packed), aligned(CURSOR + kernel.scratch)
    packed[:] = kernel.pack(weights) if weights else 0
    private[:CURSOR].view(np.int64)[:] = 0
    key = kernel.target, kernel.template, kernel.key
    if key not in _LOADED:
        _LOADED[key] = jit.load([jit.compile_object(assembly(kernel.emit("tried")), kernel.target)])
    types = (ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)
    call = ctypes.CFUNCTYPE(None, *types)(_LOADED[key].address("tried"))
    table = (ctypes.c_void_p * (len(pointers) + 1))(*pointers, packed.ctypes.data)
    for low, high in itertools.pairwise(sorted({0, *cuts, kernel.items})):
        call(table, low, high, private.ctypes.data + 4 * CURSOR)
    got = _inside(problem.y, buffers[-1][EDGE:]).copy()
    _inside(problem.y, buffers[-1][EDGE:])[:] = MARK
    assert (buffers[-1].view(np.uint32) == MARK.view(np.uint32)).all(), "wrote outside of the tensor"
    return got


def _inside(view: View, buffer: np.ndarray, halo: bool = False) -> np.ndarray:
    around = view.halo if halo else Halo()
    start = -view.first - around.top * view.row_pitch - around.left * view.pixel_pitch
    shape = (view.height + around.top + around.bottom, view.width + around.left + around.right, view.channels)
    pitches = (view.row_pitch * 4, view.pixel_pitch * 4, view.channel_pitch * 4)
    return np.lib.stride_tricks.as_strided(buffer[start:], shape, pitches)


def problem_of(rng: Random) -> p.IntegerConv:
    """Return a random convolution."""
    bits, mantissa = rng.randint(2, 8), rng.randint(2, 7)
    groups, depth, block = rng.choice((1, 1, 2, 3)), rng.randint(1, 40), rng.choice((1, 3, 4, 8, 16, 32, 64))
    k, s, d = (tuple(rng.choice(c) for _ in range(2)) for c in ((1, 2, 3), (1, 1, 2), (1, 1, 2)))
    pad = tuple(rng.randint(0, (n - 1) * m) for n, m in zip(k, d, strict=True))
    size = tuple(rng.randint(max(1, (k[i] - 1) * d[i] + 1 - pad[i]), 9) for i in range(2))
    out = tuple((size[i] + 2 * pad[i] - (k[i] - 1) * d[i] - 1) // s[i] + 1 for i in range(2))
    blocks = p.Blocks(groups * depth, min(block, depth), mantissa, rng.randint(3, 7), groups)
    form = p.Integers(blocks, 2 ** (bits - 1))
    y = View.nhwc(*out, groups * rng.randint(1, 40), pitch=130)
    epilogue = p.Epilogue(bias=rng.random() < 0.5)
    given = View.nhwc(*size, blocks.channels)
    made = p.IntegerConv(given, y, given, form, bits, k, s, pad, d, epilogue)
    return replace(made, x=View.nhwc(*size, form.floats, halo=made.x_halo))


def numbers_of(problem: p.IntegerConv, rng: Random) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return an image (height, width, channels), and weights that have all of their range."""
    random = np.random.default_rng(rng.randrange(1 << 30))
    view, half = problem.given, 2 ** (problem.bits - 1)
    x = random.standard_normal((view.height, view.width, view.channels)).astype(np.float32)
    x *= np.exp2(random.integers(-3, 3, x.shape)).astype(np.float32)
    shapes = problem.parameters
    found = {"weight": random.integers(-half, half, shapes["weight"])}
    found["weight"].flat[:2] = -half, half - 1
    for name in ("shifts", "bias"):
        if name in shapes:
            found[name] = random.standard_normal(shapes[name])
    return x, {name: array.astype(np.float32) for name, array in found.items()}


def converted(problem: p.IntegerConv, x: np.ndarray, target: Target) -> np.ndarray:
    """Return the image as the kernel for that makes integers of it."""
    work = p.ToIntegers(problem.given, problem.x, problem.form)
    return run(templates.choose(work, target), {"x": (problem.given, x)}, {})


def kernels_of(problem: p.IntegerConv, target: Target, tile=(3, 2)) -> list[IntegerSums]:
    return [IntegerSums(problem, target, way, *tile) for way in ways(problem, target)]


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: f"{t.name} {t.features[-9:]}")
@pytest.mark.parametrize("seed", range(int(os.environ.get("REGROUP_FUZZ", 0)) or 4))
def test_every_way_gives_the_bits_of_the_definition(seed, target):
    rng = Random(seed)
    problem = problem_of(rng)
    assert fits(problem.bits, problem.form.blocks.mantissa, problem.form.blocks.block)
    x, weights = numbers_of(problem, rng)
    want, source = defined(problem, x, weights), converted(problem, x, target)
    for kernel in kernels_of(problem, target, rng.choice([(3, 2), (5, 1), (1, 3), (2, 2)])):
        views = {"x": (problem.x, source), "given": (problem.given, x)}
        cuts = [rng.randrange(kernel.items) for _ in range(2)]
        got = run(kernel, views, weights, cuts)
        assert np.array_equal(got, want), f"{kernel.template} {kernel.tile} {problem}"


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: f"{t.name} {t.features[-9:]}")
def test_integers_steps_and_sums_of_a_pixel(target):
    rng = Random(3)
    for _ in range(6):
        problem = problem_of(rng)
        form, blocks = problem.form, problem.form.blocks
        x, _ = numbers_of(problem, rng)
        got = converted(problem, x, target)
        mantissas, steps = integers_of(x, blocks)
        assert np.array_equal(got[..., form.steps : form.all_steps], steps)
        assert np.array_equal(got[..., form.all_steps :], steps)
        bytes_ = np.ascontiguousarray(got[..., : form.sums]).view(np.int8)
        sums = np.ascontiguousarray(got[..., form.sums : form.steps]).view(np.int32)
        at = 0
        for b, (group, start) in enumerate(
            itertools.product(range(blocks.groups), range(0, blocks.depth, blocks.block))
        ):
            width = min(blocks.block, blocks.depth - start)
            own = mantissas[..., group * blocks.depth + start : group * blocks.depth + start + width]
            assert np.array_equal(bytes_[..., at : at + width], own)
            assert not bytes_[..., at + width : at + -(-width // 4) * 4].any()
            assert np.array_equal(sums[..., b], -form.offset * own.sum(-1))
            at += -(-width // 4) * 4


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: f"{t.name} {t.features[-9:]}")
def test_the_largest_integers_do_not_saturate(target):
    """Every product is as large as can be, of one sign: with 8 bits, 16 hold no more than two of them."""
    for (bits, mantissa), weight in itertools.product(((2, 2), (3, 6), (8, 7)), ("lowest", "highest")):
        blocks = p.Blocks(64, 64, mantissa, 5)
        form = p.Integers(blocks, 2 ** (bits - 1))
        given, y = View.nhwc(1, 2, 64), View.nhwc(1, 2, 20)
        problem = p.IntegerConv(View.nhwc(1, 2, form.floats), y, given, form, bits)
        fill = -(2 ** (bits - 1)) if weight == "lowest" else 2 ** (bits - 1) - 1
        weights = {
            "weight": np.full((20, 64, 1, 1), fill, np.float32),
            "shifts": np.ones((20, 1, 1, 1), np.float32),
        }
        x = np.full((1, 2, 64), np.nextafter(np.float32(2), np.float32(0)))
        x[:, 1] *= -1
        want, source = defined(problem, x, weights), converted(problem, x, target)
        assert np.array_equal(want[0, 0], np.full(20, 64.0 * fill * 2))
        for kernel in kernels_of(problem, target):
            got = run(kernel, {"x": (problem.x, source), "given": (given, x)}, weights)
            assert np.array_equal(got, want), (kernel.template, bits, mantissa)


def test_it_compiles_for_neon():
    problem = problem_of(Random(1))
    for work in (problem, p.ToIntegers(problem.given, problem.x, problem.form)):
        code = assembly(templates.choose(work, Target.neon()).emit("kernel"))
        assert jit.compile_object(code, Target.neon())[:4] == b"\x7fELF"


def test_pairs_of_bytes_stay_within_16_bits_by_a_bound_and_no_earlier():
    for bits, mantissa in itertools.product(range(2, 9), range(2, 8)):
        n, most = Pairs(bits, mantissa).at_once, 2 * (2**bits - 1) * 2 ** (mantissa - 1)
        assert n >= 1 and n * most < 2**15 <= (n + 1) * most


@pytest.mark.parametrize("target", TARGETS[:1] + TARGETS[2:3], ids=lambda t: t.name)
@pytest.mark.parametrize("wrong", [1e6, float("inf"), -float("inf"), float("nan"), 1e38])
def test_numbers_that_fit_no_byte_are_computed_as_they_are(wrong, target):
    """Only outputs that they reach: all others keep the bits of the definition."""
    rng = Random(7)
    problem = replace(problem_of(rng), bits=4)
    blocks = p.Blocks(20, 8, 6, 5)
    form, size = p.Integers(blocks, 8), (6, 7)
    made = p.IntegerConv(View.nhwc(*size, 20), View.nhwc(6, 7, 19), View.nhwc(*size, 20), form, 4)
    made = replace(made, kernel_size=(3, 3), padding=(1, 1), epilogue=p.Epilogue(bias=True))
    problem = replace(made, x=View.nhwc(*size, form.floats, halo=made.x_halo))
    x, weights = numbers_of(problem, rng)
    calm = defined(problem, x, weights)
    x[2, 3, 9] = wrong
    source = converted(problem, x, target)
    (kernel,) = kernels_of(problem, target)[:1]
    got = run(kernel, {"x": (problem.x, source), "given": (problem.given, x)}, weights)
    reached = np.zeros((6, 7), bool)
    reached[1:4, 2:5] = True
    # a tile with such an output is computed as a whole in another way: within the rounding bound
    image = block_floating_point(torch.from_numpy(x).permute(2, 0, 1)[None], 8, 6, 5).double()
    spread = weights["shifts"].repeat(8, 1)[:, :20] * weights["weight"]
    kernel64, bias = torch.from_numpy(spread).double(), torch.from_numpy(weights["bias"]).double()
    exact = F.conv2d(image, kernel64, bias, padding=1)[0].permute(1, 2, 0)
    size64 = F.conv2d(image.abs().nan_to_num(0, 0, 0), kernel64.abs(), bias.abs(), padding=1)[0].permute(
        1, 2, 0
    )
    y = torch.from_numpy(got)
    finite = exact.float().isfinite()
    assert torch.equal(y[~finite].nan_to_num(7.0), exact[~finite].float().nan_to_num(7.0))
    assert worst_ratio(y[finite], exact[finite], rounding_bound(exact, size64, 182)[finite]) <= 1
    untouched = ~reached
    untouched[1:4] = False  # tiles are pixels of a row
    assert np.array_equal(got[untouched], calm[untouched])


@pytest.mark.parametrize("bits", range(2, 9))
def test_weights_take_their_bits_and_come_back(bits):
    vectors = np.random.default_rng(bits).integers(0, 2**bits, (3 * BATCH, 32)).astype(np.uint8)
    packed = pack(vectors, bits)
    assert packed.nbytes == packed_bytes(vectors.size, bits)
    again, row = np.zeros_like(vectors), 0
    for batch in range(3):
        for width, place in planes(bits):
            for first in range(0, BATCH, 8 // width):
                for i in range(8 // width):
                    again[batch * BATCH + first + i] |= (packed[row] >> width * i & (2**width - 1)) << place
                row += 1
    assert np.array_equal(again, vectors)


def test_a_layer_keeps_its_weights_at_their_bits():
    blocks = p.Blocks(64, 32, 6, 5)
    form = p.Integers(blocks, 4)
    made = p.IntegerConv(View.nhwc(8, 8, 64), View.nhwc(8, 8, 64), View.nhwc(8, 8, 64), form, 3)
    made = replace(made, kernel_size=(3, 3), padding=(1, 1))
    problem = replace(made, x=View.nhwc(8, 8, form.floats, halo=made.x_halo))
    kernel = templates.choose(problem, HOST)
    weights, shifts, bias = 64 * 64 * 9, 64 * 2 * 9, 64
    assert 4 * kernel.packed == packed_bytes(weights, 3) + 4 * (shifts + bias)
