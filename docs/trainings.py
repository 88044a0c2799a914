"""The experiments of docs/claims.md that train: a small ResNet on drawn capitals, with several groupings."""

from __future__ import annotations

import string
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from itertools import pairwise
from statistics import fmean, stdev
from typing import Any

import torch
from docs.experiments import Setting, claim, found_out
from safetensors.torch import load_file
from scipy.stats import ttest_ind
from torch import Tensor, nn
from torch.nn import functional as F

import regroup
from regroup.comparison.evidence import Evidence
from regroup.comparison.result import Comparison, Row
from regroup.comparison.runner import build
from regroup.comparison.settings import CompareConfig
from regroup.profiling.correlation import correlation
from regroup.report import text
from regroup.spec import Size
from regroup.training import DataSet
from regroup.training.data import Loader, load_data
from regroup.training.data.glyphs import glyphs
from regroup.training.data.sources import data_sets

EPOCHS, BATCH = 6, 32
GROUPED = tuple(f"grouped:groups={groups}" for groups in (2, 4, 8))
SHUFFLED = "shuffled"
ORDERS = ("separable", "separable:order=pointwise-depthwise")
STEM = "small=false"
"""Begins as a network for photographs does: 7x7 with stride 2, and a pooling."""
NARROW = "widths=[12,22,36]"
"""Widths at which the dense network costs what the one with 4 groups and all its channels costs."""
PAIR = "stages.2.0.conv1.conv", "stages.2.0.conv2.conv"
"""Two neighbouring layers of 64 channels."""


def capitals(image: Size | None = None, **_: object) -> DataSet:
    """Return drawn capital letters: 200 of each to train on, above 32 pixels 100, and a fifth to test."""
    count = 100 if image is not None and max(image) > 32 else 200
    return glyphs(image, classes=string.ascii_uppercase, count=count)


data_sets.add("capitals", capitals)


def _config(setting: Setting, narrow: bool = False) -> CompareConfig:
    return CompareConfig(
        data="capitals",
        image=setting.image,
        strategies=("dense",) if narrow else (*GROUPED, SHUFFLED, *ORDERS),
        model_options=(STEM, NARROW) if narrow else (STEM,),
        seeds=setting.seeds,
        epochs=EPOCHS,
        batch_size=BATCH,
        channels_last=True,
        time=False,
        out=setting.out / f"{'narrow' if narrow else 'all'}-{setting.image}",
    )


@cache
def trained(setting: Setting, narrow: bool = False) -> Comparison:
    """Train the network with every grouping of the claims, or the narrow dense one; what is done is kept."""
    return regroup.compare(_config(setting, narrow))


def _rows(setting: Setting, narrow: bool = False) -> dict[str, Row]:
    return {row.strategy: row for row in trained(setting, narrow).rows if not row.error}


def _networks(setting: Setting, label: str) -> Iterator[nn.Module]:
    """Yield the trained networks of a strategy, one for each seed."""
    config, data = _config(setting), load_data("capitals", setting.image)
    runs = config.out / "runs" / label.replace(":", "-").replace("=", "-")
    for seed in range(setting.seeds):
        model, _ = build(config, regroup.parse_strategy(label), data, seed)
        (last,) = runs.glob(f"seed{seed}-*/checkpoint-*/model.safetensors")
        model.load_state_dict(load_file(last))
        yield model.eval()


def _against(one: Evidence, name: str) -> str:
    found = one.against_dense[name]
    return f"{100 * found.value:+.1f} ({100 * found.low:+.1f} .. {100 * found.high:+.1f})"


def _shown(evidence: Evidence, row: Row, dense: Row) -> str:
    """Return the verdict on a row where it is beyond chance among images and among seeds (Welch's t, 5 %)."""
    by_seed = ttest_ind(*([run.accuracy for run in r.runs] for r in (row, dense)), equal_var=False).pvalue
    return evidence.verdict(row.strategy) if by_seed < 0.05 else "no difference shown"


