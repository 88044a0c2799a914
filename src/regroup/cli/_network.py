"""The network that a command is to work on: by name, or that of a finished run of `regroup train`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import ModuleType

    from torch import Tensor, nn

    from regroup.loading import ImageInput, Loaded


MOST_SIDE = 1 << 13
"""Height and width that an image may be asked to have."""


MOST = {"image": MOST_SIDE, "channels": 1024, "batch": 1 << 20, "batch_size": 1 << 20, "threads": 1024}
MOST |= {"outputs": 1024, "kernel": 49}
"""The largest numbers that options of such names may have: PyTorch would trip over more."""


def check_number(name: str, value: int | None) -> None:
    """Require that an option that is given is from 1 to what is allowed of its name.

    Raises:
        ConfigError: it is not.
    """
    from regroup.errors import ConfigError

    if value is not None and not 1 <= value <= MOST[name]:
        raise ConfigError(name, value, f"an int from 1 to {MOST[name]}")


@dataclass(frozen=True)
class Chosen:
    """A network in eval mode, without learned layers, for images of so many channels; and where it is from.

    What is `loaded` from a directory has images of its own; an ONNX file says their `size`, or leaves it
    open, may say how they are prepared (`wanted`) and how many there always are (`batch`), and give
    `probabilities` instead of scores. What the files of the user's are that may define it, `plugins` says.
    """

    name: str
    model: nn.Module
    channels: int
    loaded: Loaded | None = None
    size: tuple[int, int] | None = None
    batch: int | None = None
    probabilities: bool = False
    plugins: tuple[ModuleType, ...] = ()
    task: str = "classify"
    wanted: ImageInput | None = None

    def ready(self, model: nn.Module) -> nn.Module:
        """Return the network, or what it was compiled to, as images (N, C, H, W) of any N -> scores."""
        from regroup.loading.serving import InBatches, Logarithm

        model = Logarithm(model) if self.probabilities else model
        return model if self.batch is None else InBatches(model, self.batch)

    @property
    def input(self) -> ImageInput:
        """The images that it takes: those that it says, or ImageNet's."""
        return self.wanted or (self.loaded.input if self.loaded else self._taken(self.size))

    def input_of(self, image: int | None) -> ImageInput:
        """Return the images that it takes, with a height and width of `image`, if that is given.

        Raises:
            ConfigError: `image` is no size.
        """
        check_number("image", image)
        if image is None:
            return self.input
        if self.wanted or self.loaded:
            return replace(self.input, shape=(self.input.shape[0], image, image))
        return self._taken((image, image))

    def _taken(self, size: tuple[int, int] | None) -> ImageInput:
        from regroup.loading import ImageInput

        found = ImageInput.of(self.model, (self.channels, *(size or ImageInput.of(self.model).size)))
        return found if self.task == "classify" else replace(found, part=1.0, crop="squash")

    def data(self, given: str | None) -> str:
        """Return the data set or folder that is given, or else the one that the network was trained on.

        Raises:
            ConfigError: none is given, and the network says none.
        """
        from regroup.errors import ConfigError

        known = self.loaded and self.loaded.data
        if not (source := given or known):
            raise ConfigError(
                "data", given, "a data set or a folder", "the network does not say what it was trained on"
            )
        return source

    def namings(self, count: int) -> tuple[tuple[str, ...], ...]:
        """Return the names of its classes, as far as they are known: what people call them first.

        Args:
            count: how many it has.
        """
        from timm.data import ImageNetInfo, infer_imagenet_subset

        if self.loaded:
            return (self.loaded.classes,)
        subset = infer_imagenet_subset(self.model) or ("imagenet-1k" if count == 1000 else None)
        if subset is None:
            return ()
        known = ImageNetInfo(subset)
        labels = known.label_names()
        if len(labels) != count:
            return ()
        return tuple(map(known.index_to_description, range(count))), tuple(labels)

    def shape(self, image: int | None, batch: int = 1) -> tuple[int, int, int, int]:
        """Return the shape of its input: images as large as `image` says, or as it expects.

        Raises:
            ConfigError: `image` is no size, or the network takes another number of images.
        """
        from regroup.errors import ConfigError

        if self.batch is not None and batch not in (1, self.batch):
            raise ConfigError("batch", batch, f"{self.batch}, as {self.name} says")
        return self.batch or batch, *self.input_of(image).shape

    def check(self, images: Tensor) -> None:
        """Run the network once, without gradients, to see whether it takes such images.

        Raises:
            ConfigError: it does not.
            CheckpointError: it gives another number of scores than it has names of classes.
        """
        import torch

        from regroup.cli._faults import is_of_memory
        from regroup.errors import CheckpointError, ConfigError, first_line
        from regroup.training.tasks import tasks

        try:
            with torch.inference_mode():
                found = self.model(images)
        except (RuntimeError, ValueError, AssertionError) as error:
            if is_of_memory(error):
                raise
            size = images.shape[2]
            reason = first_line(error) or type(error).__name__
            raise ConfigError("image", size, f"a size that {self.name} takes", reason) from error
        classes = len(self.loaded.classes) if self.loaded else None
        if self.loaded and (wrong := tasks[self.task].misfit(found, images, classes)):
            given = f"its network gives {wrong} for {len(images)} images"
            raise CheckpointError(self.name, f"it names {classes} classes, but {given}")


