"""Time and bytes of a training step when processes share channels, images or both, beside a model's.

python -m benchmarks.parallel                # two processes of one thread on this machine, over gloo
python -m benchmarks.parallel --processes 4 --json parallel.json
python -m benchmarks.parallel --links        # the model alone, for NVLink and Ethernet

Each process measures first how long collectives of several sizes take, which gives the link's two numbers,
and how long its share of the arithmetic takes when nothing is sent. From these and from the plan's bytes the
model expects a step's time; then steps are done, and the table shows both. Times are medians over rounds in
which all ways take turns.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch._dynamo  # DistributedDataParallel imports it: once here, not in every process
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.parallel import DistributedDataParallel

from regroup.networks import create_model
from regroup.parallel import plan, shard
from regroup.parallel.links import ETHERNET, NVLINK, Link, step_times
from regroup.parallel.sharding import share
from regroup.parallel.wire import Wire

CASES = (("alexnet", 67, 8), ("alexnet", 67, 32), ("alexnet", 131, 8), ("shufflenet_v1_g4_100", 64, 8))
"""Networks, sizes of images and batches of all processes together."""

LARGE = (
    ("alexnet", 227),
    ("resnext50_32x4d", 224),
    ("shufflenet_v1_g4_100", 224),
    ("condensenet_74_g4", 224),
)
SIZES = (1 << 10, 1 << 14, 1 << 18, 1 << 21)
ROUNDS = 5
RATE = 100e12  # MACs a second of a GPU with room to spare: a fifth of an H100's peak in bfloat16


class Silence(Wire):
    """Nothing is sent, and what would come are ones: no numbers so small that arithmetic on them is slow."""

    def _all_to_all(self, out: torch.Tensor, *_: Any) -> None:
        out.fill_(1)

    def _all_gather(self, out: torch.Tensor, *_: Any) -> None:
        out.fill_(1)

    def _reduce_scatter(self, out: torch.Tensor, *_: Any) -> None:
        out.fill_(1)


def main() -> int:
    """Measure, or compute, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--links", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = expected_rows() if options.links else measured_rows(options.processes)
    _show(rows)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))
    return 0


def expected_rows() -> list[dict[str, Any]]:
    """Return what the model expects of GPUs: milliseconds of a step, as batch and devices grow."""
    rows = []
    for name, size in LARGE:
        model = create_model(name)
        for devices, batch in ((2, 8), (2, 64), (2, 512), (4, 64)):
            decided = plan(model, devices, torch.empty(batch, 3, size, size))
            row: dict[str, Any] = {"network": name, "devices": devices, "batch": batch}
            for called, link in (("NVLink", NVLINK), ("Ethernet", ETHERNET)):
                channels, images = step_times(decided, link, RATE)
                row[f"{called}: channels"] = 1e3 * channels.total
                row[f"{called}: images"] = 1e3 * images.total
            row["MB: channels"] = decided.groups.received / 1e6
            row["MB: images"] = decided.data.received / 1e6
            rows.append(row)
    return rows


def measured_rows(processes: int) -> list[dict[str, Any]]:
    """Return measured and expected milliseconds of each case, from rank 0 of so many processes."""
    with tempfile.TemporaryDirectory() as directory:
        children = []
        for rank in range(processes):
            pid = os.fork()
            if not pid:
                code = 1
                try:
                    rows = _process(rank, processes, directory)
                    Path(directory, f"{rank}.json").write_text(json.dumps(rows))
                    code = 0
                finally:
                    os._exit(code)
            children.append(pid)
        for pid in children:
            if os.waitpid(pid, 0)[1]:
                raise SystemExit("a process failed")
        return json.loads(Path(directory, "0.json").read_text())


def _process(rank: int, processes: int, directory: str) -> list[dict[str, Any]]:
    torch.set_num_threads(1)
    store = f"file://{directory}/store"
    distributed.init_process_group("gloo", store, rank=rank, world_size=processes)
    mesh = init_device_mesh("cpu", (processes,), mesh_dim_names=("groups",))
    pairs = None
    if processes == 4:
        pairs = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "groups"))
    link = _link(processes)
    return [_case(name, size, batch, mesh, pairs, link) for name, size, batch in CASES]


