"""Measure every published network: one image, in PyTorch and compiled by regroup.

networks.md and the gallery say what was measured.

    python -m docs.times                      those without a quiet time of this machine; while it is quiet
    python -m docs.times --again              all of them
    python -m docs.times --networks resnet20 mixnet_s
    python -m docs.times --within 600         begin no network later than so many seconds from now

Times are kept in docs/times.json after every network, with the machine and the date, so that a run that was
cut off goes on. Networks are measured in processes of their own, one at a time: one that needs too much
memory or time ends its process, is said, and the others go on. The time of a network is the median of its
best burst.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import selectors
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from regroup.profiling.machine import Machine, machine
from regroup.report import text

DATA = Path(__file__).with_name("times.json")
WAYS = ("PyTorch", "regroup")
BURSTS = (2, 5)
"""At least, and at most, if the clock calls none of both quiet."""
LIMIT = 240.0
"""Seconds until a network is given up."""
NONE, OTHER, NOISY = "-", "\\*", "(!) where the clock calls it noisy"
"""What stands where there is no time, and beside those of a machine that is not that of most."""
MOST_MEMORY = 3 << 20
"""KiB that a process has used when another takes the networks that are left."""


def load(path: Path = DATA) -> dict[str, Any]:
    """Return the times: {"machines": [...], "networks": {name: {"machine": number, "date", way: ...}}}."""
    return json.loads(path.read_text()) if path.exists() else {"machines": [], "networks": {}}


def save(data: dict[str, Any], path: Path = DATA) -> None:
    """Keep the times, whole or not at all; machines of which no time is left go."""
    used = sorted({entry["machine"] for entry in data["networks"].values()})
    renumbered = {old: new for new, old in enumerate(used)}
    networks = {
        name: {**entry, "machine": renumbered[entry["machine"]]}
        for name, entry in sorted(data["networks"].items())
    }
    found = {"machines": [data["machines"][number] for number in used], "networks": networks}
    new = path.with_suffix(".new")
    new.write_text(json.dumps(found, indent=1) + "\n")
    new.replace(path)


def told(data: dict[str, Any], names: Sequence[str]) -> Iterator[str]:
    """Yield on what the times of these networks were measured, and when; and how many are missing."""
    if others := [machine for machine in _machines(data) if machine != _machines(data)[0]]:
        yield f"Measured on {_machines(data)[0]}; those with {OTHER} on {'; '.join(others)}."
    else:
        yield f"Measured on {''.join(_machines(data))}."
    absent = sum(cells(data, name).count(NONE) > 0 for name in names)
    if absent:
        yield f"{absent} of {len(names)} are missing ({NONE}): `python -m docs.times` adds them."


def _machines(data: dict[str, Any]) -> list[str]:
    """Return the machines and the dates, that of most times first."""
    dates: dict[int, list[str]] = {}
    for entry in data["networks"].values():
        dates.setdefault(entry["machine"], []).append(entry["date"])
    said = []
    for number in _by_use(data):
        when = " to ".join(dict.fromkeys((min(dates[number]), max(dates[number]))))
        said.append(f"{Machine(**data['machines'][number])}, {when}")
    return said


def _by_use(data: dict[str, Any]) -> list[int]:
    used = [entry["machine"] for entry in data["networks"].values()]
    return sorted(set(used), key=lambda number: (-used.count(number), number))


def cells(data: dict[str, Any], name: str) -> list[str]:
    """Return what the columns of the ways say of a network."""
    entry = data["networks"].get(name, {})
    other = OTHER if entry and entry["machine"] != _by_use(data)[0] else ""
    return [f"{_ms(entry[way])}{other}" if way in entry else NONE for way in WAYS]


def _ms(found: dict[str, Any]) -> str:
    return text.milliseconds(1e3 * found["seconds"]) + (
        " (!)" if found["verdict"] in ("noisy", "unusable") else ""
    )


def missing(names: Sequence[str], data: dict[str, Any], again: bool) -> list[str]:
    """Return the networks that have no quiet time of this machine."""
    here = machine().to_dict()
    own = data["machines"].index(here) if here in data["machines"] else None
    quiet = {"verdict": "quiet"}
    known = {
        name
        for name, entry in data["networks"].items()
        if entry["machine"] == own and all(entry.get(way, {}).items() >= quiet.items() for way in WAYS)
    }
    return [name for name in names if again or name not in known]


def main(argv: list[str] | None = None) -> int:
    """Measure what is missing; return how many networks could not be measured."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--again", action="store_true", help="measure all of them")
    parser.add_argument("--networks", nargs="+", default=[], help="these alone")
    parser.add_argument("--seconds", type=float, default=0.2, help="of a burst, in one way")
    parser.add_argument("--within", type=float, default=float("inf"), help="seconds; no network begins later")
    parser.add_argument("--out", type=Path, default=DATA, help="where times are kept")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.worker:
        return _work(options.networks, options.seconds)
    from regroup.networks import networks

    begun, failed = time.monotonic(), 0
    left = missing(options.networks or list(networks), load(options.out), options.again)
    print(
        f"{len(left)} to measure; load {os.getloadavg()[0]:.1f}: on a quiet machine it is near 0", flush=True
    )
    for number, (name, found) in enumerate(_measured(left, options.seconds, begun + options.within), 1):
        failed += "error" in found
        if "error" not in found:
            _keep(options.out, name, found)
        said = found.get("error") or ", ".join(f"{way} {_ms(found[way])}" for way in WAYS)
        print(f"{number} of {len(left)}, {time.monotonic() - begun:.0f} s: {name}: {said}", flush=True)
    if failed:
        print(f"{failed} could not be measured: the same command tries them again", flush=True)
    return failed


