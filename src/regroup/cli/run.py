"""Show a network images, compiled to native code: classes, masks or boxes, as lines or drawn."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import tyro

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from regroup.cli._network import Chosen
    from regroup.errors import DataError
    from regroup.loading import ImageInput
    from regroup.training.tasks import Task


class Picture(NamedTuple):
    """An image file: where it is, the picture in it, and the network's input made of that."""

    path: Path
    picture: Image.Image
    image: Tensor


@dataclass(frozen=True)
class Options:
    """Which network, on which images."""

    model: tyro.conf.Positional[str]
    """A name of ours (`regroup models`), timm's or torchvision's; a run of `regroup train`; an ONNX file."""
    image: tuple[Path, ...]
    """Image files; folders, of which all images in and below them are taken; patterns such as 'a/*.png'."""
    pretrained: bool = False
    """Load the weights that the model hub has for it."""
    weights: Path | None = None
    """File of weights, under the names that the network has."""
    batch_size: int = 64
    """Images that are shown to the network at once."""
    threads: Annotated[int | None, tyro.conf.arg(aliases=["-t"])] = None
    """Threads to use; none: as many as PyTorch takes."""
    top: int | None = None
    """Classes to print of each image; none: 5 of one image, 1 of each of several; all objects and regions."""
    out: Annotated[Path | None, tyro.conf.arg(aliases=["--output"])] = None
    """Directory for pictures with what is seen, and for masks; none: nothing is drawn."""
    csv: bool = False
    """Print comma-separated values: image, rank, class, name, probability (or what the task has)."""
    json: bool = False
    """Print a list with an object for each image: its classes, or why it could not be read."""
    quiet: bool = False
    """No progress bar."""
    plugin: tuple[Path, ...] = ()
    """Python files that define further networks."""


def run(options: Options) -> int:
    """Print what is seen in each image; what cannot be read is named in the end."""
    from regroup.cli._images import image_files
    from regroup.cli._network import check_number, choose
    from regroup.errors import ConfigError, RegroupError
    from regroup.training.tasks import tasks

    if options.top is not None and options.top < 1:
        raise ConfigError("top", options.top, "an int of at least 1")
    if options.csv and options.json:
        raise ConfigError("csv", True, "left out where --json is given")
    check_number("threads", options.threads)
    check_number("batch_size", options.batch_size)
    chosen = choose(
        options.model, weights=options.weights, pretrained=options.pretrained, plugins=options.plugin
    )
    files = image_files(options.image)
    failures: dict[Path, DataError] = {}
    task = tasks[chosen.task]
    show = _Shown(options, task, len(files))
    for path, found in _seen(chosen, files, options, failures, show.top):
        show.one(path, found)
    show.end(failures)
    if (
        chosen.loaded is None
        and chosen.size is None
        and not options.pretrained
        and options.weights is None
        and not show.for_programs
    ):
        print("(random weights: give --pretrained or --weights)")
    if failures and len(files) == 1:
        raise next(iter(failures.values()))
    for error in failures.values():
        print(error, file=sys.stderr)
    if failures:
        raise RegroupError(f"{len(failures)} of {len(files)} images could not be read")
    return 0


def _seen(
    chosen: Chosen, files: Sequence[Path], options: Options, failures: dict[Path, DataError], top: int
) -> Iterator[tuple[Path, list[dict[str, Any]]]]:
    """Yield each image that can be read with what is seen in it, the surest or largest first."""
    import torch

    from regroup.cli._bars import bar
    from regroup.cli._compiled import compiled
    from regroup.cli._drawn import Drawn
    from regroup.training.tasks import tasks

    quiet, wanted, task = options.quiet or options.json or options.csv, chosen.input, tasks[chosen.task]
    fast, names = None, ()
    drawn = None if options.out is None else Drawn(options.out, task)
    with bar("images", len(files), quiet=quiet or len(files) == 1) as progress:
        for pictures in _read(wanted, files, options.batch_size, failures):
            batch = torch.cat([each.image for each in pictures])
            if fast is None:
                shape = (chosen.batch or len(batch), *batch.shape[1:])
                fast = chosen.ready(compiled(chosen, shape, quiet=quiet, threads=options.threads))
            with torch.inference_mode():
                found = fast(batch)
            count = task.classes_of(chosen.model, found)
            names = names or next(iter(chosen.namings(count)), ("",) * count)
            sizes = [(each.picture.height, each.picture.width) for each in pictures]
            for each, seen in zip(pictures, task.seen(found, wanted.size, sizes), strict=True):
                answers = task.answers(seen, names, top)
                if drawn is not None:
                    drawn.add(each.path, each.picture, seen, answers, names)
                yield each.path, answers
            progress(files.index(pictures[-1].path) + 1, None)
    if drawn is not None:
        drawn.end(names)


def _read(
    wanted: ImageInput, files: Sequence[Path], batch: int, failures: dict[Path, DataError]
) -> Iterator[list[Picture]]:
    """Yield the images in files, so many at once; what cannot be read goes to `failures`."""
    from regroup.errors import DataError

    found: list[Picture] = []
    for path in files:
        try:
            found.append(Picture(path, *wanted.picture(path)))
        except DataError as error:
            failures[path] = error
            continue
        if len(found) == batch:
            yield found
            found = []
    if found:
        yield found


class _Shown:
    """What is printed of the images, in one of three forms."""

    def __init__(self, options: Options, task: Task, images: int) -> None:
        import csv

        few = 5 if images == 1 else 1
        self.top = options.top or (few if task.name == "classify" else 1000)
        self._columns = task.columns
        self._json, self._csv = (
            options.json,
            csv.writer(sys.stdout, lineterminator="\n") if options.csv else None,
        )
        self._images, self._objects = images, []
        if self._csv:
            self._csv.writerow(("image", "rank", *self._columns))

    @property
    def for_programs(self) -> bool:
        return self._json or self._csv is not None

    def one(self, path: Path, found: list[dict[str, Any]]) -> None:
        from regroup.errors import printable

        if self._json:
            self._objects.append({"image": str(path), "classes": found})
        elif self._csv:
            for rank, row in enumerate(found, 1):
                self._csv.writerow((path, rank, *map(_cell, row.values())))
        else:
            for row in found:
                where = "" if self._images == 1 else f"{printable(str(path))}  "
                name = printable(row["name"])
                value, *more = (row[column] for column in self._columns[2:])
                rest = "  ".join(map(_cell, more))
                print(f"{where}{value:7.2%}  {row['class']:>4}  {name}  {rest}".rstrip())

    def end(self, failures: dict[Path, DataError]) -> None:
        import json

        if self._json:
            for path, error in failures.items():
                self._objects.append({"image": str(path), "error": error.reason})
            print(json.dumps(self._objects, indent=1))


def _cell(value: Any) -> str:
    return " ".join(f"{number:g}" for number in value) if isinstance(value, list) else str(value)
