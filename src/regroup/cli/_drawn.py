"""Pictures with what a network has seen in them, and masks, in a directory: what `run --out` writes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image

    from regroup.training.tasks import Task


class Drawn:
    """A directory: NAME.png with what is seen drawn into it, and NAME-mask.png with the classes of pixels.

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

    def add(self, path: Path, picture: Image.Image, seen: Any, names: Sequence[str]) -> None:
        """Write what is seen in the picture of a file."""
        from PIL import Image
        from torchvision.transforms.v2.functional import pil_to_tensor, to_pil_image

        name = self._name(path)
        drawn = self._task.draw(pil_to_tensor(picture.convert("RGB")), seen, names)
        if drawn is not None:
            self._write(f"{name}.png", to_pil_image(drawn))
        mask = self._task.mask(seen)
        if mask is not None:
            image = Image.fromarray(mask.numpy(), "P")
            image.putpalette(_palette())
            self._write(f"{name}-mask.png", image)

    def _name(self, path: Path) -> str:
        """Return a name for what belongs to a file: no two files have one in common."""
        count = self._names[path.stem] = self._names.get(path.stem, 0) + 1
        return path.stem if count == 1 else f"{path.stem}-{count}"

    def _write(self, name: str, image: Image.Image) -> None:
        from regroup.errors import ReportError
        from regroup.files.disk import write_file

        data = io.BytesIO()
        image.save(data, "PNG")
        try:
            write_file(self._out / name, data.getvalue(), lasting=False)
        except OSError as error:
            raise ReportError(self._out / name, f"could not be written: {error.strerror or error}") from error


def _palette() -> list[int]:
    from regroup.training.tasks.segment import palette

    return palette()
