"""What `regroup export` has written into an ONNX file, read again: names of the classes, and the images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from regroup.engine.frontend.onnx import OnnxModel
from regroup.errors import CheckpointError
from regroup.files.documents import DocumentError, build, parse, require
from regroup.loading.inputs import ImageInput, require_images
from regroup.loading.kinds import Loaded


@dataclass(frozen=True)
class Said:
    """What an ONNX file says of its network, as far as it does.

    Attributes:
        network: what it is, in words.
        classes: names of the classes. Whether there is a score for each is for those to say who run it.
        input: how images are prepared.
    """

    network: str = "a network"
    classes: tuple[str, ...] | None = None
    input: ImageInput | None = None

    @classmethod
    def read(cls, model: OnnxModel, path: Path) -> Said:
        """Return what a file says.

        Args:
            model: what was read of the file.
            path: of the file.

        Raises:
            CheckpointError: it says something else than its network takes, or nonsense.
        """
        found = {name: model.about.get(f"regroup.{name}") for name in ("network", "classes", "input")}
        said = {name: text for name, text in found.items() if text is not None}
        try:
            classes = _classes(said["classes"]) if "classes" in said else None
            wanted = _input(said["input"]) if "input" in said else None
            name = build(parse(said.get("network", '"a network"')), str, "regroup.network")
        except DocumentError as error:
            raise CheckpointError(path, f"its metadata are damaged: {error}") from None
        takes = model.inputs[0].shape[1:]
        if wanted and not all(s in (None, ours) for s, ours in zip(takes, wanted.shape, strict=True)):
            raise CheckpointError(path, f"its metadata are of other images than its network takes: {takes}")
        return cls(name, classes, wanted)

    def loaded(self, model: OnnxModel, path: Path) -> Loaded | None:
        """Return the network with its classes and its input; None if the file does not say both."""
        if self.classes is None or self.input is None:
            return None
        return Loaded(model, self.classes, self.input, self.network, "onnx", path)


def _classes(text: str) -> tuple[str, ...]:
    classes = build(parse(text), list[str], "regroup.classes")
    require(len(classes) >= 1, "regroup.classes", classes, "one name or more")
    return tuple(classes)


def _input(text: str) -> ImageInput:
    wanted = build(parse(text), ImageInput, "regroup.input")
    require_images(wanted.shape, wanted.mean, wanted.std, wanted.part, "regroup.input.")
    return wanted
