"""The time of many networks for one image, all taking turns, in PyTorch and compiled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from regroup.comparison.result import Row, TimePerImage
from regroup.engine.compiled import compile as compile_network
from regroup.errors import EngineError
from regroup.profiling.clock import measure_in_turns


def timed(
    rows: list[Row], models: dict[str, nn.Module], images: Tensor, say: Callable[[str], None]
) -> list[Row]:
    """Return the rows with their times.

    Args:
        rows: of the comparison.
        models: network of each row, by strategy.
        images: a batch (N, C, H, W); what is told is the time of the batch over N.
        say: called with a line when something begins.
    """
    say(f"compiling {len(models)} networks")
    compiled = {name: fast for name, model in models.items() if (fast := _compiled(name, model, images, say))}
    say(f"timing {len(models)} networks in turns")
    functions = {f"eager {name}": _call(model.eval(), images) for name, model in models.items()}
    functions |= {f"compiled {name}": _call(fast, images) for name, fast in compiled.items()}
    taken = measure_in_turns(functions, seconds=0.25, warmup=0.05)
    milliseconds: dict[str, dict[str, TimePerImage]] = {name: {} for name in models}
    for key, t in taken.items():
        way, _, name = key.partition(" ")
        milliseconds[name][way] = TimePerImage(*(1e3 * s / len(images) for s in (t.median, t.low, t.high)))
    dense = milliseconds.get("dense", {})
    return [replace(r, times=milliseconds.get(r.strategy, {}), dense_times=dense) for r in rows]


def _compiled(name: str, model: nn.Module, images: Tensor, say: Callable[[str], None]) -> Callable | None:
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
