"""The experiments of docs/claims.md. Each returns a table, a verdict, and why."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from benchmarks.strategies import rows_of
from torch import nn
from torch.nn import functional as F

import regroup
from regroup.ops.layers import block_diagonal
from regroup.profiling.reach import mixing
from regroup.report import text

Measure = Callable[["Setting"], dict[str, Any]]
GROUPS = (1, 2, 4, 8, 16, 32)


@dataclass(frozen=True)
class Setting:
    """How an experiment trains: side of the images, trainings of each network, where they are kept."""

    image: int
    seeds: int
    out: Path


@dataclass(frozen=True)
class Claim:
    """What is said, and what would show it: the documentation of what measures it."""

    name: str
    said: str
    measure: Callable[[Setting], dict[str, Any]]
    trains: bool = False

    @property
    def experiment(self) -> str:
        """What is measured, and how."""
        return inspect.getdoc(self.measure) or ""


CLAIMS: dict[int, Claim] = {}
"""By their numbers; those that train are in docs/trainings.py."""


def claim(number: int, said: str, trains: bool = False) -> Callable[[Measure], Measure]:
    """Register what measures a claim."""

    def register(measure: Measure) -> Measure:
        CLAIMS[number] = Claim(measure.__name__, said, measure, trains)
        return measure

    return register


def found_out(
    columns: Sequence[str], rows: Sequence[Sequence[object]], verdict: str, because: str
) -> dict[str, Any]:
    """Return what an experiment gave: a table, a verdict in a few words, and a sentence or two."""
    cells = [[str(cell) for cell in row] for row in rows]
    return {"columns": list(columns), "rows": cells, "verdict": verdict, "because": because}


@claim(1, "A grouped convolution is a dense one with a block-diagonal kernel")
def block_diagonal_equals(_: Setting) -> dict[str, Any]:
    """Kernels and images of whole numbers from -8 to 8, so that no order of adding rounds: both forms are
    computed and compared.
    """
    rows, equal = [], True
    for groups in GROUPS:
        torch.manual_seed(groups)
        weight = torch.randint(-8, 9, (64, 64 // groups, 3, 3)).float()
        x = torch.randint(-8, 9, (2, 64, 14, 14)).float()
        grouped, dense = (
            F.conv2d(x, weight, padding=1, groups=groups),
            F.conv2d(x, block_diagonal(weight, groups), padding=1),
        )
        different = int((grouped != dense).sum())
        equal &= not different
        rows.append([groups, weight.numel(), f"{1 - 1 / groups:.0%}", different])
    return found_out(
        ("groups", "kernel's numbers", "zeros in the dense kernel", "outputs that differ"),
        rows,
        "yes, exactly" if equal else "no",
        "It is the definition that every strategy here is tested against.",
    )


@claim(2, "Parameters and computation fall in proportion to 1/G")
def cost_falls(_: Setting) -> dict[str, Any]:
    """One 3x3 convolution, and ResNet-50 with groups in all its 3x3 convolutions, counted."""
    rows = []
    spec = regroup.ConvSpec(256, 256, 3, padding=1)
    totals = {}
    for groups in GROUPS:
        model = regroup.create_model("resnet50")
        if groups > 1:
            regroup.replace(model, f"grouped:groups={groups}", weights="fresh")
        totals[groups] = regroup.profile(model, torch.zeros(1, 3, 64, 64), time=False).total
        cost, dense = spec.cost((14, 14), groups), spec.cost((14, 14))
        shares = [totals[groups].parameters / totals[1].parameters, totals[groups].macs / totals[1].macs]
        rows.append([groups, text.percent(cost.macs / dense.macs), *map(text.percent, shares)])
    left = totals[32].macs / totals[1].macs
    return found_out(
        ("groups", "of a 3x3 convolution's cost", "of ResNet-50's parameters", "of its MACs"),
        rows,
        "yes for the layer, not for the network",
        "The layer costs 1/G. Of ResNet-50, with 32 groups in all its 3x3 convolutions, "
        f"{left:.0%} of the MACs are left: the 1x1 convolutions, the first one and the classifier have no "
        "groups. Say: *its share of the cost* falls as 1/G.",
    )


@claim(4, "Channels of a group share weights")
def weights_are_not_shared(_: Setting) -> dict[str, Any]:
    """One number of a grouped kernel is changed, and the outputs that change are counted."""
    torch.manual_seed(0)
    layer, x = (
        nn.Conv2d(12, 12, 3, padding=1, groups=3, bias=False).double(),
        torch.randn(1, 12, 9, 9).double(),
    )
    before, rows = layer(x), []
    with torch.no_grad():
        layer.weight[5, 2, 1, 1] += 1.0
    after = layer(x)
    channels = (before != after).flatten(2).any(2)[0].nonzero().flatten().tolist()
    places = int((before != after)[0, 5].sum())
    kernels = len({tuple(k.tolist()) for k in layer.weight.flatten(2).flatten(0, 1)})
    shifted = torch.equal(layer(x.roll(1, 3))[..., 2:-2], after.roll(1, 3)[..., 2:-2])
    rows.append(["output channels that one number of the kernel reaches", len(channels)])
    rows.append(["places of that channel that it reaches, of 81", places])
    rows.append(["different kernels, of 12 x 4 pairs of channels of one group", kernels])
    rows.append(["a shifted image gives the shifted output", "yes" if shifted else "no"])
    return found_out(
        ("measured", "found"),
        rows,
        "no",
        "Every pair of an input and an output of a group has a kernel of its "
        "own. What is shared is each kernel, over "
        "the places of the image, as in every convolution. Say: *channels of a group share their inputs*.",
    )


@claim(6, "It saves most where there are many channels")
def gain_over_width(_: Setting) -> dict[str, Any]:
    """A 3x3 convolution in 4 groups with batch norm, over its width, counted."""
    rows, shares = [], []
    for width in (16, 32, 64, 128, 256, 512, 1024):
        spec = regroup.ConvSpec(width, width, 3, padding=1)
        norm = 2 * width
        dense, grouped = spec.cost((14, 14)), spec.cost((14, 14), 4)
        shares.append((grouped.parameters + norm) / (dense.parameters + norm))
        saved = dense.macs - grouped.macs
        rows.append([width, text.percent(grouped.macs / dense.macs), f"{shares[-1]:.2%}", text.count(saved)])
    return found_out(
        ("channels", "of the MACs", "of the parameters, norm included", "MACs saved at 14x14"),
        rows,
        "yes in what is saved, no in the share",
        "The share is 1/4 whatever the width (narrow layers keep a little "
        "more, for norms have no groups). What is saved "
        "grows with the square of the channels.",
    )


@claim(11, "Information stays inside the groups; a shuffle restores the flow")
def groups_do_not_talk(_: Setting) -> dict[str, Any]:
    """Four layers of 1x1 convolutions in 4 groups: how many it takes until all is mixed, and whether they
    learn the product of a channel of the first group and one of the last; three seeds.
    """
    rows, solved = [], {}
    forms = {"grouped:groups=4": "grouped", "shuffled:groups=4": "shuffled", "interleaved": "interleaved"}
    for label, name in {**forms, "dense": "dense"}.items():
        spec = regroup.ConvSpec(16, 16, 1)
        torch.manual_seed(0)
        stack = nn.Sequential(*(regroup.parse_strategy(label).build(spec) for _ in range(4)))
        depth = mixing(stack, torch.zeros(1, 16, 2, 2), start="0").depth
        errors = [_product_task(label, seed) for seed in range(3)]
        solved[name] = fmean(errors)
        rows.append([f"`{label}`", depth or "never", f"{fmean(errors):.2f} ± {stdev(errors):.2f}"])
    holds = solved["grouped"] > 0.8 and max(solved["shuffled"], solved["dense"]) < 0.5
    return found_out(
        ("four layers", "convolutions until all is mixed", "error left, of 1"),
        rows,
        "yes" if holds else "no",
        "The task is the product of a channel of the first group with one of "
        "the last. Without a way between the groups "
        "no amount of training helps: the error is that of the best guess. "
        "With a shuffle between it is solved as a "
        "dense network solves it.",
    )


def _product_task(label: str, seed: int) -> float:
    """Return the share of the variance of y = x_0 x_15 that is left when four layers have learned it."""
    torch.manual_seed(seed)
    spec = regroup.ConvSpec(16, 16, 1)
    layers = [
        part
        for _ in range(4)
        for part in (regroup.parse_strategy(label).build(spec), nn.BatchNorm2d(16), nn.ReLU())
    ]
    model = nn.Sequential(*layers)
    read = nn.Parameter(torch.zeros(4))  # one group's outputs are read: all has to get there
    optimiser = torch.optim.Adam([*model.parameters(), read], lr=0.01)
    x = torch.randn(2048, 16, 1, 1)
    y = x[:, 0, 0, 0] * x[:, 15, 0, 0]
    for step in range(400):
        batch = torch.arange(step * 128, (step + 1) * 128) % 1536
        loss = (model(x[batch])[:, :4, 0, 0] @ read - y[batch]).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        left = (model.eval()(x[1536:])[:, :4, 0, 0] @ read - y[1536:]).square().mean()
    return float(left / y[1536:].var())


@claim(12, "It suits embedded systems")
def fits_small_machines(_: Setting) -> dict[str, Any]:
    """What a small ResNet needs of flash and of working memory, counted."""
    rows, needed = [], {}
    for label in (None, "grouped:groups=4", "shuffled:groups=8", "separable", "octave:alpha=0.5"):
        model = regroup.create_model("resnet_small", num_classes=10, in_chans=1)
        if label:
            regroup.replace(model, label, weights="fresh")
        profile = regroup.profile(model, torch.zeros(1, 1, 32, 32), time=False)
        largest = max(
            layer.cost.activations
            for layer in profile.layers()
            if layer.name and layer.kind.startswith("Conv")
        )
        needed[label] = 4 * profile.total.parameters, 4 * largest
        rows.append(
            [
                f"`{label or 'dense'}`",
                *(f"{n / 1024:.0f}" for n in needed[label]),
                text.count(profile.total.macs),
            ]
        )
    weights, largest = needed[None]
    heavy = ", ".join(f"`{label}`" for label, n in needed.items() if label and n[0] >= weights)
    wide = ", ".join(f"`{label}`" for label, n in needed.items() if n[1] > largest)
    return found_out(
        ("resnet_small at 32x32", "weights, KiB", "largest map, KiB", "MACs"),
        rows,
        "yes for flash and MACs, with exceptions; no for working memory",
        f"Weights shrink with the groups (not those of {heavy or 'none'}), and MACs do. The largest map "
        f"between layers, which the working memory must hold, does not (it grows with {wide or 'none'}): "
        "only fewer channels, a lower resolution or fused layers make it smaller. Counted, not run: what "
        "microcontrollers execute is told in [A network as object code](object.md).",
    )


_RAN = Path(__file__).parent


def _kept(name: str) -> dict[str, Any]:
    return json.loads((_RAN / name).read_text())


@claim(7, "Groups can run side by side, so that it is as fast as it is cheap")
def clock_keeps_promise(_: Setting) -> dict[str, Any]:
    """Every grouping in a ResNet-18, compiled, one image, two threads: what `python -m benchmarks.strategies`
    measured and docs/strategies.json keeps.
    """
    rows = [
        row for row in rows_of(_kept("strategies.json")) if row.key[:4] == ("resnet18", 112, 1, "AVX-512")
    ]
    cells, kept = [], []
    for row in sorted(rows, key=lambda row: row.macs):
        share = row.measured / row.promised
        if row.promised > 1.1:
            kept.append((share, row.strategy))
        cells.append([f"`{row.strategy}`", f"{row.promised:.2f}x", f"{row.measured:.2f}x", f"{share:.0%}"])
    (least, worst), (most, best) = min(kept), max(kept)
    return found_out(
        ("in a ResNet-18 at 112x112", "promised by MACs", "measured, compiled", "kept"), cells,
        "partly",
        f"Where MACs promise more than 1.1x, from {least:.0%} (`{worst}`) to {most:.0%} (`{best}`) of it is "
        "kept: memory, orders and branches take time that MACs do not count. On two threads, groups are only "
        "one way to share out the work; what they give devices of their own is told in "
        "[One network on several devices](parallel.md). `python -m benchmarks.strategies` measures this.",
    )  # fmt: skip


def _yes(holds: Sequence[bool]) -> str:
    return "yes" if all(holds) else "sometimes" if any(holds) else "no"


@claim(8, "So a ResNeXt block is more efficient than an Inception module")
def resnext_against_inception(_: Setting) -> dict[str, Any]:
    """Time for each multiply-add of whole networks: what `python -m benchmarks.engine` measured and
    docs/engine.json keeps.
    """
    from regroup.networks import networks

    cells, per = [], {}
    for r in _kept("engine.json")["rows"]:
        if r["network"] in ("resnext50_32x4d", "googlenet_bn", "resnet50") and r["batch"] in (1, 16):
            macs = networks[r["network"]].claims.mega_macs
            times = [r["seconds"][who][1] for who in ("PyTorch", "regroup, frozen")]
            per[r["network"], r["batch"]] = [time / macs for time in times]
            cells.append(
                [f"`{r['network']}`", r["batch"], f"{macs:,.0f}", *(f"{1e6 * t / macs:.2f}" for t in times)]
            )
    better = [
        [per["resnext50_32x4d", b][way] < per["googlenet_bn", b][way] for b in (1, 16)] for way in (0, 1)
    ]
    return found_out(
        ("network", "batch", "M MACs", "PyTorch, ns a k MAC", "regroup, ns a k MAC"), cells,
        f"{_yes(better[0])} in PyTorch, {_yes(better[1])} when compiled",
        "Nanoseconds for a thousand multiply-adds of whole networks, which are not of one size; forward "
        "only, on two CPU threads. Inception's many small branches cost PyTorch calls; compiled, calls cost "
        "nothing.",
    )  # fmt: skip
