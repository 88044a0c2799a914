"""Object code on disk: private to the user, checked by hash, rebuilt when it is anything else.

An entry is the SHA-256 of its key and content, then the content. It lies in `$REGROUP_CACHE`
(`~/.cache/regroup` by default) in a folder that only the user can enter; an empty `REGROUP_CACHE` means no
cache.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

_DIGEST = hashlib.sha256().digest_size


class Cache:
    """A folder of byte strings by key; every failure to read is a miss, every failure to write is ignored.

    Args:
        folder: where; None keeps nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    @classmethod
    def default(cls) -> Cache:
        """Return the user's cache."""
        set_by_user = os.environ.get("REGROUP_CACHE")
        if set_by_user == "":
            return cls(None)
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
        return cls(Path(set_by_user) if set_by_user else base / "regroup")

    def get(self, key: str, make: Callable[[], bytes]) -> bytes:
        """Return the entry of `key`, made by `make` if there is none or it is not to be trusted."""
        path = self._path(key)
        found = None if path is None else self._read(path, key)
        if found is not None:
            return found
        content = make()
        if path is not None:
            with suppress(OSError):
                self._write(path, _digest(key, content) + content)
        return content

    def _path(self, key: str) -> Path | None:
        return None if self.folder is None else self.folder / f"{hashlib.sha256(key.encode()).hexdigest()}.o"

    def _read(self, path: Path, key: str) -> bytes | None:
        try:
            if not _private(path.parent, directory=True):
                return None
            with os.fdopen(os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0)), "rb") as file:
                if not _ours(os.fstat(file.fileno()), directory=False):
                    return None
                entry = file.read()
        except OSError:
            return None
        digest, content = entry[:_DIGEST], entry[_DIGEST:]
        return content if digest == _digest(key, content) else None

    def _write(self, path: Path, entry: bytes) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _private(path.parent, directory=True):
            return
        handle, name = tempfile.mkstemp(dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(entry)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


def _digest(key: str, content: bytes) -> bytes:
    return hashlib.sha256(key.encode() + b"\0" + content).digest()


def _private(path: Path, directory: bool) -> bool:
    return _ours(path.lstat(), directory)


def _ours(status: os.stat_result, directory: bool) -> bool:
    """Tell whether a file is what it should be, the user's own, and writable by nobody else."""
    kind = stat.S_ISDIR if directory else stat.S_ISREG
    if not kind(status.st_mode):
        return False
    if os.name != "posix":
        return True
    return status.st_uid == os.geteuid() and not status.st_mode & 0o022
