"""Bring scattered objects into the cache: all at once, instead of waiting for one after the other."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable

import numpy as np

from regroup.kernels import jit
from regroup.kernels.cache import Cache
from regroup.kernels.lang import Code
from regroup.kernels.target import Target


def touch(addresses: np.ndarray) -> None:
    """Ask for the cache lines at `addresses` (int64); nothing is read, so they need not be valid."""
    _function()(addresses.ctypes.data, len(addresses))


@functools.cache
def _function() -> Callable[[int, int], None]:
    target = Target.host()
    code = Code(target, "touch", addresses="ptr", count="i64")
    table, count = code.arguments
    for i in code.each(0, count):
        at = code.emit("ptr", f"getelementptr inbounds ptr, ptr {table}, i64 {i}")
        code.prefetch(code.emit("ptr", f"load ptr, ptr {at}, align 8"), 0)
    text = jit.assembly([code])
    key = "\n".join([jit.VERSION, repr(target), text])
    loaded = jit.load([Cache.default().get(key, lambda: jit.compile_object(text, target))])
    call = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)(loaded.address("touch"))
    call.keep = loaded  # type: ignore[attr-defined]
    return call
