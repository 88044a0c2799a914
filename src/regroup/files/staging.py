"""A directory that is kept below a URL: worked on here, and published step by step as it becomes whole.

>>> from regroup.files.disk import write_file
>>> with staged("memory://regroup-example/staged", "run.lock") as place:
...     write_file(place / "run.json", b"{}")
>>> [found.name for found in Store("memory://regroup-example/staged").objects()]
['run.json']

Everything that is kept is written by `regroup.files.disk`, and becomes whole in one of four operations: a
rename, an exchange, an appended line, a removal. Here each of them is done on this machine's disk and then
below the URL, so that what is there has the same layout, names and hashes as a directory on a disk, and the
same readers find out whether it is whole:

- a file is put as one object, which is there whole or not at all;
- a sealed directory is there when its manifest is: that is removed first and put last;
- what is old is removed when what is new is there.

Whatever is killed when, all that is below the URL is the old or the new one, or, of what is sealed, not
there; then it can be published again. Who writes there holds a lease (`regroup.files.lease`).
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path, PurePosixPath
from typing import cast

from regroup.errors import CheckpointError, FileError, RegroupError
from regroup.files.disk import Disk, using
from regroup.files.lease import Lease
from regroup.files.remote import Object, Store, address, plain
from regroup.files.sealed import MANIFEST

_PARTIAL = "."  # names that begin so are being written, or of this machine alone
_LOCKS = ".lock"
_ATTEMPTS = 5

_PLACES: ContextVar[tuple[tuple[str, str], ...]] = ContextVar("places", default=())


class Published(Disk):
    """File operations whose outcomes below `place` appear below a store's URL, too.

    Args:
        place: directory of this machine.
        store: where it is published.
        lease: held there.

    Attributes:
        failed: whether something could not be published.
    """

    def __init__(self, place: Path, store: Store, lease: Lease) -> None:
        self.place, self.store, self.lease = place, store, lease
        self.failed = False
        self._there: set[str] = set()
        self._sent: dict[str, tuple[int, int]] = {}

    def there(self, found: Iterable[Object]) -> None:
        """Take `found` as what is below the URL, and what is in the place as what was fetched of it."""
        self._there = {each.name for each in found}
        for path in self.place.rglob("*"):
            if path.is_file() and (name := self._name(path)) is not None:
                self._sent[name] = _stamp(path)

    def append(self, path: Path, data: bytes) -> None:
        super().append(path, data)
        self._publish(path)

    def rename(self, old: Path, new: Path) -> None:
        super().rename(old, new)
        self._publish(new)
        self._withdraw(old)

    def exchange(self, one: Path, other: Path) -> bool:
        done = super().exchange(one, other)
        if done:
            self._publish(one)
            self._publish(other)
        return done

    def remove(self, path: Path) -> None:
        super().remove(path)
        self._withdraw(path)

    def publish_rest(self) -> None:
        """Publish what others have written past these operations, such as TensorBoard's events."""
        for path in sorted(self.place.rglob("*")):
            name = self._name(path)
            if name is not None and path.is_file() and self._sent.get(name) != _stamp(path):
                sealed = (path.parent / MANIFEST).exists() and path.parent != self.place
                if not sealed:
                    with self._noting():
                        self._put(name, path)

    def _name(self, path: Path) -> str | None:
        """Return what a path is called below the URL; None if it is not published."""
        try:
            relative = path.relative_to(self.place)
        except ValueError:
            return None
        hidden = any(part.startswith(_PARTIAL) for part in relative.parts) or path.name.endswith(_LOCKS)
        return None if hidden or not relative.parts else relative.as_posix()

    def _publish(self, path: Path) -> None:
        if (name := self._name(path)) is None:
            return
        with self._noting():
            if path.is_dir():
                self._publish_directory(name, path)
            else:
                self._check()
                self._put(name, path)

    def _publish_directory(self, name: str, path: Path) -> None:
        """Put a sealed directory: its old manifest goes first, its new one comes last."""
        files = {found.relative_to(path).as_posix(): found for found in path.rglob("*") if found.is_file()}
        before = self._below(name)
        self._check()
        self._remove(f"{name}/{MANIFEST}")
        for each in sorted(files.keys() - {MANIFEST}):
            self._put(f"{name}/{each}", files[each])
        if MANIFEST in files:
            self._check()
            self._put(f"{name}/{MANIFEST}", files[MANIFEST])
        for old in sorted(before - {f"{name}/{each}" for each in files}):
            self._remove(old)

    def _withdraw(self, path: Path) -> None:
        if (name := self._name(path)) is None:
            return
        gone = {name, *self._below(name)} & self._there
        with self._noting():
            for each in sorted(gone, key=lambda each: (PurePosixPath(each).name != MANIFEST, each)):
                self._remove(each)

    def _below(self, name: str) -> set[str]:
        return {each for each in self._there if each.startswith(f"{name}/")}

    def _put(self, name: str, path: Path) -> None:
        stamp = _stamp(path)
        self._there.add(name)  # even if it fails: it may be there
        self.store.put_file(name, path)
        self._sent[name] = stamp

    def _remove(self, name: str) -> None:
        if name in self._there:
            self.store.remove(name)
            self._there.discard(name)
            self._sent.pop(name, None)

    def _check(self) -> None:
        """Require that nobody else has begun to write there, before anything that others read is changed."""
        try:
            self.lease.check()
        except CheckpointError as error:
            raise OSError(errno.EBUSY, error.reason, error.path) from error

    @contextmanager
    def _noting(self) -> Iterator[None]:
        try:
            yield
        except OSError:
            self.failed = True
            raise


