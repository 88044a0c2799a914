"""Object code for another machine, a microcontroller or a web page, without Python: see `regroup.aot`."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Callable

import torch
from torch import Tensor

from regroup.aot.export import SIGN, object_files
from regroup.aot.targets import MACHINES
from regroup.errors import ConfigError
from regroup.exporting.writing import Made, Subject, way
from regroup.kernels.machine import jit
from regroup.kernels.program import aligned


@way("object", suffix="", sign=SIGN)
def object_code(
    subject: Subject,
    *,
    target: str | None = None,
    name: str = "net",
    packed: str = "inside",
    ram: str | int | None = None,
    flash: str | int | None = None,
    winograd: bool | None = None,
    hook: bool = False,
) -> Made:
    """Make a directory with the code, headers, an example that is built there, and what it needs of memory.

    Args:
        subject: the network; its classes become labels.json, if they are known.
        target: name of the machine, one of `regroup.aot.targets.MACHINES`.
        name: prefix of all names in C.
        packed: where the weights are: "inside" the object, or "apart" in a file beside it.
        ram: bytes of working memory that the machine has: a number, or such as "256k"; None: any.
        flash: bytes for code and weights, likewise.
        winograd: do wide 3x3 convolutions in fewer multiply-adds, with weights that take 25/9 of the memory;
            None: unless `flash` is given or the machine is a microcontroller.
        hook: with `net_run_hooked`, which calls a function before and after each step.

    Raises:
        ConfigError: no target, or more images at a time than one.
        EngineError: the network cannot be object code; says which operator is the reason.
        ParameterError: an option cannot be, or `ram` or `flash` does not suffice.
    """
    if not target:
        allowed = f"one of {', '.join(MACHINES)} (`--target list` says what each is)"
        raise ConfigError("target", target, allowed)
    if subject.batch not in (None, 1):
        raise ConfigError("batch", subject.batch, "1 or left out: object code does one image at a time")
    image = torch.randn(1, *subject.images.shape[1:], generator=torch.Generator().manual_seed(0))
    options = {"name": name, "packed": packed, "ram": ram, "flash": flash}
    options |= {"winograd": winograd, "hook": hook}
    title = str(subject.about.get("network", ""))
    files, found = object_files(subject.model, image, target, title=title, **options)
    if "classes" in subject.about:
        files["labels.json"] = json.dumps(subject.about["classes"], indent=0).encode()
    machine = MACHINES[target]
    needs = f"it needs {found.flash:,} bytes of flash and {found.ram:,} of memory (report.txt)"
    if machine.runs_here and packed == "inside":
        run = _runner(files[f"{name}.o"], f"{name}_run", found.arena, subject.model(image))
        return Made(files, run, needs, batch=1)
    how = "node check.mjs" if machine.is_wasm else "make check"
    return Made(files, reason=f"`{how}` does that where it runs; {needs}", batch=1)


def _runner(code: bytes, symbol: str, arena_bytes: int, scores: Tensor) -> Callable[[Tensor], Tensor]:
    """Return what runs object code in this process."""
    loaded, arena = jit.load([code]), aligned(arena_bytes // 4)
    call = ctypes.CFUNCTYPE(ctypes.c_int, *[ctypes.c_void_p] * 3)(loaded.address(symbol))

    def run(images: Tensor, _alive: object = loaded) -> Tensor:
        results = torch.empty(len(images), *scores.shape[1:])
        for x, y in zip(images.contiguous(), results, strict=True):
            status = call(x.data_ptr(), y.data_ptr(), arena.ctypes.data)
            assert status == 0, f"{symbol} returns {status}"
        return results

    return run
