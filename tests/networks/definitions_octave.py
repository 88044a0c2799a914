"""Octave networks: d-li14/octconv.pytorch; facebookresearch/OctConv where there are only MXNet's weights."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from regroup.networks import list_models, networks
from tests.networks.sketch import Definition, Sketch

Pair = tuple[Tensor, Tensor | None]


def low_of(alpha: float, channels: int) -> int:
    return int(alpha * channels)


def oct_conv(
    s: Sketch, at: str, pair: Pair, out: int, alpha: float, k: int = 1, stride: int = 1, **more: object
) -> Pair:
    """Convolve, normalise; conv_{}, bn_{} below `at`."""
    if more.get("groups", 1) == out:
        return oct_depthwise(s, at, pair, k, stride)
    high, low = oct_paths(s, at, pair, out, alpha, k, stride, **more)
    return s.norm(f"{at}.bn_h", high), None if low is None else s.norm(f"{at}.bn_l", low)


def oct_paths(
    s: Sketch, at: str, pair: Pair, out: int, alpha: float, k: int, stride: int, **more: object
) -> Pair:
    """Convolve by four paths. Poolings are 2 x 2, ceil mode, one after another."""
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
    return y_high, y_low


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


def oct_norm(s: Sketch, at: str, pair: Pair, **more: float) -> Pair:
    """Normalise both octaves, under our keys."""
    names = (f"{at}.high", f"{at}.low")
    return tuple(None if x is None else s.norm(name, x, **more) for name, x in zip(names, pair, strict=True))


def our_octaves(path: str) -> str:
    """Return our name of a part of `oct_conv`, for networks of which there are only MXNet's weights."""
    for theirs, ours in (("conv.conv_", "conv."), ("bn_h", "norm.high.0"), ("bn_l", "norm.low.0")):
        path = path.replace(theirs, ours)
    return path


def octave_resnet_v2(s: Sketch, x: Tensor, depths, alpha, groups, width, se) -> Tensor:
    """facebookresearch/OctConv, Symbol code: BN_ACT_Conv everywhere, conv4 as the shortcut."""

    def convolve(at: str, pair: Pair, out: int, a: float, k: int = 1, stride: int = 1, **more: int) -> Pair:
        normed = [
            None if x is None else F.relu(s.norm(f"{at}.norm.{name}.0", x, eps=1e-4))
            for x, name in zip(pair, ("high", "low"), strict=True)
        ]
        return oct_paths(s, at, (normed[0], normed[1]), out, a, k, stride, **more)

    s.name = our_octaves
    x = F.relu(s.norm("stem.norm", s.conv("stem.conv", x, 64, 7, 2), eps=1e-4))
    pair = F.max_pool2d(x, 3, 2, 1), None
    for i, depth in enumerate(depths):
        a, planes = alpha if i < 3 else 0.0, 64 * 2**i
        middle = planes * width // 64 * groups
        for b in range(depth):
            at, stride = f"stages.{i}.{b}", 2 if b == 0 and i > 0 else 1
            y = convolve(f"{at}.conv1", pair, middle, a)
            y = convolve(f"{at}.conv2", y, middle, a, 3, stride, groups=groups)
            y = convolve(f"{at}.conv3", y, planes * 4, a)
            y = oct_squeeze(s, f"{at}.squeeze", y) if se else y
            if b == 0:
                pair = convolve(f"{at}.shortcut", pair, planes * 4, a, 1, stride)
            pair = tuple(None if u is None else u + v for u, v in zip(y, pair, strict=True))
    return s.head("classifier", F.relu(s.norm("tail.0", pair[0], eps=1e-4)))


def octave_resnet_v1ef(s: Sketch, x: Tensor, depths, alpha, se) -> Tensor:
    """facebookresearch/OctConv, Gluon code: resnet152_v1e with gates, or resnet152_v1f without."""

    def plain(at: str, x: Tensor, out: int, k: int = 1, stride: int = 1) -> Tensor:
        return s.norm(f"{at}.norm", s.conv(f"{at}.conv", x, out, k, stride))

    s.name = our_octaves
    n1, s1, s2 = (32, 2, 1) if se else (8, 1, 2)
    for i, (out, stride) in enumerate(((n1, s1), (32, s2), (64, 1))):
        x = F.relu(plain(f"stem.{i}", x, out, 3, stride))
    if se:
        x = F.max_pool2d(x, 3, 2, 1)
    else:
        at = "stages.0.pool"
        y = F.relu(plain(f"{at}.convs.1", F.relu(plain(f"{at}.convs.0", x, 32)), 32, 3, 2))
        x = F.relu(plain(f"{at}.convs.2", y, 64) + plain(f"{at}.shortcut", x, 64, 1, 2))
    pair = x, None
    for i, depth in enumerate(depths):
        a, planes = alpha if i < 3 else 0.0, 64 * 2**i
        for b in range(depth):
            at, stride, second = f"stages.{i}.{b}", 2 if b == 0 and i > 0 else 1, ".1" if se else ""
            first = oct_norm(s, f"{at}.conv1.0", pair, affine=False) if se else pair
            y = oct_relu(oct_conv(s, f"{at}.conv1{second}", first, planes, a))
            y = oct_relu(oct_conv(s, f"{at}.conv2", y, planes, a, 3))
            y = oct_conv(s, f"{at}.conv3", y, planes * 4, a, 1, stride)
            y = oct_squeeze(s, f"{at}.squeeze", y) if se else y
            if b == 0:
                past = oct_norm(s, f"{at}.shortcut.0", pair, affine=False) if se else pair
                pair = oct_conv(s, f"{at}.shortcut{second}", past, planes * 4, a, 1, stride)
            pair = oct_relu(tuple(None if u is None else u + v for u, v in zip(y, pair, strict=True)))
    return s.head("classifier", pair[0])


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
    plan = [(1, 16, 1), (6, 24, 2), (6, 24, 1), (6, 32, 2), (6, 32, 1), (6, 32, 1), (6, 64, 2)]
    plan += [(6, 64, 1)] * 3 + [(6, 96, 1)] * 3 + [(6, 160, 2), (6, 160, 1), (6, 160, 1), (6, 320, 1)]
    s.name = our_octaves
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


def octave_resnext() -> Definition:
    """A ResNeXt of the first form, which no one has published."""
    shape = {"depths": (2, 1, 2, 2), "groups": 32}
    run = partial(octave_resnet, **shape, alpha=0.5, width=4, se=True)
    return partial(Sketch, run), {**shape, "group_width": 4, "squeeze": True}


def _octaves() -> dict[str, Definition]:
    options = {"depths": (2, 1, 2, 2)}
    found = {}
    for name in list_models("oct_*res*"):
        c = networks[name].config
        shape = {**options, "alpha": c.alpha, "se": c.squeeze}
        if "v1" in name:
            run = partial(octave_resnet_v1ef, **shape)
        else:
            make = octave_resnet_v2 if "v2" in name else octave_resnet
            run = partial(make, **shape, groups=c.groups, width=c.group_width)
        found[name] = partial(Sketch, run), options
    for name in list_models("oct_mobilenet*"):
        c = networks[name].config
        run = octave_mobilenet_v1 if "v1" in name else octave_mobilenet_v2
        found[name] = partial(Sketch, partial(run, width=c.width, alpha=c.alpha)), {}
    return found


DEFINITIONS = _octaves()
