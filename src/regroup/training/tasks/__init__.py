"""What a network is trained for, as a value: a file of this package for each task, found by being there.

>>> sorted(tasks)
['classify', 'detect', 'segment']
>>> tasks["segment"].defaults["data"]
'scenes'

The loop, the measuring, the command line and the comparison ask a `Task` and know nothing else of what a
network gives: what a step minimises, how good outputs are, and what fits together. Which task it is stands in
the data set (`DataSet.task`): targets are of one task.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from regroup.errors import ConfigError, needed
from regroup.registry import Registry
from regroup.spec import Size
from regroup.training.config import TrainConfig
from regroup.training.data import Batch, DataSet
from regroup.training.jackknife import LEVEL, of_mean

Total = Callable[[Tensor], Tensor]
"""Sums a tensor over all processes, where each has a share of the images."""


@dataclass(frozen=True)
class Metrics(ABC):
    """How well a network does; a task's own class has its figures.

    Attributes:
        loss: mean over the images; None where a network that is tested has no loss.
        images: how many there were.
    """

    loss: float | None
    images: int

    @property
    @abstractmethod
    def figures(self) -> dict[str, float | None]:
        """What is told of a network by name, in percent; the first is the one by which networks are best."""

    @abstractmethod
    def told(self) -> dict[str, str]:
        """Return what a person reads: each measure by what people call it, with its interval if known."""

    def each(self) -> np.ndarray | None:
        """Return the share of each image in the first figure, of which that is the mean; None: not known.

        1 is all of it: where images are right or wrong, as in classifying, that is what they are.
        """
        return None

    @cached_property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % confidence interval of the first figure over further images like these, in percent."""
        if (each := self.each()) is None:
            return None
        low, high = of_mean(each, LEVEL)
        return max(0.0, 100 * low), min(100.0, 100 * high)

    def told_interval(self) -> str:
        """Return the interval as it stands behind the figure; "" if it is not known."""
        return "" if self.interval is None else "  (95 %: {:.2f} .. {:.2f})".format(*self.interval)

    def to_json(self) -> dict[str, Any]:
        """Return all of it as plain JSON values."""
        told = {each.name: getattr(self, each.name) for each in fields(self) if each.repr}
        return told | ({} if self.interval is None else {"interval": list(self.interval)})


class Meter(ABC):
    """Takes what a network gives for batches, one after the other, and says how good that was."""

    @abstractmethod
    def add(self, found: Any, batch: Batch) -> None:
        """Take what the network, in eval mode, gives for a batch; waits for no GPU.

        Raises:
            ConfigError: it is nothing that this task understands.
        """

    @abstractmethod
    def result(self, total: Total) -> Metrics:
        """Return the metrics of all that was added, in all processes."""