@contextmanager
def staged(
    url: str,
    lock: str,
    *,
    wait: bool = True,
    say: Callable[[str], object] | None = None,
    leave: Callable[[], object] = lambda: None,
    part: Callable[[str], bool] = lambda name: True,
) -> Iterator[Path]:
    """Give a directory of this machine with what is below a URL; what is kept in it is published there.

    It is removed at the end, unless something of it could not be published.

    Args:
        url: as `address` returns it.
        lock: name of the object that says who writes there.
        wait: whether to wait for another writer.
        say: called with a line that the user should see.
        leave: called while another is waited for; what it raises ends the wait.
        part: tells whether an object is to be fetched, by its name.

    Raises:
        CheckpointError: what is there cannot be fetched, or something cannot be published.
        LockedError: another writes there, and `wait` is false.
        MissingPackageError: a package is missing for such URLs.
    """
    with _said_of(url):
        store = Store(url)
        lease = Lease(store, lock, wait=wait, say=say)
        while not lease.attempt():
            leave()
    place = _new_place(url)
    published = Published(place, store, lease)
    try:
        with _said_of(url):
            published.there(fetch(store, place, part))
        with _called(place, url), using(published):
            yield place
        with _said_of(url):
            published.publish_rest()
    except FileError as error:
        if not published.failed:
            raise
        remedy = f"what was made until then is kept in {place}"
        raise type(error)(error.path, f"{error.reason}; {remedy}") from error
    finally:
        lease.release()
        if not published.failed:
            shutil.rmtree(place.parent, ignore_errors=True)


@contextmanager
def fetched(path: Path, part: Callable[[str], bool] = lambda name: True) -> Iterator[Path]:
    """Give a path as it is, or, if it is a URL, a copy of what is there, for as long as this is entered.

    That is a directory, a file if the URL names one, or a path where nothing is.

    Raises:
        CheckpointError: it cannot be fetched.
        MissingPackageError: a package is missing for such URLs.
    """
    url = address(path)
    if url is None:
        yield plain(path)
        return
    place = _new_place(url)
    home = place.parent
    try:
        with _said_of(url):
            store = Store(url)
            if not fetch(store, place, part):
                place = _fetch_file(store, place)
        with _called(place, url):
            yield place
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _fetch_file(store: Store, place: Path) -> Path:
    """Return the file that a URL itself names, if it names one; else a path where nothing is."""
    place.rmdir()
    try:
        store.get("", place)
    except FileNotFoundError:
        place.unlink(missing_ok=True)
    return place


def fetch(store: Store, place: Path, part: Callable[[str], bool] = lambda name: True) -> list[Object]:
    """Copy what is below a URL into a directory; return all objects that are there.

    A directory below it is there when its manifest is. What changes meanwhile is fetched again.

    Raises:
        OSError: it cannot be fetched, or changes all the time.
    """
    there = store.objects()
    for _ in range(_ATTEMPTS):
        sealed = {found.name.rpartition("/")[0] for found in there if found.name.endswith(f"/{MANIFEST}")}
        folders = {"", *sealed}
        wanted = [f for f in there if f.name.rpartition("/")[0] in folders and part(f.name)]
        try:
            for found in wanted:
                _copy(store, found, place)
        except FileNotFoundError:
            pass
        before, there = there, store.objects()
        if _some(before, part) == _some(there, part):
            return there
        for left in place.iterdir():
            shutil.rmtree(left) if left.is_dir() else left.unlink()
    raise OSError(errno.EBUSY, "is changed all the time", store.url)


def _copy(store: Store, found: Object, place: Path) -> None:
    target = safe_path(place, found.name, store.url)
    if target is None or found.name.endswith(_LOCKS):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    store.get(found.name, target)
    if (size := target.stat().st_size) != found.size:
        raise OSError(errno.EIO, f"has {found.size} bytes, of which {size} came", f"{store.url}/{found.name}")


def safe_path(place: Path, name: str, url: str) -> Path | None:
    """Return where an object goes in a directory; None for a mark of a folder, which is no file.

    Raises:
        OSError: its name leads out of the directory, or no file can have it.
    """
    if name.endswith("/") or not name:
        return None
    parts = PurePosixPath(name).parts
    if name.startswith("/") or ".." in parts or "\0" in name or (os.name == "nt" and "\\" in name):
        raise OSError(errno.EINVAL, "has a name that no file of a directory can have", f"{url}/{name!r}")
    return place.joinpath(*parts)


def _some(there: list[Object], part: Callable[[str], bool]) -> list[Object]:
    return [found for found in there if part(found.name) and not found.name.endswith(_LOCKS)]


@contextmanager
def _called(place: Path, url: str) -> Iterator[None]:
    """While this is entered, `told` calls a directory by its URL; so do errors that leave it."""
    token = _PLACES.set(((str(place), url), *_PLACES.get()))
    try:
        yield
    except RegroupError as error:
        kind, given, *_ = cast("tuple[type[RegroupError], tuple]", error.__reduce__())
        said = tuple(told(each) if isinstance(each, (str, Path)) else each for each in given)
        if said == given:
            raise
        raise kind(*said) from error.__cause__
    finally:
        _PLACES.reset(token)


def told(text: object) -> str:
    """Return a text in which directories that stand for URLs are called so."""
    said = str(text)
    for place, url in _PLACES.get():
        said = said.replace(place, url)
    return said


def _new_place(url: str) -> Path:
    name = "".join(c if c.isalnum() or c in "-_." else "-" for c in url.rpartition("/")[2])[:80]
    place = Path(tempfile.mkdtemp(prefix="regroup-")) / (name.lstrip(".") or "place")
    place.mkdir()
    return place


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


@contextmanager
def _said_of(url: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        place = url if error.filename in (None, url) else str(error.filename)
        raise CheckpointError(place, str(error.strerror or error)) from error
