"""The look at every image file before training starts, remembered for the next start.

It runs in threads: decoders release the interpreter's lock.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from regroup.errors import DataError
from regroup.training.data.images import ImageFacts, calm_decoders, inspect_image

_SHOWN = 40


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

    A file counts as unchanged if its size and time of change are. What is found is kept in the user's
    cache folder (`XDG_CACHE_HOME`, usually `~/.cache`); if that cannot be written, the next scan decodes all
    files again.

    Args:
        root: the data set's folder.
        names: paths of the files, relative to `root`.
        what: name of the data set, of which there may be several below `root`.
    """
    memory = _memory_of(root, what)
    known = _recall(memory)
    stamps = [_stamp(root / name) for name in names]
    unknown = [
        i for i, name in enumerate(names) if stamps[i] is None or known.get(name, [None])[0] != stamps[i]
    ]
    found = dict(zip(unknown, _inspect([root / names[i] for i in unknown]), strict=True))
    facts = [found[i] if i in found else _facts(known[name][1:]) for i, name in enumerate(names)]
    if found:
        _remember(memory, {n: [s, *f.size, f.problem] for n, s, f in zip(names, stamps, facts, strict=True)})
    return facts


def _inspect(paths: list[Path]) -> list[ImageFacts]:
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    with calm_decoders(), ThreadPoolExecutor(os.cpu_count()) as pool:
        facts = pool.map(inspect_image, paths)
        quick = len(paths) < 1000 or not console.is_terminal
        shown = track(facts, "checking images", len(paths), console=console, transient=True, disable=quick)
        return list(shown)


def _facts(row: list) -> ImageFacts:
    height, width, problem = row
    return ImageFacts((height, width), problem)


def _stamp(path: Path) -> str | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return f"{status.st_size}@{status.st_mtime_ns}"


def _memory_of(root: Path, what: str) -> Path:
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    key = hashlib.sha256(bytes(root.resolve()) + b"\0" + what.encode("utf-8", "surrogateescape"))
    return folder / "regroup" / "scans" / f"{key.hexdigest()[:32]}.json"


def _format() -> list:
    """Return what the verdicts depend on besides the files."""
    import PIL
    from PIL import Image

    return [1, PIL.__version__, Image.MAX_IMAGE_PIXELS]


def _recall(memory: Path) -> dict[str, list]:
    """Return [stamp, height, width, problem] by name; nothing if there is no memory or it is damaged."""
    try:
        remembered = json.loads(memory.read_text())
        if remembered["format"] == _format():
            return {name: row for name, row in remembered["files"].items() if len(row) == 4}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    return {}


def _remember(memory: Path, files: dict[str, list]) -> None:
    partial = memory.with_suffix(f".{os.getpid()}")
    with suppress(OSError):
        memory.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps({"format": _format(), "files": files}))
        partial.replace(memory)
