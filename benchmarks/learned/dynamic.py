"""Time for one image of dynamic networks at several gates, beside the same network with dense convolutions.

python -m benchmarks.learned.dynamic
python -m benchmarks.learned.dynamic --models dgc_resnet18 resnet50 --threads 2 --json dynamic.json

Networks are timed as deployed, with new weights: which inputs an image keeps does not change how many. All
networks of a table take turns, so that a slow spell of the machine hits them alike. A network that is not
published with dynamic convolutions gets them by the strategy `dynamic`, in all layers larger than 1x1.

Accuracy beside fixed groups of about equal executed MACs:

regroup compare --data glyphs --image 32 --model resnet20 --epochs 30 --seeds 3
    --strategies dynamic:gate=0.5 dynamic:gate=0.25 grouped:groups=2 grouped:groups=4 assigned groupable
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from regroup import compile, replace
from regroup.networks import create_model, networks
from regroup.ops.counting import count_macs
from regroup.ops.dynamic import DynamicGroupConv
from regroup.ops.layers import conv
from regroup.profiling.clock import Timing, measure_in_turns, ratio
from regroup.profiling.machine import machine
from regroup.strategies.learning import deploy, set_progress


@dataclass(frozen=True)
class Row:
    """One network at one gate; `gate` is None for the dense one. Times are for one image of the batch.

    Those of PyTorch have quartiles and the clock's verdict; `compiled` is that of `regroup.compile`.
    """

    model: str
    gate: float | None
    batch: int
    threads: int
    mega_macs: float
    milliseconds: float
    low: float
    high: float
    of_dense: float
    verdict: str
    compiled: float
    compiled_of_dense: float


def built(name: str, gate: float) -> nn.Module:
    """Return a network whose dynamic convolutions keep `gate` of their inputs, as deployed."""
    torch.manual_seed(0)
    if name.startswith("dgc_"):
        return create_model(name, gate=gate).eval()
    model = create_model(name)
    replace(model, f"dynamic:gate={gate}", weights="fresh")
    set_progress(model, 1)
    return deploy(model)


def densified(model: nn.Module) -> nn.Module:
    """Return the network with a dense convolution in place of each dynamic one."""
    result = copy.deepcopy(model)
    for name, layer in list(result.named_modules()):
        if isinstance(layer, DynamicGroupConv):
            parent, _, child = name.rpartition(".")
            setattr(
                result.get_submodule(parent), child, nn.Sequential(layer.norm, layer.act, conv(layer.spec))
            )
    return result.eval()


def measure(name: str, gates: list[float], batch: int, seconds: float) -> list[Row]:
    """Time the dense network and one for each gate, in turns."""
    versions: dict[float | None, nn.Module] = {gate: built(name, gate) for gate in gates}
    versions = {None: densified(versions[gates[0]]), **versions}
    size = networks[name].claims.size
    x = torch.rand(batch, 3, *size)

    def call(model: Callable[[Tensor], object]) -> Callable[[], object]:
        def forward() -> object:
            with torch.inference_mode():
                return model(x)

        return forward

    functions = {str(gate): call(model) for gate, model in versions.items()}
    functions |= {f"compiled {gate}": call(compile(model, x)) for gate, model in versions.items()}
    timings = measure_in_turns(functions, seconds=seconds)
    return [_row(name, gate, batch, count_macs(versions[gate], x), timings) for gate in versions]


def _row(name: str, gate: float | None, batch: int, macs: int, timings: dict[str, Timing]) -> Row:
    timing, dense = timings[str(gate)], timings["None"]
    milliseconds = (round(1e3 * t / batch, 4) for t in (timing.median, timing.low, timing.high))
    share = ratio(timing, dense).median
    native, native_dense = timings[f"compiled {gate}"], timings["compiled None"]
    compiled = round(1e3 * native.median / batch, 4), ratio(native, native_dense).median
    threads = torch.get_num_threads()
    return Row(
        name, gate, batch, threads, macs / batch / 1e6, *milliseconds, share, timing.verdict, *compiled
    )


def main() -> None:
    """Print a table for each network and batch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["dgc_resnet18", "dgc_condensenet_74"])
    parser.add_argument("--gates", type=float, nargs="+", default=[1, 0.5, 0.25])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    for name in options.models:
        for batch in options.batch:
            headers = "gate", "MMACs", "ms / image", "of dense", "clock", "compiled", "of dense"
            table = Table(*headers, title=f"{name}, batch {batch}")
            found = measure(name, options.gates, batch, options.seconds)
            for row in found:
                spread = f"{row.milliseconds:.2f} ({row.low:.2f} .. {row.high:.2f})"
                gate = "dense" if row.gate is None else f"{row.gate:g}"
                eager = spread, f"{row.of_dense:.2f}", row.verdict
                native = f"{row.compiled:.2f}", f"{row.compiled_of_dense:.2f}"
                table.add_row(gate, f"{row.mega_macs:.1f}", *eager, *native)
            Console().print(table)
            rows += found
    if options.json:
        content = {"machine": machine().to_dict(), "rows": [asdict(row) for row in rows]}
        options.json.write_text(json.dumps(content, indent=1))


if __name__ == "__main__":
    main()
