"""Draw docs/ties.svg: which channels of ResNet-18's first two stages share an order.

python -m docs.ties
"""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import torch
import torchvision
from matplotlib import pyplot as plt

from regroup.conversion.tying import Tying, tied_sets

PICTURE = Path(__file__).with_name("ties.svg")
LAYERS = ("conv1", "layer1.", "layer2.")
MADE, READ = "#20639b", "#ffffff"


def main() -> None:
    """Find the sets, and draw them."""
    model = torchvision.models.resnet18()
    mpl.rcParams["svg.hashsalt"] = "ties"  # the same file every time
    draw(model, tied_sets(model, torch.zeros(1, 3, 64, 64)))
    plt.savefig(PICTURE, metadata={"Date": None}, bbox_inches="tight")


def draw(model: torch.nn.Module, ties: Tying) -> None:
    """Draw a row for each convolution and a column for each set: who makes its channels, who reads them."""
    rows = [n for n, m in model.named_modules() if isinstance(m, torch.nn.Conv2d) and n.startswith(LAYERS)]
    columns = [s for s in ties.sets if set(rows) & {*s.made_by} and set(rows) & {*s.read_by}]
    figure, axes = plt.subplots(figsize=(7, 4.2))
    for x, tied in enumerate(columns):
        makes = [rows.index(n) for n in tied.made_by if n in rows]
        reads = [rows.index(n) for n in tied.read_by if n in rows]
        axes.plot([x, x], [min(makes + reads), max(makes + reads)], color=MADE, linewidth=2, zorder=1)
        axes.scatter([x - 0.14] * len(makes), makes, 90, MADE, edgecolors=MADE, marker="s", zorder=2)
        axes.scatter([x + 0.14] * len(reads), reads, 90, READ, edgecolors=MADE, marker="s", zorder=2)
    axes.scatter([], [], 60, MADE, marker="s", label="makes them (rows of its weight)")
    axes.scatter([], [], 60, READ, edgecolors=MADE, marker="s", label="reads them (columns of its weight)")
    axes.set_yticks(range(len(rows)), rows, family="monospace")
    axes.set_xticks(range(len(columns)), [f"{s.size}" for s in columns])
    axes.set_xlabel("tied sets, by their number of channels")
    axes.invert_yaxis()
    axes.grid(axis="y", color="#e5e5e5")
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
    figure.legend(loc="upper center", ncols=2, frameon=False)


if __name__ == "__main__":
    main()
