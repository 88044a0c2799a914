"""Compile a network to native code and show what each step does, and how fast."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

if TYPE_CHECKING:
    from regroup.kernels.program.code import Form


@dataclass(frozen=True)
class Options:
    """Which network, for which input."""

    model: tyro.conf.Positional[str]
    """A name of ours (`regroup models`), timm's or torchvision's; a run of `regroup train`; an ONNX file."""
    image: int | None = None
    """Height and width of the input image; none: 224, or those of the run's images."""
    channels: int | None = None
    """Channels of the input image; none: 3, or those of the run's images."""
    weights: Path | None = None
    """File of weights, for networks of ours; none: random ones."""
    threads: Annotated[int | None, tyro.conf.arg(aliases=["-t"])] = None
    """Threads to time with; none: as many as PyTorch takes."""
    passes: bool = False
    """Show what each pass made of the network's graph, too."""
    code: str | None = None
    """Print the code of a step instead: its number in the table, or its name."""
    llvm: bool = False
    """With --code: as LLVM assembly."""
    asm: bool = False
    """With --code: as this CPU's assembly."""
    json: bool = False
    """Print the steps, and the passes, as JSON."""
    quiet: bool = False
    """No progress bar."""
    plugin: tuple[Path, ...] = ()
    """Python files that define further networks."""


def run(options: Options) -> int:
    """Compile, then print the table of steps."""
    import json

    from regroup.cli._compiled import compiled
    from regroup.cli._network import check_number, choose

    check_number("threads", options.threads)
    form = _form(options)
    chosen = choose(options.model, channels=options.channels, weights=options.weights, plugins=options.plugin)
    shape = chosen.shape(options.image)
    fast = compiled(chosen, shape, quiet=options.quiet or options.json, threads=options.threads)
    if options.code is not None:
        print(fast.code(options.code, form))
        return 0
    found = fast.explain(json=options.json, passes=options.passes)
    print(json.dumps(found, indent=1) if options.json else found)
    return 0


def _form(options: Options) -> Form:
    """Return in which form code is printed."""
    from regroup.errors import ConfigError

    if options.llvm and options.asm:
        raise ConfigError("asm", True, "left out where --llvm is given")
    for name in ("llvm", "asm"):
        if getattr(options, name) and options.code is None:
            raise ConfigError(name, True, "left out where there is no --code STEP", "give --code STEP")
    for name in ("json", "passes"):
        if getattr(options, name) and options.code is not None:
            raise ConfigError(name, True, "left out where --code is given: it prints code alone")
    return "llvm" if options.llvm else "asm" if options.asm else "listing"
