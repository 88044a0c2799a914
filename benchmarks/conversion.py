"""What groups and repair keep of a trained network before it is trained again, by every choice.

    python -m benchmarks.conversion                 train three ResNets on glyphs, convert each in every way
    python -m benchmarks.conversion --runs runs     ... or take what is in runs/dense-0, runs/dense-1, ...
    python -m benchmarks.conversion --alone         ... only what each choice loses of layers by themselves
    python -m docs.conversion                       write the page

Each conversion is kept in docs/conversion.json when it is done; a run that was cut off goes on from there.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from regroup.conversion.blocks import BlockConfig, blocks_of, reconstruct
from regroup.conversion.choosing import choose
from regroup.conversion.damage import apart, divergence
from regroup.conversion.images import calibration
from regroup.conversion.leastsquares import Problem, relative_error, spread_out
from regroup.conversion.norms import reestimate
from regroup.conversion.regrouping import Method, regroup_layers
from regroup.conversion.separating import solved as separable
from regroup.conversion.statistics import collect
from regroup.loading import load
from regroup.spec import divisors
from regroup.strategies import parse_strategy
from regroup.training import DataSet, evaluate, load_data
from regroup.training.data import Loader

DATA = Path(__file__).parent.parent / "docs" / "conversion.json"
CHOICES = ("magnitude", "gain", "contiguous", "overlapping", "activation", "random")
GROUPS = (2, 4, 8)
FITTED = ("magnitude", "gain")
"""Choices after which blocks are fitted too: that takes longest."""
POSITIONS = 24
TRAINED = {"model": "resnet_small", "data": "glyphs", "epochs": 12, "batch_size": 128, "lr": 0.1}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=Path, default=Path("runs/conversion"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--images", type=int, default=256, help="for calibration")
    parser.add_argument("--alone", action="store_true", help="no whole networks: a minute")
    parser.add_argument("--json", type=Path, default=DATA)
    options = parser.parse_args(argv)
    data = load_data("glyphs")
    found = json.loads(options.json.read_text()) if options.json.exists() else {"settings": {}, "rows": {}}
    settings = {**TRAINED, "images": options.images, "positions": POSITIONS}
    if found["rows"] and found["settings"] != settings:
        raise SystemExit(f"{options.json} has rows of other settings: {found['settings']}; move it away")
    found["settings"] = settings
    for seed in options.seeds:
        original = _dense(options.runs / f"dense-{seed}", seed, data)
        batches = calibration(data, options.images, seed=seed)
        unseen = calibration(data, options.images, seed=seed + 1000)
        found.setdefault("alone", {}).update(_alone(original, batches, unseen, seed))
        _save(options.json, found)
        for key, row in () if options.alone else _rows(original, data, batches, seed, found["rows"]):
            found["rows"][key] = row
            print(key, row, flush=True)
            _save(options.json, found)


def _dense(directory: Path, seed: int, data: DataSet) -> nn.Module:
    """Return the trained network of a seed; train it first if it is not there."""
    from regroup.cli import main as regroup

    if not (directory / "weights").exists():
        given = {"model": TRAINED["model"], "data": TRAINED["data"], "epochs": TRAINED["epochs"]}
        given |= {"batch-size": TRAINED["batch_size"], "lr": TRAINED["lr"], "warmup-epochs": 1}
        given |= {"weight-decay": 5e-4, "seed": seed, "output": directory}
        flags = [text for name, value in given.items() for text in (f"--{name}", str(value))]
        if regroup(["train", *flags]):
            raise SystemExit(f"{directory} could not be trained")
    return load(directory)


def _rows(
    original: nn.Module, data: DataSet, batches: list[Tensor], seed: int, known: dict[str, Any]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield a row for the dense network, and for each conversion of it that is not known yet."""

    def row(model: nn.Module, layers: list[str]) -> dict[str, Any]:
        scores = evaluate(model, Loader(data, 256, train=False))
        errors = apart(model, original, layers, batches)
        return {
            "top1": scores.top1,
            "loss": scores.loss,
            "divergence": divergence(model, original, batches),
            "layer_error": sum(errors.values()) / len(errors) if errors else 0.0,
            "layers": errors,
        }

    if f"{seed}/dense" not in known:
        yield f"{seed}/dense", row(original, [])
    everything = {n: m for n, m in original.named_modules() if isinstance(m, nn.Conv2d)}
    moments = None
    for groups, choice in ((g, c) for c, g in product(CHOICES, GROUPS)):
        layers = {
            n: groups for n, m in everything.items() if groups in divisors(m.in_channels, m.out_channels)
        }
        start = f"{seed}/{groups}/{choice}"
        if f"{start}/none" not in known or f"{start}/norms" not in known:
            moments = moments or collect(original, list(everything), batches, positions=POSITIONS, seed=seed)
            model = copy.deepcopy(original)
            regroup_layers(
                model, original, layers, batches, Method(choice, False, POSITIONS, seed), moments=moments
            )
            yield f"{start}/none", row(model, list(layers))
            reestimate(model, batches)
            yield f"{start}/norms", row(model, list(layers))
        if f"{start}/{'blocks' if choice in FITTED else 'squares+norms'}" not in known:
            model = copy.deepcopy(original)
            regroup_layers(model, original, layers, batches, Method(choice, True, POSITIONS, seed))
            yield f"{start}/squares", row(model, list(layers))
            reestimate(model, batches)
            yield f"{start}/squares+norms", row(model, list(layers))
            if choice not in FITTED:
                continue
            reconstruct(model, original, blocks_of(original, layers), batches, BlockConfig(seed=seed))
            yield f"{start}/blocks", row(model, list(layers))


