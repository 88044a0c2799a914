"""Reading a file within limits: what it is and how large it is are known before anything is read.

>>> Path("/tmp/small.txt").write_bytes(b"hello")
5
>>> read_file(Path("/tmp/small.txt"), most=5)
b'hello'
>>> read_file(Path("/tmp/small.txt"), most=4)
Traceback (most recent call last):
OSError: [Errno 27] has 5 bytes, more than the 4 that are read: '/tmp/small.txt'
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

# O_NONBLOCK: opening a pipe that nobody writes to would wait for ever; regular files do not notice it
_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


def open_file(path: Path, *, most: int | None = None, follow: bool = True) -> int:
    """Return a descriptor of a regular file, to be read; nothing that could wait is opened.

    Args:
        path: of the file.
        most: bytes that it may have; None is any number.
        follow: whether it may be a symbolic link.

    Raises:
        OSError: there is none, it is a pipe, device or directory, or is larger; `strerror` says so.
    """
    handle = os.open(path, _FLAGS | (0 if follow else getattr(os, "O_NOFOLLOW", 0)))
    try:
        check_regular(os.fstat(handle), path, most)
    except BaseException:
        os.close(handle)
        raise
    return handle


def read_file(path: Path, *, most: int, follow: bool = True) -> bytes:
    """Return the content of a regular file of at most `most` bytes; the rest is as of `open_file`."""
    handle = open_file(path, most=most, follow=follow)
    try:
        return read_all(handle, path, most)
    finally:
        os.close(handle)


def read_beginning(path: Path, count: int) -> bytes:
    """Return the first `count` bytes of a regular file of any size; errors are as of `open_file`."""
    handle = open_file(path)
    try:
        return read_exactly(handle, count)
    finally:
        os.close(handle)


def read_all(handle: int, path: Path, most: int) -> bytes:
    """Return what is left of an open file, which may have grown since it was looked at.

    Raises:
        OSError: it is larger than `most` bytes, or cannot be read.
    """
    content = read_exactly(handle, most + 1)
    if len(content) > most:
        raise _too_large(path, f"{len(content)} or more", most)
    return content


def read_exactly(handle: int, count: int) -> bytes:
    """Return the next `count` bytes of an open file; fewer only where it ends."""
    parts, left = [], count
    while left > 0 and (part := os.read(handle, min(left, 1 << 20))):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def check_regular(status: os.stat_result, path: Path, most: int | None = None) -> None:
    """Require that `status` is that of a regular file of at most `most` bytes.

    Raises:
        OSError: it is not; `strerror` says what it is.
    """
    if stat.S_ISDIR(status.st_mode):
        raise OSError(errno.EISDIR, "is a directory, not a file", str(path))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "is not a file but a pipe, socket or device", str(path))
    if most is not None and status.st_size > most:
        raise _too_large(path, f"{status.st_size}", most)


def _too_large(path: Path, size: str, most: int) -> OSError:
    return OSError(errno.EFBIG, f"has {size} bytes, more than the {most} that are read", str(path))
