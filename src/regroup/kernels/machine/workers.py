"""Threads of our own, outside of Python: they run native code for ever, or sleep in it."""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import signal
import sys

import numpy as np

_FUTEX = {"x86_64": 202, "aarch64": 98}
"""The number of the system call by which threads sleep and wake each other."""

_immortal: list[object] = []


def keep_for_ever(thing: object) -> None:
    """Never free an object, not even at the end of the process: threads may still be using it."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))
    _immortal.append(thing)


@functools.cache
def system_calls() -> dict[str, int] | None:
    """Return addresses of C functions, and the number of `futex`; None where there are no such threads."""
    number = _FUTEX.get(platform.machine())
    if not sys.platform.startswith("linux") or number is None:
        return None
    library = ctypes.CDLL(None)
    try:
        found = {name: _address(library, name) for name in ("syscall", "usleep", "pthread_create")}
    except AttributeError:
        return None
    return found | {"futex": number}


def start(function: int, argument: int) -> bool:
    """Start a thread that runs the native `void *function(void *)`; tell whether there is one.

    Signals are not for it: they go to Python's threads.
    """
    calls = system_calls()
    assert calls is not None
    types = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
    create = ctypes.CFUNCTYPE(ctypes.c_int, *types)(calls["pthread_create"])
    thread = ctypes.create_string_buffer(16)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        return create(ctypes.addressof(thread), None, function, argument) == 0
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def shared_words(count: int) -> np.ndarray:
    """Return 64-bit words, all zero, from the beginning of two cache lines on."""
    raw = np.zeros(count + 16, np.int64)
    return raw[-raw.ctypes.data % 128 // 8 :][:count]


def _address(library: ctypes.CDLL, name: str) -> int:
    address = ctypes.cast(getattr(library, name), ctypes.c_void_p).value
    assert address
    return address
