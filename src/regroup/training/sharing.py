"""What training does otherwise where processes share a network's channels."""

from __future__ import annotations

import torch
from torch import nn

from regroup.errors import ConfigError
from regroup.parallel.state import gradient_norm
from regroup.training.config import TrainConfig
from regroup.training.devices import Devices
from regroup.training.tasks import Task, tasks

_ELEMENTWISE = [
    "sgd",
    "momentum",
    "nesterov",
    "adam",
    "adamw",
    "nadam",
    "nadamw",
    "radam",
    "adamax",
    "adagrad",
    "adadelta",
    "rmsprop",
    "rmsproptf",
    "lion",
]
"""Optimisers of timm that treat each weight by itself, so that each process can treat its own."""


def check_sharing(config: TrainConfig, task: Task, accelerate: bool) -> None:
    """Require that a config can be trained with channels on several processes, if it asks for that.

    Raises:
        ConfigError: something in it needs whole weights or gradients in one process.
    """
    if config.devices is None or Devices.of(config.devices).groups == 1:
        return
    shared = f"where processes share channels (devices={config.devices!r})"
    if not task.shareable:
        allowed = f"one of {', '.join(n for n in sorted(tasks) if tasks[n].shareable)} {shared}"
        raise ConfigError("task", task.name, allowed, "share its images: data=2")
    if config.opt not in _ELEMENTWISE:
        allowed = f"one of {', '.join(_ELEMENTWISE)} {shared}"
        raise ConfigError("opt", config.opt, allowed, "others look at whole weights")
    if config.clip_grad is not None and config.clip_mode == "agc":
        raise ConfigError("clip_mode", "agc", f"norm or value {shared}")
    if config.amp and config.amp_dtype == "float16":
        raise ConfigError("amp_dtype", "float16", f"bfloat16 {shared}", "processes would skip other steps")
    if accelerate:
        raise ConfigError("accelerate", True, f"left out {shared}")


def clip_norm(model: nn.Module, largest: float) -> None:
    """Scale all gradients down so that the norm of all together is at most `largest`."""
    with_gradients = [p for p in model.parameters() if p.grad is not None]
    torch.nn.utils.clip_grads_with_norm_(with_gradients, largest, gradient_norm(model))
