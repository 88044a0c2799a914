"""The definitions of AlexNet, GoogLeNet and the ShuffleNets' official order, as sketches."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from regroup.networks import list_models, networks
from regroup.networks.googlenet import MODULES
from tests.networks.libraries import Reference
from tests.networks.sketch import Sketch


def response_norm(x: Tensor, alpha: float, k: float) -> Tensor:
    channels = range(x.shape[1])
    squares = torch.stack([x.square()[:, max(0, c - 2) : c + 3].sum(1) for c in channels], 1)
    return x / (k + alpha * squares) ** 0.75


def alexnet(s: Sketch, x: Tensor, groups: int, norm: str, pool_first: bool) -> Tensor:
    """Under Caffe's keys."""

    def normed(x: Tensor) -> Tensor:
        if norm == "caffe":
            return response_norm(x, 1e-4 / 5, 1)
        return torch.cat([response_norm(tower, 1e-4, 2) for tower in x.chunk(groups, 1)], 1)

    x = F.relu(s.conv("conv1", x, 96, 11, 4, padding=0, bias=True))
    for name, out in (("conv2", 256), ("conv3", 384)):
        x = normed(F.max_pool2d(x, 3, 2)) if pool_first else F.max_pool2d(normed(x), 3, 2)
        x = F.relu(
            s.conv(
                name, x, out, 5 if name == "conv2" else 3, groups=groups if name == "conv2" else 1, bias=True
            )
        )
    for name, out in (("conv4", 384), ("conv5", 256)):
        x = F.relu(s.conv(name, x, out, 3, groups=groups, bias=True))
    x = F.adaptive_avg_pool2d(F.max_pool2d(x, 3, 2), 6).flatten(1)
    return s.linear("fc8", F.relu(s.linear("fc7", F.relu(s.linear("fc6", x, 64)), 64)), 64)


def googlenet(s: Sketch, x: Tensor) -> Tensor:
    """The paper's network, under torchvision's keys."""

    def conv(path: str, x: Tensor, out: int, k: int = 1, stride: int = 1) -> Tensor:
        return F.relu(s.conv(f"{path}.conv", x, out, k, stride, bias=True))

    def pool(x: Tensor) -> Tensor:
        return F.max_pool2d(x, 3, 2, ceil_mode=True)

    x = response_norm(pool(conv("conv1", x, 64, 7, 2)), 1e-4 / 5, 1)
    x = pool(response_norm(conv("conv3", conv("conv2", x, 64), 192, 3), 1e-4 / 5, 1))
    for name, (plain, reduce3, out3, reduce5, out5, project) in MODULES.items():
        at = f"inception{name}"
        x = pool(x) if name in ("4a", "5a") else x
        three = conv(f"{at}.branch2.1", conv(f"{at}.branch2.0", x, reduce3), out3, 3)
        five = conv(f"{at}.branch3.1", conv(f"{at}.branch3.0", x, reduce5), out5, 5)
        pooled = conv(f"{at}.branch4.1", F.max_pool2d(x, 3, 1, 1), project)
        x = torch.cat((conv(f"{at}.branch1", x, plain), three, five, pooled), 1)
    return s.head("fc", x)


