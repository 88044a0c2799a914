"""One process at a time: a lock on a file, which dies with the process that holds it.

>>> with Lock(Path("/tmp/regroup-example.lock")):
...     "nobody else is here"
'nobody else is here'

The lock is the operating system's (`flock`; on Windows `msvcrt.locking`), so `kill -9` leaves none behind,
and Linux passes it on to the server of a network file system, where it holds between machines. A child
process does not inherit it, nor keeps it alive. The file stays; it says who holds the lock.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import sys
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from regroup.errors import LockedError
from regroup.files.reading import read_beginning

_POLL = 0.1  # seconds between two tries: the system has no wait that a signal or another thread can end
_SOMEBODY = "another process"
_LOOKS = 5  # until a file that names nobody is believed: who has the lock may be about to write, or to leave
_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
_OPEN: weakref.WeakSet[Lock] = weakref.WeakSet()


class Held:
    """What is taken by attempts, and held while it is entered."""

    def __enter__(self) -> Self:
        while not self.attempt():
            pass
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()

    def attempt(self) -> bool:
        """Try to take it; return whether it is had now. Where it is not, a moment has passed."""
        raise NotImplementedError

    def release(self) -> None:
        """Give it back, if this process has it."""
        raise NotImplementedError


def signature() -> dict[str, Any]:
    """Return what a holder says of itself: its process, its machine, the time."""
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    return {"pid": os.getpid(), "host": socket.gethostname(), "since": since}


def in_words(said: Any, *, but: str = "") -> str:
    """Return who signed so, in words; his machine is not named if it is `but`.

    >>> in_words({"pid": 12, "host": "there", "since": "noon"}), in_words(None)
    ('process 12 on there since noon', 'another process')
    """
    try:
        pid, host, since = int(said["pid"]), str(said["host"])[:100], str(said["since"])[:40]
    except (KeyError, TypeError, ValueError):
        return _SOMEBODY
    where = "" if host == but else f" on {host}"
    return f"process {pid}{where} since {since}".encode("ascii", "replace").decode()


class Lock(Held):
    """A lock that is held while it is entered. Threads of one process exclude each other too.

    Args:
        path: the file; its directory must exist.
        of: what is locked, as messages name it; None: the directory of the file.
        wait: whether to wait for whoever holds it.
        say: called with one line when it has to wait, or when the file system knows no locks.

    Raises:
        LockedError: it is held, and `wait` is false; it says by whom.
        OSError: the file cannot be made.
    """

    def __init__(
        self,
        path: Path,
        *,
        of: Path | None = None,
        wait: bool = True,
        say: Callable[[str], object] | None = None,
    ) -> None:
        self.path, self._of, self._wait, self._say = path, of or path.parent, wait, say
        self._handle: int | None = None
        self._waiting, self._looks = False, 0

    def attempt(self) -> bool:
        """Try to take the lock; return whether it is had now. Where it is not, a moment has passed.

        Raises:
            LockedError: somebody has it who is not to be waited for.
        """
        if self.try_lock():
            return True
        holder, self._looks = self.holder(), self._looks + 1
        if holder != _SOMEBODY or self._looks >= _LOOKS:
            if not self._wait:
                raise LockedError(self._of, f"is in use by {holder}")
            if self._say is not None and not self._waiting:
                self._say(f"waiting for {holder}, which uses {self._of}")
            self._waiting = True
        time.sleep(_POLL)
        return False

    def try_lock(self) -> bool:
        """Take the lock if it is free; return whether it was."""
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
        handle = os.open(self.path, flags | getattr(os, "O_NONBLOCK", 0), 0o666)
        try:
            taken = _take(handle)
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                os.close(handle)
                raise
            taken = True
            if self._say is not None:
                reason = error.strerror or error
                self._say(
                    f"{self.path}: this file system has no locks ({reason}): start one process at a time"
                )
        if not taken or not self._is_there(handle):
            os.close(handle)
            return False
        self._handle = handle
        _OPEN.add(self)
        self._sign(handle)
        return True

    def release(self) -> None:
        """Give the lock back, if this process has it."""
        handle, self._handle = self._handle, None
        _OPEN.discard(self)
        if handle is not None:
            with suppress(OSError):
                os.ftruncate(handle, 0)
            os.close(handle)

    def holder(self) -> str:
        """Return who has the lock, in words, as far as the file says."""
        try:
            said = json.loads(read_beginning(self.path, 4096))
        except (OSError, ValueError):
            return _SOMEBODY
        return in_words(said, but=socket.gethostname())

    def remove(self) -> None:
        """Remove the file, while the lock is held: who waits for it finds that, and makes it anew."""
        with suppress(OSError):  # Windows removes no file that is open
            self.path.unlink()

    def abandon(self) -> None:
        """Forget a lock that the parent process has: closing this process's copy leaves it the parent's."""
        handle, self._handle = self._handle, None
        if handle is not None:
            with suppress(OSError):
                os.close(handle)

    def _is_there(self, handle: int) -> bool:
        """Tell whether an open file is still the one of this name: somebody may have removed it."""
        try:
            return os.path.samestat(os.fstat(handle), self.path.stat())
        except FileNotFoundError:
            return False

    def _sign(self, handle: int) -> None:
        said = signature()
        with suppress(OSError):  # of a full disk; the lock holds all the same
            os.ftruncate(handle, 0)
            os.pwrite(handle, json.dumps(said).encode(), 0) if hasattr(os, "pwrite") else None


def _abandon_all() -> None:
    for lock in list(_OPEN):
        lock.abandon()
    _OPEN.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_abandon_all)

if sys.platform == "win32":
    import msvcrt

    def _take(handle: int) -> bool:
        os.lseek(handle, 1 << 20, os.SEEK_SET)  # a byte that nobody reads: locked bytes cannot be read
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EDEADLK):
                return False
            raise
        return True
else:
    import fcntl

    def _take(handle: int) -> bool:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):  # EACCES is how a network file system says it
                return False
            raise
        return True
