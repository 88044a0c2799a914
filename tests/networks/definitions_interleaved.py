"""The definitions of the interleaved and flattened networks, as sketches under our own keys."""

from __future__ import annotations

from functools import partial

from torch import Tensor
from torch.nn import functional as F

from regroup.networks import list_models, networks
from tests.networks.sketch import Definition, Sketch


def reorder(x: Tensor, branches: int) -> Tensor:
    """The operator Reorder: branches x rest -> rest x branches."""
    n, c, h, w = x.shape
    return x.view(n, branches, c // branches, h, w).transpose(1, 2).reshape(n, c, h, w)


# ---- IGCV1: hellozting/InterleavedGroupConvolutions


def igc(s: Sketch, at: str, x: Tensor, out: int, primary: int, stride: int) -> Tensor:
    first, second = (at + ".conv.0", at + ".conv.2") if primary < out else (at + ".conv.0", at + ".conv.1")
    x = s.conv(first, x, out, 3, stride, groups=primary)
    x = reorder(x, primary)
    x = s.conv(second, x, out, groups=out // primary)
    x = reorder(x, out // primary)
    return s.norm(f"{at}.norm", x, eps=2e-5)


def igcv1(s: Sketch, x: Tensor, depths, widths, primary, residual, small) -> Tensor:
    x = s.conv("stem.conv", x, widths[0], 3 if small else 7, 1 if small else 2)
    x = F.relu(s.norm("stem.norm", x, eps=2e-5))
    x = x if small else F.max_pool2d(x, 3, 2, 1)
    for i, depth in enumerate(depths):
        for b in range(depth):
            at, out, stride = f"stages.{i}.{b}", widths[i + 1], 2 if b == 0 and i > 0 else 1
            if not residual:
                x = F.relu(igc(s, at, x, out, primary[i], stride))
                continue
            y = F.relu(igc(s, f"{at}.conv1", x, out, primary[i], stride))
            y = igc(s, f"{at}.conv2", y, out, primary[i], 1)
            if x.shape[1] != out:
                x = s.conv(f"{at}.shortcut.conv", x, out, 1, stride, groups=primary[i])
                x = s.norm(f"{at}.shortcut.norm", x, eps=2e-5)
            x = F.relu(x + y)
    return s.head("classifier", x, 10 if small else 1000)


def _igcv1() -> dict[str, Definition]:
    found = {}
    for name in list_models("igcv1_*"):
        c = networks[name].config
        depths = tuple(min(d, 2) for d in c.depths)
        run = partial(
            igcv1, depths=depths, widths=c.widths, primary=c.primary, residual=c.residual, small=c.small
        )
        found[name] = partial(Sketch, run, 8 if c.small else 64), {"depths": depths}
    return found


# ---- IGCV2: the product of matrices, with the sparse ones written as dense masks


def igcv2(s: Sketch, x: Tensor, widths, factors) -> Tensor:
    """Factor l mixes the channels whose numbers differ in digit l alone, the first factor's digit last."""
    x = F.relu(s.norm("stem.norm", s.conv("stem.conv", x, widths[0], 3)))
    for i, out in enumerate(widths):
        for b in range(2):
            at, channels, stride = f"stages.{i}.{b}", x.shape[1], 2 if b == 0 and i > 0 else 1
            x = s.conv(f"{at}.conv.0", x, channels, 3, stride, groups=channels)
            radices = list(factors[channels])
            for n in range(len(radices)):
                last = n == len(radices) - 1
                grown = radices[n] * (out // channels if last else 1)
                axis = len(radices) - 1 - n
                digits = x.unflatten(1, radices[::-1]).movedim(1 + axis, len(radices))
                x = digits.flatten(1, len(radices))
                groups = x.shape[1] // radices[n]
                x = s.conv(f"{at}.conv.{2 * n + 1}", x, groups * grown, groups=groups)
                radices[n] = grown
                left = [r for k, r in enumerate(radices[::-1]) if k != axis]
                x = x.unflatten(1, [*left, grown]).movedim(len(radices), 1 + axis).flatten(1, len(radices))
            x = F.relu(s.norm(f"{at}.norm", x))
    return s.head("classifier", x, 100)


def _igcv2() -> dict[str, Definition]:
    factors = {416: (4, 8, 13), 832: (4, 4, 4, 13), 1664: (4, 4, 8, 13)}
    run = partial(igcv2, widths=(416, 832, 1664), factors=factors)
    return {"igcv2_20_c416": (partial(Sketch, run, 8), {"depths": (2, 2, 2)})}


# ---- Flattened CNN: jhjin/flattened-cnn has the layers


def flattened(s: Sketch, x: Tensor, rounds: int) -> Tensor:
    for at, out in (("stem", 96), ("stages.0.0", 128), ("stages.1.0", 256)):
        if not rounds:
            x = s.conv(f"{at}.conv", x, out, 5, bias=True)
        for k in range(0, 3 * rounds, 3):
            x = s.conv(f"{at}.conv.{k}", x, out, bias=True)
            x = s.conv(f"{at}.conv.{k + 1}", x, out, (5, 1), padding=(2, 0), groups=out, bias=True)
            x = s.conv(f"{at}.conv.{k + 2}", x, out, (1, 5), padding=(0, 2), groups=out, bias=True)
        x = F.max_pool2d(F.relu(x), 2)
    x = F.relu(s.linear("hidden.1", F.adaptive_avg_pool2d(x, 4).flatten(1), 256))
    return s.linear("classifier", x, 10)


def _flattened() -> dict[str, Definition]:
    found = {}
    for name in list_models("flattened*"):
        run = partial(flattened, rounds=networks[name].config.rounds)
        found[name] = partial(Sketch, run, 32), {}
    return found


DEFINITIONS: dict[str, Definition] = {**_igcv1(), **_igcv2(), **_flattened()}
