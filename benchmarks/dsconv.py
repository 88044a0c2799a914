"""DSConv on a trained network: accuracy at 8, 4, 3, 2 bits, before and after adaptation; bytes on disk.

python -m benchmarks.dsconv
python -m benchmarks.dsconv --data glyphs --image 32 --epochs 20 --json dsconv.json

A network is trained once. Each setting converts a copy of it, without any data, and then adapts that copy to
the training images without their labels, the trained network being the teacher.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

import regroup
from regroup.conversion.packed import save_packed
from regroup.conversion.quantise import bits_per_weight, quantise
from regroup.networks.anywhere import create_any_model
from regroup.strategies import parse_strategy
from regroup.strategies.shifted import Shifted
from regroup.training import DataSet, TrainConfig, evaluate, load_data, save_weights, train
from regroup.training.data import Loader


@dataclass(frozen=True)
class Row:
    """What one setting gave."""

    strategy: str
    bits_per_weight: float
    bytes: int
    converted: float
    """Top-1 right after the conversion, in percent."""
    adapted: float
    """Top-1 after adaptation without labels, in percent."""


def main() -> None:
    """Train, convert, adapt, tell."""
    options = _options()
    data = load_data(options.data, options.image)
    config = TrainConfig(epochs=options.epochs, lr=0.05, weight_decay=5e-4, warmup_epochs=1, display="quiet")
    torch.manual_seed(0)
    teacher = create_any_model(options.model, num_classes=len(data.classes), in_chans=data.shape[0])
    top1 = train(teacher, data, config).last.score
    size = _bytes_on_disk(teacher)
    Console().print(f"{options.model} on {data.name}: top-1 {top1:.2f} %, {size} bytes of float32")
    rows = []
    for bits in options.bits:
        for block in options.blocks:
            label = f"shifted:bits={bits},block={block}"
            label += f",mantissa={options.mantissa}" if options.mantissa else ""
            rows.append(_row(teacher, data, label, options))
            Console().print(rows[-1])
    _show(rows, top1, size)
    if options.json:
        result = {"model": options.model, "data": data.name, "top1": top1, "bytes": size}
        options.json.write_text(json.dumps({**result, "rows": [asdict(r) for r in rows]}, indent=1))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="resnet_small")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--image", type=int)
    parser.add_argument("--epochs", type=int, default=10, help="of the training")
    parser.add_argument("--adapt-epochs", type=int, default=2)
    parser.add_argument("--adapt-lr", type=float, default=0.005)
    parser.add_argument("--bits", type=int, nargs="+", default=[8, 4, 3, 2])
    parser.add_argument("--blocks", type=int, nargs="+", default=[32, 64, 128])
    parser.add_argument("--mantissa", type=int, help="bits of activations in block floating point")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def _row(teacher: nn.Module, data: DataSet, label: str, options: argparse.Namespace) -> Row:
    final = copy.deepcopy(teacher)
    quantise(final, label)
    model = copy.deepcopy(teacher)
    quantise(model, label, adapt=True)
    config = TrainConfig(
        epochs=options.adapt_epochs, lr=options.adapt_lr, distillation_alpha=1, display="quiet"
    )
    train(model, data, config, teacher=teacher)
    adapted = regroup.deploy(model)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "packed.safetensors"
        save_packed(path, adapted)
        size = path.stat().st_size
    test = Loader(data, 256, train=False)
    return Row(
        label, bits_per_weight(adapted), size, evaluate(final, test).top1, evaluate(adapted, test).top1
    )


def _bytes_on_disk(model: nn.Module) -> int:
    with tempfile.TemporaryDirectory() as directory:
        path = save_weights(Path(directory) / "weights", model)
        return (path / "weights.safetensors").stat().st_size


def _show(rows: list[Row], top1: float, size: int) -> None:
    columns = ("bits, block", "bits/weight", "bytes", "of float32", "converted", "adapted")
    table = Table(*columns, title="top-1 in percent")
    table.add_row("float32", "32", str(size), "100 %", f"{top1:.2f}", "")
    for r in rows:
        share = f"{100 * r.bytes / size:.1f} %"
        numbers = f"{r.bits_per_weight:.2f}", str(r.bytes), share, f"{r.converted:.2f}", f"{r.adapted:.2f}"
        form = parse_strategy(r.strategy)
        assert isinstance(form, Shifted)
        table.add_row(f"{form.bits}, {form.block}", *numbers)
    Console().print(table)


if __name__ == "__main__":
    main()
