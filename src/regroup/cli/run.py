"""Classify images with a network, compiled to native code."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

if TYPE_CHECKING:
    from torch import Tensor

    from regroup.cli._network import Chosen
    from regroup.errors import DataError
    from regroup.loading import ImageInput

    Read = Iterator[tuple[list[Path], list[Tensor]]]


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
    """Images that are classified at once."""
    threads: Annotated[int | None, tyro.conf.arg(aliases=["-t"])] = None
    """Threads to use; none: as many as PyTorch takes."""
    top: int | None = None
    """Classes to print of each image; none: 5 of one image, 1 of each of several."""
    csv: bool = False
    """Print comma-separated values: image, rank, class, name, probability."""
    json: bool = False
    """Print a list with an object for each image: its classes, or why it could not be read."""
    quiet: bool = False
    """No progress bar."""
    plugin: tuple[Path, ...] = ()
    """Python files that define further networks."""


def run(options: Options) -> int:
    """Print the most probable classes of each image; what cannot be read is named in the end."""
    from regroup.cli._images import image_files
    from regroup.cli._network import check_number, choose
    from regroup.errors import ConfigError, RegroupError

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
    show = _Shown(options, len(files))
    for path, found in _classified(chosen, files, options, failures, show.top):
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


def _classified(
    chosen: Chosen, files: Sequence[Path], options: Options, failures: dict[Path, DataError], top: int
) -> Iterator[tuple[Path, list[dict[str, Any]]]]:
    """Yield each image that can be read with its classes, most probable first."""
    import torch

    from regroup.cli._bars import bar
    from regroup.cli._compiled import compiled

    quiet, wanted = options.quiet or options.json or options.csv, chosen.input
    fast, names = None, ()
    with bar("images", len(files), quiet=quiet or len(files) == 1) as progress:
        for paths, images in _read(wanted, files, options.batch_size, failures):
            batch = torch.cat(images)
            if fast is None:
                shape = (chosen.batch or len(batch), *batch.shape[1:])
                fast = chosen.ready(compiled(chosen, shape, quiet=quiet, threads=options.threads))
            probabilities = fast(batch).softmax(1)
            count = probabilities.shape[1]
            names = names or next(iter(chosen.namings(count)), ("",) * count)
            best = probabilities.topk(min(top, count))
            for path, values, numbers in zip(paths, best.values.tolist(), best.indices.tolist(), strict=True):
                found = zip(numbers, values, strict=True)
                yield path, [{"class": n, "name": names[n], "probability": value} for n, value in found]
            progress(files.index(paths[-1]) + 1, None)


def _read(wanted: ImageInput, files: Sequence[Path], batch: int, failures: dict[Path, DataError]) -> Read:
    """Yield the images in files, so many at once; what cannot be read goes to `failures`."""
    from regroup.errors import DataError

    paths: list[Path] = []
    images: list[Tensor] = []
    for path in files:
        try:
            images.append(wanted.read(path))
        except DataError as error:
            failures[path] = error
            continue
        paths.append(path)
        if len(paths) == batch:
            yield paths, images
            paths, images = [], []
    if paths:
        yield paths, images


class _Shown:
    """What is printed of the images, in one of three forms."""

    def __init__(self, options: Options, images: int) -> None:
        import csv

        self.top = options.top or (5 if images == 1 else 1)
        self._json, self._csv = (
            options.json,
            csv.writer(sys.stdout, lineterminator="\n") if options.csv else None,
        )
        self._images, self._objects = images, []
        if self._csv:
            self._csv.writerow(("image", "rank", "class", "name", "probability"))

    @property
    def for_programs(self) -> bool:
        return self._json or self._csv is not None

    def one(self, path: Path, found: list[dict[str, Any]]) -> None:
        from regroup.errors import printable

        if self._json:
            self._objects.append({"image": str(path), "classes": found})
        elif self._csv:
            for rank, row in enumerate(found, 1):
                self._csv.writerow((path, rank, *row.values()))
        else:
            for row in found:
                where = "" if self._images == 1 else f"{printable(str(path))}  "
                name = printable(row["name"])
                print(f"{where}{row['probability']:7.2%}  {row['class']:>4}  {name}".rstrip())

    def end(self, failures: dict[Path, DataError]) -> None:
        import json

        if self._json:
            for path, error in failures.items():
                self._objects.append({"image": str(path), "error": error.reason})
            print(json.dumps(self._objects, indent=1))
