"""Byte strings on disk by key: private to the user, checked by hash, made again when they are anything else.

>>> cache = Cache(Path("/tmp/regroup-example"))
>>> cache.get("two squared", lambda: b"4")
b'4'
>>> cache.get("two squared", lambda: b"not made again")
b'4'

Object code and the verdicts on image files are kept so. An entry is the SHA-256 of its key and content, then
the content. It lies in `$REGROUP_CACHE` (`$XDG_CACHE_HOME/regroup` or `~/.cache/regroup` by default) in a
folder `user-UID` that only the user can enter, so that several may name the same place; an empty
`REGROUP_CACHE` means no cache. Whoever is killed while writing leaves a temporary file, which the next
writer removes when it is an hour old. The cache holds a gigabyte; then what was not used for longest goes.

There are no locks: an entry appears whole under its name or not at all, and two writers write the same.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from regroup.files.disk import write_file
from regroup.files.reading import open_file, read_all

_log = logging.getLogger(__name__)

_DIGEST = hashlib.sha256().digest_size
_ENTRY = re.compile(r"[0-9a-f]{64}")
_TEMPORARY = re.compile(r"\.[0-9a-f]{64}\.(partial-)?[0-9a-f]{16,32}")  # those of older releases too
_HOUR, _DAY = 3600, 24 * 3600


class Cache:
    """A folder of byte strings; every failure to read is a miss, and one that lasts is said once.

    Args:
        place: the folder in which each user's folder lies; None keeps nothing.
        most: bytes that all entries may have together.
        most_of_one: bytes that one entry may have; a larger one is neither read nor written.
    """

    def __init__(self, place: Path | None, *, most: int = 1 << 30, most_of_one: int = 1 << 28) -> None:
        user = os.geteuid() if hasattr(os, "geteuid") else 0
        self.folder = None if place is None else place / f"user-{user}"
        self.most, self.most_of_one = most, most_of_one
        self._written: int | None = None  # bytes since the last tidying
        self._silent = False

    @staticmethod
    def default() -> Cache:
        """Return the user's cache: one object for each place."""
        chosen = os.environ.get("REGROUP_CACHE")
        if chosen == "":
            return _at(None)
        base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
        try:
            return _at((Path(chosen) if chosen else base / "regroup").expanduser().absolute())
        except RuntimeError:  # no home
            return _at(None)

    def get(self, key: str, make: Callable[[], bytes]) -> bytes:
        """Return the entry of `key`, made by `make` and kept if there is none or it is not to be trusted."""
        found = self.load(key)
        if found is None:
            found = make()
            self.store(key, found)
        return found

    def load(self, key: str) -> bytes | None:
        """Return the entry of `key`; None if there is none, or one that is not exactly what was stored."""
        if self.folder is None:
            return None
        try:
            self._check_folder()
        except FileNotFoundError:
            return None
        except OSError as error:
            self._say(error)
            return None
        with suppress(OSError):
            return self._read(self.folder / _name(key), key)
        return None

    def store(self, key: str, content: bytes) -> None:
        """Keep `content` as the entry of `key`, if the folder can be used and it is not too large."""
        if self.folder is None:
            return
        try:
            if len(content) > self.most_of_one:
                raise OSError(errno.EFBIG, f"an entry of {len(content)} bytes is too large")
            self._make_folder()
            self._write(_name(key), _digest(key, content) + content)
            if self._written is None or self._written > self.most // 16:
                self._tidy()
        except OSError as error:
            self._say(error)

    def _check_folder(self) -> None:
        assert self.folder is not None
        status = self.folder.lstat()
        if not stat.S_ISDIR(status.st_mode):
            raise NotADirectoryError(0, "is not a directory", str(self.folder))
        if not _ours(status):
            reason = "belongs to another user, or others may write there (chmod go-w makes it yours alone)"
            raise PermissionError(0, reason, str(self.folder))

    def _make_folder(self) -> None:
        assert self.folder is not None
        try:
            self._check_folder()
        except FileNotFoundError:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileExistsError):
                self.folder.mkdir(0o700)
            self._check_folder()

    def _read(self, path: Path, key: str) -> bytes | None:
        most = self.most_of_one + _DIGEST
        handle = open_file(path, most=most, follow=False)
        try:
            status = os.fstat(handle)
            if not _ours(status):
                return None
            entry = read_all(handle, path, most)
            if time.time() - status.st_mtime > _DAY:
                with suppress(OSError):  # a cache that cannot be written can be read
                    os.utime(handle)
        finally:
            os.close(handle)
        digest, content = entry[:_DIGEST], entry[_DIGEST:]
        return content if digest == _digest(key, content) else None

    def _write(self, name: str, entry: bytes) -> None:
        assert self.folder is not None
        write_file(self.folder / name, entry, mode=0o600, lasting=False)  # its hash tells if it did not last
        if self._written is not None:
            self._written += len(entry)

    def _tidy(self) -> None:
        """Remove what killed writers have left, and of too many entries those not used for longest."""
        assert self.folder is not None
        self._written, now, entries = 0, time.time(), []
        with os.scandir(self.folder) as listing:
            for item in listing:
                with suppress(OSError):  # another process tidies too
                    status = item.stat(follow_symlinks=False)
                    if _ENTRY.fullmatch(item.name):
                        entries.append((status.st_mtime, status.st_size, item.path))
                    elif _TEMPORARY.fullmatch(item.name) and now - status.st_mtime > _HOUR:
                        Path(item.path).unlink()
        excess = sum(size for _, size, _ in entries) - self.most
        if excess <= 0:
            return
        excess += self.most // 4  # not one by one
        for _, size, path in sorted(entries):
            if excess <= 0:
                return
            with suppress(OSError):
                Path(path).unlink()
            excess -= size

    def _say(self, error: OSError) -> None:
        """Say once why nothing is kept, and what to do."""
        if not self._silent:
            self._silent = True
            _log.warning(
                "the cache %s cannot keep this (%s): it will be computed anew at every start; "
                "set REGROUP_CACHE to a folder of yours, or to nothing to do without",
                self.folder,
                error.strerror or error,
            )


@lru_cache(maxsize=16)
def _at(place: Path | None) -> Cache:
    return Cache(place)


def _name(key: str) -> str:
    return _key_digest(key).hex()


def _digest(key: str, content: bytes) -> bytes:
    digest = hashlib.sha256(_key_digest(key))
    digest.update(content)
    return digest.digest()


def _key_digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()  # names of files may be in it


def _ours(status: os.stat_result) -> bool:
    """Tell whether a file or directory is the user's own, and writable by nobody else."""
    return os.name != "posix" or (status.st_uid == os.geteuid() and not status.st_mode & 0o022)
