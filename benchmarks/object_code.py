"""Exported networks in emulators: instructions of an image, flash and memory, and whether they are right.

python -m benchmarks.object_code
python -m benchmarks.object_code --page docs/object.md     # writes the tables there

Needs the compilers and emulators that docs/object.md names. Instructions are counted by a plugin of QEMU's,
as the difference between a program that does two images and one that does one. They are not times: a vector
instruction counts as one, and so does a division. Every network is run on random numbers besides; the root
mean square of its error against float64 is at most twice that of PyTorch.
"""

from __future__ import annotations

import argparse
import copy
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from regroup import create_model, export_object
from regroup.aot.export import object_files
from regroup.aot.targets import MACHINES, Machine

FAMILIES = ("shufflenet_v1_g3_050", "mobilenet_v2_100", "mixnet_s", "condensenet_74_g4", "igcv3_100")
FAMILIES += ("oct_resnet50_a05",)
LARGE, LARGE_SIDE = ("aarch64", "wasm32-simd128"), 96
TINY = ("shufflenet_v1_g3_025", "mobilenet_v1_025", "resnet20")
SMALL, SMALL_SIDE = ("cortex-m4", "cortex-m7", "cortex-m55"), 64
SIZED = ("shufflenet_v1_g3_025", "shufflenet_v1_g8_050", "shufflenet_v2_050", "mobilenet_v1_025")
SIZED += ("mobilenet_v2_035", "mobilenet_v3_small_075", "igcv3_025", "squeezenet1_1", "mixnet_s", "resnet20")
SIZED_FOR, SIZED_SIDE = "cortex-m4", 96

_COUNTED = """
#include <stdlib.h>
#include "net.h"
static _Alignas(NET_ALIGNMENT) unsigned char arena[NET_ARENA_BYTES];
static float input[NET_INPUT_FLOATS], output[NET_OUTPUT_FLOATS];
int main(int count, char **words) {
    for (int left = count < 2 ? 0 : atoi(words[1]); left; left--)
        if (net_run(input, output, arena) != NET_OK)
            return 1;
    return 0;
}
"""


def made(name: str, side: int) -> tuple[nn.Module, torch.Tensor]:
    """Return a network whose batch norms have the statistics of random images, and such an image."""
    torch.manual_seed(0)
    model, channels = create_model(name), 3
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        model.train()(torch.randn(8, channels, side, side))
    return model.eval(), torch.randn(1, channels, side, side)


def run(command: Sequence[object], folder: Path) -> str:
    """Run a program that must succeed; return what it prints, to both streams."""
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(words)}\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def program(machine: Machine, path: str, words: Sequence[str], plugin: Path | None = None) -> list[object]:
    """Return the command that runs a program, with a plugin or without."""
    emulator, *options = machine.runs_with.split()
    more = [] if plugin is None else ["-plugin", plugin]
    given = words if machine.board is None else ["-append", " ".join(words)]
    return [emulator, *more, *options, path, *given]


def measured(name: str, side: int, machine: Machine, folder: Path) -> dict[str, Any]:
    """Return what a network takes on a machine, once it is known to be right there."""
    model, x = made(name, side)
    needs = export_object(model, x, machine.name, folder / "net", replace=True)
    found: dict[str, Any] = {"network": name, "target": machine.name, "side": side, "macs": needs.macs}
    found |= {"code": needs.code, "weights": needs.weights, "ram": needs.ram}
    place = folder / "net"
    if machine.is_wasm:
        script = """
            import { load } from "./net.js"; import { readFileSync } from "node:fs";
            const x = new Float32Array(new Uint8Array(readFileSync("input.bin")).buffer);
            const network = await load(readFileSync("net.wasm"));
            network.run(x).output.forEach((y, i) => console.log("output", i, y));"""
        (place / "print.mjs").write_text(script)
        printed = run(["node", "print.mjs"], place)
    else:
        run(["make", "main"], place)
        printed = run(program(machine, "main", ["input.bin"]), place)
        found["instructions"] = counted(machine, place, folder)
    numbers = [float(line.split()[2]) for line in printed.splitlines() if line.startswith("output ")]
    require_right(model, x, torch.tensor(numbers).view(1, -1), f"{name} on {machine.name}")
    return found