def _listed(names: Sequence[str]) -> str:
    """Return numbers of groups in words."""
    numbers = [name.rpartition("=")[2] for name in names]
    return f"{' and '.join(numbers)} groups" if numbers else ""


def _sums(*values: float, digits: int = 2) -> str:
    return f"{fmean(values):.{digits}f} ± {stdev(values):.{digits}f}"


@claim(3, "More groups lose information, and accuracy", trains=True)
def accuracy_over_groups(setting: Setting) -> dict[str, Any]:
    """A small ResNet with 1, 2, 4 and 8 groups in its 3x3 convolutions, at equal width; and with 4 groups
    and a shuffle.
    """
    rows, evidence = _rows(setting), Evidence.of(trained(setting))
    cells = [
        [
            f"`{row.strategy}`", text.count(row.parameters), text.count(row.macs),
            text.accuracy(row.accuracy, row.spread),
            "" if name == "dense" else _against(evidence, name),
        ]
        for name in ("dense", *GROUPED, SHUFFLED) for row in [rows[name]]
    ]  # fmt: skip
    worse = [name for name in GROUPED if _shown(evidence, rows[name], rows["dense"]) == "worse"]
    told = f"{_listed(worse) or 'none'} came out worse than dense by more than chance"
    if others := [n for n in GROUPED if n not in worse and evidence.against_dense[n].value < 0]:
        told += f", {_listed(others)} by no more than seeds differ"
    shuffled = 100 * (evidence.rights[SHUFFLED].mean() - evidence.rights[GROUPED[1]].mean())
    verdict = {len(GROUPED): "yes", 0: "not shown"}.get(len(worse), "partly")
    return found_out(
        ("strategy", "params", "MACs", "accuracy ± spread", "points against dense (95 %)"), cells, verdict,
        f"At equal width, {told}. With a shuffle 4 groups have {shuffled:+.1f} points; two of the three "
        "blocks have a 1x1 convolution in their shortcut, which mixes the groups without one, too. "
        "Equal cost is claim 10.",
    )  # fmt: skip