def choose(
    name: str,
    *,
    channels: int | None = None,
    weights: Path | None = None,
    pretrained: bool = False,
    plugins: Iterable[Path] = (),
) -> Chosen:
    """Return the network called `name`, or of the run in the directory `name`.

    A directory that has the name of a network needs "./" before it.

    Args:
        name: of a network of ours, timm's or torchvision's, or path of a directory or of an ONNX file.
        channels: of the images; None: 3, or the run's.
        weights: file of weights.
        pretrained: load the weights that the model hub has.
        plugins: files that define further networks and strategies.

    Raises:
        UnknownNameError: it is neither.
        ConfigError: something is given that a run has of its own, or that others' networks do not take.
        CheckpointError: the directory is no finished run, or the weights cannot be used.
    """
    from regroup.loading.plugins import load_plugins

    modules = load_plugins(plugins)
    check_number("channels", channels)
    return replace(_chosen(name, channels, weights, pretrained), plugins=modules)


def _chosen(name: str, channels: int | None, weights: Path | None, pretrained: bool) -> Chosen:
    from regroup.errors import UnknownNameError

    given = {"channels": channels, "weights": weights and str(weights), "pretrained": pretrained or None}
    if name.endswith(".onnx"):
        return _of_onnx(Path(name), given)
    if "/" in name or name.startswith("."):
        return _of_run(Path(name), given)
    try:
        return _of_name(name, channels or 3, weights, pretrained)
    except UnknownNameError:
        if not Path(name).is_dir():
            raise
    return _of_run(Path(name), given)


def _of_name(name: str, channels: int, weights: Path | None, pretrained: bool) -> Chosen:
    from regroup.interop.heads import task_of
    from regroup.loading.named import named

    with _telling("regroup.networks"):
        model = named(name, in_chans=channels, pretrained=pretrained, weights=weights)
    return Chosen(name, model.eval(), channels, task=task_of(name))


@contextmanager
def _telling(name: str) -> Iterator[None]:
    """Print what is logged under `name`, such as how weights were read, to standard error."""
    import logging

    log, handler = logging.getLogger(name), logging.StreamHandler()
    level, propagate = log.level, log.propagate
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
        log.propagate = propagate


def _of_onnx(path: Path, given: dict[str, Any]) -> Chosen:
    from regroup.engine.frontend.onnx import load
    from regroup.errors import ConfigError
    from regroup.loading.exported import Said
    from regroup.loading.serving import gives_probabilities

    for option, value in given.items():
        if value is not None:
            raise ConfigError(option, value, f"left out for an ONNX file: {path} has its own")
    model = load(path)
    shape = model.inputs[0].shape if len(model.inputs) == 1 else ()
    if len(shape) != 4 or shape[1] is None:
        raise ConfigError("model", str(path), "an ONNX file with one input, images of so many channels")
    size = shape[2] or 224, shape[3] or 224
    said = Said.read(model, path)
    more = {"batch": shape[0], "probabilities": gives_probabilities(model), "wanted": said.input}
    return Chosen(str(path), model, shape[1], said.loaded(model, path), size, **more)


def _of_run(directory: Path, given: dict[str, Any]) -> Chosen:
    from regroup.errors import ConfigError
    from regroup.loading import loaded
    from regroup.strategies.learning import deploy

    for option, value in given.items():
        if value is not None:
            raise ConfigError(option, value, f"left out for a run: {directory} has its own")
    found = loaded(directory)
    return Chosen(str(directory), deploy(found.model), found.input.shape[0], found, task=found.task)
