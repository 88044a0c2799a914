"""Sealed directories: files beside a manifest of their sizes and SHA-256, written whole or not at all.

One flipped bit in a weights file goes unnoticed by every usual loader; here it is an error that names the
file. A directory appears under its name only when all of it is on the disk, whatever is killed when.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

from regroup.errors import CheckpointError
from regroup.files.disk import disk, partial_name
from regroup.files.documents import LARGEST, DocumentError, build, parse
from regroup.files.reading import open_file, read_file

T = TypeVar("T")

MANIFEST = "manifest.json"
_FORMAT = "regroup-sealed-1"
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")
_CHUNK = 1 << 20


def write_sealed(path: Path, files: dict[str, bytes], *, replace: bool = False) -> None:
    """Write `files` as the sealed directory `path`; its parent must exist.

    A kill, a full disk or a power cut at any moment leaves either nothing under `path` or all of it, and
    perhaps a directory `.NAME.partial-*` beside it, which `remove_partial` clears away. Where another is
    replaced, the two are exchanged in one step, so that `path` is the old or the new one at every instant.
    NFS, and systems other than Linux, take two steps instead, between which `path` is neither: whoever
    replaces can write it again.

    Args:
        path: the directory.
        files: content by name.
        replace: `path` may exist; else that is an error.

    Raises:
        CheckpointError: the files could not be written, or the disk would not promise that they stay; nothing
            is left beside `path`, which is what it was, or the new one.
    """
    partial, old = partial_name(path), None
    try:
        disk().make_directory(partial)
        for name, data in {**files, MANIFEST: _manifest(files)}.items():
            disk().write(partial / name, data)
            disk().sync(partial / name)
        disk().sync(partial)
        old = _put(partial, path, replace=replace)
        disk().sync(path.parent)
        if old is not None:
            with suppress(OSError):  # the new one is there; `remove_partial` will try again
                disk().remove(old)
    except OSError as error:
        for left in (partial, *([] if old is None else [old])):
            shutil.rmtree(left, ignore_errors=True)
        raise CheckpointError(path, f"could not be written: {error.strerror or error}") from error


def obstacle(path: Path, sign: str, *, alone: bool = False) -> str:
    """Return why a sealed directory must not take the place of `path`: what is there; "" if it may.

    Args:
        path: not there, empty, or an earlier directory of the same kind; a link to one is not.
        sign: file that every directory of the kind is sealed with, and no other; "": only an empty one.
        alone: what was put into the earlier one since is not to be lost either.

    Raises:
        OSError: the system does not tell.
    """
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        return "it is a link" if path.is_symlink() else "it is no directory"
    names = {inside.name for inside in path.iterdir()} if path.exists() else set()
    try:
        known = {MANIFEST, *_read_manifest(path / MANIFEST)} if names else {sign}
    except CheckpointError:
        return "it holds something else"
    if sign not in known or (names and not sign):
        return "it holds something else"
    others = sorted(names - known)
    return f"{others[0]!r} was put into it, and would be lost" if alone and others else ""


def _put(new: Path, path: Path, *, replace: bool) -> Path | None:
    """Give `new` the name `path`; return the name that what was there has then, or None."""
    if not replace or not (path.exists() or path.is_symlink()):
        disk().rename(new, path)
        return None
    if disk().exchange(new, path):
        return new
    old = partial_name(path)
    disk().rename(path, old)
    try:
        disk().rename(new, path)
    except OSError:
        with suppress(OSError):
            old.rename(path)
        raise
    return old


def undisturbed(path: Path, read: Callable[[], T]) -> T:
    """Return what `read` reads in the directory `path`, all of it from one and the same directory.

    If `path` is replaced meanwhile, `read` is called again, whatever it returned or raised: half of what it
    saw may have been the old one's. The directory is kept open, and it is the one that is open that `path`
    must be afterwards: its number is not given to another.
    """
    while True:
        with _opened(path) as before:
            try:
                found = read()
            except (OSError, CheckpointError):
                if before == _status(path.stat):
                    raise
                continue
            if before == _status(path.stat):
                return found


_Status = tuple[int, int] | None


@contextmanager
def _opened(path: Path) -> Iterator[_Status]:
    handle = None
    with suppress(OSError):  # what cannot be opened is for the reader to say; Windows opens no directory
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_CLOEXEC", 0))
    try:
        yield _status(path.stat) if handle is None else _status(lambda: os.fstat(handle))
    finally:
        if handle is not None:
            os.close(handle)


def _status(stat: Callable[[], os.stat_result]) -> _Status:
    try:
        found = stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def is_sealed_as(path: Path, files: dict[str, bytes]) -> bool:
    """Tell whether the sealed directory `path` is there, undamaged, and holds exactly `files`."""
    try:
        return _read(path / MANIFEST) == _manifest(files) and bool(verify_sealed(path))
    except (OSError, CheckpointError):
        return False


def verify_sealed(path: Path) -> dict[str, Path]:
    """Return the files of the sealed directory `path` by name, once each is known to be as it was written.

    Raises:
        CheckpointError: something is missing, damaged or foreign; it says what.
    """
    _require(path, stat.S_ISDIR, "a directory")
    manifest = path / MANIFEST
    _require(manifest, stat.S_ISREG, "a file")
    found = {}
    for name, entry in _read_manifest(manifest).items():
        found[name] = path / name
        _verify_file(path / name, entry["bytes"], entry["sha256"])
    return found


def _manifest(files: dict[str, bytes]) -> bytes:
    entries = {}
    for name, data in files.items():
        assert _NAME.fullmatch(name) and name != MANIFEST, name
        entries[name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    return _render(entries)


def _render(entries: dict) -> bytes:
    content = {"format": _FORMAT, "files": entries}
    seal = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return (json.dumps({**content, "sha256": seal}, indent=1, sort_keys=True) + "\n").encode()


@dataclass(frozen=True)
class _Entry:
    bytes: int
    sha256: str


@dataclass(frozen=True)
class _Manifest:
    format: str
    files: dict[str, _Entry]
    sha256: str


def _read_manifest(path: Path) -> dict[str, dict]:
    data = _read(path)
    try:
        entries = {name: asdict(entry) for name, entry in build(parse(data), _Manifest).files.items()}
        if all(_NAME.fullmatch(name) for name in entries) and _render(entries) == data:
            return entries
    except DocumentError:
        pass
    raise CheckpointError(path, "is not a manifest written by regroup, or is damaged")


def _verify_file(path: Path, size: int, digest: str) -> None:
    _require(path, stat.S_ISREG, "a file")
    found = path.stat().st_size
    if found != size:
        raise CheckpointError(path, f"has {found} bytes, was written with {size}")
    seen = hashlib.sha256()
    try:
        with os.fdopen(open_file(path, follow=False), "rb") as file:
            while chunk := file.read(_CHUNK):
                seen.update(chunk)
    except OSError as error:
        raise CheckpointError(path, f"could not be read: {error.strerror or error}") from error
    if seen.hexdigest() != digest:
        raise CheckpointError(path, "is damaged: its SHA-256 is not the one in the manifest")


def _require(path: Path, is_kind, kind: str) -> None:
    try:
        mode = path.lstat().st_mode  # a link could lead anywhere, so it is not followed
    except OSError as error:
        raise CheckpointError(path, f"could not be read: {error.strerror or error}") from error
    if not is_kind(mode):
        raise CheckpointError(path, f"is not {kind}")


def _read(path: Path) -> bytes:
    try:
        return read_file(path, most=LARGEST)
    except OSError as error:
        raise CheckpointError(path, f"could not be read: {error.strerror or error}") from error