class Task(ABC):
    """What a network is trained for.

    Attributes:
        name: of the task, as `--task` takes it.
        measure: what people call the first of the figures.
        columns: what `answers` have, in this order, after the name of the image: class, name, how sure, ...
        gives: what a network gives, as the end of a sentence, with a place for the number of classes.
        requires: modules of packages that come with the extra `see`.
        unused: settings of `TrainConfig` that mean nothing here.
        shareable: whether devices can share the channels of its networks, as `regroup.parallel` plans it.
        defaults: options of `regroup train` and `compare` that are others here than their dataclasses say.
    """

    name: str
    gives: str
    measure: str
    columns: tuple[str, ...]
    requires: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    shareable: bool = True
    defaults: Mapping[str, Any] = {}

    @abstractmethod
    def loss(self, model: nn.Module, batch: Batch, config: TrainConfig, teacher: nn.Module | None) -> Tensor:
        """Return what a step minimises on a batch.

        Args:
            model: in training mode.
            batch: images and what they show.
            config: smoothing, distillation.
            teacher: a trained network to learn from too.
        """

    @abstractmethod
    def meter(self, data: DataSet | None) -> Meter:
        """Return what measures a network on the test images of `data`; None: images of unknown classes."""

    @abstractmethod
    def misfit(self, found: Any, images: Tensor, classes: int | None) -> str:
        """Return what is wrong with what a network gives for images, in words; "" if nothing is.

        Args:
            found: what it gives, in eval mode.
            images: for these, (N, channels, height, width).
            classes: how many there must be; None: any number.
        """

    @abstractmethod
    def classes_of(self, model: nn.Module, found: Any) -> int:
        """Return how many classes a network tells apart.

        Args:
            model: the network.
            found: what it gives.
        """

    @abstractmethod
    def seen(self, found: Any, shape: Size, sizes: Sequence[Size]) -> list[Any]:
        """Return what a network has seen in each image: what `answers` and `draw` take.

        Args:
            found: what it gives, in eval mode.
            shape: height and width of the images that it was shown.
            sizes: height and width that each picture has, by which what lies in it is told.
        """

    @abstractmethod
    def answers(self, seen: Any, names: Sequence[str], top: int) -> list[dict[str, Any]]:
        """Return what is seen in one image as JSON values: class, name, and how sure or large it is.

        Args:
            seen: of `seen`.
            names: of the classes; may be empty.
            top: so many at most, the surest or largest first.
        """

    def draw(self, picture: Tensor, seen: Any, names: Sequence[str]) -> Tensor | None:
        """Return a picture, uint8 (3, height, width), with what is seen in it; None: nothing can be drawn."""
        return None

    def mask(self, seen: Any) -> Tensor | None:
        """Return the class of each pixel, uint8 (height, width), where that is what is seen."""
        return None

    def check(self, what: str, model: nn.Module, data: DataSet, device: torch.device) -> None:
        """Require that a network gives for these images what this task wants.

        Args:
            what: the network is called in the error, such as "teacher".
            model: the network.
            data: the images.
            device: where the network is.

        Raises:
            ConfigError: it does not.
        """
        found = outputs_of_two(self, what, model, data, device)
        if wrong := self.misfit(found, torch.empty(2, *data.shape), len(data.classes)):
            raise ConfigError(what, wrong, f"a network that gives {self.gives.format(len(data.classes))}")

    def check_config(self, config: TrainConfig, teacher: nn.Module | None) -> None:
        """Require that nothing is set that means nothing here, and that what is needed later is installed.

        Raises:
            ConfigError: something is set.
            MissingPackageError: something is not installed.
        """
        for module in self.requires:
            needed(module, "see")
        plain = TrainConfig()
        for name in self.unused:
            value = getattr(config, name, None)
            if value != getattr(plain, name, None):
                raise ConfigError(name, value, f"left out with the task {self.name}")
        if teacher is not None and "teacher" in self.unused:
            raise ConfigError("teacher", type(teacher).__name__, f"left out with the task {self.name}")

    def attempt(self, model: nn.Module, data: DataSet, count: int, device: torch.device) -> Any:
        """Return what a network, in the mode in which it is, gives for so many blank images."""
        return model(torch.zeros(count, *data.shape, device=device))


tasks: Registry[Task] = Registry("task", package="regroup.training.tasks", entry_point="regroup.tasks")
"""Name -> task."""


@torch.no_grad()
def outputs_of_two(task: Task, what: str, model: nn.Module, data: DataSet, device: torch.device) -> Any:
    """Return what a network gives for two blank images in eval mode.

    Raises:
        ConfigError: it does not take such images.
    """
    mode = model.training
    try:
        return task.attempt(model.eval(), data, 2, device)
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        channels, height, width = data.shape
        cause = str(error).partition("\n")[0]
        allowed = f"a network for {channels} x {height} x {width} images (channels, height, width)"
        raise ConfigError(what, type(model).__name__, allowed, f"it says: {cause}") from error
    finally:
        model.train(mode)


def task_of(data: DataSet | None) -> Task:
    """Return the task that a data set is of; images of which nothing is said are to be classified."""
    return tasks["classify" if data is None else data.task]
