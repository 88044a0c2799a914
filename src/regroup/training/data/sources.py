"""Data sets by name or path."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from pathlib import Path

from regroup.errors import ConfigError, DataError
from regroup.files.copies import copied
from regroup.files.remote import address, plain
from regroup.registry import Registry
from regroup.spec import Size
from regroup.training.data.dataset import BadImages, DataSet, Testing

data_sets: Registry[Callable[..., DataSet]] = Registry(
    "data", package="regroup.training.data", entry_point="regroup.data_sets"
)
"""Name -> function(image: Size | None, **options) that gives the data set."""


def load_data(
    source: str | Path = "digits",
    image: int | Size | None = None,
    *,
    task: str = "classify",
    bad_images: BadImages = "error",
    download: bool = False,
    root: str | Path = "data",
    testing: Testing | None = None,
    **options: object,
) -> DataSet:
    """Return a data set by name, or of a folder of images.

    >>> load_data("digits", image=16).shape
    (1, 16, 16)

    Args:
        source: a name of `data_sets`, or the path of a folder with one sub-folder for each class, or with
            such folders in `train` and `val` (or `test`); of other tasks one as `annotated` has it. A folder
            that has the name of a data set needs "./" before it. A URL such as s3://bucket/flowers is copied
            to this machine's disk, and then is that folder: see `regroup.files.copies`.
        image: size of the images, one number or (height, width); None is what the source has.
        task: what networks are to say of the images: a name of `regroup.training.tasks`.
        bad_images: images that cannot be read are listed in one error, or skipped and counted in `notes`.
        download: fetch a data set of torchvision that is not in `root`.
        root: where data sets of torchvision lie.
        testing: what is to be tested with, where nothing is to be trained: then a folder needs no images to
            train on, and where it has none, or all are asked for and it has no test split, all of them are
            the test split, and nothing else is.
        options: what the source takes beyond these, such as `channels` or `classes` of "glyphs".

    Raises:
        UnknownNameError: no data set has this name, and no folder either.
        ConfigError: a wrong size or option.
        DataError: the images cannot be used; names each file with its reason.
    """
    size = _size(image)
    common = {"task": task, "bad_images": bad_images, "download": download}
    common |= {"root": Path(root), "testing": testing}
    if bad_images not in ("error", "skip"):
        raise ConfigError("bad_images", bad_images, "'error' or 'skip'")
    name = str(source)
    if isinstance(source, str) and source in data_sets:
        return _of_task(task, _call(name, data_sets[source], size, common, options))
    url = address(source)
    path = plain(source).expanduser() if url is None else copied(url, _say)
    if path.is_dir():
        from regroup.training.data.annotated import annotated
        from regroup.training.data.folder import folder

        if task != "classify":
            return _call(name, annotated, size, common | {"root": path}, options)
        return _call(name, folder, size, common | {"root": path}, options)
    if isinstance(source, Path) or "/" in source or source.startswith("."):
        raise DataError(source, "there is no such folder")
    return data_sets[source](size)  # raises, with the nearest names


def from_anywhere(source: str) -> str:
    """Return what `load_data` understands from any working directory: a name, or a folder's whole path."""
    if source in data_sets:
        return source
    return address(source) or str(plain(source).expanduser().absolute())


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _call(name: str, make: Callable[..., DataSet], size: Size | None, common: dict, options: dict) -> DataSet:
    takes = inspect.signature(make).parameters
    for option in options:
        if option not in takes:
            own = sorted(set(takes) - {"image", *common})
            allowed = (
                f"an option of {name!r}: {', '.join(own)}" if own else f"left out: {name!r} has no options"
            )
            raise ConfigError(option, options[option], allowed)
    return make(size, **{key: value for key, value in common.items() if key in takes}, **options)


def _of_task(task: str, data: DataSet) -> DataSet:
    if data.task != task:
        raise ConfigError("data", data.name, f"a data set for the task {task}", f"it is for {data.task}")
    return data


def _size(image: int | Size | None) -> Size | None:
    if image is None:
        return None
    size = (image, image) if isinstance(image, int) else tuple(image)
    if len(size) != 2 or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in size):
        raise ConfigError("image", image, "a size in pixels, or a pair (height, width)")
    return size
