"""ShuffleNet V2+, OneShot and V2 ExLarge (megvii-model/ShuffleNet-Series), and IGCV3 with 2 and 4 groups."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from regroup.networks import list_models, networks
from tests.networks.sketch import Definition, Sketch

UNITS = [0, 0, 3, 1, 1, 1, 0, 0, 2, 0, 2, 1, 1, 0, 2, 0, 2, 1, 3, 2]
"""The official architecture: kernels of 3, 5 and 7, and Xception's."""
SCALE_LIST = [0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.6]
SCALE_IDS = [6, 5, 3, 5, 2, 6, 3, 4, 2, 5, 7, 5, 4, 6, 7, 4, 4, 5, 4, 3]


def hard_gate(s: Sketch, at: str, x: Tensor) -> Tensor:
    y = s.conv(f"{at}.1", F.adaptive_avg_pool2d(x, 1), x.shape[1] // 4)
    y = s.conv(f"{at}.4", F.relu(s.norm(f"{at}.2", y)), x.shape[1])
    return x * F.hardsigmoid(y)


def searched(s: Sketch, x: Tensor, widths: tuple[int, ...], plus: bool) -> Tensor:
    act = F.hardswish if plus else F.relu
    x = act(s.norm("first_conv.1", s.conv("first_conv.0", x, widths[0], 3, 2)))
    number = 0
    for stage, (depth, out) in enumerate(zip((4, 4, 8, 4), widths[1:5], strict=True)):
        relu = act if stage else F.relu
        for i in range(depth):
            at, stride, kind = f"features.{number}", 1 if i else 2, UNITS[number]
            k, scale = (3, 5, 7, 3)[kind], 1.0 if plus else SCALE_LIST[SCALE_IDS[number]]
            middle, place = int(out // 2 * scale), 0
            past, y = (x[:, ::2], x[:, 1::2]) if i else (x, x)
            if i == 0:
                c, proj = x.shape[1], f"{at}.branch_proj"
                past = s.norm(f"{proj}.1", s.conv(f"{proj}.0", past, c, k, 2, groups=c))
                past = relu(s.norm(f"{proj}.3", s.conv(f"{proj}.2", past, c)))
            leaving, main = out - past.shape[1], f"{at}.branch_main"
            if kind == 3:
                for n, target in enumerate((middle, middle, leaving)):
                    c = y.shape[1]
                    y = s.conv(f"{main}.{place}", y, c, 3, 1 if n else stride, groups=c)
                    y = s.conv(f"{main}.{place + 2}", s.norm(f"{main}.{place + 1}", y), target)
                    y, place = relu(s.norm(f"{main}.{place + 3}", y)), place + 5
            else:
                y = relu(s.norm(f"{main}.1", s.conv(f"{main}.0", y, middle)))
                y = s.norm(f"{main}.4", s.conv(f"{main}.3", y, middle, k, stride, groups=middle))
                y, place = relu(s.norm(f"{main}.6", s.conv(f"{main}.5", y, leaving))), 8
            y = hard_gate(s, f"{main}.{place}.SE_opr", y) if plus and stage > 1 else y
            x, number = torch.cat((past, y), 1), number + 1
    x = F.adaptive_avg_pool2d(act(s.norm("conv_last.1", s.conv("conv_last.0", x, widths[5]))), 1)
    if plus:
        x = act(s.linear("fc.0", hard_gate(s, "LastSE.SE_opr", x).flatten(1), widths[5], bias=False))
    return s.linear("classifier.0", x.flatten(1), 1000, bias=False)


def exlarge(s: Sketch, x: Tensor, depths, widths, stem, hidden, aux: bool) -> Tensor | tuple[Tensor, ...]:
    def unit(at: str, x: Tensor, out: int, k: int = 1, stride: int = 1, **more: int) -> Tensor:
        return s.norm(f"{at}.bn", s.conv(f"{at}.conv", x, out, k, stride, **more))

    for i, out in enumerate(stem):
        x = F.relu(unit(f"first_conv.{i}", x, out, 3, 1 if i else 2))
    x, extra = F.max_pool2d(x, 3, 2, 1), []
    for stage, (depth, width) in enumerate(zip(depths, widths, strict=True)):
        for b in range(depth):
            at, stride, half = f"features.{stage}.{b}", 2 if stage and not b else 1, width // 2
            past, x = (x[:, ::2], x[:, 1::2]) if b else (x, x)
            past = past if b else F.relu(unit(f"{at}.proj", past, half, 3, stride))
            y = F.relu(unit(f"{at}.branch_main.0", x, width))
            y = F.relu(unit(f"{at}.branch_main.1", y, width, 3, stride, groups=16))
            y = unit(f"{at}.branch_main.2", y, width, 3, groups=width)
            y = unit(f"{at}.branch_main.3", y, half)
            gate = F.relu(s.linear(f"{at}.se_fc1.fc", y.mean((2, 3)), half // 4))
            y = y * s.linear(f"{at}.se_fc2.fc", gate, half).sigmoid()[:, :, None, None]
            x = torch.cat((past, F.relu(x + y) if b else y), 1)
        x = F.relu(unit(f"features.{stage}.{depth}", x, width))
        if aux and stage < len(depths) - 1:
            at = f"predict_{56 // 2**stage}"
            y = F.relu(unit(f"{at}.conv.0", F.max_pool2d(x, 3, 2, 1), hidden[stage]))
            extra.insert(0, s.head(f"{at}.fc", F.relu(unit(f"{at}.conv.1", y, hidden[stage], 3))))
    out = s.head("fc.fc", x)
    return (out, *extra) if aux and s.training else out


def igcv3(s: Sketch, x: Tensor) -> Tensor:
    """homles11/IGCV3, symbols/igcv3_g2g4.py, under our keys: there are only MXNet's weights."""

    def permuted(y: Tensor, groups: int) -> Tensor:
        n, c, h, w = y.shape
        return y.reshape(n, groups, c // groups, h, w).swapaxes(1, 2).reshape(n, c, h, w)

    def unit(at: str, y: Tensor, out: int, k: int = 1, stride: int = 1, **more: int) -> Tensor:
        return s.norm(f"{at}.norm", s.conv(f"{at}.conv", y, out, k, stride, **more))

    x = F.relu6(unit("stem", x, 32, 3, 2))
    rows = [(0, 1, 16, 1, 1), (1, 6, 24, 4, 2), (2, 6, 32, 6, 2), (3, 6, 64, 8, 2), (3, 6, 96, 6, 1)]
    rows += [(4, 6, 160, 6, 2), (4, 6, 320, 1, 1)]
    counts = [0] * 5
    for stage, t, c, n, first in rows:
        for i in range(n):
            at, stride, middle = f"stages.{stage}.{counts[stage]}", 1 if i else first, x.shape[1] * t
            y = permuted(unit(f"{at}.conv1", x, middle, groups=2), 2)
            y = F.relu6(unit(f"{at}.conv2", y, middle, 3, stride, groups=middle))
            y = unit(f"{at}.conv3", y, c, groups=4)
            x = x + y if i else permuted(y, c // 4)
            counts[stage] += 1
    return s.head("classifier", F.relu6(unit("tail", x, 1280)))


def _searched() -> dict[str, Definition]:
    found: dict[str, Definition] = {"igcv3_g2g4_100": (partial(Sketch, igcv3), {})}
    for name in [*list_models("shufflenet_v2_plus*"), "shufflenet_oneshot"]:
        c = networks[name].config
        found[name] = partial(Sketch, partial(searched, widths=c.widths, plus=c.plus)), {}
    light = {
        "depths": (2, 2, 3, 2),
        "widths": (32, 64, 128, 256),
        "stem": (8, 16, 32),
        "hidden": (16, 24, 32),
    }
    light |= {"hidden": (16, 24, 32), "aux": True}
    found["shufflenet_v2_exlarge"] = partial(Sketch, partial(exlarge, **light)), light
    return found


DEFINITIONS = _searched()
