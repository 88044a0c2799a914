"""The levels of docs/kernel.md: its code as functions, and their speeds, which go into the page.

python -m docs.kernel       # measure, on a quiet machine, and write the table
"""

from __future__ import annotations

import ctypes
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from benchmarks.kernels import problem_of, regroup_seconds

from regroup.kernels import templates
from regroup.kernels.language.code import Code, assembly
from regroup.kernels.machine import jit
from regroup.kernels.machine.target import Target
from regroup.kernels.program import aligned
from regroup.kernels.program.peak import peak_gflops
from regroup.kernels.templates.base import Kernel
from regroup.kernels.templates.dense import Dense
from regroup.profiling.machine import machine
from regroup.testing.workloads import Workload, workload

PAGE = Path(__file__).with_name("kernel.md")
LAYER = workload("resnet50", "stages.1.1.conv2.conv")
_BURSTS, _SECONDS = 5, 0.3


class Level(NamedTuple):
    """A function of the page, and how its memory is laid out.

    Attributes:
        write: writes the code.
        title: its heading.
        halo: the input has zeros around it.
        packed: weights lie by "taps" (ky, kx, c, k), "by block" with its bias before it, or as in PyTorch.
        fused: it adds a bias and ends with a ReLU.
    """

    write: Callable[..., None]
    title: str
    halo: bool
    packed: str
    fused: bool


def page() -> dict[str, Any]:
    """Return the names that the page's code defines."""
    names: dict[str, Any] = {"__name__": "kernel_page"}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
        exec(compile(block, str(PAGE), "exec", dont_inherit=True), names)
    return names


def levels(names: dict[str, Any]) -> list[Level]:
    """Return the five levels, in their order."""
    titles = re.findall(r"^## \d\. (.*)$", PAGE.read_text(), re.MULTILINE)
    rows = (
        ("definition", False, "", False),
        ("vectors", False, "taps", False),
        ("halo", True, "taps", False),
        ("tiled", True, "taps", False),
        ("finished", True, "by block", True),
    )
    return [Level(names[row[0]], title, *row[1:]) for title, row in zip(titles, rows, strict=True)]


class Prepared:
    """A level in machine code, with memory for one image.

    Args:
        level: which.
        names: the page's.
        layer: inputs, outputs and size; outputs and width must be multiples of the tile.
        numbers: image (height, width, inputs), weights (outputs, inputs, 3, 3) and bias.
    """

    def __init__(self, level: Level, names: dict[str, Any], layer: Workload, numbers: tuple) -> None:
        self._target, (image, weight, bias) = Target.host(), numbers
        code = Code(self._target, "level", x="ptr", w="ptr", y="ptr")
        size, outputs = layer.size, layer.outputs
        level.write(code, names["Shape"](size, size, layer.inputs, outputs), *code.arguments)
        self._loaded = jit.load([jit.compile_object(assembly([code]), self._target)])
        types = (ctypes.c_void_p,) * 3
        self._call = ctypes.CFUNCTYPE(None, *types)(self._loaded.address("level"))
        width = names["tile_of"](code)[1] * code.lanes
        x = np.pad(image, ((1, 1), (1, 1), (0, 0))) if level.halo else image
        self._memory = [self._put(x), self._put(_packed(level, weight, bias, width))]
        self._y = aligned(size * size * outputs)
        self._shape = (size, size, outputs)
        self._at = [m.ctypes.data for m in (*self._memory, self._y)]

    def _put(self, numbers: np.ndarray) -> np.ndarray:
        memory = aligned(numbers.size)
        memory[:] = numbers.ravel()
        return memory

    def __call__(self) -> np.ndarray:
        """Run; return the image (height, width, outputs), which the next call writes over."""
        self._call(*self._at)
        return self._y.reshape(self._shape)


def _packed(level: Level, weight: np.ndarray, bias: np.ndarray, width: int) -> np.ndarray:
    if not level.packed:
        return weight
    taps = weight.transpose(2, 3, 1, 0)
    if level.packed == "taps":
        return taps
    blocks = taps.reshape(-1, weight.shape[0] // width, width).transpose(1, 0, 2)
    return np.concatenate([bias.reshape(-1, 1, width), blocks], axis=1)


def numbers_of(layer: Workload) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return an image, weights and a bias."""
    rng = np.random.default_rng(0)
    shapes = ((layer.size, layer.size, layer.inputs), (layer.outputs, layer.inputs, 3, 3), (layer.outputs,))
    image, weight, bias = (rng.standard_normal(shape, np.float32) for shape in shapes)
    return image, weight, bias


def _templates() -> list[Kernel]:
    """Return the quickest kernel of the template that the page is about, and the one that is chosen."""
    problem, target = problem_of(LAYER), Target.host()
    ways = sorted(templates.kernels(problem, target), key=lambda kernel: kernel.cycles)
    ours = next(kernel for kernel in ways if isinstance(kernel, Dense))
    return [ours] if ours is ways[0] else [ours, ways[0]]


def main() -> None:
    """Measure the levels in turns and put the table into the page."""
    names, numbers = page(), numbers_of(LAYER)
    found = levels(names)
    calls = [Prepared(level, names, LAYER, numbers) for level in found]
    best = [float("inf")] * len(calls)
    for _ in range(_BURSTS):
        for i, call in enumerate(calls):
            end = time.perf_counter() + _SECONDS / _BURSTS
            while (start := time.perf_counter()) < end or best[i] == float("inf"):
                call()
                best[i] = min(best[i], time.perf_counter() - start)
    peak, timed = peak_gflops(), zip(found, best, strict=True)
    rows = [(f"{i}. {level.title}", seconds) for i, (level, seconds) in enumerate(timed, 1)]
    rows += [(f"the template, `{k.template}`, {k.tile}", regroup_seconds(k)) for k in _templates()]
    lines = ["| step | milliseconds | GFLOP/s | of the peak |", "|---|---:|---:|---:|"]
    for title, seconds in rows:
        speed = 2 * LAYER.macs / seconds / 1e9
        cells = (
            title,
            f"{seconds * 1e3:.2f}",
            f"{speed:.1f}",
            f"{speed / peak:.0%}" if speed > peak / 100 else "< 1%",
        )
        lines.append(f"| {' | '.join(cells)} |")
    m = machine()
    made = f"{LAYER}, one image, one thread, the best of some bursts: {m.device}, {Target.host().name}, "
    made += (
        f"measured peak of a core {peak:.0f} GFLOP/s (of multiply-adds on registers alone). Speeds count the "
    )
    made += "definition's multiply-adds; Winograd's algorithm takes fewer."
    marked = re.compile(r"<!-- begin: docs.kernel -->.*?<!-- end -->", re.DOTALL)
    table = "\n".join(["<!-- begin: docs.kernel -->", *lines, "", made, "<!-- end -->"])
    PAGE.write_text(marked.sub(lambda _: table, PAGE.read_text()))
    print("\n".join([*lines, made]))


if __name__ == "__main__":
    main()
