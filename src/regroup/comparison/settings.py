"""What to compare, and how to train it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from regroup.errors import ConfigError

if TYPE_CHECKING:
    from regroup.strategies import Strategy


@dataclass(frozen=True)
class CompareConfig:
    """Options of `regroup compare`: without any, every grouping in a small ResNet on the digits.

    Raises:
        ConfigError: a value cannot work.
    """

    data: str = "digits"
    """Data set: digits, glyphs, a folder of images, or a name of torchvision's."""
    backbone: str = "resnet_small"
    """Network whose convolutions are replaced: one of ours (`regroup models`), of timm or of torchvision."""
    strategies: tuple[str, ...] = ()
    """Strategies such as grouped:groups=4; none means every variant of every strategy. dense always runs."""
    where: str | None = None
    """Which convolutions to replace, as a pattern of names; none means all larger than 1x1 but the first."""
    epochs: int = 8
    """Passes over the training images."""
    seeds: int = 1
    """Trainings of each strategy, with seeds 0, 1, ...; with two or more the spread is told."""
    image: int | None = None
    """Height and width of the images; none means what the data set has."""
    batch_size: int = 64
    """Images in one training step."""
    opt: str = "sgd"
    """Optimiser, by timm's name."""
    lr: float = 0.05
    """Learning rate, after a warm-up of one epoch."""
    weight_decay: float = 5e-4
    """Weight decay."""
    amp: bool = False
    """Train in bfloat16 where that is safe."""
    accelerate: bool = False
    """Train narrow groups by regroup's own kernels: quicker on CPUs, other rounding, compiled once."""
    device: str | None = None
    """Where to train: cpu, cuda, cuda:1, ...; None: a GPU if there is one. Times are the CPU's."""
    workers: int = 0
    """Processes that load images, for data that is not held in memory."""
    bad_images: Literal["error", "skip"] = "error"
    """What to do about images that cannot be read."""
    time: bool = True
    """Measure the time for one image, in PyTorch and compiled; once for the same networks and machine."""
    retime: bool = False
    """Measure the times anew where they are kept."""
    out: Path = Path("report")
    """Directory for the report; what is finished there is not done again."""
    wait: bool = True
    """Wait while another process uses that directory; else end with a line that says which."""

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("seeds", 1), ("batch_size", 2)):
            if getattr(self, name) < least:
                raise ConfigError(name, getattr(self, name), f"an int of at least {least}")
        object.__setattr__(self, "out", Path(self.out))
        object.__setattr__(self, "strategies", tuple(self.strategies))

    def chosen(self) -> list[Strategy]:
        """Return the strategies to run, the dense baseline among them, each once.

        Raises:
            UnknownNameError, StrategyError: one cannot be read.
        """
        from regroup.strategies import parse_strategy, strategies

        if self.strategies:
            wanted = [parse_strategy("dense"), *map(parse_strategy, self.strategies)]
        else:
            wanted = [variant for name in strategies for variant in strategies[name].variants()]
        return list({s.label: s for s in wanted}.values())
