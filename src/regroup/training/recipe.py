"""What of a training decides the weights, but for its seed: the same fields wherever networks are trained.

>>> Recipe(epochs=3, opt="adamw", lr=1e-3).clip_grad is None
True
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from regroup.errors import ConfigError

SCHEDULES = ("cosine", "tanh", "step", "multistep", "poly", "wsd", "rsqrt", "constant", "none")
"""timm's schedules that are a function of the step alone; `plateau` is not."""

_MOST = 1 << 63
"""What PyTorch's integers hold."""


@dataclass(frozen=True)
class Recipe:
    """How a network is trained. Where a field has a name of timm's, it means what it means there.

    `TrainConfig` adds the seed and what decides no weights; `regroup.comparison.settings.CompareConfig`
    trains every strategy so.

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

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "grad_accum_steps"):
            self._check_int(name, 1)
        self._check_number("lr", 0, math.inf, open_low=True)
        for name in ("weight_decay", "warmup_epochs", "warmup_lr", "min_lr", "mixup", "cutmix"):
            self._check_number(name, 0, math.inf)
        self._check_number("distillation_alpha", 0, 1)
        for name in ("momentum", "smoothing", "model_ema_decay"):
            self._check_number(name, 0, 1, open_high=True)
        for name in ("decay_rate", "distillation_temperature"):
            self._check_number(name, 0, math.inf, open_low=True)
        for name in ("clip_grad", "decay_epochs"):
            if getattr(self, name) is not None:
                self._check_number(name, 0, math.inf, open_low=True)
        self._check_choice("sched", SCHEDULES)
        self._check_choice("clip_mode", ("norm", "value", "agc"))
        self._check_choice("amp_dtype", ("bfloat16", "float16"))
        if self.warmup_epochs > self.epochs:
            raise ConfigError("warmup_epochs", self.warmup_epochs, f"at most epochs={self.epochs}")
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
