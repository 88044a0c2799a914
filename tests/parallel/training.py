"""A training that processes share, begun or gone on with by four, and by one."""

import torch
from torch import nn

from regroup.training import train
from tests.training.cases import config, data


def network():
    torch.manual_seed(5)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.Softplus(),  # smooth: no rounding takes another branch
        nn.Dropout(0.1),
        nn.Conv2d(8, 8, 3, groups=4),
        nn.Softplus(),
        nn.Flatten(),
        nn.Linear(128, 4),
    )


def trained(epochs, **changes):
    """Train with all that needs other processes: clipping by the norm of all gradients, a moving average."""
    model = network()
    settings = {"clip_grad": 0.5, "model_ema": True, "sched": "none", "lr": 0.02, "epochs": epochs, **changes}
    history = train(model, data(), config(**settings))
    return {n: t.double() for n, t in model.state_dict().items()}, history.last