def counted(machine: Machine, place: Path, folder: Path) -> int:
    """Return the instructions of one image."""
    (place / "count.c").write_text(_COUNTED)
    board = [] if machine.board is None else ["start.c", "-T", "board.ld"]
    run([machine.compiler, "-O1", *machine.flags.split(), "-o", "count", "count.c", *board, "net.o"], place)
    totals = [
        int(run(program(machine, "count", [times], folder / "plugin.so"), place).split()[-1])
        for times in ("1", "2")
    ]
    return totals[1] - totals[0]


def require_right(model: nn.Module, x: torch.Tensor, ours: torch.Tensor, what: str) -> None:
    """End the program if a result is further from float64 than twice PyTorch's."""
    with torch.no_grad():
        theirs, exact = model(x), copy.deepcopy(model).double()(x.double())
    errors = [float((y.double() - exact).square().mean().sqrt()) for y in (ours, theirs)]
    if not errors[0] <= 2 * errors[1]:
        sys.exit(f"{what}: its error is {errors[0]:.2g}, PyTorch's own {errors[1]:.2g}")


def sizes(name: str) -> dict[str, Any]:
    """Return flash and memory of a network on a microcontroller."""
    model, x = made(name, SIZED_SIDE)
    _, needs = object_files(model, x, SIZED_FOR)
    return {
        "network": name,
        "code": needs.code,
        "weights": needs.weights,
        "ram": needs.ram,
        "macs": needs.macs,
    }


def tables(found: dict[str, Any]) -> str:
    """Return the tables as Markdown."""
    lines = [
        "Instructions of an image, counted in an emulator; in brackets, those for each multiply-add.",
        "",
    ]
    for rows in (found["large"], found["small"]):
        targets = list(dict.fromkeys(row["target"] for row in rows if "instructions" in row))
        lines += [f"| network | image | M MACs | {' | '.join(f'`{t}`' for t in targets)} |"]
        lines += ["|---|---:|---:|" + "---:|" * len(targets)]
        for name in dict.fromkeys(row["network"] for row in rows):
            mine = {row["target"]: row for row in rows if row["network"] == name}
            any_ = next(iter(mine.values()))
            cells = [
                f"{mine[t]['instructions'] / 1e6:.1f} M ({mine[t]['instructions'] / any_['macs']:.2f})"
                for t in targets
            ]
            lines.append(f"| `{name}` | {any_['side']} | {any_['macs'] / 1e6:.1f} | {' | '.join(cells)} |")
        lines.append("")
    lines += [
        f"Bytes on `{SIZED_FOR}`, images of {SIZED_SIDE}x{SIZED_SIDE}; memory with inputs and outputs.",
        "",
    ]
    lines += ["| network | M MACs | code | weights | memory |", "|---|---:|---:|---:|---:|"]
    for row in found["sizes"]:
        cells = (f"{row['macs'] / 1e6:.1f}", *(f"{row[key]:,}" for key in ("code", "weights", "ram")))
        lines.append(f"| `{row['network']}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, and write the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--page", type=Path, help="write the tables between the marks of this page")
    options = parser.parse_args()
    found: dict[str, Any] = {"large": [], "small": [], "sizes": []}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        source = Path(__file__).with_name("instructions.c")
        run(["cc", "-shared", "-fPIC", "-O2", source, "-o", folder / "plugin.so"], folder)
        for key, names, targets, side in (
            ("small", TINY, SMALL, SMALL_SIDE),
            ("large", FAMILIES, LARGE, LARGE_SIDE),
        ):
            for name in names:
                for target in targets:
                    found[key].append(measured(name, side, MACHINES[target], folder))
                    print(json.dumps(found[key][-1]), file=sys.stderr, flush=True)
    for name in SIZED:
        found["sizes"].append(sizes(name))
        print(json.dumps(found["sizes"][-1]), file=sys.stderr, flush=True)
    print(tables(found))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    if options.page:
        before, mark, rest = options.page.read_text().partition("<!-- begin: benchmarks.object_code -->\n")
        end = rest.index("<!-- end -->")
        options.page.write_text(f"{before}{mark}{tables(found)}\n{rest[end:]}")


if __name__ == "__main__":
    main()
