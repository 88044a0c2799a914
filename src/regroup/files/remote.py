"""Files in an object store or elsewhere, by URL: s3://, gs://, memory:// and all that fsspec knows.

>>> store = Store("memory://regroup-example/run")
>>> store.put("notes.txt", b"kept")
>>> store.read("notes.txt", most=100), [found.name for found in store.objects()]
(b'kept', ['notes.txt'])

What a store promises, and all that is relied on: an object is put whole or not at all, and who reads or lists
after that finds it. It has no renaming and no locks; see `regroup.files.lease` and `regroup.files.staging`.

A URL may come as a `Path`, as the command line and configs have them: `Path("s3://bucket/run")` says
`s3:/bucket/run`, which `address` understands. `file://` is this machine's disk, and a plain path.
"""

from __future__ import annotations

import errno
import inspect
import re
import time
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from regroup.errors import ConfigError, MissingPackageError, first_line

T = TypeVar("T")

_URL = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]+):/+(.*)", re.DOTALL)  # two letters: C:/ is a drive
_LOCAL = ("file", "local")
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}
"""Protocol -> extra of regroup that has what it needs."""

_PAUSES = [0.5, 2.0]
"""Seconds before an operation is tried again that may have failed for a moment."""

_LASTING = (FileNotFoundError, FileExistsError, PermissionError, NotADirectoryError, IsADirectoryError)
_DENIED = ("AccessDenied", "Forbidden", "NoCredentials", "CredentialRetrieval", "Unauthorized", "403", "401")
_TOKENS = ("ETag", "etag", "md5Hash", "generation", "LastModified", "mtime", "updated", "created")


def address(path: str | Path) -> str | None:
    """Return the URL that a path says, without a slash at its end; None where it is of this machine's disk.

    >>> address(Path("s3://bucket/run")), address("runs/s3"), address("file:///tmp/run")
    ('s3://bucket/run', None, None)

    Raises:
        ConfigError: it is a URL of a kind that nobody knows.
    """
    found = _URL.fullmatch(str(path))
    if found is None or found[1].lower() in _LOCAL:
        return None
    from fsspec.registry import known_implementations, registry

    protocol, rest = found[1].lower(), found[2].rstrip("/")
    if protocol not in known_implementations and protocol not in registry:
        if Path(str(path)).exists():  # a folder with a colon in its name
            return None
        allowed = "a path, or a URL such as s3://bucket/name, gs://bucket/name or file:///path"
        raise ConfigError("URL", str(path), allowed, f"fsspec knows no {protocol}://")
    if not rest:
        raise ConfigError("URL", str(path), "one with a bucket and a name, such as s3://bucket/name")
    return f"{protocol}://{rest}"


def plain(path: str | Path) -> Path:
    """Return a path as it is, and that of a `file://` URL.

    >>> plain("file:///tmp/run"), plain(Path("runs"))
    (PosixPath('/tmp/run'), PosixPath('runs'))
    """
    found = _URL.fullmatch(str(path))
    if found is None or found[1].lower() not in _LOCAL:
        return Path(path)
    return Path("/" + found[2].lstrip("/"))


class Object(NamedTuple):
    """An object below a store's URL.

    Attributes:
        name: relative to the URL.
        size: bytes.
        token: text that changes when its content does: its ETag, generation or time, as the store has it.
    """

    name: str
    size: int
    token: str


