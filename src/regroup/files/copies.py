"""A folder below a URL as a copy on this machine's disk, brought up to date at every start.

>>> Store("memory://regroup-example/flowers").put("rose/1.png", b"...")
>>> copied("memory://regroup-example/flowers").name
'flowers'

The copy lies in `$REGROUP_DATA`, or in `data-UID` of the cache's folder. What is fetched is what is new or
has another size or token (ETag, generation, time) than when it was fetched, several objects at once; each
appears whole or not at all, and what has gone is removed. So an interrupted copy goes on where it was, and
only one process of a machine fetches while others wait. A file that was changed here is fetched again. An
index beside the folder keeps of each file its size, token and time, a line each.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from regroup.errors import DataError
from regroup.files.cache import Cache
from regroup.files.disk import free_bytes, make_directories, partial_name, remove_partial, write_file
from regroup.files.lock import Lock
from regroup.files.reading import read_file
from regroup.files.remote import Object, Store
from regroup.files.staging import safe_path

_AT_ONCE = 32
_MOST_INDEX = 4 << 30
_SPARE = 1 << 28  # bytes of the disk that a copy leaves


class _Kept(NamedTuple):
    """A file as it was fetched: size and token of the object, and the time that the file then had."""

    size: int
    token: str
    modified: int


def copied(url: str, say: Callable[[str], object] | None = None) -> Path:
    """Return a folder of this machine that has what is below `url`, as it is now.

    Args:
        url: as `regroup.files.remote.address` returns it.
        say: called with a line before much is fetched, and when another process is waited for.

    Raises:
        DataError: there is nothing, it cannot be fetched, or there is no room for it.
        MissingPackageError: a package is missing for such URLs.
    """
    try:
        return _copied(url, say or (lambda line: None))
    except OSError as error:
        place = url if error.filename is None else str(error.filename)
        raise DataError(place, str(error.strerror or error)) from error


def _copied(url: str, say: Callable[[str], object]) -> Path:
    store = Store(url)
    home = _home() / hashlib.sha256(url.encode()).hexdigest()[:24]
    name = re.sub(r"[^\w.-]", "-", url.rpartition("/")[2]).lstrip(".")[:80] or "data"
    folder = home / name
    make_directories(folder)
    home.chmod(0o700)
    with Lock(home / "copy.lock", of=folder, say=say):
        there = [found for found in store.objects() if not found.name.endswith("/")]
        if not there:
            raise OSError(errno.ENOENT, "there is no object below this URL", url)
        places = {found.name: safe_path(folder, found.name, url) for found in there}
        kept = _read(home / "index")
        new = [f for f in there if not _is_kept(kept.get(f.name), f, places[f.name])]
        _remove_others(folder, {str(place) for place in places.values()})
        _check_room(folder, new, url)
        if new:
            say(f"copying {len(new)} of {len(there)} files ({_size(new)}) of {url} to {folder}")
        _fetch(store, new, places, home / "index", kept)
    return folder


def _home() -> Path:
    """Return where copies lie.

    Raises:
        OSError: nothing says where they may.
    """
    chosen = os.environ.get("REGROUP_DATA")
    if chosen:
        return Path(chosen).expanduser().absolute()
    folder = Cache.default().folder
    if folder is None:
        raise OSError(errno.ENOENT, "there is no cache for a copy: set REGROUP_DATA to a folder")
    return folder.with_name(folder.name.replace("user", "data"))


def _is_kept(kept: _Kept | None, found: Object, place: Path | None) -> bool:
    if kept is None or place is None or (kept.size, kept.token) != (found.size, found.token):
        return False
    try:
        status = place.lstat()
    except OSError:
        return False
    return (status.st_size, status.st_mtime_ns) == (kept.size, kept.modified)


def _remove_others(folder: Path, wanted: set[str]) -> None:
    """Remove what is no longer below the URL, and what was half fetched."""
    for place, folders, names in os.walk(folder, topdown=False):
        for name in names:
            if (path := os.path.join(place, name)) not in wanted:  # noqa: PTH118  of a million files
                Path(path).unlink()
        for name in folders:
            with suppress(OSError):  # it is not empty
                Path(place, name).rmdir()


def _check_room(folder: Path, new: Sequence[Object], url: str) -> None:
    needed, free = sum(found.size for found in new), free_bytes(folder)
    if free is not None and needed + _SPARE > free:
        reason = f"has {_size(new)} to copy, and the disk of {folder} has {free / 1e9:,.2f} GB left"
        raise OSError(errno.ENOSPC, f"{reason}: set REGROUP_DATA to a folder with more room", url)


def _fetch(
    store: Store,
    new: Sequence[Object],
    places: dict[str, Path | None],
    index: Path,
    kept: dict[str, _Kept],
) -> None:
    """Fetch objects, and note each in the index once it is there."""
    current = {name: kept[name] for name in places if name in kept}
    for found in new:
        current.pop(found.name, None)
    _write(index, current)
    for folder in {place.parent for found in new if (place := places[found.name]) is not None}:
        make_directories(folder)
    with index.open("ab") as lines, ThreadPoolExecutor(_AT_ONCE) as pool:
        fetched = pool.map(lambda found: _fetch_one(store, found, places[found.name]), new)
        try:
            for found, modified in zip(new, fetched, strict=True):
                lines.write(_line(found.name, _Kept(found.size, found.token, modified)))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _fetch_one(store: Store, found: Object, place: Path | None) -> int:
    assert place is not None
    partial = partial_name(place)
    try:
        store.get(found.name, partial)
        if (size := partial.stat().st_size) != found.size:
            reason = f"has {found.size} bytes, of which {size} came: was it changed just now?"
            raise OSError(errno.EIO, reason, f"{store.url}/{found.name}")
        partial.replace(place)
    except BaseException:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise
    return place.stat().st_mtime_ns


def _read(index: Path) -> dict[str, _Kept]:
    """Return what the index says; of a line that is cut off or no line, nothing."""
    found = {}
    try:
        lines = read_file(index, most=_MOST_INDEX).splitlines()
    except OSError:
        return {}
    for line in lines:
        with suppress(ValueError, TypeError, RecursionError):
            name, size, token, modified = json.loads(line)
            if (type(name), type(size), type(token), type(modified)) == (str, int, str, int):
                found[name] = _Kept(size, token, modified)
    return found


def _write(index: Path, kept: dict[str, _Kept]) -> None:
    remove_partial(index.parent, index.name)
    write_file(index, b"".join(_line(name, one) for name, one in kept.items()), lasting=False)


def _line(name: str, kept: _Kept) -> bytes:
    return json.dumps([name, *kept]).encode() + b"\n"


def _size(objects: Sequence[Object]) -> str:
    return f"{sum(found.size for found in objects) / 1e6:,.1f} MB"
