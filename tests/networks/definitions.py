"""The definitions of the networks that no library has, as sketches."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from regroup.networks import list_models, networks
from tests.networks.definitions_condensed import DEFINITIONS as CONDENSED
from tests.networks.definitions_interleaved import DEFINITIONS as INTERLEAVED
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


# ---- Octave: d-li14/octconv.pytorch, with squeeze and excite as in facebookresearch/OctConv

Pair = tuple[Tensor, Tensor | None]


def low_of(alpha: float, channels: int) -> int:
    return int(alpha * channels)


def oct_conv(
    s: Sketch, at: str, pair: Pair, out: int, alpha: float, k: int = 1, stride: int = 1, **more: object
) -> Pair:
    """Convolve, normalise; conv_{}, bn_{} below `at`. Poolings are 2 x 2, ceil mode, one after another."""
    if more.get("groups", 1) == out:
        return oct_depthwise(s, at, pair, k, stride)
    high, low = pair
    n_low = low_of(alpha, out)
    pool = partial(F.avg_pool2d, kernel_size=2, ceil_mode=True)
    high = pool(high) if stride == 2 else high
    y_high = s.conv(f"{at}.conv.conv_h2h", high, out - n_low, k, **more)
    y_low = s.conv(f"{at}.conv.conv_h2l", pool(high), n_low, k, **more) if n_low else None
    if low is not None:
        across = s.conv(f"{at}.conv.conv_l2h", low, out - n_low, k, **more)
        y_high = y_high + (F.interpolate(across, scale_factor=2) if stride == 1 else across)
        if n_low:
            low = pool(low) if stride == 2 else low
            y_low = y_low + s.conv(f"{at}.conv.conv_l2l", low, n_low, k, **more)
    return s.norm(f"{at}.bn_h", y_high), s.norm(f"{at}.bn_l", y_low) if n_low else None


def oct_depthwise(s: Sketch, at: str, pair: Pair, k: int, stride: int) -> Pair:
    def one(x: Tensor | None, path: str, norm: str) -> Tensor | None:
        if x is None:
            return None
        x = F.avg_pool2d(x, 2, ceil_mode=True) if stride == 2 else x
        return s.norm(f"{at}.{norm}", s.conv(f"{at}.conv.conv_{path}", x, x.shape[1], k, groups=x.shape[1]))

    return one(pair[0], "h2h", "bn_h"), one(pair[1], "l2l", "bn_l")


def oct_relu(pair: Pair, relu: Callable[[Tensor], Tensor] = F.relu) -> Pair:
    return tuple(None if x is None else relu(x) for x in pair)


def oct_squeeze(s: Sketch, at: str, pair: Pair) -> Pair:
    parts = [x for x in pair if x is not None]
    channels = sum(x.shape[1] for x in parts)
    means = torch.cat([F.adaptive_avg_pool2d(x, 1) for x in parts], 1)
    hidden = F.relu(s.conv(f"{at}.reduce", means, channels // 16, bias=True))
    gates = [
        s.conv(f"{at}.expand_{name}", hidden, x.shape[1], bias=True).sigmoid()
        for name, x in zip(("high", "low"), parts, strict=False)
    ]
    parts = [x * gate for x, gate in zip(parts, gates, strict=True)]
    return parts[0], parts[1] if len(parts) == 2 else None


def octave_resnet(s: Sketch, x: Tensor, depths, alpha, groups, width, se) -> Tensor:
    x = F.max_pool2d(F.relu(s.norm("bn1", s.conv("conv1", x, 64, 7, 2))), 3, 2, 1)
    pair = (x, None)
    for i, depth in enumerate(depths):
        a = alpha if i < 3 else 0.0
        planes = 64 * 2**i
        for b in range(depth):
            at, stride = f"layer{i + 1}.{b}", 2 if b == 0 and i > 0 else 1
            y = oct_relu(oct_conv(s, f"{at}.conv1", pair, planes * width // 64 * groups, a))
            y = oct_conv(s, f"{at}.conv2", y, planes * width // 64 * groups, a, 3, stride, groups=groups)
            y = oct_conv(s, f"{at}.conv3", oct_relu(y), planes * 4, a)
            y = oct_squeeze(s, f"{at}.squeeze", y) if se else y
            if b == 0:
                pair = oct_conv(s, f"{at}.downsample.0", pair, planes * 4, a, 1, stride)
            pair = oct_relu(tuple(None if u is None else u + v for u, v in zip(y, pair, strict=True)))
    return s.head("fc", pair[0])


def octave_mobilenet_v1(s: Sketch, x: Tensor, width, alpha) -> Tensor:
    plan = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)]
    pair = F.relu(s.norm("features.0.1", s.conv("features.0.0", x, int(32 * width), 3, 2))), None
    for i, (out, stride) in enumerate(plan, 1):
        channels = sum(x.shape[1] for x in pair if x is not None)
        pair = oct_relu(oct_conv(s, f"features.{i}.0", pair, channels, 0, 3, stride, groups=channels))
        pair = oct_relu(oct_conv(s, f"features.{i}.1", pair, int(out * width), alpha if i <= 10 else 0))
    return s.head("fc", pair[0])


def octave_mobilenet_v2(s: Sketch, x: Tensor, width, alpha) -> Tensor:
    """Under our own keys: there are only MXNet's weights."""

    def name(path: str) -> str:
        for theirs, ours in (("conv.conv_", "conv."), ("bn_h", "norm.high.0"), ("bn_l", "norm.low.0")):
            path = path.replace(theirs, ours)
        return path

    plan = [(1, 16, 1), (6, 24, 2), (6, 24, 1), (6, 32, 2), (6, 32, 1), (6, 32, 1), (6, 64, 2)]
    plan += [(6, 64, 1)] * 3 + [(6, 96, 1)] * 3 + [(6, 160, 2), (6, 160, 1), (6, 160, 1), (6, 320, 1)]
    s.name = name
    x = F.relu6(s.norm("stem.norm", s.conv("stem.conv", x, int(32 * width), 3, 2)))
    cuts = [0, 1, 3, 6, 13, 17]
    for i, (expand, out, stride) in enumerate(plan):
        stage = max(n for n, cut in enumerate(cuts) if cut <= i)
        at, c, a = f"stages.{stage}.{i - cuts[stage]}", x.shape[1], alpha if i < 13 else 0
        y = oct_relu(oct_conv(s, f"{at}.conv1", (x, None), expand * c, a), F.relu6)
        y = oct_relu(oct_conv(s, f"{at}.conv2", y, expand * c, a, 3, stride, groups=expand * c), F.relu6)
        y = oct_conv(s, f"{at}.conv3", y, int(out * width), 0)[0]
        x = x + y if stride == 1 and y.shape == x.shape else y
    last = int(1280 * max(1, width))
    x = F.relu6(s.norm("tail.norm", s.conv("tail.conv", x, last)))
    return s.head("classifier", x)


def _octaves() -> dict[str, Definition]:
    options = {"depths": (2, 1, 2, 2)}
    found = {}
    for name in list_models("oct_*res*"):
        c = networks[name].config
        run = partial(
            octave_resnet, **options, alpha=c.alpha, groups=c.groups, width=c.group_width, se=c.squeeze
        )
        found[name] = partial(Sketch, run), options
    for name in list_models("oct_mobilenet*"):
        c = networks[name].config
        run = octave_mobilenet_v1 if "v1" in name else octave_mobilenet_v2
        found[name] = partial(Sketch, partial(run, width=c.width, alpha=c.alpha)), {}
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


HERE: dict[str, Definition] = {**_biglittles(), **_octaves(), **_scalenets()}
DEFINITIONS: dict[str, Definition] = {**HERE, **INTERLEAVED, **CONDENSED}
