"""Measure the network that each family's page of the gallery shows: in PyTorch, and compiled by regroup.

    python -m docs.times                     those without a time of this machine; on a quiet one
    python -m docs.times --again             all of them
    python -m docs.times --out /tmp/t.json --seconds 0.01     only fill the cache of kernels

Times are kept in docs/times.json after every network, so that a run that was cut off goes on.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from docs.gallery import families, shown

import regroup
from regroup.profiling.clock import measure
from regroup.profiling.machine import machine

DATA = Path(__file__).with_name("times.json")


def main() -> None:
    """Measure what is missing."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--again", action="store_true", help="measure all of them")
    parser.add_argument("--seconds", type=float, default=0.6, help="time to measure one network in one way")
    parser.add_argument("--out", type=Path, default=DATA, help="where times are kept")
    options = parser.parse_args()
    found = json.loads(options.out.read_text()) if options.out.exists() else {}
    here = machine().to_dict()
    if options.again or found.get("machine") != here:
        found = {"machine": here, "networks": {}}
    for name, members in families().items():
        network, _ = shown(name, members)
        if network not in found["networks"]:
            found["networks"][network] = measured(network, options.seconds)
            options.out.write_text(json.dumps(found, indent=1) + "\n")
            print(network, found["networks"][network], flush=True)


def measured(name: str, seconds: float) -> dict[str, Any]:
    """Return the median seconds of one image of the published size, in eval mode, and what the clock says."""
    model = regroup.create_model(name).eval()
    image = torch.rand(1, *model.pretrained_cfg["input_size"])
    fast = regroup.compile(model, image, frozen=True)
    times = {}
    with torch.inference_mode():
        for who, call in (("PyTorch", model), ("regroup", fast)):
            timing = measure(lambda call=call: call(image), seconds=seconds, warmup=seconds / 4)
            times[who] = {"seconds": timing.median, "verdict": timing.verdict}
    return times


if __name__ == "__main__":
    main()
