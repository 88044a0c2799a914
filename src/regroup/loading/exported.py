"""What `regroup export` has written into an ONNX file, read again: names of the classes, and the images."""

from __future__ import annotations

from pathlib import Path

from regroup.engine.frontend.onnx import OnnxModel
from regroup.errors import CheckpointError
from regroup.files.documents import DocumentError, build, parse, require
from regroup.loading.inputs import ImageInput, require_images
from regroup.loading.kinds import Loaded


def exported(model: OnnxModel, path: Path) -> Loaded | None:
    """Return the network in an ONNX file with its classes and its input; None if the file does not say them.

    Whether it has a score for each class is for those to say who run it.

    Args:
        model: what was read of the file.
        path: of the file.

    Raises:
        CheckpointError: it says something else than its network takes, or nonsense.
    """
    said = {name: model.about.get(f"regroup.{name}") for name in ("network", "classes", "input")}
    if said["classes"] is None or said["input"] is None:
        return None
    try:
        classes = build(parse(said["classes"]), list[str], "regroup.classes")
        wanted = build(parse(said["input"]), ImageInput, "regroup.input")
        name = build(parse(said["network"] or '"a network"'), str, "regroup.network")
        require(len(classes) >= 1, "regroup.classes", classes, "one name or more")
        require_images(wanted.shape, wanted.mean, wanted.std, wanted.part, "regroup.input.")
    except DocumentError as error:
        raise CheckpointError(path, f"its metadata are damaged: {error}") from None
    takes = model.inputs[0].shape[1:]
    fits = all(side in (None, ours) for side, ours in zip(takes, wanted.shape, strict=True))
    if not fits:
        raise CheckpointError(path, f"its metadata are of other images than its network takes: {takes}")
    return Loaded(model, tuple(classes), wanted, name, "onnx", path)
