"""Pictures with what a network has seen in them, masks and boxes, in a directory: what `run --out` writes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image

    from regroup.training.tasks import Task


class Drawn:
    """A directory: NAME.png with what is seen drawn into it, NAME-mask.png with the classes of pixels.

    Of boxes there is detections.json besides.

    Args:
        out: the directory; what has such a name there is replaced.
        task: of the network.

    Raises:
        ConfigError: the task has nothing to draw.
        CheckpointError: the directory cannot be made or written to.
    """

    def __init__(self, out: Path, task: Task) -> None:
        from regroup.errors import ConfigError
        from regroup.training.directory import prepare

        if task.name == "classify":
            raise ConfigError(
                "out", str(out), "left out for a network that classifies: there is nothing to draw"
            )
        prepare(out)
        self._out, self._task = out, task
        self._names: dict[str, int] = {}
        self._images: list[dict[str, Any]] = []
        self._objects: list[dict[str, Any]] = []

    def add(
        self,
        path: Path,
        picture: Image.Image,
        seen: Any,
        answers: Sequence[dict[str, Any]],
        names: Sequence[str],
    ) -> None:
        """Write what is seen in the picture of a file."""
        from PIL import Image
        from torchvision.transforms.v2.functional import pil_to_tensor, to_pil_image

        name = self._name(path)
        self._keep(path, picture, answers)
        drawn = self._task.draw(pil_to_tensor(picture.convert("RGB")), seen, names)
        if drawn is not None:
            self._write(f"{name}.png", to_pil_image(drawn))
        mask = self._task.mask(seen)
        if mask is not None:
            image = Image.fromarray(mask.numpy(), "P")
            image.putpalette(_palette())
            self._write(f"{name}-mask.png", image)

    def end(self, names: Sequence[str]) -> None:
        """Write detections.json, if there are boxes: a data set in COCO's format, with a score for each."""
        import json

        if "box" not in self._task.columns:
            return
        categories = [{"id": number, "name": name} for number, name in enumerate(names) if number]
        found = {"images": self._images, "categories": categories, "annotations": self._objects}
        self._write_bytes("detections.json", json.dumps(found, indent=1).encode())

    def _keep(self, path: Path, picture: Image.Image, answers: Sequence[dict[str, Any]]) -> None:
        number = len(self._images) + 1
        sides = {"width": picture.width, "height": picture.height}
        self._images.append({"id": number, "file_name": str(path), **sides})
        for answer in answers if "box" in self._task.columns else ():
            _, _, width, height = answer["box"]
            known = {"image_id": number, "category_id": answer["class"], "bbox": answer["box"]}
            known |= {"score": answer["score"], "area": width * height, "iscrowd": 0}
            self._objects.append({"id": len(self._objects) + 1, **known})

    def _name(self, path: Path) -> str:
        """Return a name for what belongs to a file: no two files have one in common."""
        count = self._names[path.stem] = self._names.get(path.stem, 0) + 1
        return path.stem if count == 1 else f"{path.stem}-{count}"

    def _write(self, name: str, image: Image.Image) -> None:
        data = io.BytesIO()
        image.save(data, "PNG")
        self._write_bytes(name, data.getvalue())

    def _write_bytes(self, name: str, content: bytes) -> None:
        from regroup.errors import ReportError
        from regroup.files.disk import write_file

        try:
            write_file(self._out / name, content, lasting=False)
        except OSError as error:
            raise ReportError(self._out / name, f"could not be written: {error.strerror or error}") from error


def _palette() -> list[int]:
    from regroup.training.tasks.segment import palette

    return palette()
