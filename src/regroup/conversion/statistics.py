"""What a convolution reads and what it should give: means and covariances, collected in bounded memory.

>>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3))
>>> found = collect(model, ["2"], [torch.randn(4, 3, 16, 16)], positions=20)["2"]
>>> found.count, found.inputs.shape, found.cross.shape
(80, torch.Size([72, 72]), torch.Size([8, 72]))

A convolution is a linear map of unfolded inputs: at each place of its output it reads C * R * S numbers.
All that least squares needs to know of them are their mean and their covariance, whatever the number of
images; and, where a network that has been changed already shall still give what the original gave, how they
vary together with the original's outputs. Sums are kept in float64 around running means, so that large
means (after a ReLU) cost no digits.

Source of the update: Chan, Golub, LeVeque, Algorithms for computing the sample variance, American
Statistician 37(3), 1983. Source of random places: He, Zhang, Sun, Channel pruning, ICCV 2017
(arXiv:1707.06168), section 4.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regroup.errors import ConfigError
from regroup.ops.layers import flat
from regroup.spec import ConvSpec
from regroup.training.data.randomness import generator

POSITIONS = 16
"""Places of each image that are looked at, unless said otherwise."""


@dataclass
class Moments:
    """Of inputs x (D,), D = C * R * S, and wanted outputs y (M,) of a convolution, in float64.

    Attributes:
        count: pairs (x, y) seen.
        input_mean: (D,), of x.
        target_mean: (M,), of y.
        inputs: (D, D), covariance of x.
        cross: (M, D), covariance of y with x.
        targets: (M,), variance of each y.
    """

    count: int
    input_mean: Tensor
    target_mean: Tensor
    inputs: Tensor
    cross: Tensor
    targets: Tensor


@dataclass
class _Sums:
    """Moments in the making: sums of products around the means of what has been seen so far."""

    count: int = 0
    means: list[Tensor] = field(default_factory=list)
    products: list[Tensor] = field(default_factory=list)

    def add(self, x: Tensor, y: Tensor) -> None:
        """Take in rows (n, D) of inputs and (n, M) of outputs."""
        x, y = x.double(), y.double()
        means = [x.mean(0), y.mean(0)]
        x, y = x - means[0], y - means[1]
        new = [x.t() @ x, y.t() @ x, y.square().sum(0)]
        if not self.count:
            self.count, self.means, self.products = len(x), means, new
            return
        total = self.count + len(x)
        dx, dy = (mean - old for mean, old in zip(means, self.means, strict=True))
        weight = self.count * len(x) / total
        between = [torch.outer(dx, dx), torch.outer(dy, dx), dy.square()]
        for sums, within, apart in zip(self.products, new, between, strict=True):
            sums.add_(within).add_(apart, alpha=weight)
        for mean, step in zip(self.means, (dx, dy), strict=True):
            mean.add_(step, alpha=len(x) / total)
        self.count = total

    def moments(self) -> Moments:
        """Return means and covariances (divided by the number of pairs)."""
        return Moments(self.count, *self.means, *(sums / self.count for sums in self.products))


def collect(
    model: nn.Module,
    names: Sequence[str],
    batches: Iterable[Tensor],
    *,
    original: nn.Module | None = None,
    positions: int = POSITIONS,
    seed: int = 0,
) -> dict[str, Moments]:
    """Return the moments of dense convolutions of a network over images; no gradients, eval mode.

    Args:
        model: the network that the convolutions read their inputs in.
        names: of its convolutions, each an nn.Conv2d with one group. A layer that runs several times has the
            moments of all its runs together.
        batches: images (N, channels, height, width).
        original: the network whose layers of the same names give the wanted outputs; None: `model` itself.
        positions: places of each image and run that are drawn, fewer where a layer has fewer outputs.
        seed: what is drawn depends on it, the layer, the batch and the run alone.

    Raises:
        ConfigError: there are no images.
    """
    sums = {name: _Sums() for name in names}
    teacher, runs = original or model, None
    with evaluated(model), evaluated(teacher), torch.no_grad():
        for number, images in enumerate(batches):
            wanted: list[tuple[Tensor, Tensor]] = []

            def draw(run: Run, number: int = number, wanted: list = wanted) -> None:
                where = _drawn(run.output.shape, positions, (seed, number, run.number))
                image, row, column = where.unbind(1)
                wanted.append((where, run.output[image, :, row, column]))

            def add(run: Run, wanted: list = wanted) -> None:
                where, y = wanted[run.number]
                sums[run.name].add(patches(run.input, ConvSpec.of(run.conv), where).flatten(1), y)

            runs = visit(teacher, names, images, draw, runs)
            visit(model, names, images, add, runs)
    if runs is None:
        raise ConfigError("data", "no images", "one batch of images or more")
    return {name: each.moments() for name, each in sums.items()}


def patches(x: Tensor, spec: ConvSpec, where: Tensor) -> Tensor:
    """Return what a convolution reads for some of its outputs: (n, C, R, S).

    Args:
        x: (N, C, H, W).
        spec: of the convolution.
        where: (n, 3), image, row and column of each output.
    """
    windows = F.pad(x, flat(list(zip(spec.before, spec.after, strict=True))))
    for axis in (0, 1):
        span = spec.dilation[axis] * (spec.kernel_size[axis] - 1) + 1
        windows = windows.unfold(2 + axis, span, spec.stride[axis])  # a view: nothing is copied
    windows = windows[..., :: spec.dilation[0], :: spec.dilation[1]]
    image, row, column = where.unbind(1)
    return windows[image, :, row, column]


def _drawn(shape: torch.Size, positions: int, key: Sequence[int]) -> Tensor:
    """Return (image, row, column) of some outputs of every image, each at most once."""
    images, _, height, width = shape
    dice = torch.rand(images, height * width, generator=generator(*key))
    place = dice.topk(min(positions, height * width), dim=1).indices
    image = torch.arange(images)[:, None].expand_as(place)
    return torch.stack([image, place // width, place % width], -1).flatten(0, 1)


class Run(NamedTuple):
    """One run of one layer: the number-th of all layers in this forward."""

    name: str
    number: int
    conv: nn.Conv2d
    input: Tensor
    output: Tensor


class _Enough(Exception):
    """All layers have run: the rest of the forward is not needed."""


def visit(
    model: nn.Module,
    names: Sequence[str],
    images: Tensor,
    call: Callable[[Run], None],
    runs: int | None = None,
) -> int:
    """Run a network; call `call` after each run of each named layer, before what follows changes its output.

    Returns:
        How many runs there were; after `runs` of them the rest of the network is left out.
    """
    done = 0

    def after(name: str, inputs: tuple[Tensor, ...], output: Any) -> None:
        nonlocal done
        conv = layers[name]
        assert isinstance(conv, nn.Conv2d)
        call(Run(name, done, conv, inputs[0], output))
        done += 1
        if done == runs:
            raise _Enough

    layers = {name: model.get_submodule(name) for name in names}
    with suppress(_Enough), heard(layers, after=after):
        model(images)
    return done


@contextmanager
def heard(
    modules: Mapping[str, nn.Module],
    *,
    before: Callable[[str, tuple, dict], None] | None = None,
    after: Callable[[str, tuple, Any], None] | None = None,
) -> Iterator[None]:
    """Hear of each run of modules inside the block.

    Args:
        modules: by name.
        before: called with the name and the arguments, before the module runs.
        after: called with the name, the arguments and what the module gave, before what follows changes that.
    """
    handles = []
    try:
        for name, module in modules.items():
            if before is not None:
                hook = partial(_before, before, name)
                handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))
            if after is not None:
                handles.append(module.register_forward_hook(partial(_after, after, name)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _before(call: Callable, name: str, module: nn.Module, inputs: tuple, named: dict) -> None:
    call(name, inputs, named)


def _after(call: Callable, name: str, module: nn.Module, inputs: tuple, output: object) -> None:
    call(name, inputs, output)


@contextmanager
def evaluated(model: nn.Module) -> Iterator[None]:
    """Put all modules into eval mode inside the block, and each back into its own after it."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
