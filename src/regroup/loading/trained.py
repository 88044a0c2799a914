"""The network of a run of `regroup train`: what is written beside its weights, and how it is built again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from regroup.conversion.replace import Weights
from regroup.conversion.replace import replace as replace_convolutions
from regroup.errors import CheckpointError, ConfigError, UnknownNameError, first_line
from regroup.files.documents import DocumentError, build, require
from regroup.files.remote import address, plain
from regroup.files.staging import fetched
from regroup.interop import heads
from regroup.loading.inputs import ImageInput, require_images
from regroup.loading.kinds import Loaded, kind, kind_in
from regroup.loading.named import named
from regroup.loading.rebuilding import rebuilt
from regroup.networks import anywhere
from regroup.training.checkpoint import load_checkpoint, load_state
from regroup.training.data.images import Crop, Resample
from regroup.training.directory import Record, published
from regroup.training.tasks import tasks

if TYPE_CHECKING:
    from regroup.training import DataSet


@dataclass(frozen=True)
class Trained:
    """What it takes to build the network of a run, and to show it an image as the run did.

    Args:
        model: name of the network.
        options: of the network.
        strategy: put into its convolutions; None: none.
        where: into which of them.
        classes: names.
        shape: (channels, height, width) of the images.
        mean: of each channel, with pixels in 0 .. 1.
        std: of each channel.
        part: of an image, how much of each side is shown to the network.
        crop: what is shown of an image of other proportions.
        resample: how images of other sizes are made.
        task: what it is trained for.
        kind: of a directory with this description: see `regroup.loading`.
    """

    model: str
    options: dict[str, Any]
    strategy: str | None
    where: str | None
    classes: list[str]
    shape: list[int]
    mean: list[float]
    std: list[float]
    part: float
    crop: Crop = "center"
    resample: Resample = "bicubic"
    task: str = "classify"
    kind: Literal["trained"] = "trained"

    @classmethod
    def on(
        cls, data: DataSet, model: str, options: dict[str, Any], strategy: str | None, where: str | None
    ) -> Trained:
        """Return the description of a network that is trained on `data`."""
        images = list(data.classes), list(data.shape), list(data.mean), list(data.std)
        shown = data.part, data.crop, data.resample
        return cls(model, options, strategy, where, *images, *shown, data.task)

    def to_json(self) -> dict[str, Any]:
        """Return the fields."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: object) -> Trained:
        """Return what `to_json` described.

        Raises:
            DocumentError: it is something else; says which field is wrong.
        """
        found = build(value, cls)
        require(len(found.classes) >= 1, "classes", found.classes, "one name or more")
        require(found.task in tasks, "task", found.task, f"one of {', '.join(tasks)}")
        require_images(found.shape, found.mean, found.std, found.part)
        return found

    def rebuild(
        self, path: Path, state: object, change: Callable[[nn.Module], object] | None = None
    ) -> nn.Module:
        """Return the network with the weights that `path` holds; say nothing.

        Args:
            path: a directory.
            state: the weights by name.
            change: made to the network before it gets them; a CheckpointError says that it cannot be.

        Raises:
            CheckpointError: there is no such network, or they are another one's.
        """

        def make() -> nn.Module:
            try:
                model = self.build(seed=None)
            except CheckpointError:
                raise
            except Exception as error:  # constructors raise whatever wrong options make them trip over
                reason = f"its network cannot be built ({type(error).__name__}: {first_line(error)})"
                if isinstance(error, UnknownNameError):
                    reason += "; if a file of yours defines it, import that first (--plugin)"
                raise CheckpointError(path, reason) from error
            if change is not None:
                change(model)
            return model

        return rebuilt(path, make, state)

    def build(
        self,
        *,
        seed: int | None = 0,
        pretrained: bool = False,
        weights: Path | None = None,
        new_head: bool = False,
        say: Callable[[str], object] | None = None,
    ) -> nn.Module:
        """Return the network as it was before training.

        Args:
            seed: of its weights; None: as the random numbers are just now.
            pretrained: load the weights that the hub has, before the strategy is put in.
            weights: file of weights, or directory of a run of the same network, or of the same without the
                strategy, or the URL of either: likewise.
            new_head: ... all but the classifier's.
            say: called with what the strategy replaced, and what became of the classifier.

        Raises:
            ConfigError: both are given, or a new head and neither; the strategy fits no layer.
            CheckpointError: they do not fit.
        """
        if weights is not None and (plain(weights) != weights or address(weights)):
            more: dict[str, Any] = {"pretrained": pretrained, "new_head": new_head, "say": say}
            with fetched(weights) as here:
                return self.build(seed=seed, weights=here, **more)
        if weights is not None and pretrained:
            raise ConfigError("pretrained", True, "False where --weights is given")
        if new_head and weights is None:
            raise ConfigError("new_head", True, "False where there are no weights to load", "give --weights")
        if seed is not None:
            torch.manual_seed(seed)
        common: dict[str, Any] = {"num_classes": len(self.classes), "in_chans": self.shape[0], **self.options}
        if pretrained or (weights is not None and not weights.is_dir()):
            common |= {"pretrained": pretrained, "weights": weights, "new_head": new_head}
        model = named(self.model, **common)
        run = None if weights is None or not weights.is_dir() else _Run.read(weights)
        if run is not None and run.network.strategy is None:
            replace(self, strategy=None).take(run, model, new_head=new_head)
        if self.strategy is not None:
            trained = pretrained or weights is not None
            kept: Weights = "keep" if trained else "fresh"
            changes = replace_convolutions(model, self.strategy, self.where, weights=kept)
            if seed is not None and changes.misfit:  # else it was trained, and is what it is
                raise ConfigError("strategy", self.strategy, "one that fits the network", changes.misfit)
            if say is not None:
                say(str(changes))
        if run is not None and run.network.strategy is not None:
            self.take(run, model, new_head=new_head)
        if say is not None:
            for line in self._said_of_head(run, model, pretrained=pretrained, new_head=new_head):
                say(line)
        return model

    def take(self, run: _Run, model: nn.Module, *, new_head: bool) -> None:
        """Give `model`, which is this network, the weights of a run; errors are those of `load`.

        A run of its backbone alone, without a head, gives the backbone's.
        """
        if run.network.task != self.task and run.network.model == heads.backbone_of(self.model):
            self._take_backbone(run, model)
        else:
            self.load(run.path, model, run.weights, new_head=new_head)

    def _take_backbone(self, run: _Run, model: nn.Module) -> None:
        state = run.weights if isinstance(run.weights, dict) else {}
        found = heads.backbone_state(model, state)
        if found is None:
            options = "with the same options, channels and strategy"
            raise CheckpointError(
                run.path, f"is of another network than the backbone of {self.model} {options}"
            )
        load_state(run.path, model, model.state_dict() | found)

    def _said_of_head(
        self, run: _Run | None, model: nn.Module, *, pretrained: bool, new_head: bool
    ) -> Iterator[str]:
        """Yield what the user should know of the classifier."""
        if run is not None and run.network.task != self.task:
            yield f"{run.path}: the backbone has its weights; the rest is new"
            return
        if run is not None and not new_head and run.network.classes != self.classes:
            yield f"{run.path}: its classifier is of other classes; new_head=True begins it anew"
        published = anywhere.published_classes(self.model)
        if pretrained and published not in (None, len(self.classes)):
            yield f"the classifier is new: {len(self.classes)} classes; the hub's has {published}"

    def load(self, path: Path, model: nn.Module, state: object, *, new_head: bool = False) -> None:
        """Give `model`, which is this network, the weights of a run of the same network.

        Args:
            path: where they are from.
            model: takes them.
            state: the weights by name.
            new_head: leave the classifier as it is, and load all the rest, e.g. for other classes.

        Raises:
            CheckpointError: they do not fit; it says if all but the classifier's do.
        """
        if new_head:
            return load_state(path, model, self._with_own_head(model, state))
        try:
            load_state(path, model, state)
        except CheckpointError as error:
            if not _fits(model, self._with_own_head(model, state)):
                raise
            remedy = "new_head=True loads all but the classifier"
            raise CheckpointError(path, f"{error.reason}; {remedy}") from None

    def _with_own_head(self, model: nn.Module, state: object) -> object:
        """Return a run's weights with the model's own in the place of those that the classes decide."""
        if not isinstance(state, dict):
            return state
        other = replace(self, classes=[*self.classes, "one more"]).build().state_dict()
        own = model.state_dict()
        head = {name for name, value in own.items() if name not in other or other[name].shape != value.shape}
        return {name: value for name, value in state.items() if name not in head} | {n: own[n] for n in head}

    @property
    def input(self) -> ImageInput:
        """The images that the network was trained on."""
        channels, height, width = self.shape
        shown = self.part, self.crop, self.resample
        return ImageInput((channels, height, width), tuple(self.mean), tuple(self.std), *shown)

    @property
    def name(self) -> str:
        """The network and what was put into it, in words."""
        return self.model if self.strategy is None else f"{self.model} with {self.strategy}"


