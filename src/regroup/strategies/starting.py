"""How a strategy's module starts from trained dense weights: kept, approximated with what error, or new.

>>> conv = nn.Conv2d(8, 8, 3, padding=1)
>>> print(regroup.parse_strategy("condensed:groups=2").from_dense(conv))
kept
>>> print(regroup.parse_strategy("separable:norm=true").from_dense(conv))
new: batch norm stands inside, and what it makes of weights depends on data

What is said of the weights is not what a formula promises: the module is shown impulses, and its answers are
held against the dense kernel, tap by tap.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Literal

import torch
from torch import Tensor, nn

from regroup.ops.bounds import rounding_bound
from regroup.ops.layers import Convolution, per_channel
from regroup.spec import ConvSpec, Extent

BATCH_NORM = "batch norm stands inside, and what it makes of weights depends on data"
ACTIVATION = "an activation stands inside, and what it makes of weights depends on data"
POOLING = "max-pools stand inside, which are not linear"
"""Why weights are new."""

_MOST = 1 << 22  # numbers in the images that are shown at a time
_PROBES = 64


@dataclass(frozen=True)
class DenseWeights:
    """The weights of a dense convolution that a module is to start from.

    Args:
        spec: of the convolution.
        kernel: (K, C, *taps), float64 on the CPU.
        bias: (K,), or None.
    """

    spec: ConvSpec
    kernel: Tensor
    bias: Tensor | None

    @classmethod
    def of(cls, conv: Convolution | nn.Linear) -> DenseWeights:
        """Return those of a convolution, or of a linear layer as one of a single tap.

        Raises:
            SpecError: its padding is not zeros.
        """
        bias = None if conv.bias is None else conv.bias.detach().cpu().double()
        kernel = conv.weight.detach().cpu().double()
        return cls(ConvSpec.of(conv), kernel[..., None] if kernel.dim() == 2 else kernel, bias)


@dataclass(frozen=True)
class Start:
    """A module, and what became of the dense weights in it.

    Args:
        module: in the dtype, device and mode of the convolution.
        weights: "kept": it computes what the convolution does, within the rounding bound, until it learns;
            "approximated": the nearest that the strategy has in closed form; "new": of its own.
        error: of approximated weights: |effective kernel - kernel| / |kernel|, by Frobenius.
        reason: why they are new.
    """

    module: nn.Module
    weights: Literal["kept", "approximated", "new"]
    error: float | None = None
    reason: str = ""

    def __str__(self) -> str:
        """Say it as in the table of `regroup.replace`."""
        if self.weights == "approximated":
            return f"approximated (error {self.error:.2g})"
        return f"{self.weights}: {self.reason}" if self.reason else self.weights


def measured(module: nn.Module, dense: DenseWeights, period: int = 1) -> float:
    """Return how far a module is from a dense convolution: 0 if rounding explains it, else relatively.

    The module is linear but for a bias, as far as this can see: its answers to an impulse at each input
    channel and each place of one period are its effective kernel. The error is the norm of what they and the
    dense answers differ by, over the norm of the latter; of a kernel of zeros, the norm itself. Of more than
    64 input channels the norms are estimated from 64 impulses with random signs in all channels, the same
    ones in every call; an output has hundreds of terms then, and the estimate errs by a hundredth or so.

    Source of the estimate: Hutchinson, Communications in Statistics 18(3), 1989.

    Args:
        module: built for `dense.spec`.
        dense: what it is held against.
        period: outputs after which the module's effective kernel repeats itself, on every axis.
    """
    trial = copy.deepcopy(module).cpu().eval()
    half = next(trial.parameters()).dtype in (torch.float16, torch.bfloat16)
    trial = trial.float() if half else trial
    dtype = next(trial.parameters()).dtype
    bias = dense.bias if dense.bias is not None else torch.zeros(len(dense.kernel), dtype=torch.float64)
    probes, offset = _probes(dense.spec.in_channels), per_channel(bias, dense.spec.dims)
    terms = 2 if len(probes) == dense.spec.in_channels else dense.spec.in_channels + 1
    missed, total, explained = 0.0, 0.0, True
    with torch.inference_mode():
        blank = None
        for images, answers, magnitude in _impulses(dense, probes, period):
            images = images.to(dtype)
            blank = trial(torch.zeros_like(images[:1])).double() if blank is None else blank
            found, exact = trial(images).double(), answers + offset
            bound = rounding_bound(exact, magnitude + offset.abs(), terms, dtype, dtype)
            explained &= bool(((found - exact).abs() <= bound).all())
            missed += float((found - blank - answers).square().sum())
            total += float(answers.square().sum())
    return 0.0 if explained else math.sqrt(missed / total) if total else math.sqrt(missed)


def _probes(channels: int) -> Tensor:
    """Return what channels are shown at a time, (N, C): each alone, or random signs in all of them."""
    if channels <= _PROBES:
        return torch.eye(channels, dtype=torch.float64)
    signs = torch.randint(0, 2, (_PROBES, channels), generator=torch.Generator().manual_seed(0))
    return 2.0 * signs.double() - 1


def _impulses(dense: DenseWeights, probes: Tensor, period: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield images (N, C, *size) of impulses, the kernel's answers (N, K, *out), and their magnitudes."""
    spec, sizes, places = dense.spec, [], []
    for span, s, before, after in zip(spec.span, spec.stride, spec.before, spec.after, strict=True):
        most = span // 2 if before == after else span  # beyond that, padding only makes more outputs
        before, after = min(before, most), min(after, most)
        outputs = period * (span + 1)  # what an impulse reaches on the coarsest grid
        sizes.append(outputs * s + span - before - after)  # nothing that is pooled is cut short
        first = s * period * ((span + 1) // 2) + span // 2 - before
        places.append(range(max(first, 0), max(first, 0) + period * s))
    step = max(1, _MOST // (spec.in_channels * math.prod(sizes)))
    for at in product(*places):
        for part in probes.split(step):
            images = torch.zeros(len(part), spec.in_channels, *sizes)
            images[(..., *at)] = part.float()
            place = tuple(sizes), at
            yield (
                images,
                _answers(spec, dense.kernel, part, *place),
                _answers(spec, dense.kernel.abs(), part.abs(), *place),
            )


def _answers(spec: ConvSpec, kernel: Tensor, probes: Tensor, size: Extent, place: Extent) -> Tensor:
    """Return what a dense kernel makes of impulses at `place` in images of a size: (N, K, *out)."""
    answers = kernel.new_zeros(len(probes), spec.out_channels, *spec.output_size(size))
    for tap in product(*map(range, spec.kernel_size)):
        steps = zip(place, spec.before, spec.dilation, tap, spec.stride, strict=True)
        found = [divmod(x + p - d * t, s) for x, p, d, t, s in steps]
        at = tuple(number for number, _ in found)
        reached = all(0 <= n < most for n, most in zip(at, answers.shape[2:], strict=True))
        if reached and not any(rest for _, rest in found):
            answers[(..., *at)] = probes @ kernel[(..., *tap)].t()
    return answers
