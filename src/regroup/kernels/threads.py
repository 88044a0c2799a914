"""The thread pool that PyTorch computes on, for native code: parallel regions and barriers.

On Linux that is GNU OpenMP, which PyTorch brings along (LLVM's and Intel's have the same entry points).
Where there is none, work runs on the calling thread.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Iterator
from pathlib import Path

_forked = False


def usable(threads: int) -> int:
    """Return how many of `threads` can be used: one in a forked process, which has not got the pool's.

    OpenMP waits for ever for threads that a fork has left behind.
    """
    return 1 if _forked else threads


def _leave_pool() -> None:
    global _forked
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_pool)

_NAMES = ("GOMP_parallel", "GOMP_barrier", "omp_get_thread_num", "omp_get_num_threads")


@functools.cache
def entry_points() -> dict[str, int] | None:
    """Return the addresses of the OpenMP functions in `_NAMES`, or None."""
    for library in _libraries():
        try:
            return {name: _address(library, name) for name in _NAMES}
        except AttributeError:
            continue
    return None


def _address(library: ctypes.CDLL, name: str) -> int:
    address = ctypes.cast(getattr(library, name), ctypes.c_void_p).value
    assert address
    return address


def _libraries() -> Iterator[ctypes.CDLL]:
    """Yield the OpenMP runtimes of this process, PyTorch's first."""
    import torch

    folder = Path(torch.__file__).parent
    found = [*folder.glob("lib/libgomp*"), *folder.parent.glob("torch.libs/libgomp*")]
    for path in [*found, "libgomp.so.1", "libomp.so"]:
        try:
            yield ctypes.CDLL(str(path))
        except OSError:
            continue