@dataclass(frozen=True)
class _Run:
    """What a run has left: where it was read, of which network, and its weights by name."""

    path: Path
    network: Trained
    weights: object

    @classmethod
    def read(cls, directory: Path) -> _Run:
        """Read it.

        Raises:
            CheckpointError: there is none, it is damaged, or describes no network.
        """
        path = published(directory)
        saved = load_checkpoint(path)
        if (kind := kind_in(saved.get("network"))) != "trained":
            reason = f"holds a network of the kind {kind!r}, whose layers no other has"
            raise CheckpointError(path, f"{reason}: in Python, train regroup.load({str(directory)!r})")
        try:
            return cls(path, Trained.from_json(saved.get("network")), saved.get("weights"))
        except DocumentError as error:
            reason = f"does not say which network it holds: in network.json, {error}"
            raise CheckpointError(path, reason) from None


def _fits(model: nn.Module, state: object) -> bool:
    own = model.state_dict()
    if not isinstance(state, dict) or own.keys() != state.keys():
        return False
    return all(getattr(state[name], "shape", None) == value.shape for name, value in own.items())


@kind("trained")
def trained(path: Path) -> Loaded:
    """Return the network that a run of `regroup train` has left in a sealed directory.

    Raises:
        CheckpointError: it is damaged, or describes no network.
    """
    saved = _Run.read(path)
    found = saved.network
    model = found.rebuild(path, saved.weights)
    classes, source = tuple(found.classes), _data_of(path.absolute().parent)
    return Loaded(model, classes, found.input, found.name, found.kind, path, source, found.task)


def _data_of(directory: Path) -> str | None:
    """Return the data set or folder that a run was trained on, if its `run.json` says so."""
    with suppress(CheckpointError):
        record = Record.read(directory)
        if record is not None and record.command is not None:
            data = record.command.get("data")
            return data if isinstance(data, str) else None
    return None
