"""Time and bytes of a training step when processes share channels, images or both, beside a model's.

python -m benchmarks.parallel                # two processes of one thread on this machine, over gloo
python -m benchmarks.parallel --processes 4 --json parallel.json
python -m benchmarks.parallel --links        # the model alone, for NVLink and Ethernet

Each process measures first how long collectives of several kinds and sizes take, which gives the link's two
numbers for each kind, and how long its share of the arithmetic takes when nothing is sent. From these and the
plan's bytes the model expects a step's time; then steps are done, and the table shows both. Times are medians
over rounds in which all ways take turns. With four processes there are three ways: four share channels, four
share images, and pairs share channels while two pairs share images ("both").
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch._dynamo  # DistributedDataParallel imports it: once here, not in every process
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.parallel import DistributedDataParallel

from regroup.networks import create_model
from regroup.parallel import Plan, plan
from regroup.parallel.links import ETHERNET, NVLINK, Link, mixed_bytes, mixed_time, step_times
from regroup.parallel.sharding import share
from regroup.parallel.wire import GroupWire, Wire

CASES = (
    ("alexnet", 67, 8),
    ("alexnet", 67, 32),
    ("alexnet", 67, 128),
    ("alexnet", 131, 8),
    ("alexnet", 131, 32),
    ("alexnet", 195, 8),
    ("shufflenet_v1_g4_100", 64, 8),
    ("shufflenet_v1_g4_100", 64, 32),
    ("shufflenet_v1_g4_100", 64, 128),
    ("shufflenet_v1_g4_100", 128, 8),
    ("shufflenet_v1_g4_100", 128, 32),
)
"""Networks, sizes of images and batches of all processes together. Four whole AlexNets, each with gradients
and twice, are many gigabytes: its hidden layers have 1024 channels here."""
OPTIONS = {"alexnet": {"hidden": 1024}}

LARGE = (
    ("alexnet", (131, 227)),
    ("resnext50_32x4d", (112, 224)),
    ("shufflenet_v1_g4_100", (112, 224)),
    ("condensenet_74_g4", (112, 224)),
)
BATCHES = (8, 64, 512)
SIZES = (1 << 10, 1 << 23)
ROUNDS = 4  # the first does not count
PATIENCE = timedelta(seconds=60)
RATE = 100e12  # MACs a second of a GPU with room to spare: a fifth of an H100's peak in bfloat16


class Silence(Wire):
    """Nothing is sent, and what would come are ones: no numbers so small that arithmetic on them is slow."""

    def _all_to_all(self, out: torch.Tensor, *_: Any) -> None:
        out.fill_(1)

    def _all_gather(self, out: torch.Tensor, *_: Any) -> None:
        out.fill_(1)

    def _reduce_scatter(self, out: torch.Tensor, *_: Any) -> None:
        out.fill_(1)


class Tokens(GroupWire):
    """Of each collective one number is sent: what waiting for each other takes in a step, without bytes."""

    def numbers(self, mine: int, device: torch.device) -> list[int]:
        self._all_reduce(torch.zeros(1), "")
        return [mine] * self.devices

    def _all_to_all(self, out: torch.Tensor, *_: Any) -> None:
        out.fill_(1)
        self._all_reduce(torch.zeros(1), "")

    def _all_gather(self, out: torch.Tensor, *_: Any) -> None:
        self._all_to_all(out)

    def _reduce_scatter(self, out: torch.Tensor, *_: Any) -> None:
        self._all_to_all(out)


def main() -> int:
    """Measure, or compute, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--links", action="store_true")
    parser.add_argument("--cases", type=int, nargs="*", help="numbers of the cases; none: all")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = expected_rows() if options.links else measured_rows(options.processes, options.cases)
    _show(rows)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))
    return 0


def expected_rows() -> list[dict[str, Any]]:
    """Return what the model expects of GPUs: milliseconds of a step, as batch and devices grow."""
    rows = []
    for name, sizes in LARGE:
        model = create_model(name)
        rows += [_expected(model, name, *each) for each in product((2, 4), sizes, BATCHES)]
    return rows


