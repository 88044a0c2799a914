"""timm's optimisers, schedules and weight averages, as a config asks for them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from regroup.errors import ConfigError, unknown_name
from regroup.training.config import TrainConfig

_FUSED = ("sgd", "momentum", "adam", "adamw")
"""Names of timm for PyTorch's optimisers that have a fused kernel on every device."""


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Return timm's optimiser `config.opt` over the model's parameters.

    Raises:
        ConfigError: there is no such optimiser here.
    """
    from timm.optim import create_optimizer_v2, list_optimizers

    if config.opt.removeprefix("lookahead_") not in list_optimizers():
        near = unknown_name("opt", config.opt, map(str, list_optimizers())).remedy
        allowed = "one of timm.optim.list_optimizers(), such as sgd, adamw, lamb"
        raise ConfigError("opt", config.opt, allowed, near)
    # One kernel for all parameters takes a quarter of the time; PyTorch's reads weights and gradients as if
    # they had one order in memory, which is sure to be so only where all are contiguous.
    fused: dict[str, Any] = {"fused": True} if config.opt in _FUSED and not config.channels_last else {}
    try:
        optimizer = create_optimizer_v2(
            model,
            opt=config.opt,
            lr=config.lr,
            weight_decay=config.weight_decay,
            momentum=config.momentum,
            **fused,
        )
    except (AssertionError, ImportError, ValueError) as error:  # Apex and bitsandbytes may be missing
        raise ConfigError("opt", config.opt, "an optimiser that can be made here", str(error)) from error
    if getattr(optimizer, "is_second_order", False):
        raise ConfigError("opt", config.opt, "an optimiser that needs first derivatives only")
    return optimizer


def make_schedule(optimizer: torch.optim.Optimizer, config: TrainConfig, steps_per_epoch: int) -> Any:
    """Return timm's schedule `config.sched` of the learning rate over steps, or None for "none".

    Raises:
        ConfigError: the schedule does not fit into the epochs.
    """
    from timm.scheduler import create_scheduler_v2

    decay: Any = {} if config.decay_epochs is None else {"decay_epochs": config.decay_epochs}
    try:
        schedule, _ = create_scheduler_v2(
            optimizer,
            sched=config.sched,
            num_epochs=config.epochs,
            decay_milestones=list(config.decay_milestones),
            decay_rate=config.decay_rate,
            warmup_epochs=config.warmup_epochs,  # type: ignore[arg-type]
            warmup_lr=config.warmup_lr,
            min_lr=config.min_lr,
            step_on_epochs=False,
            updates_per_epoch=steps_per_epoch,
            **decay,
        )
    except ValueError as error:
        raise ConfigError("sched", config.sched, "a schedule that fits the epochs", str(error)) from error
    if schedule is None and config.sched != "none":
        wanted = "a schedule that the installed timm has"
        raise ConfigError("sched", config.sched, wanted, "take another, or install timm 1.0.31 or newer")
    return schedule


def make_average(model: nn.Module, config: TrainConfig) -> Any:
    """Return timm's moving average of the model's weights, or None if the config wants none."""
    if not config.model_ema:
        return None
    from timm.utils import ModelEmaV3

    return ModelEmaV3(model, decay=config.model_ema_decay, use_warmup=config.model_ema_warmup)


def share_of_start(average: Any, steps: int) -> float:
    """Return how much of a moving average after so many steps is what it was after the first.

    >>> model = nn.Linear(1, 1)
    >>> f"{share_of_start(make_average(model, TrainConfig(model_ema=True, model_ema_warmup=False)), 44):.2f}"
    '0.99'
    >>> f"{share_of_start(make_average(model, TrainConfig(model_ema=True)), 44):.4f}"
    '0.0002'
    """
    share = 1.0
    for step in range(2, steps + 1):  # the first one only copies
        share *= average.get_decay(step)
        if share < 1e-12:
            break
    return share
