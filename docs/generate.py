"""Write docs/networks.md: what every network of regroup costs, how it mixes channels, how long it takes.

    python -m docs.generate                  count the networks that are new, and write the page
    python -m docs.generate --recount        count all of them again (half an hour)
    python -m docs.generate --time           also measure those without a time: on a quiet machine
    python -m docs.generate --retime         measure all of them again

What was counted and measured is kept in docs/networks.json after every network, so that a run that was cut
off can be started again. All times are of one machine: on another one they are all measured again.
"""

from __future__ import annotations

import argparse
import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from regroup.networks import Network, create_model, networks
from regroup.profiling.clock import measure
from regroup.profiling.cost import cost
from regroup.profiling.machine import Machine, machine
from regroup.profiling.reach import depth, mixing, smallest
from regroup.report import text

DATA = Path(__file__).with_name("networks.json")
PAGE = Path(__file__).with_name("networks.md")
COLUMNS = ("network", "image", "parameters", "MACs", "if dense", "bytes", "rearranged", "activations")
COLUMNS += ("depth", "to mix", "time")


def main(argv: list[str] | None = None) -> None:
    """Bring the data up to date and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recount", action="store_true", help="count every network again")
    parser.add_argument("--time", action="store_true", help="measure every network without a time")
    parser.add_argument("--retime", action="store_true", help="measure every network again")
    parser.add_argument("--seconds", type=float, default=2.0, help="time to measure one network")
    options = parser.parse_args(argv)
    data = load()
    data["networks"] = {name: data["networks"].get(name, {}) for name in networks}
    try:
        for name, entry in data["networks"].items():
            if options.recount or "macs" not in entry:
                _report(name, data, counted(networks[name]))
        if options.time or options.retime:
            measure_all(data, options.seconds, again=options.retime)
    finally:
        data["networks"] = {name: entry for name, entry in data["networks"].items() if "macs" in entry}
        save(data)
        PAGE.write_text(page(data))


def measure_all(data: dict[str, Any], seconds: float, again: bool) -> None:
    """Measure the networks that have no time of this machine; with `again`, all of them."""
    here = machine().to_dict()
    if again or data["machine"] != here:
        for entry in data["networks"].values():
            entry["seconds"] = None
    data["machine"] = here
    for name, entry in data["networks"].items():
        if entry["seconds"] is None:
            _report(name, data, {"seconds": measured(networks[name], seconds)})


def _report(name: str, data: dict[str, Any], found: dict[str, Any]) -> None:
    """Keep what was found of a network, and say how far it is."""
    data["networks"][name] = {"seconds": None, **data["networks"][name], **found}
    save(data)
    number = list(data["networks"]).index(name) + 1
    seconds = found.get("seconds")
    what = f"{text.milliseconds(1e3 * seconds['median'])}, {seconds['verdict']}" if seconds else "counted"
    print(f"{number} of {len(data['networks'])}: {name}: {what}", flush=True)


def load() -> dict[str, Any]:
    """Return the data as stored: {"machine": ..., "networks": {name: figures}}."""
    return json.loads(DATA.read_text()) if DATA.exists() else {"machine": None, "networks": {}}


def save(data: dict[str, Any]) -> None:
    """Store the data, whole or not at all."""
    new = DATA.with_suffix(".new")
    new.write_text(json.dumps(data, indent=1) + "\n")
    new.replace(DATA)


def counted(network: Network) -> dict[str, Any]:
    """Return what can be counted: the same on every machine."""
    model = create_model(network.name)
    height, width = network.claims.size
    total = cost(model, torch.empty(1, 3, height, width)).total
    (image,) = smallest(model, torch.rand(1, 3, height, width))
    mixed = mixing(model, image)
    return {
        "size": [height, width],
        "parameters": total.parameters,
        "macs": total.macs,
        "dense_macs": total.dense_macs,
        "bytes": total.bytes,
        "bytes_rearranged": total.bytes_rearranged,
        "activations": total.activations,
        "depth": depth(model, image),
        "mixing_depth": mixed.depth,
        "mixing_start": mixed.start,
        "assumed": list(mixed.assumed),
    }


def measured(network: Network, seconds: float) -> dict[str, Any]:
    """Return the time of one image in eval mode, in seconds."""
    model, image = create_model(network.name).eval(), torch.rand(1, 3, *network.claims.size)
    with torch.inference_mode():
        timing = measure(lambda: model(image), seconds=seconds, warmup=seconds / 4)
    return {"median": timing.median, "low": timing.low, "high": timing.high, "verdict": timing.verdict}


def page(data: dict[str, Any]) -> str:
    """Return the page: a table for each paper's networks."""
    return "\n".join([*_introduction(data), *_tables(data), ""])