def shufflenet_v1(s: Sketch, x: Tensor, groups: int, widths: tuple[int, ...]) -> Tensor:
    """The official code: the shuffle after the depthwise convolution, out[g * n + c] = in[c * groups + g]."""
    x = F.max_pool2d(F.relu(s.norm("first_conv.1", s.conv("first_conv.0", x, widths[0], 3, 2))), 3, 2, 1)
    for i in range(6):
        out, stride = widths[1 + i // 2], 1 if i % 2 else 2
        first, second, middle = f"features.{i}.branch_main_1", f"features.{i}.branch_main_2", out // 4
        y = s.conv(f"{first}.0", x, middle, groups=1 if i == 0 else groups)
        y = F.relu(s.norm(f"{first}.1", y))
        y = s.norm(f"{first}.4", s.conv(f"{first}.3", y, middle, 3, stride, groups=middle))
        y = y[:, [c * groups + g for g in range(groups) for c in range(middle // groups)]]
        grown = out - x.shape[1] if stride == 2 else out
        y = s.norm(f"{second}.1", s.conv(f"{second}.0", y, grown, groups=groups))
        x = F.relu(x + y) if stride == 1 else torch.cat((F.avg_pool2d(x, 3, 2, 1), F.relu(y)), 1)
    return s.linear("classifier.0", x.mean((2, 3)), 1000, bias=False)


def shufflenet_v1_paper(s: Sketch, x: Tensor, groups: int, widths: tuple[int, ...]) -> Tensor:
    """Under pytorchcv's keys, also for widths that it refuses: there the middle is rounded up."""
    at = "features.init_block"
    x = F.max_pool2d(F.relu(s.norm(f"{at}.bn", s.conv(f"{at}.conv", x, widths[0], 3, 2))), 3, 2, 1)
    for i in range(6):
        out, stride, at = widths[1 + i // 2], 1 if i % 2 else 2, f"features.stage{1 + i // 2}.unit{1 + i % 2}"
        middle = groups * -(-(out // 4) // groups)
        y = s.conv(f"{at}.compress_conv1", x, middle, groups=1 if i == 0 else groups)
        y = F.relu(s.norm(f"{at}.compress_bn1", y))
        n = middle // groups
        y = y[:, [group * n + c for c in range(n) for group in range(groups)]]
        y = s.norm(f"{at}.dw_bn2", s.conv(f"{at}.dw_conv2", y, middle, 3, stride, groups=middle))
        grown = out - x.shape[1] if stride == 2 else out
        y = s.norm(f"{at}.expand_bn3", s.conv(f"{at}.expand_conv3", y, grown, groups=groups))
        x = F.relu(x + y if stride == 1 else torch.cat((y, F.avg_pool2d(x, 3, 2, 1)), 1))
    return s.linear("output", x.mean((2, 3)), 1000, bias=False)


def shufflenet_v2(s: Sketch, x: Tensor, widths: tuple[int, ...]) -> Tensor:
    """The official code: even channels pass, odd ones are convolved; the strided unit splits unevenly."""
    x = F.max_pool2d(F.relu(s.norm("first_conv.1", s.conv("first_conv.0", x, widths[0], 3, 2))), 3, 2, 1)
    for i in range(6):
        out, stride, at = widths[1 + i // 2], 1 if i % 2 else 2, f"features.{i}"
        past, y = (x[:, ::2], x[:, 1::2]) if stride == 1 else (x, x)
        if stride == 2:
            proj, c = f"{at}.branch_proj", x.shape[1]
            past = s.norm(f"{proj}.1", s.conv(f"{proj}.0", x, c, 3, 2, groups=c))
            past = F.relu(s.norm(f"{proj}.3", s.conv(f"{proj}.2", past, c)))
        main, middle = f"{at}.branch_main", out // 2
        y = F.relu(s.norm(f"{main}.1", s.conv(f"{main}.0", y, middle)))
        y = s.norm(f"{main}.4", s.conv(f"{main}.3", y, middle, 3, stride, groups=middle))
        y = F.relu(s.norm(f"{main}.6", s.conv(f"{main}.5", y, out - past.shape[1])))
        x = torch.cat((past, y), 1)
    x = F.relu(s.norm("conv_last.1", s.conv("conv_last.0", x, widths[4])))
    return s.linear("classifier.0", x.mean((2, 3)), 1000, bias=False)


def shufflenet_v2_large(
    s: Sketch, x: Tensor, depths: tuple[int, ...], aux: bool
) -> Tensor | tuple[Tensor, ...]:
    """The official code, whose gates are linear layers; in training with the logits of the heads."""

    def unit(at: str, x: Tensor, out: int, k: int = 1, stride: int = 1, **more: int) -> Tensor:
        return s.norm(f"{at}.bn", s.conv(f"{at}.conv", x, out, k, stride, **more), eps=1e-9)

    for i, out in enumerate((64, 64, 128)):
        x = F.relu(unit(f"first_conv.{i}", x, out, 3, 1 if i else 2))
    x, extra = F.max_pool2d(x, 3, 2, 1), []
    for stage, depth in enumerate(depths):
        half = 128 * 2**stage
        for b in range(depth):
            at, stride = (
                f"features.{stage}.{stage + 2}{'abcdefghijklmnopqrstuvwxyz'[b]}",
                2 if stage and not b else 1,
            )
            past, x = x[:, ::2], x[:, 1::2]
            y = F.relu(unit(f"{at}.branch_main.0", x, half))
            y = F.relu(unit(f"{at}.branch_main.1", y, half, 3, stride, groups=8))
            y = unit(f"{at}.branch_main.2", y, half)
            hidden = F.relu(s.linear(f"{at}.se_fc1", y.mean((2, 3)), half))
            y = y * s.linear(f"{at}.se_fc2", hidden, half).sigmoid()[:, :, None, None]
            past, y = (past, x + y) if b else (unit(f"{at}.proj", past, half, 3, stride), y)
            x = F.relu(torch.cat((past, y), 1))
            x = F.relu(unit(f"{at}.down", x, 2 * half)) if stride == 2 else x
        if aux and stage < len(depths) - 1:
            at = f"predict_{56 // 2**stage}"
            y = F.relu(unit(f"{at}.conv.0", F.max_pool2d(x, 3, 2, 1), 2 * half))
            y = F.relu(unit(f"{at}.conv.1", y, 2 * half, 3))
            extra.insert(0, s.head(f"{at}.fc", y))
    out = s.head("fc", F.relu(unit("conv_last", x, 1280, 3)))
    return (out, *extra) if aux and s.training else out


def classic() -> dict[str, list[Reference]]:
    found = {}
    for name in ("alexnet", "alexnet_caffe", "caffenet", "alexnet_dense"):
        c = networks[name].config
        run = partial(alexnet, groups=c.groups, norm=c.norm, pool_first=c.pool_first)
        found[name] = Reference("definition", partial(Sketch, run, 67), {"hidden": 64, "num_classes": 64})
    found["googlenet"] = Reference("definition", partial(Sketch, googlenet))
    short = {"depths": (2, 2, 2)}
    for name in list_models("shufflenet_v1*"):
        c = networks[name].config
        make = shufflenet_v1 if c.order == "official" else shufflenet_v1_paper
        run = partial(make, groups=c.groups, widths=c.widths)
        found[name] = Reference("definition", partial(Sketch, run), short)
    for name in list_models("shufflenet_v2*official"):
        run = partial(shufflenet_v2, widths=networks[name].config.widths)
        found[name] = Reference("definition", partial(Sketch, run), short)
    aux = {"depths": (2, 2, 2, 2), "aux": True}
    found["shufflenet_v2_large"] = Reference(
        "definition", partial(Sketch, partial(shufflenet_v2_large, **aux)), aux
    )
    return {name: [reference] for name, reference in found.items()}
