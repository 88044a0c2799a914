"""Directories that hold a network, by kind; see the package."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from regroup.errors import CheckpointError, UnknownNameError
from regroup.files.documents import LARGEST, DocumentError, parse
from regroup.files.reading import read_file
from regroup.files.remote import address
from regroup.files.sealed import MANIFEST, undisturbed, verify_sealed
from regroup.files.staging import fetched
from regroup.loading.inputs import ImageInput
from regroup.registry import Registry

if TYPE_CHECKING:
    from torch import nn

DOCUMENT = "network.json"
"""The file that says of what kind a directory is."""

_OLDEST = "trained"
"""The kind of those that say none: runs were there before there were kinds."""


@dataclass(frozen=True)
class Loaded:
    """A network from a directory, and what it says of itself.

    Attributes:
        model: images (N, channels, height, width) -> scores (N, classes); in eval mode, on the CPU.
        classes: their names, in the order of the scores.
        input: which images, and how one is made of a file.
        name: what it is, in words, such as "resnet_small with grouped:groups=4".
        kind: of the directory.
        path: of the sealed directory.
        data: name of the data set, or the folder, that it was trained with; None: it does not say.
        task: what it is for: a name of `regroup.training.tasks`.
    """

    model: nn.Module = field(repr=False)
    classes: tuple[str, ...]
    input: ImageInput
    name: str
    kind: str
    path: Path
    data: str | None = None
    task: str = "classify"


kinds: Registry[Callable[[Path], Loaded]] = Registry("kind", "regroup.loading")
"""Kind -> function that returns the network in a sealed directory of this kind, or raises CheckpointError."""


def kind(name: str) -> Callable[[Callable[[Path], Loaded]], Callable[[Path], Loaded]]:
    """Register a function as the way in which directories of this kind become networks."""
    return lambda function: kinds.add(name, function)


def load(path: str | Path) -> nn.Module:
    """Return the network in a directory, in eval mode, on the CPU.

    Example::

        model = regroup.load("runs/digits")  # of `regroup train`; or runs/digits/best
        scores = model(images)               # (N, 1, 8, 8) -> (N, 10)
        model.pretrained_cfg["label_names"]  # what timm's tools read of it: also input_size, mean, std

    It is as it was trained: groupings that it has learned stand in its layers (`regroup.deploy` makes these
    plain). A file in which you define networks or strategies is only needed for those: import it before.

    Args:
        path: directory of a finished run, its `best` or `weights`, or another that regroup has written; or
            the URL of one, such as s3://bucket/run.

    Raises:
        CheckpointError: it is no such directory, or is damaged; says which file and why.
    """
    return loaded(path).model


def loaded(path: str | Path) -> Loaded:
    """Return the network in a directory as `load` does, with its classes, its input, and where it is from.

    Example::

        found = regroup.loaded("runs/digits")
        scores = found.model(found.input.read("seven.png"))
        print(found.classes[scores.argmax()])

    Args:
        path: as for `load`.

    Raises:
        CheckpointError: likewise.
    """
    with fetched(Path(path), is_of_network) as here:
        found = _loaded(here)
    if address(path) is not None:
        found = replace(found, path=Path(path) / found.path.relative_to(here))
    return found


def is_of_network(name: str) -> bool:
    """Tell whether a file of a run below a URL is needed; of checkpoints, that they are there is."""
    return not name.startswith("checkpoint-") or name.endswith(f"/{MANIFEST}")


def _loaded(path: Path) -> Loaded:
    from regroup.training.directory import published

    place = published(path)
    name = undisturbed(place, lambda: kind_of(place))
    try:
        build = kinds[name]
    except UnknownNameError as error:
        undisturbed(place, lambda: verify_sealed(place))  # a damaged name is no other release's
        reason = f"holds a network of the kind {name!r}, which this release does not know ({error.allowed})"
        raise CheckpointError(place, reason) from None
    found = build(place)
    found.model.eval()
    config = found.input.to_config(found.classes)
    found.model.pretrained_cfg = found.model.default_cfg = config  # type: ignore[assignment]
    return found


def kind_of(path: Path) -> str:
    """Return the kind of a sealed directory; whether it is whole is for those who load it to say.

    Raises:
        CheckpointError: it holds no network.
    """
    file = path / DOCUMENT
    if not file.exists() and not file.is_symlink():
        raise CheckpointError(path, f"holds no network: {DOCUMENT}, which says how it is built, is missing")
    try:
        content = parse(read_file(file, most=LARGEST))
    except (OSError, DocumentError):
        return _OLDEST  # whose reader says what is wrong with it
    return kind_in(content)


def kind_in(document: object) -> str:
    """Return the kind that the content of `network.json` says, or that of those that say none."""
    name = document.get("kind", _OLDEST) if isinstance(document, dict) else _OLDEST
    return name if isinstance(name, str) else _OLDEST
