"""Two names exchanged in one step: whoever looks finds either the one or the other, and never nothing.

>>> exchange(Path("/tmp/regroup-nothing"), Path("/tmp/regroup-nobody"))
Traceback (most recent call last):
FileNotFoundError: [Errno 2] No such file or directory: '/tmp/regroup-nothing' -> '/tmp/regroup-nobody'
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # fcntl.h, linux/fs.h
_UNABLE = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM)
"""How kernels, file systems and sandboxes say that they know no exchange."""


def exchange(one: Path, other: Path) -> bool:
    """Exchange what two names stand for; return whether the system can: if not, nothing has changed.

    Linux can on its local file systems (`renameat2` with RENAME_EXCHANGE); NFS and other systems cannot.

    Raises:
        OSError: one of them is not there, or may not be renamed.
    """
    function = _renameat2()
    if function is None:
        return False
    if function(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _UNABLE:
        return False
    raise OSError(number, os.strerror(number), str(one), None, str(other))


@cache
def _renameat2() -> Callable[..., int] | None:
    """Return the C library's function, or None where it has none."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        function = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return None
    function.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
    return function
