"""Run a program's tables on the thread pool that PyTorch uses."""

from __future__ import annotations

import ctypes
from functools import lru_cache

import numpy as np

from regroup.files.cache import Cache
from regroup.kernels.language.code import assembly
from regroup.kernels.machine import jit
from regroup.kernels.machine.target import Target
from regroup.kernels.machine.threads import entry_points
from regroup.kernels.program.runner import FIELDS, runner, serial_stubs


class Region:
    """The runner's machine code and the thread pool it runs on; one per process and target."""

    def __init__(self, target: Target) -> None:
        codes = assembly([runner(target), *serial_stubs(target)])
        key = "\n".join([jit.VERSION, repr(target), codes])
        self._loaded = jit.load([Cache.default().get(key, lambda: jit.compile_object(codes, target))])
        self._run = self._loaded.address("run")
        stubs = [self._loaded.address(name) for name in ("number", "count", "barrier")]
        self._openmp = entry_points()
        functions = ("omp_get_thread_num", "omp_get_num_threads", "GOMP_barrier")
        pool = [self._openmp[name] for name in functions] if self._openmp else stubs
        names = ("thread_number", "thread_count", "barrier")
        self._serial, self._pool = dict(zip(names, stubs, strict=True)), dict(zip(names, pool, strict=True))
        self._call = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(self._run)
        if self._openmp:
            types = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
            self._parallel = ctypes.CFUNCTYPE(None, *types)(self._openmp["GOMP_parallel"])

    @staticmethod
    @lru_cache(maxsize=8)
    def of(target: Target) -> Region:
        """Return the region of a target."""
        return Region(target)

    def fields(self, values: dict[str, int], threads: int) -> np.ndarray:
        """Return the runner's argument: `values`, and the pool's functions for so many threads."""
        values = values | (self._serial if self._is_alone(threads) else self._pool)
        return np.array([values[name] for name in FIELDS], np.int64)

    def run(self, fields: int, threads: int) -> None:
        """Run the program whose `fields` lie at an address, on the number of threads they were made for."""
        if self._is_alone(threads):
            self._call(fields)
        else:
            self._parallel(self._run, fields, threads, 0)

    def _is_alone(self, threads: int) -> bool:
        return threads <= 1 or not self._openmp
