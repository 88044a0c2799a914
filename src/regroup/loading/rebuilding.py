"""Networks built again as a file says: what their tensors take is known before it is taken.

>>> state = {"weight": torch.ones(2, 3), "bias": torch.zeros(2)}
>>> rebuilt(Path("runs/x"), lambda: nn.Linear(3, 2), state).weight.sum().item()
6.0

A file may say anything: a grouping with a hundred million filters for each channel, groups of all channels
each. So the network is built first on the meta device, where tensors have shapes alone, and these have to be
those of the tensors that lie beside the description, before it is built for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn
from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)

from regroup.errors import CheckpointError
from regroup.ops.shapes import without_numbers
from regroup.training.checkpoint import check_state, load_state

MOST_NUMBERS = 1 << 31
"""Parameters that the network in a file may have, those among them that its grouping replaces."""

MOST_MODULES = 1 << 15
"""Modules that it may have: they take memory on the meta device, too."""


def rebuilt(path: Path, make: Callable[[], nn.Module], state: object) -> nn.Module:
    """Return the network that `make` builds, with the tensors `state`.

    Args:
        path: where they are from.
        make: builds it; what cannot be built is a CheckpointError.
        state: the tensors by name.

    Raises:
        CheckpointError: they are of another network, or there is no such network.
    """
    with torch.random.fork_rng(devices=[]):  # who loads a network does not begin other numbers by it
        try:
            with _so_many(path), without_numbers():
                shapes = make().state_dict()
        except CheckpointError as error:
            if not _needs_numbers(error):
                raise
        else:
            check_state(path, shapes, state)
        model = make()
    load_state(path, model, state)
    return model


def _needs_numbers(error: CheckpointError) -> bool:
    """Tell whether code of the user's, for ours does not, computes with tensors as it builds a network."""
    return isinstance(error.__cause__, (RuntimeError, NotImplementedError)) and "meta" in str(error).lower()


@contextmanager
def _so_many(path: Path) -> Iterator[None]:
    """Stop who builds a network of more modules and parameters than there may be."""
    left = {"modules": MOST_MODULES, "parameters": MOST_NUMBERS}

    def count(what: str, number: int) -> None:
        left[what] -= number
        if left[what] < 0:
            raise CheckpointError(path, f"its network would have too many {what}")

    def of_module(module: nn.Module, name: str, inner: nn.Module | None) -> None:
        count("modules", 1)

    def of_parameter(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        count("parameters", 0 if parameter is None else parameter.numel())

    hooks = register_module_module_registration_hook(of_module)
    more = register_module_parameter_registration_hook(of_parameter)
    try:
        yield
    finally:
        hooks.remove()
        more.remove()
