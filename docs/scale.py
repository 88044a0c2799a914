"""Write docs/scale.md's table: a comparison on ImageNet, simulated training by training, on 8 to 512 GPUs.

python -m docs.scale

Every training is a task of one GPU, begun in the order in which `regroup compare --on` submits them, on
whichever GPU is free. Nodes of eight GPUs fail at random times; what ran there begins again on the next free
GPU at its last checkpoint, which each epoch ends with.
"""

from __future__ import annotations

import heapq
import json
import math
import random
import re
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

HERE = Path(__file__).parent
PAGE, FIGURES = HERE / "scale.md", HERE / "strategies.json"
IMAGES, TESTED, EPOCHS, SEEDS, NODE = 1_281_167, 50_000, 90, 3, 8
RESOLUTION = 4  # 224 x 224 has four times the MACs of 112 x 112, for which the figures are
RATE = 12e12
"""MACs a second that training makes of an H100 in bfloat16: 5 per cent of its peak, for narrow layers."""
READ = 3000
"""Images a second that a GPU's share of the machine reads and varies."""
LIFE = 264 * 86400
"""Seconds between failures of a node: 419 in 54 days on 2048 (Llama 3, arXiv:2407.21783, section 3.3.4)."""
RESTART = 300
"""Seconds until a task is begun again elsewhere, and reads its checkpoint."""
ROUNDS = 20


@dataclass(frozen=True)
class Outcome:
    """Hours until the last training ends, the share of GPU time that trains, failures and GPU hours lost."""

    hours: float
    busy: float
    failures: float
    lost: float


def epochs_of_all() -> list[float]:
    """Return the seconds of an epoch of each strategy, from its MACs or from what reading allows."""
    rows = json.loads(FIGURES.read_text())["rows"]
    macs = {row["strategy"]: row["macs"] * RESOLUTION for row in rows}
    return [max((3 * IMAGES + TESTED) * m / RATE, (IMAGES + TESTED) / READ) for m in macs.values()]


def simulate(epochs: list[float], gpus: int, life: float, seed: int) -> Outcome:
    """Train everything once, on so many GPUs, with failures at random."""
    chance = random.Random(f"{seed} {gpus}")
    waiting = [(each, EPOCHS) for each in epochs for _ in range(SEEDS)][::-1]
    failing = [(chance.expovariate(1 / life), node) for node in range(math.ceil(gpus / NODE))]
    heapq.heapify(failing)
    running: list[tuple[float, int, float, float, int]] = []  # end, GPU, begun, an epoch, epochs
    free, now, failures, lost = list(range(gpus))[::-1], 0.0, 0, 0.0
    while waiting or running:
        while waiting and free:
            epoch, left = waiting.pop()
            heapq.heappush(running, (now + epoch * left, gpu := free.pop(), now, epoch, left))
        if failing[0][0] < running[0][0]:
            now, node = heapq.heappop(failing)
            heapq.heappush(failing, (now + chance.expovariate(1 / life), node))
            failures += 1
            hit = [task for task in running if task[1] // NODE == node]
            for task in hit:
                _, gpu, begun, epoch, left = task
                done = min(left - 1, max(0, int((now - begun) / epoch)))
                lost += now - begun - done * epoch + RESTART
                running.remove(task)
                waiting.append((epoch, left - done))
                free.append(gpu)
            heapq.heapify(running)
            now += RESTART if hit else 0
        else:
            now, gpu, *_ = heapq.heappop(running)
            free.append(gpu)
    useful = sum(epochs) * SEEDS * EPOCHS
    return Outcome(now / 3600, useful / (now * gpus), failures, lost / 3600)


def table() -> str:
    """Return the lines of the page's table, and what they say."""
    epochs = epochs_of_all()
    longest, total = max(epochs) * EPOCHS / 3600, sum(epochs) * SEEDS * EPOCHS / 3600
    lines = [
        f"{len(epochs)} strategies, {SEEDS} seeds, {EPOCHS} epochs: {total:.0f} GPU hours in "
        f"{len(epochs) * SEEDS} trainings, the longest of {longest:.1f} hours; {ROUNDS} simulations a row.",
        "",
        "| GPUs | hours | at best | GPUs that train | failures of nodes | GPU hours lost "
        "| hours if nodes fail ten times as often |",
        "|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for gpus in (8, 16, 32, 64, 128, 256, 512):
        found = [simulate(epochs, gpus, LIFE, seed) for seed in range(ROUNDS)]
        worse = [simulate(epochs, gpus, LIFE / 10, seed) for seed in range(ROUNDS)]
        best = max(longest, total / gpus)
        lines.append(
            f"| {gpus} | {mean(f.hours for f in found):.1f} | {best:.1f} "
            f"| {100 * mean(f.busy for f in found):.0f} % "
            f"| {mean(f.failures for f in found):.2f} | {mean(f.lost for f in found):.2f} "
            f"| {mean(f.hours for f in worse):.1f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Write the table into the page."""
    text = PAGE.read_text()
    between = re.compile(r"(<!-- begin: docs.scale -->\n).*?(\n<!-- end -->)", re.DOTALL)
    PAGE.write_text(between.sub(lambda m: m[1] + table() + m[2], text))


if __name__ == "__main__":
    main()