def _blocks(model: nn.Module, images: Tensor, groups: int) -> float:
    """Return how much more strongly channels of equal groups of two layers go together than others."""
    matrix = correlation(model, images, *PAIR).matrix
    first, second = (torch.arange(n) * groups // n for n in reversed(matrix.shape))
    same = second[:, None] == first[None]
    return float(matrix[same].mean() / matrix[~same].mean())


@claim(5, "Filters of different groups keep apart: they correlate in blocks", trains=True)
def filters_correlate(setting: Setting) -> dict[str, Any]:
    """Channels of two neighbouring trained layers, of 64 channels each, correlated over test images: the mean
    strength in blocks of equal groups over that of all other pairs. A dense network has no groups: its
    channels are cut into as many blocks, as a control.
    """
    trained(setting)
    images = next(iter(Loader(load_data("capitals", setting.image), batch_size=256, train=False))).images
    cells, grouped, dense = [], [], []
    controls = list(_networks(setting, "dense"))
    for label in GROUPED:
        groups = int(label.rpartition("=")[2])
        own = [_blocks(model, images, groups) for model in _networks(setting, label)]
        control = [_blocks(model, images, groups) for model in controls]
        grouped += own
        dense += control
        cells.append([groups, _sums(*own), _sums(*control)])
    verdict = "yes" if min(grouped) > max(dense) else "not shown"
    return found_out(
        ("groups", "grouped: in blocks over across ± spread", "dense, cut likewise"), cells, verdict,
        f"The least of the grouped networks has {min(grouped):.2f}, the most of the dense ones "
        f"{max(dense):.2f}. It is no wonder: a channel is made of channels of its own group alone.",
    )  # fmt: skip


@torch.no_grad()
def _loss(model: nn.Module, data: DataSet) -> float:
    batches = Loader(data, batch_size=256, train=False)
    losses = [(F.cross_entropy(model(b.images), b.labels, reduction="sum"), len(b.images)) for b in batches]
    return float(sum(loss for loss, _ in losses)) / sum(count for _, count in losses)


@claim(9, "Sparse relations between filters regularise", trains=True)
def regularises(setting: Setting) -> dict[str, Any]:
    """Loss on training images as they are, not varied, and on test images, which are in other fonts."""
    trained(setting)
    data = load_data("capitals", setting.image)
    seen = replace(data, test=data.train)
    cells, gaps = [], []
    for label in ("dense", *GROUPED):
        losses = [(_loss(model, seen), _loss(model, data)) for model in _networks(setting, label)]
        gaps.append([test - train for train, test in losses])
        train, test = zip(*losses, strict=True)
        cells.append([f"`{label}`", _sums(*train), _sums(*test), _sums(*gaps[-1])])
    means = [fmean(gap) for gap in gaps]
    falls = all(later < earlier for earlier, later in pairwise(means))
    apart = max(gaps[-1]) < min(gaps[0])
    verdict = "yes, here" if falls and apart else "not shown" if means[-1] < means[0] else "no, not here"
    return found_out(
        ("strategy", "training loss ± spread", "test loss", "gap"), cells, verdict,
        f"From dense to 8 groups the gap goes from {means[0]:.2f} to {means[-1]:.2f}, and the training loss "
        "rises faster: they learn less, not more generally. So short a training overfits little; of networks "
        "that do, this says nothing. The gap is one between fonts, too: those of the test images are not "
        "trained on.",
    )  # fmt: skip


@claim(10, "At equal cost it can be more accurate than dense", trains=True)
def equal_cost(setting: Setting) -> dict[str, Any]:
    """The dense network so narrow that it costs what 4 groups cost at full width."""
    rows = _rows(setting)
    narrow = replace(_rows(setting, narrow=True)["dense"], strategy="dense")
    names = (GROUPED[1], SHUFFLED)
    evidence = Evidence.of(replace(trained(setting), rows=[narrow, *(rows[name] for name in names)]))
    cells = [
        [
            "dense, narrow" if row is narrow else f"`{row.strategy}`",
            text.count(row.parameters), text.count(row.macs), text.accuracy(row.accuracy, row.spread),
            "" if row is narrow else _against(evidence, row.strategy),
        ]
        for row in (narrow, *(rows[name] for name in names))
    ]  # fmt: skip
    told = {name: _shown(evidence, rows[name], narrow) for name in names}
    lower = all(evidence.against_dense[name].value < 0 for name in names)
    verdict = "yes, here" if "better" in told.values() else f"not shown{': both came out lower' * lower}"
    if set(told.values()) == {"worse"}:
        verdict = "no, not here"
    said = "; ".join(
        f"`{name}` {100 * evidence.against_dense[name].value:+.1f} points, {found}"
        for name, found in told.items()
    )
    return found_out(
        ("network", "params", "MACs", "accuracy ± spread", "points against the narrow one (95 %)"),
        cells, verdict, f"Against the narrow dense network: {said}.",
    )  # fmt: skip


@claim(13, "Depthwise before or after pointwise makes a difference", trains=True)
def order_matters(setting: Setting) -> dict[str, Any]:
    """A small ResNet with both orders."""
    first, second = (_rows(setting)[label] for label in ORDERS)
    evidence = Evidence.of(replace(trained(setting), rows=[replace(first, strategy="dense"), second]))
    cells = [
        [f"`{r.strategy}`", text.count(r.parameters), text.count(r.macs), text.accuracy(r.accuracy, r.spread)]
        for r in (first, second)
    ]
    told = _shown(evidence, second, first) != "no difference shown"
    higher = "higher" if evidence.against_dense[second.strategy].value > 0 else "lower"
    return found_out(
        ("strategy", "params", "MACs", "accuracy ± spread"), cells,
        f"{'yes, here' if told else 'not shown'}: pointwise first came out {higher}",
        f"Pointwise first: {_against(evidence, second.strategy)} points (95 %) on the same images; between "
        "trainings of one network there are up to "
        f"{max(max(a) - min(a) for a in ([run.accuracy for run in r.runs] for r in (first, second))):.1f}. "
        "It also costs a little more, where channels change.",
    )  # fmt: skip