def _expected(model: nn.Module, name: str, devices: int, size: int, batch: int) -> dict[str, Any]:
    decided = plan(model, devices, torch.empty(batch, 3, size, size))
    row: dict[str, Any] = {"network": name, "devices": devices, "image": size, "batch": batch}
    row |= {"MB: channels": decided.groups.received / 1e6, "MB: images": decided.data.received / 1e6}
    pair = plan(model, 2, torch.empty(batch // 2, 3, size, size)) if devices == 4 else None
    if pair is not None:
        row["MB: both"] = (pair.groups.received + mixed_bytes(pair, 2)) / 1e6
    for called, link in (("NVLink", NVLINK), ("Ethernet", ETHERNET)):
        channels, images = step_times(decided, link, RATE)
        row[f"{called}: channels"], row[f"{called}: images"] = 1e3 * channels.total, 1e3 * images.total
        if pair is not None:
            row[f"{called}: both"] = 1e3 * mixed_time(pair, 2, NVLINK, link, RATE).total
    return row


def measured_rows(processes: int, chosen: list[int] | None = None) -> list[dict[str, Any]]:
    """Return measured and expected milliseconds of each case, from rank 0 of so many processes."""
    cases = [CASES[number] for number in chosen] if chosen else CASES
    plans = [(case, *_plans(*case, processes)) for case in cases]  # once, for all processes
    with tempfile.TemporaryDirectory() as directory:
        children = []
        for rank in range(processes):
            pid = os.fork()
            if not pid:
                code = 1
                try:
                    rows = _process(rank, processes, directory, plans)
                    Path(directory, f"{rank}.json").write_text(json.dumps(rows))
                    code = 0
                finally:
                    os._exit(code)
            children.append(pid)
        for pid in children:
            if os.waitpid(pid, 0)[1]:
                raise SystemExit("a process failed")
        return json.loads(Path(directory, "0.json").read_text())


def _process(rank: int, processes: int, directory: str, plans: list) -> list[dict[str, Any]]:
    torch.set_num_threads(1)
    store = f"file://{directory}/store"
    distributed.init_process_group("gloo", store, rank=rank, world_size=processes)
    mesh = init_device_mesh("cpu", (processes,), mesh_dim_names=("groups",))
    pairs = None
    if processes == 4:
        pairs = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "groups"))
    own = [distributed.new_group([each]) for each in range(processes)][rank]
    links: dict[str, Any] = {"all": _links(mesh.get_group()), "own": own}
    if pairs is not None:
        links |= {way: _links(pairs.get_group(way)) for way in ("groups", "data")}
    rows = []
    for case, *found in plans:
        rows.append(_case(*case, mesh, pairs, links, *found))
        if not rank:
            print(
                json.dumps(rows[-1]), file=sys.stderr, flush=True
            )  # of a run that is cut off, what there is
    return rows


def _network(name: str) -> nn.Module:
    torch.manual_seed(0)
    return create_model(name, num_classes=10, **OPTIONS.get(name, {})).train()