class Store:
    """The objects below a URL. What fails is an `OSError` with one line that says why, whatever the store.

    What may pass (no connection, a server that is overloaded) is tried three times; what will not (no such
    object, no permission) is not. How long a single try waits is up to the store's own library.

    Args:
        url: as `address` returns it.

    Raises:
        MissingPackageError: the package for this kind of store is not installed; it says which.
        OSError: the URL cannot be understood.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._system = _system(url.partition("://")[0])
        self._root = str(self._system._strip_protocol(url)).rstrip("/")
        put = getattr(self._system, "_pipe_file", self._system.pipe_file)
        self.creates = "mode" in inspect.signature(put).parameters
        """Whether an object can be put only where there is none, in one step."""

    def objects(self) -> list[Object]:
        """Return all objects, by name, as they are now."""

        def call() -> dict[str, dict[str, Any]]:
            self._system.invalidate_cache()
            return self._system.find(self._root, detail=True)

        found = self._do("list", "", call)
        skip = len(self._root) + 1
        rows = [(path[skip:], info) for path, info in found.items() if info.get("type") == "file"]
        return sorted(Object(name, int(info.get("size") or 0), _token(info)) for name, info in rows if name)

    def read(self, name: str, *, most: int) -> bytes:
        """Return an object's content.

        Raises:
            OSError: it has more than `most` bytes, or cannot be read; FileNotFoundError: there is none.
        """

        def call() -> bytes:
            size = self._system.info(self._path(name))[
                "size"
            ]  # asked first: nothing says where a range may end
            return self._system.cat_file(self._path(name)) if size <= most else b"\0" * (most + 1)

        content = self._do("read", name, call)
        if len(content) > most:
            raise OSError(errno.EFBIG, f"has more than the {most} bytes that are read", self._named(name))
        return bytes(content)

    def get(self, name: str, target: Path) -> None:
        """Write an object's content into a new file."""
        self._do("read", name, lambda: self._system.get_file(self._path(name), str(target)))

    def put(self, name: str, data: bytes) -> None:
        """Put an object, in place of the one before."""
        self._do("write", name, lambda: self._system.pipe_file(self._path(name), data))

    def put_file(self, name: str, source: Path) -> None:
        """Put a file's content as an object, in place of the one before."""
        self._do("write", name, lambda: self._system.put_file(str(source), self._path(name)))

    def put_new(self, name: str, data: bytes) -> None:
        """Put an object where there is none: in one step where `creates`, else after a look.

        Raises:
            OSError: there is one, or it cannot be put.
        """
        if self.creates:
            call = lambda: self._system.pipe_file(self._path(name), data, mode="create")  # noqa: E731
            self._do("write", name, call)
        elif self._do("read", name, lambda: self._system.exists(self._path(name))):
            raise FileExistsError(errno.EEXIST, "exists", self._named(name))
        else:
            self.put(name, data)

    def remove(self, name: str) -> None:
        """Remove an object, if there is one."""

        def call() -> None:
            with suppress(FileNotFoundError):
                self._system.rm_file(self._path(name))

        self._do("remove", name, call)

    def move(self, url: str) -> None:
        """Move all objects to another URL of the same kind of store, in place of what is there."""
        other = Store(url)
        for old in other.objects():
            other.remove(old.name)
        for found in self.objects():
            target = other._path(found.name)
            self._do("copy", found.name, lambda: self._system.cp_file(self._path(found.name), target))  # noqa: B023
            self.remove(found.name)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    def _named(self, name: str) -> str:
        return f"{self.url}/{name}" if name else self.url

    def _do(self, what: str, name: str, call: Callable[[], T]) -> T:
        pauses = iter(_PAUSES)
        while True:
            try:
                return call()
            except Exception as error:  # every store's library has types of its own
                lasting = isinstance(error, (_LASTING, MemoryError)) or _denied(error)
                pause = None if lasting else next(pauses, None)
                if pause is None:
                    raise _as_os_error(error, what, self._named(name)) from error
                time.sleep(pause)


@lru_cache(maxsize=16)
def _system(protocol: str) -> Any:
    import fsspec

    try:
        return fsspec.filesystem(protocol, use_listings_cache=False)
    except ImportError as error:
        if protocol in _EXTRAS:
            package = {"s3": "s3fs", "gcs": "gcsfs"}[_EXTRAS[protocol]]
            remedy = f'pip install {package}, or pip install "torch-regroup[{_EXTRAS[protocol]}]"'
        else:
            remedy = first_line(error)
        raise MissingPackageError(f"{protocol}:// needs a package that is not installed: {remedy}") from error
    except Exception as error:
        raise _as_os_error(error, "open", f"{protocol}://") from error


def _denied(error: Exception) -> bool:
    said = f"{type(error).__name__} {error}"
    return any(sign in said for sign in _DENIED)


def _as_os_error(error: Exception, what: str, named: str) -> OSError:
    """Return the error as one of the system's, with a line that says what could not be done."""
    if isinstance(error, FileNotFoundError):
        missing = "bucket or folder" if what == "write" else "object"
        return FileNotFoundError(errno.ENOENT, f"there is no such {missing}", named)
    if isinstance(error, FileExistsError):
        return FileExistsError(errno.EEXIST, "exists already", named)
    said = first_line(error) if str(error) else type(error).__name__
    if isinstance(error, OSError) and error.strerror:
        said = error.strerror
    if isinstance(error, PermissionError) or _denied(error):
        reason = f"the store does not allow to {what} ({said}): are credentials and permissions right?"
        return PermissionError(errno.EACCES, reason, named)
    kind = "" if isinstance(error, OSError) else f"{type(error).__name__}: "
    return OSError(errno.EIO, f"the store could not {what} ({kind}{said})", named)


def _token(info: dict[str, Any]) -> str:
    return next((str(info[name]) for name in _TOKENS if info.get(name) not in (None, "")), "")