def _keep(path: Path, name: str, found: dict[str, Any]) -> None:
    data, here = load(path), machine().to_dict()
    if here not in data["machines"]:
        data["machines"].append(here)
    number, date = data["machines"].index(here), datetime.now(UTC).strftime("%Y-%m-%d")
    data["networks"][name] = {"machine": number, "date": date, **found}
    save(data, path)


def _measured(names: Sequence[str], seconds: float, end: float) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield what other processes find, network by network; of one that ends its process, {"error": why}."""
    left = list(names)
    while left and time.monotonic() < end:
        for name, found in _of_process(tuple(left), seconds, end):
            left.remove(name)
            yield name, found


def _of_process(names: Sequence[str], seconds: float, end: float) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield what one process finds of some networks, until it has used much memory, or died."""
    command = [
        sys.executable,
        "-m",
        "docs.times",
        "--worker",
        "--seconds",
        str(seconds),
        "--networks",
        *names,
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        with selectors.DefaultSelector() as waiting:
            waiting.register(process.stdout, selectors.EVENT_READ)
            for name in names:
                heard = waiting.select(LIMIT)
                line = process.stdout.readline() if heard else ""
                if line == "full\n":
                    return
                if not line:
                    process.kill()
                    status = f"its process ended ({process.wait()})" if heard else f"no time in {LIMIT:.0f} s"
                    yield name, {"error": status}
                    return
                yield name, json.loads(line)
                if time.monotonic() >= end:
                    process.kill()
                    return


def _work(names: Sequence[str], seconds: float) -> int:
    """Print what is found of networks, a line each; "full" where another process should go on."""
    import torch

    if (first_to_die := Path("/proc/self/oom_score_adj")).exists():
        first_to_die.write_text("1000")  # rather than anything else on the machine
    for name in names:
        torch.manual_seed(0)
        try:
            found = measured(name, seconds)
        except (RuntimeError, MemoryError) as error:
            found = {"error": f"{type(error).__name__}: {str(error).splitlines()[0]}"}
        print(json.dumps(found), flush=True)
        if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > MOST_MEMORY:
            print("full", flush=True)
            return 0
    return 0


def measured(name: str, seconds: float) -> dict[str, Any]:
    """Return the median seconds of one image of the published size, in eval mode, and what the clock says."""
    import torch

    import regroup
    from regroup.profiling.clock import Timing, measure_in_turns

    model = regroup.create_model(name).eval()
    image = torch.rand(1, *model.pretrained_cfg["input_size"])
    fast = regroup.compile(model, image, frozen=True)
    best: dict[str, Timing] = {}
    with torch.inference_mode():
        calls = {"PyTorch": lambda: model(image), "regroup": lambda: fast(image)}
        for burst in range(1, BURSTS[1] + 1):
            taken = measure_in_turns(calls, seconds=seconds, warmup=seconds / 4, samples=(5, 200))
            for way, timing in taken.items():
                best[way] = min(timing, best.get(way, timing), key=lambda timing: timing.median)
            if burst >= BURSTS[0] and all(timing.verdict == "quiet" for timing in best.values()):
                break
    return {way: {"seconds": timing.median, "verdict": timing.verdict} for way, timing in best.items()}


if __name__ == "__main__":
    sys.exit(main())