def _introduction(data: dict[str, Any]) -> Iterator[str]:
    yield "# Networks"
    yield ""
    yield "Generated by `python -m docs.generate` (`make docs`) from `docs/networks.json`. Do not edit."
    yield ""
    yield f"{len(data['networks'])} networks, each on one image of its published size."
    yield ""
    yield "- **MACs**: multiply-adds of convolutions and linear layers; one MAC is two FLOPs."
    yield "- **if dense**: how many times as many MACs it would take with every convolution ungrouped."
    yield "- **bytes**: read and written by all operators, in float32, as if no cache held any;"
    yield "  **rearranged**: the part that computes nothing (shuffles, gathers, concatenations, copies)."
    yield "- **depth**: convolutions and linear layers on the longest way through, gates included."
    yield "- **to mix**: from the grouped convolution where it takes longest, the layers it takes until every"
    yield "  output depends on every channel that entered. 1: no groups; 2: the next layer does it."
    yield "- **time**: median of one image in eval mode; (!) where the clock calls it noisy."
    yield ""
    measured = sum(entry["seconds"] is not None for entry in data["networks"].values())
    if measured < len(data["networks"]):
        missing = f"{len(data['networks']) - measured} of {len(data['networks'])} times are missing (-)"
        yield f"{missing}: `python -m docs.generate --time` on a quiet machine adds them."
    if measured:
        yield f"Times were measured on {Machine(**data['machine'])}."


def _tables(data: dict[str, Any]) -> Iterator[str]:
    families: dict[str, list[str]] = {}
    for name in data["networks"]:
        families.setdefault(networks[name].build.__module__, []).append(name)
    for family, names in sorted(families.items()):
        summary = (importlib.import_module(family).__doc__ or family).splitlines()[0]
        papers = sorted({networks[name].paper for name in names})
        yield ""
        yield f"## {summary}"
        yield ""
        yield f"Source file: `{family.replace('.', '/')}.py`. Paper: {', '.join(papers)}."
        yield ""
        yield f"| {' | '.join(COLUMNS)} |"
        yield "|---|" + "--:|" * (len(COLUMNS) - 1)
        for name in sorted(names, key=lambda name: data["networks"][name]["macs"]):
            yield _row(name, data["networks"][name])


def _row(name: str, figures: dict[str, Any]) -> str:
    return f"| {' | '.join((f'`{name}`', *cells(figures)))} |"


def cells(figures: dict[str, Any]) -> list[str]:
    """Return what the columns after the name say of a network."""
    seconds = figures["seconds"]
    time = "-"
    if seconds:
        time = text.milliseconds(1e3 * seconds["median"])
        time += "" if seconds["verdict"] == "quiet" else " (!)"
    return [
        "x".join(map(str, figures["size"])),
        f"{figures['parameters']:,}",
        text.count(figures["macs"]),
        f"{figures['dense_macs'] / figures['macs']:.1f}x",
        f"{text.count(figures['bytes'])}B",
        text.percent(figures["bytes_rearranged"] / figures["bytes"]),
        text.count(figures["activations"]),
        str(figures["depth"]),
        str(figures["mixing_depth"] or "never") + ("*" if figures["assumed"] else ""),
        time,
    ]


if __name__ == "__main__":
    main()