def _link(processes: int) -> Link:
    """Measure what a collective costs: a line through the times of several sizes."""
    times = []
    for size in SIZES:
        rows = torch.zeros(processes, size // 4 // processes)
        out = torch.empty_like(rows)

        def call(out: torch.Tensor = out, rows: torch.Tensor = rows) -> None:
            distributed.all_to_all_single(out, rows)

        received = rows.nbytes * (processes - 1) / processes
        times.append((received, _seconds(call, 9)))
    (small, first), (large, last) = times[0], times[-1]
    slope = (last - first) / (large - small)
    return Link(1 / slope, max(0.0, first - slope * small) / (processes - 1))


def _case(name: str, size: int, batch: int, mesh: Any, pairs: Any, link: Link) -> dict[str, Any]:
    torch.manual_seed(0)
    devices = mesh.size()
    model = create_model(name, num_classes=10).train()
    images, labels = torch.randn(batch, 3, size, size), torch.arange(batch) % 10
    part = batch // devices
    mine = slice(mesh.get_local_rank() * part, (mesh.get_local_rank() + 1) * part)
    decided = plan(model, devices, images)

    quiet = copy.deepcopy(model)  # its share of the arithmetic, with nothing sent
    share(quiet, Silence(mesh.get_local_rank(), devices), decided)
    quiet.shared_wire.log = None  # type: ignore[unresolved-attribute]
    ways: dict[str, Callable[[], None]] = {
        "alone": _step(copy.deepcopy(model), images[mine], labels[mine]),
        "quiet": _step(quiet, images, labels),
        "channels": _step(shard(copy.deepcopy(model), mesh, images), images, labels),
        "images": _step(DistributedDataParallel(copy.deepcopy(model)), images[mine], labels[mine]),
    }
    if pairs is not None:
        half = slice(0, batch // 2) if pairs.get_local_rank("data") == 0 else slice(batch // 2, batch)
        both = shard(copy.deepcopy(model), pairs, images[half])
        both = DistributedDataParallel(both, process_group=pairs.get_group("data"))
        ways["both"] = _step(both, images[half], labels[half])
    found: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(ROUNDS):
        for way, step in ways.items():
            found[way].append(_seconds(step, 1))
    seconds = {way: median(times[1:]) for way, times in found.items()}
    talking = step_times(decided, link, 1e30)
    row: dict[str, Any] = {"network": name, "image": size, "batch": batch}
    row |= {f"{way} ms": 1e3 * s for way, s in seconds.items() if way not in ("alone", "quiet")}
    row["channels expected"] = 1e3 * (seconds["quiet"] + talking[0].total)
    row["images expected"] = 1e3 * (seconds["alone"] + talking[1].total)
    row["MB channels"], row["MB images"] = decided.groups.received / 1e6, decided.data.received / 1e6
    return row | {"link MB/s": link.bandwidth / 1e6, "link us": 1e6 * link.latency}


def _step(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> Callable[[], None]:
    def step() -> None:
        model.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()

    return step


def _seconds(call: Callable[[], object], times: int) -> float:
    """Return the median over calls that all processes begin together, of the slowest process."""
    found = []
    for _ in range(times + (times > 1)):
        distributed.barrier()
        begun = time.perf_counter()
        call()
        taken = torch.tensor(time.perf_counter() - begun)
        distributed.all_reduce(taken, distributed.ReduceOp.MAX)
        found.append(float(taken))
    return median(found[times > 1 :])


def _show(rows: list[dict[str, Any]]) -> None:
    heads = list(rows[0])
    text = [[f"{row[h]:.3g}" if isinstance(row[h], float) else str(row[h]) for h in heads] for row in rows]
    widths = [max(map(len, column)) for column in zip(heads, *text, strict=True)]
    for line in (heads, *text):
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))


if __name__ == "__main__":
    raise SystemExit(main())
