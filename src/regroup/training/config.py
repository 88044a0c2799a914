"""How to train: one frozen dataclass is the Python API, the flags of `regroup train` and the saved JSON.

>>> TrainConfig(epochs=3, opt="adamw", lr=1e-3).clip_grad is None
True
>>> TrainConfig(epochs=0)
Traceback (most recent call last):
regroup.errors.ConfigError: epochs=0: must be an int of at least 1
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal

from regroup.errors import ConfigError
from regroup.files.remote import plain
from regroup.training.devices import Devices

SCHEDULES = ("cosine", "tanh", "step", "multistep", "poly", "wsd", "rsqrt", "constant", "none")
"""timm's schedules that are a function of the step alone; `plateau` is not."""

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


_MOST = 1 << 63
"""What PyTorch's integers hold."""


@dataclass(frozen=True)
class TrainConfig:
    """How to train a network. Where a field has a name of timm's, it means what it means there.

    Raises:
        ConfigError: a field has a value that cannot work; it says which, and what would.
    """

    epochs: int = 10
    """Passes over the training images."""
    batch_size: int = 64
    """Images in one batch of one process."""
    grad_accum_steps: int = 1
    """Batches whose gradients are averaged into one step."""
    opt: str = "sgd"
    """Optimiser: any name of timm.optim.list_optimizers()."""
    lr: float = 0.1
    """Learning rate after warmup."""
    momentum: float = 0.9
    """Momentum, for optimisers that have one."""
    weight_decay: float = 1e-4
    """Weight decay; biases and normalisation get none."""
    sched: str = "cosine"
    """Schedule of the learning rate, set before each step: one of SCHEDULES."""
    warmup_epochs: float = 0.0
    """Epochs in which the learning rate rises from warmup_lr to lr."""
    warmup_lr: float = 1e-5
    """Learning rate of the first step of a warmup."""
    min_lr: float = 0.0
    """Learning rate at the end of a schedule that decays."""
    decay_epochs: float | None = None
    """Epochs between decays (step) or of the last decay (wsd, rsqrt: a fraction if below 1); None: timm's."""
    decay_milestones: tuple[int, ...] = (90, 180, 270)
    """Epochs after which multistep decays."""
    decay_rate: float = 0.1
    """Factor of a decay (step, multistep), power (poly)."""
    smoothing: float = 0.0
    """Label smoothing."""
    mixup: float = 0.0
    """Mixup alpha; 0: none."""
    cutmix: float = 0.0
    """CutMix alpha; 0: none."""
    augment: bool = True
    """Vary the training images, in the way that suits the data."""
    aa: str | None = None
    """timm's automatic augmentation for photographs, such as rand-m9-mstd0.5."""
    clip_grad: float | None = None
    """Largest gradient norm (or value, see clip_mode); None: not clipped."""
    clip_mode: Literal["norm", "value", "agc"] = "norm"
    """What clip_grad bounds."""
    model_ema: bool = False
    """Keep a moving average of the weights; both are evaluated and kept, and the average is what counts."""
    model_ema_decay: float = 0.9998
    """Decay of the moving average for one step."""
    model_ema_warmup: bool = True
    """Let the decay rise from 0, so that the average of a short run is not that of its beginning."""
    distillation_alpha: float = 0.5
    """Weight of the teacher's loss; the labels' gets the rest. Used when there is a teacher."""
    distillation_temperature: float = 4.0
    """Temperature that softens both sets of scores for the teacher's loss."""
    amp: bool = False
    """Compute in amp_dtype where that is safe."""
    amp_dtype: Literal["bfloat16", "float16"] = "bfloat16"
    """Type used by amp; float16 with a scaled loss."""
    channels_last: bool = False
    """Keep images and weights in NHWC order in memory."""
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
        for name in ("epochs", "batch_size", "grad_accum_steps", "checkpoint_hist", "log_interval"):
            self._check_int(name, 1)
        for name in ("workers", "recovery_interval", "seed"):
            self._check_int(name, 0)
        self._check_number("lr", 0, math.inf, open_low=True)
        for name in ("weight_decay", "warmup_epochs", "warmup_lr", "min_lr", "mixup", "cutmix"):
            self._check_number(name, 0, math.inf)
        self._check_number("distillation_alpha", 0, 1)
        for name in ("momentum", "smoothing", "model_ema_decay"):
            self._check_number(name, 0, 1, open_high=True)
        self._check_number("decay_rate", 0, math.inf, open_low=True)
        self._check_number("distillation_temperature", 0, math.inf, open_low=True)
        for name in ("clip_grad", "decay_epochs"):
            if getattr(self, name) is not None:
                self._check_number(name, 0, math.inf, open_low=True)
        self._check_choice("sched", SCHEDULES)
        self._check_choice("clip_mode", ("norm", "value", "agc"))
        self._check_choice("amp_dtype", ("bfloat16", "float16"))
        self._check_choice("display", ("auto", "plain", "quiet"))
        if self.devices is not None:
            Devices.of(self.devices)
        self._check_together()

    def _check_together(self) -> None:
        if self.warmup_epochs > self.epochs:
            raise ConfigError("warmup_epochs", self.warmup_epochs, f"at most epochs={self.epochs}")
        if self.output is not None:
            object.__setattr__(self, "output", plain(self.output))
        object.__setattr__(self, "decay_milestones", tuple(self.decay_milestones))

    def _check_int(self, name: str, least: int) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ConfigError(name, value, f"an int of at least {least}")
        if value >= _MOST:
            raise ConfigError(name, value, "an int below 2**63")

    def _check_number(
        self, name: str, low: float, high: float, *, open_low: bool = False, open_high: bool = False
    ) -> None:
        value = getattr(self, name)
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        inside = number and low <= value <= high
        if not inside or (open_low and value == low) or (open_high and value == high):
            left = f"above {low}" if open_low else f"at least {low}"
            right = "" if high == math.inf else f" and {'below' if open_high else 'at most'} {high}"
            raise ConfigError(name, value, f"a number {left}{right}")

    def _check_choice(self, name: str, allowed: tuple[str, ...]) -> None:
        if getattr(self, name) not in allowed:
            raise ConfigError(name, getattr(self, name), f"one of {', '.join(allowed)}")

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
