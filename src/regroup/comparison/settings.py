"""What to compare, and how to train it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from regroup.errors import ConfigError
from regroup.files.remote import address, plain
from regroup.training.recipe import Recipe

if TYPE_CHECKING:
    from regroup.loading.trained import Trained
    from regroup.strategies import Strategy
    from regroup.training import DataSet, TrainConfig


@dataclass(frozen=True)
class CompareConfig(Recipe):
    """Options of `regroup compare`: without any, one grouping of each kind in a small ResNet on the digits.

    Every strategy is trained by the same recipe, with seeds 0, 1, ...

    Raises:
        ConfigError: a value cannot work.
    """

    epochs: int = 8
    """Passes over the training images."""
    lr: float = 0.05
    """Learning rate after warmup."""
    weight_decay: float = 5e-4
    """Weight decay; biases and normalisation get none."""
    warmup_epochs: float = 1.0
    """Epochs in which the learning rate rises from warmup_lr to lr; at most half of all epochs."""
    task: str | None = None
    """What the networks are to say: classify, segment (pixels), detect; none: what the model is for."""
    data: str = "digits"
    """Data set: digits, glyphs, scenes, a folder of images or its URL, or a name of torchvision's."""
    backbone: str = "resnet_small"
    """Network whose convolutions are replaced: one of ours (`regroup models`), of timm or of torchvision;
    with a head, such as unet:resnet18, for another task than classifying."""
    model_options: tuple[str, ...] = ()
    """Options of the network, such as depth=3."""
    pretrained: bool = False
    """Start from the weights that the hub has (timm's, torchvision's), as near as each strategy can."""
    weights: Path | None = None
    """Start from the weights of a run of the same network without a grouping, or from a file of weights."""
    new_head: bool = False
    """With --weights: leave the classifier new, and load the rest, e.g. for other classes."""
    teacher: str | None = None
    """Network that teaches all of them too: a run of `regroup train`, the name of one whose weights the hub
    has, a file of weights of the same network, or NAME=FILE."""
    strategies: tuple[str, ...] = ()
    """Strategies such as grouped:groups=4; none means one of each kind. dense always runs."""
    all: bool = False
    """Every variant of every strategy, where none is named."""
    where: str | None = None
    """Which convolutions to replace, as a pattern of names; none means all larger than 1x1 but the first."""
    seeds: int = 1
    """Trainings of each strategy, with seeds 0, 1, ...; with two or more the spread is told."""
    image: int | None = None
    """Height and width of the images; none means what the data set has."""
    accelerate: bool = False
    """Train narrow groups by regroup's own kernels: quicker on CPUs, other rounding, compiled once."""
    device: str | None = None
    """Where to train: cpu, cuda, cuda:1, ...; None: a GPU if there is one. Times are the CPU's."""
    workers: int = 0
    """Processes that load images, for data that is not held in memory."""
    bad_images: Literal["error", "skip"] = "error"
    """What to do about images that cannot be read."""
    download: bool = False
    """Download a data set that is not there."""
    time: bool = True
    """Measure the time for one image, in PyTorch and compiled; once for the same networks and machine."""
    retime: bool = False
    """Measure the times anew where they are kept."""
    out: Path = Path("report")
    """Directory for the report, or a URL such as s3://bucket/report; what is finished there is not done
    again."""
    on: str | None = None
    """Train on other machines: ray (here, or the cluster that RAY_ADDRESS names), ray://HOST:PORT, or
    submitit (Slurm). All must see --out. None: one training after the other, here."""
    cpus: int | None = None
    """Processors, and so threads, of each training on other machines; None: as many as PyTorch uses here."""
    gpus: float = 0
    """GPUs of each training on other machines."""
    wait: bool = True
    """Wait while another process uses that directory; else end with a line that says which."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("seeds", 1), ("batch_size", 2)):
            self._check_int(name, least)
        from regroup.interop import heads

        if self.cpus is not None and self.cpus < 1:
            raise ConfigError("cpus", self.cpus, "an int of at least 1")
        if self.gpus < 0:
            raise ConfigError("gpus", self.gpus, "at least 0")
        if self.pretrained and self.weights is not None:
            raise ConfigError("pretrained", True, "False where --weights is given")
        if self.new_head and self.weights is None:
            raise ConfigError("new_head", True, "False where there are no weights to load", "give --weights")
        task = self.task or heads.task_of(self.backbone)
        object.__setattr__(self, "backbone", heads.with_head(task, self.backbone))
        object.__setattr__(self, "task", task)
        object.__setattr__(self, "out", plain(self.out))
        object.__setattr__(self, "weights", None if self.weights is None else Path(self.weights))
        object.__setattr__(self, "model_options", tuple(self.model_options))
        object.__setattr__(self, "strategies", tuple(self.strategies))

    def to_json(self) -> dict[str, Any]:
        """Return the options as JSON values."""
        values = {k: str(v) if isinstance(v, Path) else v for k, v in asdict(self).items()}
        return values | {"out": address(self.out) or str(self.out)}

    def elsewhere(self) -> dict[str, Any]:
        """Return them for another machine, where the working directory is another."""
        from regroup.training.data import data_sets

        values = self.to_json() | {"on": None, "out": address(self.out) or str(self.out.absolute())}
        for name in ("data", "teacher", "weights"):
            named = name == "data" and self.data in data_sets
            if values[name] is not None and address(values[name]):
                values[name] = address(values[name])
            elif not named and values[name] is not None:
                path = plain(values[name]).expanduser()
                values[name] = str(path.absolute()) if path.exists() else values[name]
        return values

    def training(self, seed: int) -> TrainConfig:
        """Return how each strategy is trained with a seed."""
        from regroup.training import TrainConfig

        names = {f.name for f in fields(self)} & {f.name for f in fields(TrainConfig)}
        given: dict[str, Any] = {name: getattr(self, name) for name in names}
        given["warmup_epochs"] = min(self.warmup_epochs, self.epochs / 2)
        kept: dict[str, Any] = {"resume": True, "checkpoint_hist": 1, "display": "quiet"}
        return TrainConfig(**given, **kept, seed=seed)

    def network(self, data: DataSet) -> Trained:
        """Return the backbone for these images, as it is before a strategy is put into it."""
        from regroup.loading.named import read_options
        from regroup.loading.trained import Trained

        options = read_options("model_options", self.model_options)
        return Trained.on(data, self.backbone, options, None, None)

    def chosen(self) -> list[Strategy]:
        """Return the strategies to run, the dense baseline among them, each once.

        Raises:
            UnknownNameError, StrategyError: one cannot be read.
        """
        from regroup.strategies import parse_strategy, strategies

        if self.strategies:
            wanted = [parse_strategy("dense"), *map(parse_strategy, self.strategies)]
        elif self.all:
            wanted = [variant for name in strategies for variant in strategies[name].variants()]
        else:
            kinds = [strategies[name] for name in strategies]
            wanted = [kind.representative() for kind in kinds if kind.resembles not in strategies]
        return list({s.label: s for s in wanted}.values())

    def left_out(self) -> list[Strategy]:
        """Return what `all` would run besides, where no strategies are named."""
        if self.strategies:
            return []
        chosen = {strategy.label for strategy in self.chosen()}
        return [one for one in replace(self, all=True).chosen() if one.label not in chosen]
