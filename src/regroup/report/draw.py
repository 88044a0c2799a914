r"""Pictures of groupings and of networks' blocks, drawn from the modules themselves.

>>> picture = draw("shuffled:groups=3", channels=12)
>>> print(*picture.notes, sep="\n")
33 % of the parameters and 33 % of the MACs of a dense one
an output depends on 4 of 12 inputs after one layer, on 12 after 2
>>> draw("shufflenet_v1_g3_100", block="stage2.1").title
'shufflenet_v1_g3_100, stages.1.1'

In a notebook a picture shows itself; `picture.save("shuffled.svg")` writes it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from regroup.errors import ConfigError, unknown_name
from regroup.loading import ImageInput
from regroup.loading.named import named
from regroup.networks.backbone import Backbone
from regroup.profiling.cost import mode_of
from regroup.profiling.schematic import Schematic, schematic
from regroup.profiling.thinning import thinned
from regroup.profiling.wiring import wiring
from regroup.report import text
from regroup.report.diagram import diagram
from regroup.report.picture import Drawing
from regroup.report.stages import panels
from regroup.spec import ConvSpec
from regroup.strategies import Strategy, parse_strategy, strategies
from regroup.strategies.described import SIZE
from regroup.strategies.learning import Learned, deploy, learned_modules, set_progress

CHANNELS, MOST = (12, 16, 24, 32, 48, 64, 128), 24
"""Channels of a strategy's picture, the first that it takes; and of a row, beyond which some are left out."""
_LARGE, _LEAST = 1_000_000, 7
"""Numbers in a tensor of a block's input beyond which a part of the image stands for it; its least side."""


def draw(
    what: str | Strategy | nn.Module,
    *,
    channels: int | None = None,
    spec: ConvSpec | None = None,
    layers: int | None = None,
    block: str | None = None,
    image: int | None = None,
    progress: float | Literal["stages"] = 1.0,
    most: int = MOST,
    name: str = "",
) -> Drawing:
    """Draw a strategy's stand-in for a convolution, or a block of a network, as it is wired.

    Channels are dots, in rows from the input to the output; lines lead to what each is made of. What changes
    nothing but numbers (norms, activations) is not drawn. Of many channels some are drawn, so that every way
    from group to group is among them.

    Args:
        what: a strategy or its text; a network or its name.
        channels: of the strategy's convolution, a 3x3 one, 12 by default if it takes so many; of a network's
            images.
        spec: of the strategy's convolution, where it is another.
        layers: how many of the strategy's layers follow each other; None: as many as it takes until every
            output depends on every input, at most 2.
        block: module of the network: a name of `model.named_modules()`, or "stage2.0" for the first block of
            the second stage; None: the first block with groups.
        image: height and width of the network's images; None: what it expects.
        progress: of what learns: how far its training is; 1: as deployed, with the groups that the weights
            choose with which it begins. "stages", of what learns in stages (CondenseNet): a picture of each,
            side by side, with what it has dropped in thinner lines, and one of what is deployed.
        most: channels that are drawn in a row.
        name: of a network that is given as a module.

    Raises:
        ConfigError, UnknownNameError: there is no such block, network or strategy, or a number cannot be.
        StrategyError: the strategy cannot stand in for such a convolution.
    """
    if most < 2:
        raise ConfigError("most", most, "an int of at least 2")
    if isinstance(what, str) and what.partition(":")[0] in strategies:
        what = parse_strategy(what)
    if isinstance(what, Strategy):
        for option, value in (("block", block), ("image", image)):
            if value is not None:
                raise ConfigError(option, value, "left out for a strategy, which has none")
        spec = spec or spec_for(what, channels)
        if spec.dims != 2:
            raise ConfigError("spec", str(spec), "of two dimensions: in others channels are wired the same")
        if progress == "stages":
            return _of_stages(what, spec, layers, most)
        return _of_strategy(what, spec, layers, progress, most)
    for option, value, unset in (("layers", layers, None), ("progress", progress, 1.0), ("spec", spec, None)):
        if value != unset:
            raise ConfigError(option, value, "left out for a network: it is of a strategy")
    if isinstance(what, str):
        name, what = what, named(what, in_chans=channels or 3)
    return _of_block(name or type(what).__name__, what, block, channels, image, most)


