"""Group the convolutions of a trained network, one after the other, and make up for what each loses.

>>> from copy import deepcopy
>>> original = torchvision.models.resnet18().eval()
>>> model, images = deepcopy(original), [torch.randn(4, 3, 64, 64)]
>>> found = regroup_layers(model, original, {"layer1.0.conv2": 4}, images, Method("activation"))
>>> print(found[0])
layer1.0.conv2: grouped:groups=4 by activation, error 0...
>>> found[0].partition.outputs.shape
torch.Size([4, 16])
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from regroup.conversion.choosing import choices, choose
from regroup.conversion.leastsquares import (
    Problem,
    centred_bias,
    compensated,
    relative_error,
    spread_out,
)
from regroup.conversion.options import groups_in
from regroup.conversion.partition import Partition
from regroup.conversion.replace import convolutions_of, put, why_left
from regroup.conversion.separating import can_separate, separated
from regroup.conversion.statistics import POSITIONS, Moments, Run, collect, evaluated, visit
from regroup.errors import ConfigError, unknown_name
from regroup.spec import ConvSpec
from regroup.strategies import parse_strategy
from regroup.strategies.grouped import Grouped


@dataclass(frozen=True)
class Method:
    """How to group a layer.

    Args:
        choice: of the groups, a name of `regroup.conversion.choosing`.
        repair: solve the weights by least squares, for the inputs as they are by then, and centre the
            outputs; else those that lie in the groups are taken as they are.
        positions: places of each image that are looked at.
        seed: of what is drawn.
    """

    choice: str = "gain"
    repair: bool = True
    positions: int = POSITIONS
    seed: int = 0

    def __post_init__(self) -> None:
        choices[self.choice]


@dataclass(frozen=True, eq=False)
class Regrouped:
    """What became of one convolution.

    Attributes:
        name: of the layer.
        option: what it is now, as a strategy's text.
        choice: what made its groups; "" if it has none.
        partition: its groups; None likewise.
        error: share of the variance of the original's outputs that it misses on the calibration images, where
            inputs are what the layers before it make of them by now. Of other strategies than groups: how far
            its kernel is from the trained one, relatively.
    """

    name: str
    option: str
    choice: str
    partition: Partition | None
    error: float

    def __str__(self) -> str:
        how = f" by {self.choice}" if self.choice else ""
        return f"{self.name}: {self.option}{how}, error {self.error:.3g}"


def regroup_layers(
    model: nn.Module,
    original: nn.Module,
    wanted: Mapping[str, int | str],
    batches: Sequence[Tensor],
    method: Method | None = None,
    *,
    moments: Mapping[str, Moments] | None = None,
    on_layer: Callable[[Regrouped], None] = lambda layer: None,
) -> list[Regrouped]:
    """Group convolutions of `model`, in place, in the order in which they run.

    Each is chosen and solved for the inputs that it gets once those before it are grouped, and for the
    outputs that the original has: so later layers make up for what earlier ones lose (asymmetric
    calibration). Without repair, groups are chosen for the inputs that the original has.

    Args:
        model: a copy of `original`.
        original: the trained network; it stays as it is.
        wanted: what each layer is to become, by name (a shared layer by any of its names): a number of
            groups, or a strategy that starts from its weights, as text.
        batches: calibration images, without labels.
        method: how.
        moments: of layers, where they are known already; else each is looked at when its turn has come.
        on_layer: called after each layer.

    Raises:
        UnknownNameError: there is no such layer.
        ConfigError: a layer is no dense convolution, does not run, or cannot become what is wanted.
    """
    method, done = method or Method(), []
    options = {name: _checked(model, name, option) for name, option in wanted.items()}
    for name in run_order(model, list(options), batches[:1]):
        conv = model.get_submodule(name)
        assert isinstance(conv, nn.Conv2d)
        groups, strategy = groups_in(options[name]), parse_strategy(options[name])
        if groups is None and method.repair and can_separate(strategy):
            seen = (moments or {}).get(name) or _seen(model, original, name, batches, method)
            module, error = separated(conv, strategy, seen)  # type: ignore[arg-type]
            layer = Regrouped(name, options[name], "", None, error)
        elif groups is None:
            module, layer = _approximated(name, conv, options[name])
        else:
            seen = (moments or {}).get(name) or _seen(
                model if method.repair else original, original, name, batches, method
            )
            module, part, error = regrouped(conv, groups, seen, method)
            layer = Regrouped(name, options[name], method.choice, part, error)
        for alias, there in convolutions_of(model):
            if there is conv:
                put(model, alias, module)
        done.append(layer)
        on_layer(layer)
    return done


def regrouped(
    conv: nn.Conv2d, groups: int, moments: Moments, method: Method
) -> tuple[nn.Module, Partition, float]:
    """Return what stands in for a dense convolution, its groups, and the error on what the moments are of."""
    spec, trained = ConvSpec.of(conv), conv.weight.detach().cpu().double().flatten(2)
    kernel = compensated(trained, moments) if method.repair else trained
    problem = Problem(kernel, moments.inputs)
    part = choose(method.choice, kernel, moments.inputs, groups, method.seed)
    weights = problem.solve(part) if method.repair else problem.masked(part)
    dense = spread_out(weights, part, spec.in_channels)
    bias = centred_bias(dense, moments) if method.repair else conv.bias
    shaped = weights.unflatten(2, spec.kernel_size).to(conv.weight)
    module = part.build(spec, shaped, None if bias is None else bias.detach().to(conv.weight))
    return module.train(conv.training), part, relative_error(dense, moments)


def _seen(
    model: nn.Module, original: nn.Module, name: str, batches: Sequence[Tensor], method: Method
) -> Moments:
    drawn = {"positions": method.positions, "seed": method.seed}
    return collect(model, [name], batches, original=original, **drawn)[name]


def _approximated(name: str, conv: nn.Conv2d, option: str) -> tuple[nn.Module, Regrouped]:
    start = parse_strategy(option).from_dense(conv)
    if start.weights == "new":
        raise ConfigError("wanted", option, "a strategy that starts from trained weights", start.reason)
    return start.module, Regrouped(name, option, "", None, start.error or 0.0)


def run_order(model: nn.Module, names: Sequence[str], batches: Iterable[Tensor]) -> list[str]:
    """Return the layers in the order in which they first run.

    Raises:
        ConfigError: one does not run on these images; there are none.
    """
    seen: dict[str, None] = {}

    def note(run: Run) -> None:
        seen.setdefault(run.name)

    images = next(iter(batches), None)
    if images is None:
        raise ConfigError("data", "no images", "one batch of images or more")
    with evaluated(model), torch.no_grad():
        visit(model, names, images[:1], note)
    for name in names:
        if name not in seen:
            raise ConfigError("wanted", name, "a layer that runs", "the images do not reach this one")
    return list(seen)


def _checked(model: nn.Module, name: str, option: int | str) -> str:
    """Return the text of what a layer is to become."""
    layer = dict(model.named_modules(remove_duplicate=False)).get(name)
    if layer is None:
        raise unknown_name("layer", name, [each for each, _ in convolutions_of(model)])
    if not isinstance(layer, nn.Conv2d) or layer.groups != 1:
        raise ConfigError("wanted", name, "the name of a dense convolution")
    strategy = Grouped(groups=option) if isinstance(option, int) else parse_strategy(option)
    reason = why_left(layer, lambda conv: strategy.why_not(ConvSpec.of(conv)) or "")
    if reason:
        raise ConfigError("wanted", strategy.label, f"possible for {name}", reason)
    return strategy.label
