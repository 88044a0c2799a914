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

from regroup.conversion.statistics import evaluated
from regroup.training.data.randomness import generator

_HELD = 4  # one part in so many of the images only judges


@dataclass(frozen=True)
class Fit:
    """How a block was fitted.

    Attributes:
        name: of the block.
        before: squared distance to the original's outputs over their variance, on images not fitted to.
        after: likewise; at most `before`, for else the block is put back.
        reason: why it was left alone; "" if it was not.
    """

    name: str
    before: float = 0.0
    after: float = 0.0
    reason: str = ""


@dataclass(frozen=True)
class BlockConfig:
    """How blocks are fitted.

    Args:
        steps: of Adam, for each block.
        lr: its learning rate, which falls to 0 along a cosine.
        batch_size: images in a step.
        seed: of their order.
    """

    steps: int = 200
    lr: float = 1e-3
    batch_size: int = 32
    seed: int = 0


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
    given, wanted = _seen(model, name, batches), _seen(original, name, batches)
    if given is None or wanted is None:
        return Fit(name, reason="it takes or gives something else than one tensor, or does not run once")
    inputs, targets = given[0], wanted[1]
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
    return Fit(name, before, after)


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


def _seen(model: nn.Module, name: str, batches: Iterable[Tensor]) -> tuple[Tensor, Tensor] | None:
    """Return what a block is given and gives for all images, if that is a tensor each, and it runs once."""
    given: list[Tensor] = []
    gave: list[Tensor] = []
    plain = True

    def before(module: nn.Module, args: tuple, kwargs: dict) -> None:
        nonlocal plain
        plain &= len(args) == 1 and not kwargs and isinstance(args[0], Tensor)
        if plain:
            given.append(args[0].clone())

    def after(module: nn.Module, args: tuple, output: object) -> None:
        nonlocal plain
        plain &= isinstance(output, Tensor)
        if isinstance(output, Tensor):
            gave.append(output.clone())

    block = model.get_submodule(name)
    handles = [
        block.register_forward_pre_hook(before, with_kwargs=True),
        block.register_forward_hook(after),
    ]
    total = 0
    try:
        with torch.no_grad():
            for images in batches:
                model(images)
                total += 1
    finally:
        for handle in handles:
            handle.remove()
    return (torch.cat(given), torch.cat(gave)) if plain and len(given) == total else None
