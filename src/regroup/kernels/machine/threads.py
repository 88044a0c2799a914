"""The thread pool that PyTorch computes on, for native code: parallel regions.

That is OpenMP, which PyTorch brings along: GNU's on Linux; on macOS LLVM's, which has the same entry points.
A forked process has none, and what PyTorch brings along on Windows has other ones; there threads of our own
do the work (`workers.py`).
"""

from __future__ import annotations

import ctypes
import functools
import os
import threading
import warnings
import weakref
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from regroup.errors import EngineWarning
from regroup.kernels.machine import workers

_ONE_THREAD = "PyTorch's operators take one thread in a forked process, which has not got those of OpenMP"


class _Fork:
    """What a forked process knows of itself."""

    def __init__(self) -> None:
        self.is_child = False
        self.renew()

    def renew(self) -> None:
        """Forget the threads that the parent had."""
        self.lock, self.calls, self.threads, self.has_said = threading.Lock(), 0, 0, False

    def leave_pool(self) -> None:
        """Note that this is a child."""
        self.is_child = True
        self.renew()


_fork = _Fork()


def is_child() -> bool:
    """Tell whether this process was forked: OpenMP would wait for ever for threads that were left behind."""
    return _fork.is_child


def why_not_more() -> str:
    """Return what is left to fewer threads than are asked for, and why, or nothing."""
    return _ONE_THREAD if _fork.is_child else ""


def say_one_thread() -> None:
    """Warn once in a forked process, `within_fork`, that PyTorch's operators run on fewer threads there."""
    if _fork.is_child and _fork.threads > 1 and not _fork.has_said:
        _fork.has_said = True
        warnings.warn(_ONE_THREAD, EngineWarning, stacklevel=2)


def torch_threads() -> int:
    """Return how many threads PyTorch has been set to, also `within_fork`."""
    import torch

    return _fork.threads if _fork.calls else torch.get_num_threads()


def within_fork() -> AbstractContextManager[None]:
    """Return a context in which PyTorch's own operators do not wait for threads that a fork has left behind.

    In a forked process it sets PyTorch to one thread, and back at the end; anywhere else it does nothing.
    """
    return _one_thread() if _fork.is_child else nullcontext()


@contextmanager
def _one_thread() -> Iterator[None]:
    import torch

    with _fork.lock:
        _fork.threads = before = torch_threads()
        _fork.calls += 1
        torch.set_num_threads(1)
    try:
        yield
    finally:
        with _fork.lock:
            _fork.calls = max(_fork.calls - 1, 0)  # it may be in a child of this child now
            torch.set_num_threads(before)


class Lock:
    """A lock that its owner may take again, and that a forked process does not wait for.

    The parent's other threads are not there, so they would never give it back.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        _locks.add(self)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *exception: object) -> None:
        self._lock.release()

    def renew(self) -> None:
        """Take it from threads that are not there."""
        if not self._lock.acquire(blocking=False):
            self._lock = threading.RLock()
        else:
            self._lock.release()


_locks: weakref.WeakSet[Lock] = weakref.WeakSet()


def _after_fork() -> None:
    _fork.leave_pool()
    for lock in list(_locks):
        lock.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

_NAMES = ("GOMP_parallel", "omp_get_thread_num", "omp_get_num_threads")


@functools.cache
def entry_points() -> dict[str, int] | None:
    """Return the addresses of the OpenMP functions in `_NAMES`, or None."""
    for library in _libraries():
        try:
            return {name: workers.address(getattr(library, name)) for name in _NAMES}
        except AttributeError:
            continue
    return None


def _libraries() -> Iterator[ctypes.CDLL]:
    """Yield the OpenMP runtimes of this process, PyTorch's first."""
    import torch

    folder = Path(torch.__file__).parent
    places = ("torch/lib/libgomp*", "torch.libs/libgomp*", "torch/lib/libomp.dylib")
    found = [path for place in places for path in folder.parent.glob(place)]
    for path in [*found, "libgomp.so.1", "libomp.so"]:
        try:
            yield ctypes.CDLL(str(path))
        except OSError:
            continue
