"""How long layers take on this machine with the kernels that will run them: those of regroup's engine.

>>> found = layer_seconds({"dense": nn.Conv2d(8, 8, 3)}, (1, 8, 16, 16))
>>> found["dense"] > 0
True

A layer is compiled alone, and the least times of its steps are added up, without those that only bring
images in and out: in a network there are none. Layers in a network are faster or slower than alone, for
what lies in the caches and what is fused with what; so what is saved is measured on whole networks
(`regroup.conversion.budget`).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from regroup.conversion.statistics import Run, evaluated, visit
from regroup.engine.running.compiled import Compiled, compile
from regroup.errors import EngineWarning
from regroup.profiling.clock import Timing, measure_in_turns


def layer_seconds(
    modules: Mapping[str, nn.Module], shape: Sequence[int], *, threads: int | None = None
) -> dict[str, float]:
    """Return the least seconds that each module takes, compiled for an input of a shape."""
    return {name: _seconds(module, torch.randn(*shape), threads) for name, module in modules.items()}


def _seconds(module: nn.Module, images: Tensor, threads: int | None) -> float:
    fast = _compiled(module, images, threads)
    with torch.inference_mode():
        fast(images)
    found = fast.explain(json=True)
    assert isinstance(found, dict)
    steps = [step for segment in found["segments"] for step in segment.get("steps", ())]
    inner = [s["microseconds"] for s in steps if not _is_edge(s)]
    native = not found["why_pytorch"] and all(each["runs"] == "native" for each in found["segments"])
    if native and inner and all(inner):
        return 1e-6 * sum(inner) * len(images)
    return (
        1e-6 * found["total"]["microseconds"] * len(images)
    )  # PyTorch's part, or steps too short to be told


def _is_edge(step: dict) -> bool:
    return all(part["work"].startswith(("read ", "write ")) for part in step["parts"])


def _compiled(module: nn.Module, images: Tensor, threads: int | None) -> Compiled:
    with warnings.catch_warnings(), evaluated(module):
        warnings.simplefilter("ignore", EngineWarning)
        return compile(module, images, frozen=True, threads=threads)


def network_timings(
    modules: Mapping[str, nn.Module], images: Tensor, *, seconds: float = 1.0, threads: int | None = None
) -> dict[str, Timing]:
    """Return how long networks take on the engine for the same images, in turns; see `measure_in_turns`."""
    compiled = {name: _compiled(module, images, threads) for name, module in modules.items()}
    calls: dict[str, Callable[[], object]] = {
        n: lambda fast=fast: fast(images) for n, fast in compiled.items()
    }
    with torch.inference_mode():
        return measure_in_turns(calls, seconds=seconds, warmup=seconds / 4)


def input_shapes(model: nn.Module, names: Sequence[str], images: Tensor) -> dict[str, tuple[int, ...]]:
    """Return the shape of what each layer reads in its first run; layers that do not run are left out."""
    found: dict[str, tuple[int, ...]] = {}

    def note(run: Run) -> None:
        found.setdefault(run.name, tuple(run.input.shape))

    with evaluated(model), torch.no_grad():
        visit(model, names, images, note)
    return found
