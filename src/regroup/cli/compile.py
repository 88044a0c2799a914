"""Compile a network to native code and show what each step does, and how fast."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

if TYPE_CHECKING:
    from rich.table import Table

    from regroup.kernels.program.code import Form


@dataclass(frozen=True)
class Options:
    """Which network, for which input."""

    model: tyro.conf.Positional[str]
    """A name of ours (`regroup models`), timm's or torchvision's; a run of `regroup train`; an ONNX file."""
    image: int | None = None
    """Height and width of the input image; none: what it expects."""
    channels: int | None = None
    """Channels of the input image; none: 3, or those of the run's images."""
    pretrained: bool = False
    """Load the weights that the model hub has for it."""
    weights: Path | None = None
    """File of weights, under the names that the network has; none: random ones."""
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
    chosen = choose(
        options.model,
        channels=options.channels,
        weights=options.weights,
        pretrained=options.pretrained,
        plugins=options.plugin,
    )
    shape = chosen.shape(options.image)
    fast = compiled(chosen, shape, quiet=options.quiet or options.json, threads=options.threads)
    if options.code is not None:
        print(fast.code(options.code, form))
        return 0
    found = fast.explain(json=True)
    assert isinstance(found, dict)
    if options.json:
        print(json.dumps(found, indent=1))
        return 0
    _print(found, options.passes)
    return 0


def _print(found: dict[str, Any], passes: bool) -> None:
    from regroup.cli._table import say, show
    from regroup.engine.running import explain

    if passes:
        say(f"{explain.passes_table(found)}\n")
    for line in explain.before(found):
        say(line)
    table, reasons = step_table(found)
    show(table, ("kernel, tile", "GFLOP/s", "shape"))
    for line in (*reasons, *explain.after(found)):
        say(line)


def step_table(found: dict[str, Any]) -> tuple[Table, list[str]]:
    """Return the table of steps; and why PyTorch runs what it runs, by the numbers that the table has."""
    from rich.table import Table

    from regroup.engine.running import explain
    from regroup.errors import printable

    table, reasons = Table(box=None, pad_edge=False), []
    for i, name in enumerate(explain.HEADS):
        table.add_column(name, no_wrap=True, justify="right" if i < 4 else "left")
    for cells, why in explain.rows(found):
        if why is not None:
            reasons.append(f"({len(reasons) + 1}) {printable(why)}")
            cells[4] += f" ({len(reasons)})"
        table.add_row(*map(printable, cells))
    return table, reasons


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
