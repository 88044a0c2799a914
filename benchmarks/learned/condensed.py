"""CondenseNet trained from scratch in runs of different lengths, and what deploying it changes.

python -m benchmarks.learned.condensed
python -m benchmarks.learned.condensed --model condensenetv2_a --epochs 1 30 --json condensed.json
python -m benchmarks.learned.condensed --data digits --image 8 --epochs 1 5

Every run must end with the same number of inputs in every group, however short it is: the table says how many
groups have the share that they shall have. The two strategies as drop-ins, beside fixed groups of equal cost:

regroup compare --data glyphs --image 32 --model resnet20 --epochs 30 --seeds 3
    --strategies condensed:groups=4 reactivated:groups=4 grouped:groups=4 shuffled:groups=4
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from regroup.networks import create_model
from regroup.ops.counting import count
from regroup.strategies.condensing import CondensingConv
from regroup.strategies.learning import deploy, learned_modules
from regroup.training import DataSet, TrainConfig, evaluate, load_data, train
from regroup.training.data import Loader


@dataclass(frozen=True)
class Row:
    """One run: counts of the learning and of the deployed network, accuracies in per cent."""

    epochs: int
    groups: int
    complete: int
    parameters: int
    deployed_parameters: int
    macs: int
    deployed_macs: int
    top1: float
    deployed_top1: float


def measure(name: str, data: DataSet, epochs: int, seed: int) -> Row:
    """Train a network for `epochs` and deploy it."""
    torch.manual_seed(seed)
    model = create_model(name, num_classes=len(data.classes), in_chans=data.shape[0], learned=True)
    history = train(model, data, TrainConfig(epochs=epochs, lr=0.05, seed=seed))
    plain = deploy(model)
    metrics = evaluate(plain, Loader(data, batch_size=256, train=False))
    learning, deployed = (count(m, data.shape[1:], data.shape[0]) for m in (model, plain))
    layers = [m for m in learned_modules(model).values() if isinstance(m, CondensingConv)]
    complete = [(layer.kept.sum(1) == layer.channels // layer.factor).tolist() for layer in layers]
    groups = [group for layer in complete for group in layer]
    return Row(
        epochs,
        len(groups),
        sum(groups),
        learning.parameters,
        deployed.parameters,
        learning.macs,
        deployed.macs,
        history.last.score,
        metrics.top1,
    )


def main() -> None:
    """Print a table, a run a line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="condensenet_cifar_50")
    parser.add_argument("--data", default="glyphs")
    parser.add_argument("--image", type=int, default=32)
    parser.add_argument("--epochs", type=int, nargs="+", default=[1, 30])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    data = load_data(options.data, options.image)
    rows = [measure(options.model, data, epochs, options.seed) for epochs in options.epochs]
    table = Table("epochs", "groups", "complete", "parameters", "MACs", "top-1", title=options.model)
    for row in rows:
        table.add_row(
            str(row.epochs),
            str(row.groups),
            str(row.complete),
            f"{row.parameters:,} -> {row.deployed_parameters:,}",
            f"{row.macs:,} -> {row.deployed_macs:,}",
            f"{row.top1:.2f} -> {row.deployed_top1:.2f}",
        )
    Console().print(table)
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))


if __name__ == "__main__":
    main()
