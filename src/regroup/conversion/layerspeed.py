"""How long layers take on this machine with the kernels that will run them: those of regroup's engine.

>>> found = layer_seconds({"dense": nn.Conv2d(8, 8, 3)}, (1, 8, 16, 16), seconds=0.01)
>>> found["dense"] > 0
True

A layer is compiled alone, and what may stand in its place is timed in turns with it, so that a slow spell
of the machine hits all alike. In a network layers are faster or slower than alone, for what lies in the
caches and what is fused with what; so sums over layers are corrected by one factor that a whole network is
measured for (`regroup.conversion.budget`).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from regroup.conversion.statistics import Run, evaluated, visit
from regroup.engine.running.compiled import compile
from regroup.errors import EngineWarning
from regroup.profiling.clock import Timing, measure_in_turns


def layer_seconds(
    modules: Mapping[str, nn.Module],
    shape: Sequence[int],
    *,
    seconds: float = 0.1,
    threads: int | None = None,
) -> dict[str, float]:
    """Return the median seconds of a call of each module, compiled, in turns.

    Args:
        modules: by name, each for the same input.
        shape: of the input.
        seconds: to spend on each.
        threads: of the engine; None: PyTorch's.
    """
    timings = network_timings(modules, torch.randn(*shape), seconds=seconds, threads=threads)
    return {name: timing.median for name, timing in timings.items()}


def network_timings(
    modules: Mapping[str, nn.Module], images: Tensor, *, seconds: float = 1.0, threads: int | None = None
) -> dict[str, Timing]:
    """Return how long networks take on the engine for the same images, in turns; see `measure_in_turns`."""
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore", EngineWarning)
        calls: dict[str, Callable[[], object]] = {}
        for name, module in modules.items():
            with evaluated(module):
                fast = compile(module, images, frozen=True, threads=threads)
            calls[name] = lambda fast=fast: fast(images)
        return measure_in_turns(calls, seconds=seconds, warmup=seconds / 4)


def input_shapes(model: nn.Module, names: Sequence[str], images: Tensor) -> dict[str, tuple[int, ...]]:
    """Return the shape of what each layer reads in its first run; layers that do not run are left out."""
    found: dict[str, tuple[int, ...]] = {}

    def note(run: Run) -> None:
        found.setdefault(run.name, tuple(run.input.shape))

    with evaluated(model), torch.no_grad():
        visit(model, names, images, note)
    return found
