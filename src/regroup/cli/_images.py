"""The image files that a command is given: files, folders, patterns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path


def image_files(given: Iterable[Path]) -> list[Path]:
    """Return the files that are meant: each file itself, of a folder all images in and below it, by name.

    What does not exist and has one of * ? [ is a pattern, where ** is any number of folders.

    Args:
        given: paths.

    Raises:
        ConfigError: nothing is given.
        DataError: a folder has no images, or a pattern matches nothing.
    """
    from regroup.errors import ConfigError, DataError

    found: dict[Path, None] = {}
    for path in given:
        files = list(_files(path))
        if not files:
            reason = "has no images in it" if path.is_dir() else "matches nothing"
            raise DataError(path, reason)
        found |= dict.fromkeys(files)
    if not found:
        raise ConfigError("image", (), "a file, folder or pattern, or several")
    return list(found)


def _files(path: Path) -> Iterator[Path]:
    import glob

    from regroup.training.data.images import SUFFIXES

    if path.is_dir():
        for inner in sorted(path.rglob("*")):
            hidden = any(part.startswith(".") for part in inner.relative_to(path).parts)
            if not hidden and inner.suffix.lower() in SUFFIXES and not inner.is_dir():
                yield inner
    elif glob.has_magic(str(path)) and not path.exists():
        for name in sorted(glob.glob(str(path), recursive=True)):  # noqa: PTH207 (Path has none of a whole path)
            yield from _files(Path(name))
    else:
        yield path
