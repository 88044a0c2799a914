"""The file operations by which anything is kept, in one place, so that tests can make each of them fail.

>>> with using(Disk()):
...     write_file(Path("/tmp/regroup-example.txt"), b"old or new, never half")
"""

from __future__ import annotations

import glob
import os
import secrets
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path

from regroup.files import exchange as names

_FLAGS = os.O_WRONLY | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_NEW, _MORE = _FLAGS | os.O_EXCL, _FLAGS | os.O_APPEND


class Disk:
    """The file operations that keeping needs, each of which may be the last that a process does."""

    def make_directory(self, path: Path) -> None:
        """Create one directory."""
        path.mkdir()

    def write(self, path: Path, data: bytes, mode: int = 0o666) -> None:
        """Write a new file of these permissions and leave it to the operating system to store it."""
        _write(os.open(path, _NEW, mode), data)

    def append(self, path: Path, data: bytes) -> None:
        """Write at the end of a file."""
        _write(os.open(path, _MORE, 0o666), data)

    def sync(self, path: Path) -> None:
        """Return when a file's content, or a directory's list of names, is on the disk."""
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def rename(self, old: Path, new: Path) -> None:
        """Rename a directory, to a name that does not exist, or a file, to one that may."""
        old.replace(new)

    def exchange(self, one: Path, other: Path) -> bool:
        """Exchange two names in one step; return whether the system can: see `regroup.files.exchange`."""
        return names.exchange(one, other)

    def remove(self, path: Path) -> None:
        """Remove a file, or a directory with all it holds."""
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _write(handle: int, data: bytes) -> None:
    try:
        left = memoryview(data)
        while left:
            left = left[os.write(handle, left) :]
    finally:
        os.close(handle)


_DISK: ContextVar[Disk] = ContextVar("disk")
_REAL = Disk()


def disk() -> Disk:
    """Return the file operations in force."""
    return _DISK.get(_REAL)


@contextmanager
def using(operations: Disk) -> Iterator[None]:
    """While this is entered, everything is kept by these `operations`."""
    token = _DISK.set(operations)
    try:
        yield
    finally:
        _DISK.reset(token)


def partial_name(path: Path) -> Path:
    """Return a name beside `path` for what is being written: hidden, nobody else's, for `remove_partial`."""
    return path.with_name(f".{path.name[:100]}.partial-{secrets.token_hex(8)}")


def write_file(path: Path, data: bytes, *, mode: int = 0o666, lasting: bool = True) -> None:
    """Write a file in one step: whatever is killed when, it is the old one or the new one, never half.

    Args:
        path: of the file.
        data: its content.
        mode: permissions, of which the process's umask takes some away.
        lasting: return only when it is on the disk; else, after a power cut, it may be anything.

    Raises:
        OSError: it could not be written; the old one stays.
    """
    partial = partial_name(path)
    try:
        disk().write(partial, data, mode)
        if lasting:
            disk().sync(partial)
        disk().rename(partial, path)
        if lasting:
            disk().sync(path.parent)
    except (Exception, KeyboardInterrupt):
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def remove_partial(parent: Path, name: str | None = None, *, age: float = 0.0) -> None:
    """Remove what writers that were killed left half done in `parent`; nobody else may be writing there.

    Args:
        parent: the directory.
        name: of what they wrote; None: of whatever.
        age: seconds since it was touched, at least, where somebody else may be writing there.
    """
    for partial in parent.glob(f".{'*' if name is None else glob.escape(name)}.partial-*"):
        with suppress(FileNotFoundError):
            if not age or time.time() - partial.lstat().st_mtime > age:
                disk().remove(partial)


def make_directories(path: Path) -> None:
    """Make a directory and those above it, as far as they are missing.

    Raises:
        OSError: one cannot be made, or is something else.
    """
    if path.is_dir():
        return
    if path.parent != path:
        make_directories(path.parent)
    try:
        disk().make_directory(path)
    except FileExistsError:
        if not path.is_dir():  # another process may have made it just now
            raise


def try_writing(directory: Path) -> None:
    """Write and remove a small file in `directory`: permissions alone do not tell whether that works.

    Raises:
        OSError: it does not.
    """
    probe = partial_name(directory / "probe")
    try:
        disk().write(probe, f"{socket.gethostname()} {os.getpid()}\n".encode())
        with suppress(FileNotFoundError):  # whoever has the lock here clears away what is half written
            disk().sync(probe)
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)


def free_bytes(directory: Path) -> int | None:
    """Return how many bytes the disk of `directory` has left for this user, or None if it does not say."""
    try:
        return shutil.disk_usage(directory).free
    except OSError:
        return None
