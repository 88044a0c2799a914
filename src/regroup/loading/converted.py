"""Directories of `regroup convert`: the dense network, what its layers became, and the weights."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from regroup.conversion.plan import Plan, check_orders
from regroup.errors import CheckpointError, ConfigError, first_line
from regroup.files.disk import make_directories
from regroup.files.documents import DocumentError, build
from regroup.files.sealed import write_sealed
from regroup.files.staging import fetched
from regroup.loading.kinds import Loaded, is_of_network, kind, kind_in
from regroup.loading.trained import Trained
from regroup.strategies.learning import learned_modules
from regroup.training.checkpoint import load_checkpoint, section_files
from regroup.training.directory import published

SIGN = "report.html"
"""File by which a converted network is known before it is replaced."""


@dataclass(frozen=True)
class Converted:
    """What network.json of such a directory says.

    Args:
        network: the dense network.
        data: name of the data set, or the folder, that it was converted with.
        kind: of the directory: see `regroup.loading`.
    """

    network: dict[str, Any]
    data: str | None = None
    kind: Literal["converted"] = "converted"


def save_converted(
    path: Path,
    model: nn.Module,
    dense: Trained,
    plan: Plan,
    report: dict[str, Any],
    page: str,
    data: str | None = None,
) -> None:
    """Write a converted network as the sealed directory `path`, in place of what was there.

    Args:
        path: the directory.
        model: the network.
        dense: how the dense one is built.
        plan: what became of it.
        report: figures, as JSON values.
        page: the same for people, as HTML.
        data: name of the data set, or the folder, that it was converted with.

    Raises:
        CheckpointError: it could not be written.
    """
    content = section_files("model", model.state_dict())
    content |= section_files("network", asdict(Converted(dense.to_json(), data)))
    content |= section_files("plan", plan.to_json()) | section_files("report", report)
    content[SIGN] = page.encode("utf-8", "backslashreplace")
    try:
        make_directories(path.parent)
    except OSError as error:
        raise CheckpointError(path, f"could not be written: {error.strerror or error}") from error
    write_sealed(path, content, replace=True)


@kind("converted")
def converted(path: Path) -> Loaded:
    """Return the network that `regroup convert` has left in a sealed directory.

    Raises:
        CheckpointError: it is damaged, or describes no network.
    """
    saved = load_checkpoint(path)
    try:
        document, plan = build(saved.get("network"), Converted), build(saved.get("plan"), Plan)
        dense = Trained.from_json(document.network)
    except DocumentError as error:
        raise CheckpointError(path, f"does not say which network it holds: {error}") from None

    def convert(model: nn.Module) -> None:
        try:
            plan.apply(model)
        except (ValueError, OverflowError, RuntimeError) as error:
            raise CheckpointError(path, f"its plan is of another network ({first_line(error)})") from error

    model = dense.rebuild(path, saved.get("model"), convert)
    try:
        check_orders(model, torch.zeros(1, *dense.input.shape))
    except (ValueError, RuntimeError) as error:  # one image tells which channels there are
        raise CheckpointError(path, f"its channel orders do not fit ({first_line(error)})") from error
    name = f"{dense.name}, {len(plan.layers)} layers converted"
    return Loaded(model, tuple(dense.classes), dense.input, name, document.kind, path, document.data)


def dense_of(directory: Path) -> Trained:
    """Return how the network in a run's directory is built, for what is made of it.

    Raises:
        ConfigError: it has learned layers, or is no run of `regroup train`.
        CheckpointError: it is damaged, or describes no network.
    """
    with fetched(directory, is_of_network) as here:
        return _dense_of(published(here), directory)


def _dense_of(path: Path, directory: Path) -> Trained:
    saved = load_checkpoint(path)
    if kind_in(saved.get("network")) == "converted":
        remedy = "convert the run that it was made of, within another budget"
        raise ConfigError("model", str(directory), "a network that is not converted already", remedy)
    try:
        found = Trained.from_json(saved.get("network"))
    except DocumentError as error:
        allowed = "a run of `regroup train`"
        raise ConfigError("model", str(directory), allowed, first_line(error)) from None
    if learned_modules(found.rebuild(path, saved.get("weights"))):
        allowed = "a network whose groupings are not learned"
        raise ConfigError("model", str(directory), allowed, f"this one has {found.strategy}")
    return found
