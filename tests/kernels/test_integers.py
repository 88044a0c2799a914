"""Vectors of integers in generated code: what they compute is what NumPy's integers do, bit by bit."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from regroup.kernels.language import integers
from regroup.kernels.language.code import Code, Value, assembly
from regroup.kernels.machine import jit
from regroup.kernels.machine.target import Target

TARGETS = [Target.host(), Target.avx2()] if Target.host().name == "AVX-512" else [Target.host()]

on_targets = pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
of_widths = pytest.mark.parametrize("bits", [8, 16, 32])


def run(target: Target, write, *inputs: np.ndarray, dtype=None, count=0) -> np.ndarray:
    """Return what `write(code, pointer of each input)` computes, stored as it is."""
    code = Code(target, "tried", views="ptr")
    pointers = [code.load_pointer(code.arguments[0], i) for i in range(len(inputs) + 1)]
    integers.store_ints(code, write(code, *pointers[:-1]), pointers[-1])
    loaded = jit.load([jit.compile_object(assembly([code]), target)])
    result = np.zeros(count or len(inputs[0]), dtype or inputs[0].dtype)
    table = (ctypes.c_void_p * len(pointers))(*(a.ctypes.data for a in (*inputs, result)))
    ctypes.CFUNCTYPE(None, ctypes.c_void_p)(loaded.address("tried"))(table)
    return result


def numbers(target: Target, bits: int, seed: int = 0) -> np.ndarray:
    """Return a register of integers, the extreme ones among them."""
    dtype, count = np.dtype(f"i{bits // 8}"), target.lanes * 32 // bits
    info = np.iinfo(dtype)
    found = np.random.default_rng(seed).integers(info.min, info.max, count, dtype, endpoint=True)
    found[[seed % count, (seed + 1) % count]] = info.min, info.max
    return found


@on_targets
@of_widths
@pytest.mark.parametrize("operation", ["add", "sub", "mul", "and", "or", "xor"])
def test_arithmetic_wraps_around_as_numpys(target, bits, operation):
    names = {"sub": "subtract", "mul": "multiply"} | {n: f"bitwise_{n}" for n in ("and", "or", "xor")}
    a, b = numbers(target, bits), numbers(target, bits, 3)

    def write(code: Code, *pointers: Value) -> Value:
        x, y = (integers.load_ints(code, p, bits) for p in pointers)
        return code.binary(operation, x, y)

    assert np.array_equal(run(target, write, a, b), getattr(np, names.get(operation, operation))(a, b))


@on_targets
@of_widths
@pytest.mark.parametrize("by", [1, 3, 7])
def test_shifts_keep_or_drop_the_sign(target, bits, by):
    a = numbers(target, bits)
    unsigned = a.view(f"u{bits // 8}")
    for name, want in (("shl", a << by), ("lshr", (unsigned >> by).view(a.dtype)), ("ashr", a >> by)):
        got = run(target, lambda c, p, n=name: c.binary(n, integers.load_ints(c, p, bits), by), a)
        assert np.array_equal(got, want), name


@on_targets
@of_widths
def test_the_larger_ones_the_largest_and_the_sum(target, bits):
    a, b = numbers(target, bits), numbers(target, bits, 5)

    def larger(code: Code, *pointers: Value) -> Value:
        return integers.larger_ints(code, *(integers.load_ints(code, p, bits) for p in pointers))

    assert np.array_equal(run(target, larger, a, b), np.maximum(a, b))
    for one, want in ((integers.largest_lane, a.max()), (integers.sum_of_lanes, a.sum(dtype=a.dtype))):
        got = run(target, lambda c, p, f=one: f(c, integers.load_ints(c, p, bits)), a, count=1)
        assert got[0] == want


@on_targets
def test_conversions(target):
    a = numbers(target, 32)
    as_floats = run(target, lambda c, p: integers.as_floats(c, integers.load_ints(c, p)), a, dtype=np.float32)
    assert np.array_equal(as_floats, a.astype(np.float32))
    x = np.linspace(-1e6, 1e6, target.lanes, dtype=np.float32)
    got = run(target, lambda c, p: integers.from_floats(c, c.load(p)), x, dtype=np.int32)
    assert np.array_equal(got, x.astype(np.int32))
    for bits in (8, 16):
        dtype = np.dtype(f"i{bits // 8}")
        got = run(target, lambda c, p: integers.narrowed(c, integers.load_ints(c, p), bits), a, dtype=dtype)  # noqa: B023
        assert np.array_equal(got, a.astype(dtype))
    got = run(target, lambda c, p: integers.broadcast_int(c, p), a)
    assert (got == a[0]).all()
    same = run(target, lambda c, p: integers.bits_of(c, integers.load_ints(c, p, 8), integers.ints(c, 32)), a)
    assert np.array_equal(same, a)