def spec_for(
    strategy: Strategy, channels: int | None = None, outputs: int | None = None, kernel: int = 3
) -> ConvSpec:
    """Return a convolution of so many channels, or of as many as the strategy takes."""
    widths = CHANNELS if channels is None else (channels,)
    specs = [ConvSpec(width, outputs or width, kernel, padding=kernel // 2) for width in widths]
    return next((spec for spec in specs if strategy.why_not(spec) is None), specs[0])


def _of_strategy(
    strategy: Strategy, spec: ConvSpec, layers: int | None, progress: float, most: int
) -> Drawing:
    strategy.check(spec)
    found = {1: _stacked(strategy, spec, 1, progress)}
    alike = spec.in_channels == spec.out_channels
    if layers is None:
        layers = 1 if bool(found[1].reach().all()) or not alike else 2
    if layers < 1:
        raise ConfigError("layers", layers, "an int of at least 1")
    if layers > 1 and not alike:
        raise ConfigError("layers", layers, "1 where there are not as many outputs as inputs")
    if layers > 1:
        found[layers] = _stacked(strategy, spec, layers, progress)
    notes = tuple(_notes(strategy, spec, {n: each.reach() for n, each in found.items()}, progress))
    picture = diagram(thinned(found[layers], most)).framed(strategy.label, notes)
    return Drawing(strategy.label, picture, notes)


def _of_stages(strategy: Strategy, spec: ConvSpec, layers: int | None, most: int) -> Drawing:
    strategy.check(spec)
    if layers not in (None, 1):
        raise ConfigError("layers", layers, "1, or left out, where stages are drawn")
    if max(spec.in_channels, spec.out_channels) > most:
        raise ConfigError("channels", max(spec.in_channels, spec.out_channels), f"at most {most} for stages")
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        module = strategy.build(spec)
    if not isinstance(module, Learned) or not module.stages():
        raise ConfigError("progress", "stages", f"a number: {strategy.label} does not learn in stages")
    picture = panels(module, torch.zeros(1, spec.in_channels, *SIZE))
    shares, decided = _notes(strategy, spec, {}, 1)
    notes = (f"{shares}, once it has learned", "thin: dropped, the thinner the longer ago", decided)
    return Drawing(strategy.label, picture.framed(strategy.label, notes), notes)


def _stacked(strategy: Strategy, spec: ConvSpec, layers: int, progress: float) -> Schematic:
    """Return the schematic of so many of a strategy's layers one after the other."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        built = nn.Sequential(*(strategy.build(spec) for _ in range(layers)))
    set_progress(built, progress)
    image = torch.zeros(1, spec.in_channels, *SIZE)
    found = wiring(deploy(built) if progress == 1 else built, image)
    if any(step.operator == "topk" for step in found.steps):  # chooses for each image what it computes
        found = wiring(built, image)
    return schematic(found)


def _notes(strategy: Strategy, spec: ConvSpec, reaches: dict[int, Tensor], progress: float) -> Iterator[str]:
    cost, dense = strategy.cost(spec, SIZE), spec.cost(SIZE)
    shares = text.percent(cost.parameters / dense.parameters), text.percent(cost.macs / dense.macs)
    then = "" if progress == 1 else ", once it has learned"
    yield f"{shares[0]} of the parameters and {shares[1]} of the MACs of a dense one{then}"
    if reaches:
        (_, first), *more = sorted(reaches.items())
        said = f"an output depends on {_inputs(first)} of {first.shape[1]} inputs"
        yield said + "".join(f" after one layer, on {_inputs(reach)} after {n}" for n, reach in more)
    if learned_modules(strategy.build(spec)):
        when = "" if progress == 1 else f", {text.percent(progress)} of the way"
        yield f"groups as the weights choose them with which it begins{when}: training decides"


def _inputs(reach: Tensor) -> str:
    counts = reach.sum(1)
    low, high = int(counts.min()), int(counts.max())
    return str(low) if low == high else f"{low} to {high}"


def _of_block(
    name: str, model: nn.Module, block: str | None, channels: int | None, image: int | None, most: int
) -> Drawing:
    chosen = _block(model, block)
    module = model.get_submodule(chosen)
    said = getattr(model, "pretrained_cfg", {}) if isinstance(model, Backbone) else {}
    shape = said.get("input_size") or ImageInput.of(model).shape  # which takes the import of timm
    size = (channels or shape[0], image or shape[1], image or shape[2])
    arguments, scale = _smaller(_given(model, module, chosen, torch.zeros(1, *size)))
    found = schematic(wiring(module, *arguments), scale)
    parameters = sum(parameter.numel() for parameter in module.parameters())
    reach = found.reach()
    notes = (
        f"{type(module).__name__}, {parameters:,} parameters",
        f"an output depends on {_inputs(reach)} of {reach.shape[1]} inputs",
    )
    title = f"{name}, {chosen}"
    return Drawing(title, diagram(thinned(found, most)).framed(title, notes), notes)


def _block(model: nn.Module, block: str | None) -> str:
    """Return the name of a module.

    Raises:
        UnknownNameError: there is none of this name; says which blocks there are.
        ConfigError: none is said, and it is no network of ours.
    """
    blocks = [name for _, _, name in model.blocks()] if isinstance(model, Backbone) else []
    if block is None:
        grouped = [b for b in blocks if any(_groups(m) > 1 for m in model.get_submodule(b).modules())]
        if not blocks:
            raise ConfigError("block", None, "the name of a module", "print(model) shows them")
        return (grouped or blocks)[0]
    stage, _, rest = block.removeprefix("stage").partition(".")
    if blocks and stage.isdecimal() and block.startswith("stage"):
        block = ".".join(["stages", str(int(stage) - 1), *filter(None, [rest])])
    names = [name for name, _ in model.named_modules() if name]
    if block not in names:
        raise unknown_name("block", block, blocks or names)
    return block


def _groups(module: nn.Module) -> int:
    return getattr(module, "groups", 1) if isinstance(module, nn.Conv2d) else 1


def _given(model: nn.Module, module: nn.Module, name: str, image: Tensor) -> tuple[Any, ...]:
    """Return what a module of a network is given for an image."""
    taken: list[tuple[Any, ...]] = []
    handle = module.register_forward_pre_hook(lambda _, arguments: taken.append(arguments))
    try:
        with mode_of(model, False), torch.no_grad():
            model(image)
    finally:
        handle.remove()
    if not taken:
        raise ConfigError("block", name, "a module that is run")
    return taken[0]


def _smaller(arguments: tuple[Any, ...]) -> tuple[tuple[Any, ...], int | None]:
    """Return a part of the maps that a block is given, for wires are the same; and by how much it is smaller.

    None: by no whole number.
    """
    maps = [t for t in tree_leaves(arguments) if isinstance(t, Tensor) and t.ndim == 4]
    sides = [n for tensor in maps for n in tensor.shape[2:]]
    most, scale, whole = max((t.shape[1] * t.numel() for t in maps), default=0), 1, True
    while most > _LARGE * scale**2 and min(sides) >= 2 * scale * _LEAST:
        scale *= 2
        whole &= all(n % scale == 0 for n in sides)

    def cut(tensor: Tensor) -> Tensor:
        if tensor.ndim != 4:
            return tensor
        return tensor[..., : tensor.shape[2] // scale, : tensor.shape[3] // scale].clone()

    return tree_map_only(Tensor, cut, arguments), scale if whole else None
