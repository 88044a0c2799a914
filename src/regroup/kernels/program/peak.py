"""The machine's measured peak: multiply-adds on registers, as fast as one core does them."""

from __future__ import annotations

import ctypes
import functools
import time

import numpy as np

from regroup.kernels.language.code import Code, assembly
from regroup.kernels.machine import jit
from regroup.kernels.machine.target import Target

_CHAINS, _ROUNDS = 12, 20_000


@functools.cache
def peak_gflops() -> float:
    """Return GFLOP/s of one core: the best of some runs of a few hundred microseconds."""
    target = Target.host()
    code = Code(target, "peak", out="ptr", rounds="i64")
    out, rounds = code.arguments
    factor = code.load(out)
    sums = code.carry(0, rounds, 1, [factor] * _CHAINS, lambda _, s: [code.fma(v, factor, factor) for v in s])
    for i, v in enumerate(sums):
        code.store(v, out + i * target.lanes)
    loaded = jit.load([jit.compile_object(assembly([code]), target)])
    run = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)(loaded.address("peak"))
    memory = np.zeros(_CHAINS * target.lanes, np.float32)
    best = float("inf")
    for _ in range(20):
        start = time.perf_counter()
        run(memory.ctypes.data, _ROUNDS)
        best = min(best, time.perf_counter() - start)
    return 2 * _CHAINS * target.lanes * _ROUNDS / best / 1e9
