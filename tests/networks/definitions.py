"""The definitions of the networks that no library has, as sketches."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from regroup.networks import list_models, networks
from tests.networks.definitions_condensed import DEFINITIONS as CONDENSED
from tests.networks.definitions_interleaved import DEFINITIONS as INTERLEAVED
from tests.networks.definitions_octave import DEFINITIONS as OCTAVE
from tests.networks.definitions_searched import DEFINITIONS as SEARCHED
from tests.networks.sketch import Definition, Sketch

# ---- Big-Little: IBM/BigLittleNet


def bl_bottleneck(
    s: Sketch, at: str, x: Tensor, out: int, width: float, groups: int, stride: int, relu: bool, se: bool
) -> Tensor:
    d = int(out * (width / 64)) // 4
    y = F.relu(s.norm(f"{at}.bn1", s.conv(f"{at}.conv1", x, d * groups)))
    y = F.relu(s.norm(f"{at}.bn2", s.conv(f"{at}.conv2", y, d * groups, 3, stride, groups=groups)))
    y = s.norm(f"{at}.bn3", s.conv(f"{at}.conv3", y, out))
    if se:
        gate = s.conv(f"{at}.se_layer.fc1", F.adaptive_avg_pool2d(y, 1), out // 16, bias=True)
        y = y * s.conv(f"{at}.se_layer.fc2", F.relu(gate), out, bias=True).sigmoid()
    number = 0
    if stride == 2:
        x, number = F.avg_pool2d(x, 3, 2, 1), 1
    if x.shape[1] != out:
        x = s.conv(f"{at}.downsample.{number}", x, out)
        x = s.norm(f"{at}.downsample.{number + 1}", x)
    return F.relu(y + x) if relu else y + x


def biglittle(s: Sketch, x: Tensor, depths, widths, alpha, beta, groups, width, se) -> Tensor:
    x = F.relu(s.norm("bn1", s.conv("conv1", x, widths[0], 7, 2)))
    big = s.norm("bn_b0", s.conv("b_conv0", x, widths[0], 3, 2))
    little = F.relu(s.norm("bn_l0", s.conv("l_conv0", x, widths[0] // alpha, 3)))
    little = F.relu(s.norm("bn_l1", s.conv("l_conv1", little, widths[0] // alpha, 3, 2)))
    little = s.norm("bn_l2", s.conv("l_conv2", little, widths[0]))
    x = F.relu(s.norm("bn_bl_init", s.conv("bl_init", F.relu(big + little), widths[0])))
    for i, stride in enumerate((2, 2, 1)):
        at, out = f"layer{i + 1}", 4 * widths[i]
        big = little = x
        for b in range(depths[i] - 1):
            relu = b == 0 or b < depths[i] - 2
            big = bl_bottleneck(s, f"{at}.big.{b}", big, out, width, groups, 1 if b else 2, relu, se)
        for b in range(max(1, depths[i] // beta - 1)):
            thin = max(1, groups // alpha), width * alpha if groups > 1 else width
            little = bl_bottleneck(s, f"{at}.little.{b}", little, out // alpha, thin[1], thin[0], 1, True, se)
        little = s.norm(f"{at}.little_e.1", s.conv(f"{at}.little_e.0", little, out))
        x = F.relu(F.interpolate(big, little.shape[2:]) + little)
        x = bl_bottleneck(s, f"{at}.fusion.0", x, out, width, groups, stride, True, se)
    for b in range(depths[3]):
        x = bl_bottleneck(s, f"layer4.{b}", x, 4 * widths[3], width, groups, 1 if b else 2, True, se)
    return s.head("fc", x)


def _biglittles() -> dict[str, Definition]:
    options = {"depths": (3, 6, 4, 2), "widths": (16, 32, 48, 64)}
    found = {}
    for name in list_models("bl_*"):
        c = networks[name].config
        run = partial(
            biglittle,
            **options,
            alpha=c.alpha,
            beta=c.beta,
            groups=c.groups,
            width=c.group_width,
            se=c.squeeze,
        )
        found[name] = partial(Sketch, run), options
    return found


# ---- ScaleNet: Eli-YiLi/ScaleNet


def scalenet(s: Sketch, x: Tensor, structure) -> Tensor:
    x = F.max_pool2d(F.relu(s.norm("bn1", s.conv("conv1", x, 64, 7, 2))), 3, 2, 1)
    for i, stage in enumerate(structure):
        for b, outputs in enumerate(stage):
            at, planes = f"layer{i + 1}.{b}", 64 * 2**i
            x = F.max_pool2d(x, 2, 2) if b == 0 and i > 0 else x
            y = F.relu(s.norm(f"{at}.bn1", s.conv(f"{at}.conv1", x, planes)))
            side, parts = y.shape[2], []
            for n, (scale, out) in enumerate(zip((1, 2, 4, 7), outputs, strict=True)):
                if out == 0:
                    continue
                z = F.max_pool2d(y, min(scale, side))
                z = s.conv(f"{at}.conv2.{n}", z, out, 1 if 56 / 2**i / 2**n <= 1 else 3)
                mode = "nearest" if side % z.shape[2] == 0 else "bilinear"
                z = F.interpolate(z, size=(side, side), mode=mode)
                parts.append(s.norm(f"{at}.bn2.{n}", z))
            y = s.norm(f"{at}.bn3", s.conv(f"{at}.conv3", F.relu(torch.cat(parts, 1)), planes * 4))
            if b == 0:
                x = s.norm(f"{at}.downsample.1", s.conv(f"{at}.downsample.0", x, planes * 4))
            x = F.relu(x + y)
    return s.head("fc", x)


def _scalenets() -> dict[str, Definition]:
    """Two blocks a stage, the first and the last."""
    found = {}
    for name in list_models("scalenet*"):
        short = tuple((stage[0], stage[-1]) for stage in networks[name].config.structure)
        found[name] = partial(Sketch, partial(scalenet, structure=short)), {"structure": short}
    return found


HERE: dict[str, Definition] = {**_biglittles(), **_scalenets()}
DEFINITIONS: dict[str, Definition] = {**HERE, **OCTAVE, **SEARCHED, **INTERLEAVED, **CONDENSED}
