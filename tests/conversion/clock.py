"""A clock that knows: layers and networks take the time of their multiply-adds, and nothing is compiled."""

import torch

from regroup.ops.counting import count_macs
from regroup.profiling.clock import Timing


def layers(modules, shape, threads=None):
    return {name: 1e-9 * count_macs(module, torch.zeros(shape)) for name, module in modules.items()}


def networks(modules, images, seconds=1.0, threads=None):
    return {name: Timing((1e-9 * count_macs(m, images),) * 7) for name, m in modules.items()}


def put(monkeypatch):
    monkeypatch.setattr("regroup.conversion.assessment.layer_seconds", layers)
    for module in ("assessment", "budget", "convert"):
        monkeypatch.setattr(f"regroup.conversion.{module}.network_timings", networks)
