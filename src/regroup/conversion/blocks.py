"""Blocks of a converted network, fitted to what the original's blocks give: repair beyond single layers (E5).

>>> original = torchvision.models.resnet18()
>>> blocks_of(original, ["layer1.0.conv1", "layer1.0.conv2", "conv1"])
['layer1.0', 'conv1']

In a block, layers can make up for each other, and for what the block is given; labels are not needed.

Sources: Li et al., BRECQ, ICLR 2021 (arXiv:2102.05426), section 3.2: the block as the unit of
reconstruction; Hubara et al., AdaPrune (arXiv:2102.08124), section 5: Adam on the weights that are left.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regroup.conversion.statistics import evaluated, heard
from regroup.training.data.randomness import generator

_HELD = 4  # one part in so many of the images only judges


@dataclass(frozen=True)
class Fit:
    """How a block was fitted.

    Attributes:
        name: of the block.
        before: squared distance to the original's outputs over their variance, on images not fitted to.
        after: likewise; at most `before`, for else the block is put back.
        images: that were looked at.
        reason: why it was left alone; "" if it was not.
    """

    name: str
    before: float = 0.0
    after: float = 0.0
    images: int = 0
    reason: str = ""


@dataclass(frozen=True)
class BlockConfig:
    """How blocks are fitted.

    Args:
        steps: of Adam, for each block.
        lr: its learning rate, which falls to 0 along a cosine.
        batch_size: images in a step.
        seed: of their order.
        memory: bytes that what a block is given and should give may take: where that is less than all images
            need, the first of them are looked at.
    """

    steps: int = 200
    lr: float = 1e-3
    batch_size: int = 32
    seed: int = 0
    memory: int = 1 << 30


def blocks_of(model: nn.Module, layers: Iterable[str]) -> list[str]:
    """Return the smallest modules around layers that have several convolutions; the layer if there is none.

    A block that lies in another one of them is part of that.

    Args:
        model: the original network.
        layers: names of convolutions.
    """
    counts: dict[str, int] = {}
    for name, module in model.named_modules():
        counts[name] = sum(isinstance(m, nn.Conv2d) for m in module.modules())
    found: dict[str, None] = {}
    for layer in layers:
        parts = layer.split(".")
        around = [".".join(parts[:n]) for n in range(len(parts) - 1, 0, -1)]
        found.setdefault(next((name for name in around if counts[name] > 1), layer))
    return [name for name in found if not any(name.startswith(f"{other}.") for other in found)]


def reconstruct(
    model: nn.Module,
    original: nn.Module,
    blocks: Sequence[str],
    batches: Sequence[Tensor],
    config: BlockConfig | None = None,
    *,
    on_block: Callable[[Fit], None] = lambda fit: None,
) -> list[Fit]:
    """Fit blocks of `model`, in place, to the outputs of the original's, one after the other.

    Norms keep their running statistics. A quarter of the images judges whether a block has become better;
    if it has not, it is as it was.

    Args:
        model: the converted network.
        original: the trained one.
        blocks: names, in the order in which they run; see `blocks_of`.
        batches: calibration images.
        config: how.
        on_block: called after each block.
    """
    fits = []
    with evaluated(model), evaluated(original):
        for name in blocks:
            fits.append(_fitted(model, original, name, batches, config or BlockConfig()))
            on_block(fits[-1])
    return fits


def _fitted(
    model: nn.Module, original: nn.Module, name: str, batches: Sequence[Tensor], config: BlockConfig
) -> Fit:
    inputs, count = _given(model, name, batches, config.memory)
    targets = _gave(original, name, batches, count)
    if inputs is None or targets is None:
        return Fit(name, reason="it takes or gives something else than one tensor, or does not run once")
    block, judged = model.get_submodule(name), max(1, len(inputs) // _HELD)
    scale = float(targets.var()) or 1.0

    def distance(part: slice) -> Tensor:
        return F.mse_loss(block(inputs[part].clone()), targets[part]) / scale  # it may work in place

    def judgement() -> float:
        with torch.no_grad():
            parts = [slice(i, min(i + 64, judged)) for i in range(0, judged, 64)]
            return sum(float(distance(p)) * (p.stop - p.start) for p in parts) / judged

    before, state = judgement(), copy.deepcopy(block.state_dict())
    _descend(block, inputs[judged:], targets[judged:], scale, config)
    after = judgement()
    if not after < before:
        block.load_state_dict(state)
        after = before
    return Fit(name, before, after, len(inputs))


def _descend(block: nn.Module, inputs: Tensor, targets: Tensor, scale: float, config: BlockConfig) -> None:
    if not len(inputs):
        return
    flags = {p: p.requires_grad for p in block.parameters()}
    weights = [p.requires_grad_() for p in flags if p.is_floating_point()]
    optimizer = torch.optim.Adam(weights, config.lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.steps)
    dice = generator(config.seed)
    with torch.enable_grad():
        for _ in range(config.steps):
            some = torch.randint(len(inputs), (min(config.batch_size, len(inputs)),), generator=dice)
            loss = F.mse_loss(block(inputs[some]), targets[some]) / scale
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    for parameter, flag in flags.items():
        parameter.requires_grad_(flag).grad = None


def _given(model: nn.Module, name: str, batches: Iterable[Tensor], memory: int) -> tuple[Tensor | None, int]:
    """Return what a block is given for as many images as there is memory for, and how many these are.

    It is None where that is no tensor, or the block does not run once.
    """
    kept: list[Tensor] = []
    count, plain = 1 << 62, True

    def before(name: str, args: tuple, named: dict) -> None:
        nonlocal plain
        plain &= len(args) == 1 and not named and isinstance(args[0], Tensor)
        if plain:
            kept.append(args[0][: max(0, count - sum(map(len, kept)))].clone())

    def after(name: str, args: tuple, output: object) -> None:
        nonlocal count
        if plain and isinstance(output, Tensor):
            both = sum(x.numel() * x.element_size() for x in (args[0], output))
            count = max(_HELD, memory * len(args[0]) // max(1, both))

    runs = _run(model, name, batches, lambda: sum(map(len, kept)) >= count, before=before, after=after)
    return (torch.cat(kept)[:count] if plain and len(kept) == runs else None), count


def _gave(model: nn.Module, name: str, batches: Iterable[Tensor], count: int) -> Tensor | None:
    """Return what a block gives for so many images; None where that is no tensor, or it does not run once."""
    kept: list[Tensor] = []
    plain = True

    def after(name: str, args: tuple, output: object) -> None:
        nonlocal plain
        plain &= isinstance(output, Tensor)
        if isinstance(output, Tensor):
            kept.append(output[: max(0, count - sum(map(len, kept)))].clone())

    runs = _run(model, name, batches, lambda: sum(map(len, kept)) >= count, after=after)
    return torch.cat(kept) if plain and len(kept) == runs else None


def _run(
    model: nn.Module, name: str, batches: Iterable[Tensor], enough: Callable[[], bool], **listeners: Callable
) -> int:
    """Run a network on one batch after the other, until it is enough; return how often."""
    runs = 0
    with torch.no_grad(), heard({name: model.get_submodule(name)}, **listeners):
        for images in batches:
            model(images)
            runs += 1
            if enough():
                break
    return runs