def _alone(
    original: nn.Module, batches: list[Tensor], unseen: list[Tensor], seed: int
) -> dict[str, dict[str, float]]:
    """Return what layers lose by themselves, their inputs undamaged: relative errors, mean over layers."""
    layers = {n: m for n, m in original.named_modules() if isinstance(m, nn.Conv2d) and m.in_channels > 3}
    moments, others = (
        collect(original, list(layers), b, positions=POSITIONS, seed=seed) for b in (batches, unseen)
    )
    kernels = {n: m.weight.detach().double().flatten(2) for n, m in layers.items()}
    found = {}
    for groups, choice in product(GROUPS, CHOICES):
        errors = []
        for name, kernel in kernels.items():
            seen = moments[name]
            part = choose(choice, kernel, seen.inputs, groups, seed)
            problem = Problem(kernel, seen.inputs)
            masked, solved = (
                spread_out(w, part, kernel.shape[1]) for w in (problem.masked(part), problem.solve(part))
            )
            errors.append((masked, solved, name))
        found[f"{seed}/{groups}/{choice}"] = _means(errors, moments, others)
    for multiplier in (1, 2):
        errors = []
        for name, kernel in kernels.items():
            if kernel.shape[2] > 1:
                start = parse_strategy(f"separable:multiplier={multiplier}").from_dense(layers[name]).module
                filters, mixing = separable(kernel, moments[name].inputs, multiplier)
                plain = [m.weight.detach().double() for m in (start[0], start[2])]
                plain = plain[0].view_as(filters), plain[1].flatten(1).view_as(mixing)
                errors.append((_product(*plain), _product(filters, mixing), name))
        found[f"{seed}/separable:multiplier={multiplier}/-"] = _means(errors, moments, others)
    return found


def _product(filters: Tensor, mixing: Tensor) -> Tensor:
    return torch.einsum("mcj,cjk->mck", mixing, filters)


def _means(errors: list, moments: dict, others: dict) -> dict[str, float]:
    def mean(values: Iterator[float]) -> float:
        return sum(values) / len(errors)

    return {
        "masked": mean(relative_error(masked, moments[name]) for masked, _, name in errors),
        "solved": mean(relative_error(solved, moments[name]) for _, solved, name in errors),
        "unseen": mean(relative_error(solved, others[name]) for _, solved, name in errors),
    }


def _save(path: Path, found: dict[str, Any]) -> None:
    new = path.with_suffix(".new")
    new.write_text(json.dumps(found, indent=1) + "\n")
    new.replace(path)


if __name__ == "__main__":
    main()
