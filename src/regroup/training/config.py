"""How to train: one frozen dataclass is the Python API, the flags of `regroup train` and the saved JSON.

>>> TrainConfig(epochs=3, opt="adamw", lr=1e-3).clip_grad is None
True
>>> TrainConfig(epochs=0)
Traceback (most recent call last):
regroup.errors.ConfigError: epochs=0: must be an int of at least 1
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal

from regroup.errors import ConfigError
from regroup.files.remote import plain
from regroup.training.devices import Devices
from regroup.training.recipe import Recipe

_NEUTRAL = (
    "output",
    "resume",
    "checkpoint_hist",
    "recovery_interval",
    "workers",
    "devices",
    "device",
    "display",
    "log_interval",
    "log_tensorboard",
)
"""Fields that change nothing in the trained weights."""


@dataclass(frozen=True)
class TrainConfig(Recipe):
    """How to train a network. Where a field has a name of timm's, it means what it means there.

    Raises:
        ConfigError: a field has a value that cannot work; it says which, and what would.
    """

    seed: int = 0
    """Seed of everything random."""
    devices: str | None = None
    """How the processes of torchrun divide the work: groups=2,data=4 lets pairs share the network's channels,
    and four pairs the images; None: all share the images."""
    device: str | None = None
    """Where to compute: cpu, cuda, cuda:1, ...; None: a GPU if there is one."""
    workers: int = 0
    """Processes that load images, for data that is not held in memory."""
    output: Path | None = None
    """Directory for run.json, log.jsonl, checkpoints, best and trained weights, or a URL such as
    s3://bucket/run; None: nothing is written."""
    resume: bool = False
    """Go on from the newest good checkpoint in output, or begin if there is none."""
    checkpoint_hist: int = 2
    """Checkpoints kept."""
    recovery_interval: int = 0
    """Steps between checkpoints within an epoch; 0: one at the end of each epoch only."""
    display: Literal["auto", "plain", "quiet"] = "auto"
    """What is shown: live progress in a terminal, plain lines elsewhere (auto); lines; nothing
    but that another process is waited for."""
    log_interval: int = 50
    """Steps between looks at the loss on a GPU, each of which waits for the GPU."""
    log_tensorboard: bool = False
    """Write TensorBoard events to output too, if tensorboard is installed."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("checkpoint_hist", "log_interval"):
            self._check_int(name, 1)
        for name in ("workers", "recovery_interval", "seed"):
            self._check_int(name, 0)
        self._check_choice("display", ("auto", "plain", "quiet"))
        if self.devices is not None:
            Devices.of(self.devices)
        if self.output is not None:
            object.__setattr__(self, "output", plain(self.output))

    def to_json(self) -> dict[str, object]:
        """Return the fields as plain JSON values."""
        values = asdict(self)
        values["output"] = None if self.output is None else str(self.output)
        values["decay_milestones"] = list(self.decay_milestones)
        return values

    @classmethod
    def from_json(cls, values: dict[str, object]) -> TrainConfig:
        """Return the config that `to_json` described.

        Raises:
            ConfigError: a field is unknown or has a wrong value.
        """
        known = {f.name for f in fields(cls)}
        for name, value in values.items():
            if name not in known:
                raise ConfigError(name, value, "a field of TrainConfig", "it was saved by another version")
        return cls(**values)  # type: ignore[arg-type]

    def result(self) -> dict[str, object]:
        """Return the fields that decide what the trained weights are: a resumed run must have the same."""
        return {name: value for name, value in self.to_json().items() if name not in _NEUTRAL}
