"""Memory that ends, and begins, at a page that may not be touched."""

from __future__ import annotations

import ctypes
import mmap

import numpy as np

_LIBC = ctypes.CDLL(None, use_errno=True)
_PAGE = mmap.PAGESIZE


class Guarded:
    """One region of `floats` floats at most, between two protected pages; it is reused for every problem."""

    def __init__(self, floats: int) -> None:
        self.size = -(-floats * 4 // _PAGE) * _PAGE
        self._map = mmap.mmap(-1, self.size + 2 * _PAGE)
        self._bytes = np.frombuffer(self._map, np.uint8)
        self.start = self._bytes.ctypes.data + _PAGE
        for page in (self.start - _PAGE, self.start + self.size):
            if _LIBC.mprotect(
                ctypes.c_void_p(page), _PAGE, mmap.PROT_NONE if hasattr(mmap, "PROT_NONE") else 0
            ):
                raise OSError(ctypes.get_errno(), "mprotect")

    def take(self, floats: int, at_end: bool) -> np.ndarray:
        """Return `floats` floats that begin right after, or end right before, a protected page."""
        assert floats * 4 <= self.size, floats
        first = _PAGE + (self.size - floats * 4 if at_end else 0)
        return self._bytes[first : first + floats * 4].view(np.float32)
