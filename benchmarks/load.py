"""Whole networks while the machine has other work: regroup, ONNX Runtime and OpenVINO in turns.

python -m benchmarks.load
python -m benchmarks.load --loads idle "2 busy" quota --networks mobilenet_v2_100 --json load.json
python -m benchmarks.load --before OTHER/src        # the regroup of another source tree beside this one

Every runtime has a process of its own, which sleeps until its turn: a pause, calls that do not count, then a
burst of calls, in which the whole burst is timed, so that no stall is lost. The table shows the median over
bursts of the milliseconds per call, and the quartiles. The loads are made here: processes that do nothing but
count, a process that runs a compiled network all the time, a quota of 1.5 cores (a control group, where this
process may make one), and all threads on one core. Besides, on an idle machine, calls that each come right
after an operator of PyTorch's on all its threads, which stay awake: it resizes an image, and is not counted.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import quantiles

NETWORKS = ("shufflenet_v1_g3_100", "mobilenet_v3_large", "mobilenet_v2_100", "timm:ghostnet_100")

_PAUSE, _WARM_UP, _SETTLE = 0.05, 0.1, 0.4
"""Seconds before a burst: asleep, and of calls that do not count; and of these when a load has begun."""

_GROUPS = Path("/sys/fs/cgroup")
"""Where control groups are, of the first version."""

_PERIOD, _QUOTA = 100_000, 150_000
"""Microseconds."""


class Worker:
    """A process that runs one runtime, or a load, when it is told to."""

    def __init__(self, arguments: list[str], source: str | None = None) -> None:
        environment = dict(os.environ)
        if source is not None:
            environment["PYTHONPATH"] = os.pathsep.join([source, str(Path.cwd())])
        command = [sys.executable, "-m", "benchmarks.load", "--worker", *arguments]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(command, env=environment, **pipes)

    def ready(self) -> None:
        """Wait until it can run."""
        if self._answer() != "ready":
            sys.exit("a worker has failed")

    def burst(self, seconds: float, *, after_torch: bool = False) -> float:
        """Return the seconds of a call, over a burst of so many seconds."""
        self.tell(f"{seconds} {int(after_torch)}")
        return float(self._answer())

    def tell(self, text: str) -> None:
        """Send a line."""
        assert self.process.stdin is not None
        print(text, file=self.process.stdin, flush=True)

    def _answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def end(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()

    def threads(self) -> list[int]:
        """Return the numbers by which the system knows its threads."""
        return [int(p.name) for p in Path(f"/proc/{self.process.pid}/task").iterdir()]


def work(runtime: str, network: str, threads: int) -> None:
    """Be a worker: prepare, then answer each line (seconds) with the seconds of a call in such a burst."""
    run = _counting if runtime == "busy" else _prepared(runtime, network, threads)
    print("ready", flush=True)
    for line in sys.stdin:
        seconds, after_torch = map(float, line.split())
        if seconds == 0:  # a load: for ever
            while True:
                run()
        time.sleep(_PAUSE)
        before = _resize() if after_torch else _nothing
        _calls(run, _WARM_UP, before)
        print(_calls(run, seconds, before), flush=True)


def _nothing() -> None:
    pass


def _resize() -> Callable[[], object]:
    import torch

    image = torch.randn(1, 3, 448, 448)
    return lambda: torch.nn.functional.interpolate(image, (224, 224), mode="bilinear")


def _counting() -> None:
    for _ in range(1000):
        pass


def _prepared(runtime: str, network: str, threads: int) -> Callable[[], object]:
    import torch
    from benchmarks.engine import PEERS, prepared

    import regroup

    torch.set_num_threads(threads)
    model, x = prepared(network), torch.randn(1, 3, 224, 224)
    if runtime in PEERS:
        run = PEERS[runtime](model, x, threads)
    else:
        fast = regroup.compile(model, x)
        run = lambda: fast(x)  # noqa: E731
    with torch.no_grad():
        want, got = model(x), run()
    error = float((got - want).square().mean().sqrt() / want.square().mean().sqrt())
    if error > 1e-4:
        sys.exit(f"{runtime}, {network}: the output is off by {error:.1e}")
    return run


def _calls(run: Callable[[], object], seconds: float, before: Callable[[], object]) -> float:
    """Call for so many seconds, and `before` each call something else; return those of one call."""
    spent, count, end = 0.0, 0, time.perf_counter() + seconds
    while count == 0 or time.perf_counter() < end:
        before()
        start = time.perf_counter()
        run()
        spent, count = spent + time.perf_counter() - start, count + 1
    return spent / count


@contextlib.contextmanager
def busy(count: int, workers: list[Worker]) -> Iterator[None]:
    """Let processes count beside."""
    del workers
    yield from _beside([Worker(["busy", "", "1"]) for _ in range(count)])


@contextlib.contextmanager
def second_network(network: str, threads: int, workers: list[Worker]) -> Iterator[None]:
    """Let another process run a compiled network all the time."""
    del workers
    yield from _beside([Worker(["regroup", network, str(threads)])])


def _beside(loads: list[Worker]) -> Iterator[None]:
    try:
        for load in loads:
            load.ready()
            load.tell("0 0")
        yield
    finally:
        for load in loads:
            load.end()


@contextlib.contextmanager
def grouped(kind: str, settings: dict[str, str], workers: list[Worker]) -> Iterator[None]:
    """Put each worker into a control group of its own."""
    groups = []
    try:
        for worker in workers:
            group = Path(tempfile.mkdtemp(prefix="regroup-load-", dir=_GROUPS / kind))
            groups.append(group)
            for name, value in settings.items():
                (group / name).write_text(value)
            (group / "cgroup.procs").write_text(str(worker.process.pid))
        yield
    finally:
        for group, worker in zip(groups, workers, strict=False):
            (_GROUPS / kind / "cgroup.procs").write_text(str(worker.process.pid))
            group.rmdir()


BUSY = {f"{count} busy": count for count in (1, 2, 3, 4, 6, 8)}
AFTER_TORCH = "after PyTorch"
LOADS = ("idle", AFTER_TORCH, *BUSY, "second network", "quota", "one core")


def under(load: str, network: str, threads: int, workers: list[Worker]) -> contextlib.AbstractContextManager:
    """Return a load by its name."""
    match load:
        case "second network":
            return second_network(network, threads, workers)
        case "quota":
            period, time = "cpu.cfs_period_us", "cpu.cfs_quota_us"
            return grouped("cpu", {period: str(_PERIOD), time: str(_QUOTA)}, workers)
        case "one core":  # not by the threads' affinity, which OpenVINO sets anew
            return grouped("cpuset", {"cpuset.mems": "0", "cpuset.cpus": "0"}, workers)
    return busy(BUSY.get(load, 0), workers)


def compare(network: str, options: argparse.Namespace) -> list[dict]:
    """Time a network in every runtime, in turns, under every load."""
    workers = {n: Worker([n, network, str(options.threads)]) for n in ("regroup", *options.peers)}
    if options.before:
        workers["before"] = Worker(["before", network, str(options.threads)], options.before)
    found = []
    try:
        for worker in workers.values():
            worker.ready()
        for load in options.loads:
            taken: dict[str, list[float]] = {name: [] for name in workers}
            after_torch = load == AFTER_TORCH
            with under(load, network, options.threads, list(workers.values())):
                for worker in workers.values():
                    worker.burst(_SETTLE, after_torch=after_torch)
                for _ in range(options.bursts):
                    for name, worker in workers.items():
                        taken[name].append(worker.burst(options.seconds, after_torch=after_torch))
            milliseconds = {n: [1e3 * q for q in quantiles(t, n=4)] for n, t in taken.items()}
            found.append({"network": network, "load": load, "milliseconds": milliseconds})
            _say(found[-1])
    finally:
        for worker in workers.values():
            worker.end()
    return found


def _say(row: dict) -> None:
    times = ", ".join(f"{n} {m:.2f} ({a:.2f} .. {b:.2f})" for n, (a, m, b) in row["milliseconds"].items())
    others = [m for n, (_, m, _) in row["milliseconds"].items() if n not in ("regroup", "before")]
    lead = f"; {min(others) / row['milliseconds']['regroup'][1]:.2f} times the best peer" if others else ""
    print(f"{row['network']}, {row['load']}: ms {times}{lead}", flush=True)


def main() -> None:
    installed = {"ONNX Runtime": "onnxruntime", "OpenVINO": "openvino"}
    peers = [name for name, module in installed.items() if importlib.util.find_spec(module)]
    grouped = {"quota": "cpu", "one core": "cpuset"}
    loads = [
        n for n in LOADS if n not in grouped or os.access(_GROUPS / grouped[n] / "cgroup.procs", os.W_OK)
    ]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=NETWORKS, help="ours, timm's or torchvision's")
    parser.add_argument("--loads", nargs="+", default=loads, choices=LOADS)
    parser.add_argument("--peers", nargs="*", default=peers, choices=list(installed))
    parser.add_argument("--before", help="source tree of another regroup, to time as well")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--bursts", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=0.3, help="of a burst")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        runtime, network, threads = options.worker
        work(runtime, network, int(threads))
        return
    if left := [load for load in LOADS if load not in loads]:
        print(f"cannot be set here, so not measured: {', '.join(left)}")
    rows = [row for network in options.networks for row in compare(network, options)]
    if options.json:
        from regroup.profiling.machine import machine

        report = {"machine": machine().to_dict() | {"threads": options.threads}, "rows": rows}
        options.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
