"""The time of many networks for one image, all taking turns, in PyTorch and compiled; measured once.

report/times/         times.json, and a manifest with its hash: see regroup.files.sealed

What was taken in turns is kept with the machine that it was taken on, the code that is timed, and the
identities of the networks' runs. Where any of these differs, all is measured anew, so that what stands in one
report was measured side by side.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from regroup.comparison.result import TimePerImage
from regroup.engine.running.compiled import compile as compile_network
from regroup.errors import CheckpointError, EngineError
from regroup.files.documents import DocumentError, read_document, require
from regroup.files.sealed import undisturbed, verify_sealed, write_sealed
from regroup.profiling.clock import measure_in_turns
from regroup.profiling.machine import machine
from regroup.training.code import ENGINE, own_digest

TIMES = "times"
_FILE = "times.json"

Say = Callable[[str], object]
Ways = dict[str, TimePerImage]


@dataclass(frozen=True)
class Times:
    """Milliseconds for one image by network and way of running, and where they were measured.

    Args:
        machine: the machine, and the date.
        code: hash of the part of regroup that is timed.
        batch: shape of the images, (N, C, H, W).
        networks: times by the hash of the run's identity.
    """

    machine: dict[str, Any]
    code: str
    batch: list[int]
    networks: dict[str, Ways]
    format: Literal["regroup-times-1"] = "regroup-times-1"

    @classmethod
    def none(cls, images: Tensor) -> Times:
        """Return those of no network, on this machine today."""
        here = {**machine().to_dict(), "date": time.strftime("%Y-%m-%d")}
        return cls(here, own_digest(ENGINE), list(images.shape), {})

    def holds(self, other: Times, identities: Mapping[str, str]) -> bool:
        """Tell whether these are of all the networks, and measured in the circumstances of `other`."""
        return self._circumstances() == other._circumstances() and all(
            digest in self.networks for digest in identities.values()
        )

    def _circumstances(self) -> list[Any]:
        return [{**self.machine, "date": None}, self.code, self.batch]


def timed(
    out: Path,
    models: Mapping[str, nn.Module],
    identities: Mapping[str, str],
    images: Tensor,
    say: Say,
    *,
    anew: bool = False,
) -> Times:
    """Return the times of the networks: those that `out` keeps, if they are of these, or else measured now.

    Args:
        out: directory of the comparison.
        models: networks by strategy.
        identities: of their runs, by strategy.
        images: a batch (N, C, H, W); what is told is the time of the batch over N.
        say: called with a line when something begins.
        anew: measure in any case.
    """
    here, path = Times.none(images), out / TIMES
    kept = None if anew else _read(path, say)
    if kept is not None and kept.holds(here, identities):
        say(f"times as measured on {kept.machine.get('date')}; --retime measures anew")
        return kept
    for name, ways in _measured(models, images, say).items():
        here.networks[identities[name]] = ways
    try:
        write_sealed(path, {_FILE: json.dumps(asdict(here), indent=1).encode()}, replace=True)
    except CheckpointError as error:
        say(f"the times are not kept: {error}")
    return here


def _read(path: Path, say: Say) -> Times | None:
    if not path.exists():
        return None
    try:
        times = undisturbed(path, lambda: read_document(verify_sealed(path)[_FILE], Times))
        for ways in times.networks.values():
            for way, one in ways.items():
                require(one.median > 0, way, one.median, "above 0")
        return times
    except (OSError, CheckpointError, DocumentError, KeyError) as error:
        say(f"measured anew: the times in {path} cannot be used: {error}")
        return None


def _measured(models: Mapping[str, nn.Module], images: Tensor, say: Say) -> dict[str, Ways]:
    say(f"compiling {len(models)} networks")
    compiled = {name: fast for name, model in models.items() if (fast := _compiled(name, model, images, say))}
    say(f"timing {len(models)} networks in turns")
    functions = {f"eager {name}": _call(model.eval(), images) for name, model in models.items()}
    functions |= {f"compiled {name}": _call(fast, images) for name, fast in compiled.items()}
    taken = measure_in_turns(functions, seconds=0.25, warmup=0.05)
    milliseconds: dict[str, Ways] = {name: {} for name in models}
    for key, t in taken.items():
        way, _, name = key.partition(" ")
        each = (1e3 * s / len(images) for s in (t.median, t.low, t.high))
        milliseconds[name][way] = TimePerImage(*each, verdict=t.verdict)
    return milliseconds


def _compiled(name: str, model: nn.Module, images: Tensor, say: Say) -> Callable | None:
    try:
        return compile_network(model.eval(), images)
    except EngineError as error:
        say(f"{name}: not compiled: {error}")
        return None


def _call(model: Callable[[Tensor], object], images: Tensor) -> Callable[[], object]:
    def forward() -> object:
        with torch.inference_mode():
            return model(images)

    return forward
