"""A layer between Python and the operating system that lets file operation number n fail, or be the last."""

import errno
import io
import os
from contextlib import contextmanager, suppress
from pathlib import Path

from regroup.files import exchange as names

_NAMES = """open close read write fstat stat lstat mkdir rmdir unlink remove rename replace link symlink
scandir listdir utime fsync truncate ftruncate chmod fchmod"""

OPERATIONS = tuple(word for line in _NAMES.splitlines() for word in line.split())
"""What is counted; pathlib, shutil and tempfile call the same functions."""

ERRORS = (errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EIO)


class Crash(BaseException):
    """The process is gone; nothing of it runs any more."""


class Fault:
    """What happens at operation number `last`, and counts them."""

    def __init__(self, last, number=None):
        self.left, self.number, self.seen, self.over = last, number, 0, False

    def before(self, name):
        self.seen += 1
        if self.over:
            raise Crash
        if self.left == 0:
            if self.number is None:
                self.over = True  # no clean-up may run after a crash
                raise Crash
            if name != "close":
                raise OSError(self.number, os.strerror(self.number))
        self.left -= 1


@contextmanager
def faults(monkeypatch, fault, within):
    """Let operations on paths below `within`, and on descriptors, meet `fault` inside the block."""
    with monkeypatch.context() as patch:
        for name in OPERATIONS:
            patch.setattr(os, name, _counted(getattr(os, name), name, fault, str(within)))
        patch.setattr(names, "exchange", _counted(names.exchange, "exchange", fault, str(within)))
        patch.setattr(io, "open", _counted(io.open, "open", fault, str(within)))
        yield fault


def _counted(function, name, fault, within):
    def counted(*arguments, **options):
        first = arguments[0] if arguments else ""
        if isinstance(first, int) or os.fspath(first).startswith(within):
            fault.before(name)
        return function(*arguments, **options)

    return counted


def descriptors(name):
    """This process's open files of that name: a crash that is played leaves them and their locks."""
    for link in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            if link.readlink().name == name:
                yield int(link.name)