def _plans(name: str, size: int, batch: int, processes: int) -> tuple[Plan, Plan | None]:
    """Return the plan of all processes, and with four that of a pair with half of the images."""
    model = _network(name)
    pair = plan(model, 2, torch.empty(batch // 2, 3, size, size)) if processes == 4 else None
    return plan(model, processes, torch.empty(batch, 3, size, size)), pair


def _links(group: Any) -> dict[str, Link]:
    """Measure what each kind of collective costs in a group: a line through the times of several sizes."""
    heard = distributed.get_world_size(group) - 1
    found = {}
    for kind in ("all-to-all", "all-gather", "reduce-scatter", "all-reduce"):
        times = [_timed(kind, size, group) for size in SIZES]
        (small, first), (large, last) = times[0], times[-1]
        slope = max((last - first) / (large - small), 1e-12)
        rounds = 2 * heard if kind == "all-reduce" else heard  # as the model counts them
        found[kind] = Link(1 / slope, max(0.0, first - slope * small) / rounds)
    return found


def _timed(kind: str, size: int, group: Any) -> tuple[float, float]:
    """Return the bytes that a process receives in a collective, and the seconds that it takes."""
    devices = distributed.get_world_size(group)
    wire = GroupWire(group, PATIENCE)
    rows = torch.zeros(devices, size // 4 // devices)
    part, each = rows[:1].clone(), [1] * devices

    def call() -> None:
        if kind == "all-to-all":
            wire._all_to_all(torch.empty_like(rows), rows, each, each, "")
        elif kind == "all-gather":
            wire._all_gather(torch.empty_like(rows), part, "")
        elif kind == "reduce-scatter":
            wire._reduce_scatter(torch.empty_like(part), rows, "")
        else:
            wire._all_reduce(rows, "")

    received = rows.nbytes * (devices - 1) / devices * (2 if kind == "all-reduce" else 1)
    return received, _seconds(call, 5)


def _case(
    name: str, size: int, batch: int, mesh: Any, pairs: Any, links: Any, decided: Plan, pair: Plan | None
) -> dict[str, Any]:
    model, devices, rank = _network(name), mesh.size(), mesh.get_local_rank()
    images, labels = torch.randn(batch, 3, size, size), torch.arange(batch) % 10
    part = batch // devices
    mine = slice(rank * part, (rank + 1) * part)
    silence, tokens = Silence(rank, devices), Tokens(mesh.get_group(), PATIENCE)
    wire = GroupWire(mesh.get_group(), PATIENCE)
    ways: dict[str, Callable[[], None]] = {
        "alone": _step(_wrapped(model, links["own"]), images[mine], labels[mine]),
        "silent": _step(_shared(model, decided, silence), images, labels),
        "tokens": _step(_shared(model, decided, tokens), images, labels),
        "channels": _step(_shared(model, decided, wire), images, labels),
        "images": _step(_wrapped(model, None), images[mine], labels[mine]),
    }
    if pairs is not None and pair is not None:
        half = slice(0, batch // 2) if pairs.get_local_rank("data") == 0 else slice(batch // 2, batch)
        silence = Silence(pairs.get_local_rank("groups"), 2)
        wire = GroupWire(pairs.get_group("groups"), PATIENCE)
        ways["silent pair"] = _step(_shared(model, pair, silence), images[half], labels[half])
        both = _wrapped(_shared(model, pair, wire), pairs.get_group("data"))
        ways["both"] = _step(both, images[half], labels[half])
    found: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(ROUNDS):
        for way, step in ways.items():
            found[way].append(_seconds(step, 1))
    seconds = {way: median(times[1:]) for way, times in found.items()}
    talking = step_times(decided, links["all"], 1e30)
    expected = {
        "channels": seconds["silent"] + talking[0].total,
        "images": seconds["alone"] + talking[1].total,
    }
    received = {"channels": decided.groups.received, "images": decided.data.received}
    if pair is not None:
        mixed = mixed_time(pair, 2, links["groups"], links["data"], 1e30)
        expected["both"] = seconds["silent pair"] + mixed.total
        received["both"] = pair.groups.received + mixed_bytes(pair, 2)
    row: dict[str, Any] = {"network": name, "image": size, "batch": batch}
    for way, wanted in expected.items():
        row |= {f"{way} MB": received[way] / 1e6, f"{way} ms": 1e3 * seconds[way]}
        row[f"{way} expected"] = 1e3 * wanted
    row["silent ms"], row["collectives"] = 1e3 * seconds["silent"], len(decided.sent)
    flying = {kind: Link(link.bandwidth, 0.0) for kind, link in links["all"].items()}
    row["with waiting"] = 1e3 * (seconds["tokens"] + step_times(decided, flying, 1e30)[0].total)
    return row | {
        f"{kind} us, MB/s": [round(1e6 * link.latency), round(link.bandwidth / 1e6)]
        for kind, link in links["all"].items()
    }


def _shared(model: nn.Module, decided: Plan, wire: Wire) -> nn.Module:
    """Return a process's share of a network, whose devices talk over `wire`."""
    own = copy.deepcopy(model)
    share(own, wire, decided)
    wire.log = None
    return own


def _wrapped(model: nn.Module, group: Any) -> nn.Module:
    """Return a network whose gradients are summed over a group, of which a process may be the only one."""
    own = model if hasattr(model, "shared_wire") else copy.deepcopy(model)
    return DistributedDataParallel(own, process_group=group, gradient_as_bucket_view=True)


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
    heads = list({head: None for row in rows for head in row})
    text = [[_cell(row.get(head, "")) for head in heads] for row in rows]
    widths = [max(map(len, column)) for column in zip(heads, *text, strict=True)]
    for line in (heads, *text):
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))


def _cell(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    raise SystemExit(main())
