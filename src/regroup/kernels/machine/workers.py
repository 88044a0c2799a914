"""Threads of our own, outside of Python: they run native code for ever, or sleep in it.

Threads and the locks in which they sleep are those that Python itself is made of, by C functions of its
stable ABI that need nothing of the interpreter: so they are there wherever Python is.
"""

from __future__ import annotations

import ctypes
import functools
import os
import signal

import numpy as np

_immortal: list[object] = []

_NO_THREAD = ctypes.c_ulong(-1).value


def keep_for_ever(thing: object) -> None:
    """Never free an object, not even at the end of the process: threads may still be using it."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))
    _immortal.append(thing)


def start(function: int, argument: int) -> bool:
    """Start a thread that runs the native `void function(void *)`; tell whether there is one.

    Signals are not for it: they go to Python's threads.
    """
    begin = _python("PyThread_start_new_thread", ctypes.c_ulong, ctypes.c_void_p, ctypes.c_void_p)
    if not hasattr(signal, "pthread_sigmask"):
        return begin(function, argument) != _NO_THREAD
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:  # a handler may raise its exception right after signals are blocked
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        return begin(function, argument) != _NO_THREAD
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def lock_functions() -> list[int]:
    """Return addresses: of `int acquire(void *lock, int wait)`, of `void release(void *lock)`."""
    names = ("PyThread_acquire_lock", "PyThread_release_lock")
    return [address(getattr(ctypes.pythonapi, name)) for name in names]


def locks(count: int) -> list[int]:
    """Return addresses of new locks, all taken, which are never freed."""
    made = [_python("PyThread_allocate_lock", ctypes.c_void_p)() for _ in range(count)]
    for lock in made:
        _python("PyThread_acquire_lock", ctypes.c_int, ctypes.c_void_p, ctypes.c_int)(lock, 1)
    return made


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def shared_words(count: int) -> np.ndarray:
    """Return 64-bit words, all zero, from the beginning of two cache lines on."""
    raw = np.zeros(count + 16, np.int64)
    return raw[-raw.ctypes.data % 128 // 8 :][:count]


def address(function: ctypes._CFuncPtr) -> int:
    """Return where a C function lies."""
    found = ctypes.cast(function, ctypes.c_void_p).value
    assert found
    return found


@functools.lru_cache(maxsize=8)
def _python(name: str, result: type | None, *arguments: type) -> ctypes._CFuncPtr:
    """Return a C function of Python's; in ctypes' own object for it others may have set other types."""
    return ctypes.PYFUNCTYPE(result, *arguments)(address(getattr(ctypes.pythonapi, name)))
