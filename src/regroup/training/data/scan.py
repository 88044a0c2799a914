"""The look at every image file before training starts, remembered for the next start.

It runs in threads: decoders release the interpreter's lock.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from regroup.errors import DataError
from regroup.files.cache import Cache
from regroup.files.documents import DocumentError, parse
from regroup.files.reading import open_file
from regroup.training.data import images
from regroup.training.data.images import ImageFacts, calm_decoders, inspect_image

_SHOWN = 40
_TICK = 20_000_000  # nanoseconds, longer than a tick of the clock that file systems take times from

Stamp = tuple[int, int, int, int]
"""Size, inode, and times of modification and change, in nanoseconds."""


class Seen(NamedTuple):
    """What is remembered of a file: its stamp when it was decoded, and what was found."""

    stamp: Stamp
    facts: ImageFacts


class BadImagesError(DataError):
    """Images of a data set that cannot be used.

    Args:
        path: the data set.
        images: reason by file, relative to `path`.
    """

    def __init__(self, path: object, images: dict[str, str]) -> None:
        self.images = images
        lines = [f"  {name!r}: {reason}" for name, reason in list(images.items())[:_SHOWN]]
        if len(images) > _SHOWN:
            lines.append(f"  and {len(images) - _SHOWN} more")
        count = "1 image" if len(images) == 1 else f"{len(images)} images"
        super().__init__(
            path, "\n".join([f"{count} cannot be used (bad_images='skip' leaves them out):", *lines])
        )

    def __reduce__(self) -> tuple:
        return type(self), (self.path, self.images)


def scan(root: Path, names: Sequence[str], what: str) -> list[ImageFacts]:
    """Return what is known of each file, decoding those that are new or have changed since the last scan.

    A file counts as unchanged if its size, inode, and times of modification and of change are: the last
    moves whenever a file is written, exchanged for another or renamed, and cannot be set back. Not noticed
    are bytes that change beneath the file system. What is found is kept in the user's cache
    (`regroup.files.cache`); if that cannot be used, the next scan decodes all files again. A file that the
    system could not read is tried again next time.

    Args:
        root: the data set's folder.
        names: paths of the files, relative to `root`.
        what: name of the data set, of which there may be several below `root`.
    """
    cache, key = Cache.default(), _key(root, what)
    known = _recall(cache.load(key))
    stamps = _stamps([root / name for name in names])
    seen = [known.get(name) for name in names]
    unknown = [i for i, s in enumerate(seen) if s is None or stamps[i] is None or s.stamp != stamps[i]]
    found = dict(zip(unknown, _inspect([root / names[i] for i in unknown]), strict=True))
    facts = [s.facts if s and i not in found else found[i] for i, s in enumerate(seen)]
    if found:
        cache.store(key, _written(names, stamps, facts))
    return facts


def _inspect(paths: list[Path]) -> list[ImageFacts]:
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    with calm_decoders(), ThreadPoolExecutor(os.cpu_count()) as pool:
        facts = pool.map(_look, paths)
        quick = len(paths) < 1000 or not console.is_terminal
        shown = track(facts, "checking images", len(paths), console=console, transient=True, disable=quick)
        return list(shown)


def _look(path: Path) -> ImageFacts:
    facts = inspect_image(path)
    if facts.problem:
        return facts
    try:
        with os.fdopen(open_file(path), "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()[:32]
    except OSError as error:
        return ImageFacts((0, 0), error.strerror or str(error), lasting=False)
    return facts._replace(digest=digest)


def _stamps(paths: list[Path]) -> list[Stamp | None]:
    """Return what tells whether each file has changed; None where there is none.

    A change in the same tick of the clock as the one before leaves no trace: a tick that lasts is waited for.
    """
    stamps = [_stamp(path) for path in paths]
    newest = max((stamp[3] for stamp in stamps if stamp), default=0)
    if 0 <= time.time_ns() - newest < _TICK:
        time.sleep(_TICK / 1e9)
        stamps = [_stamp(path) for path in paths]
    return stamps


def _stamp(path: Path) -> Stamp | None:
    try:
        status = path.stat()
    except (OSError, ValueError):  # a list of names may have one that no file can have
        return None
    return status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns


def _key(root: Path, what: str) -> str:
    """Return the key of a scan: the data set, and what verdicts depend on besides the files."""
    import PIL

    sources = b"".join(Path(file).read_bytes() for file in (__file__, images.__file__))
    decoder = [hashlib.sha256(sources).hexdigest(), PIL.__version__]
    return "\0".join(["scan", *decoder, str(root.resolve()), what])


def _recall(entry: bytes | None) -> dict[str, Seen]:
    """Return what is remembered of each file; nothing if it is not what `_written` writes."""
    try:
        rows = {} if entry is None else parse(entry)
        return {name: _seen(row) for name, row in rows.items()}
    except (DocumentError, TypeError, ValueError, AttributeError):
        return {}


def _seen(row: list) -> Seen:
    size, inode, modified, changed, height, width, problem, digest = row
    if any(type(number) is not int for number in row[:6]) or any(type(text) is not str for text in row[6:]):
        raise TypeError("a row of a scan has other types")
    if not problem and not (height > 0 and width > 0 and height * width <= images.MOST_PIXELS):
        raise ValueError("no image has this size")
    return Seen((size, inode, modified, changed), ImageFacts((height, width), problem, digest=digest))


def _written(names: Sequence[str], stamps: list[Stamp | None], facts: list[ImageFacts]) -> bytes:
    known = zip(names, stamps, facts, strict=True)
    rows = {
        name: [*stamp, *fact.size, fact.problem, fact.digest]
        for name, stamp, fact in known
        if stamp and fact.lasting
    }
    return json.dumps(rows, separators=(",", ":")).encode()
