"""Networks as others wrote them in PyTorch or Caffe, under their keys: one function each."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from regroup.networks.googlenet import MODULES
from regroup.networks.mixnet import SMALL as MIXNET_ROWS
from regroup.networks.mobilenet_v3 import SMALL as V3_ROWS
from tests.networks.definitions_classic import response_norm
from tests.networks.libraries import Reference
from tests.networks.sketch import Sketch

V2_ROWS = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 2, 2))


def mobilenet_v2(s: Sketch, x: Tensor, tail: str, classifier: str) -> Tensor:
    """tonylins/pytorch-mobilenet-v2 and d-li14/mobilenetv2.pytorch, which differ in two names."""
    x = F.relu6(s.norm("features.0.1", s.conv("features.0.0", x, 32, 3, 2)))
    number = 1
    for expansion, out, repeats, first in V2_ROWS:
        for i in range(repeats):
            at, stride, hidden = f"features.{number}.conv", 1 if i else first, x.shape[1] * expansion
            y, place = x, 0
            if expansion > 1:
                y, place = F.relu6(s.norm(f"{at}.1", s.conv(f"{at}.0", y, hidden))), 3
            y = s.conv(f"{at}.{place}", y, hidden, 3, stride, groups=hidden)
            y = F.relu6(s.norm(f"{at}.{place + 1}", y))
            y = s.norm(f"{at}.{place + 4}", s.conv(f"{at}.{place + 3}", y, out))
            x = x + y if stride == 1 and x.shape[1] == out else y
            number += 1
    x = F.relu6(s.norm(f"{tail}.1", s.conv(f"{tail}.0", x, 1280)))
    return s.linear(classifier, x.mean(3).mean(2))


def mobilenet_v3(s: Sketch, x: Tensor) -> Tensor:
    """d-li14/mobilenetv3.pytorch: the gate before the activation of an expanded block.

    PyTorch's own functions round as ours do: norms over eight numbers magnify the difference.
    """
    swish = F.hardswish

    def gated(at: str, y: Tensor) -> Tensor:
        c = y.shape[1]
        reduced = max(8, int(c // 4 + 4) // 8 * 8)
        hidden = F.relu(s.linear(f"{at}.fc.0", y.mean((2, 3)), reduced + 8 * (reduced < 0.9 * (c // 4))))
        return y * F.hardsigmoid(s.linear(f"{at}.fc.2", hidden, c))[:, :, None, None]

    x = swish(s.norm("features.0.1", s.conv("features.0.0", x, 16, 3, 2)))
    for number, row in enumerate(V3_ROWS, 1):
        at, act = f"features.{number}.conv", swish if row.swish else F.relu
        hidden = max(8, int(x.shape[1] * row.expansion + 4) // 8 * 8)
        more = {"groups": hidden}
        if hidden == x.shape[1]:
            y = act(s.norm(f"{at}.1", s.conv(f"{at}.0", x, hidden, row.kernel_size, row.stride, **more)))
            y, last = gated(f"{at}.3", y) if row.squeeze else y, 4
        else:
            y = act(s.norm(f"{at}.1", s.conv(f"{at}.0", x, hidden)))
            y = s.norm(f"{at}.4", s.conv(f"{at}.3", y, hidden, row.kernel_size, row.stride, **more))
            y, last = act(gated(f"{at}.5", y) if row.squeeze else y), 7
        y = s.norm(f"{at}.{last + 1}", s.conv(f"{at}.{last}", y, row.channels))
        x = x + y if row.stride == 1 and x.shape[1] == row.channels else y
    x = swish(s.norm("conv.1", s.conv("conv.0", x, 576))).mean((2, 3))
    return s.linear("classifier.3", swish(s.linear("classifier.0", x, 1024)))


def mixnet(s: Sketch, x: Tensor) -> Tensor:
    """romulus0914/MixNet-PyTorch: a module for each group, in every layer."""

    def pieces(c: int, n: int) -> list[int]:
        return [c // n + c % n, *[c // n] * (n - 1)]

    def grouped(at: str, y: Tensor, out: int, n: int) -> Tensor:
        parts = zip(y.split(pieces(y.shape[1], n), 1), pieces(out, n), strict=True)
        return torch.cat([s.conv(f"{at}.grouped_conv.{i}", p, o) for i, (p, o) in enumerate(parts)], 1)

    def mixed(at: str, y: Tensor, kernels: tuple[int, ...], stride: int) -> Tensor:
        parts = zip(y.split(pieces(y.shape[1], len(kernels)), 1), kernels, strict=True)
        made = [
            s.conv(f"{at}.mixed_depthwise_conv.{i}", p, p.shape[1], k, stride, groups=p.shape[1])
            for i, (p, k) in enumerate(parts)
        ]
        return torch.cat(made, 1)

    x = F.relu(s.norm("stem_conv.1", s.conv("stem_conv.0", x, 16, 3, 2)))
    for number, row in enumerate(MIXNET_ROWS):
        at, place, act = f"layers.{number}.conv", 0, F.silu if row.squeeze else F.relu
        y, hidden = x, x.shape[1] * row.expansion
        if row.expansion > 1:
            y = act(s.norm(f"{at}.0.1", grouped(f"{at}.0.0", y, hidden, row.groups[0])))
            place = 1
        y = act(s.norm(f"{at}.{place}.1", mixed(f"{at}.{place}.0", y, row.kernels, row.stride)))
        if row.squeeze:
            place += 1
            reduced, mean = int(x.shape[1] * row.squeeze), y.mean((2, 3), keepdim=True)
            gate = F.silu(s.conv(f"{at}.{place}.se_reduce", mean, reduced, bias=True))
            y = y * s.conv(f"{at}.{place}.se_expand", gate, hidden, bias=True).sigmoid()
        place += 1
        y = s.norm(f"{at}.{place}.1", grouped(f"{at}.{place}.0", y, row.channels, row.groups[1]))
        x = x + y if row.stride == 1 and x.shape[1] == row.channels else y
    x = F.relu(s.norm("head_conv.1", s.conv("head_conv.0", x, 1536)))
    return s.linear("classifier", x.mean((2, 3)))


def alexnet(s: Sketch, x: Tensor) -> Tensor:
    """jiecaoyu/pytorch_imagenet: batch norm after the ReLU, in place of the response norm."""
    for conv, norm, out, k, stride, padding in ((0, 2, 96, 11, 4, 0), (4, 6, 256, 5, 1, 2)):
        options = {"padding": padding, "groups": 2 if conv else 1, "bias": True}
        x = F.relu(s.conv(f"features.{conv}", x, out, k, stride, **options))
        x = F.max_pool2d(s.norm(f"features.{norm}", x, eps=1e-4), 3, 2)
    for conv, out, groups in ((8, 384, 1), (10, 384, 2), (12, 256, 2)):
        x = F.relu(s.conv(f"features.{conv}", x, out, 3, groups=groups, bias=True))
    x = F.adaptive_avg_pool2d(F.max_pool2d(x, 3, 2), 6).flatten(1)
    x = F.relu(s.linear("classifier.4", F.relu(s.linear("classifier.1", x, 64)), 64))
    return s.linear("classifier.6", x, 64)


def googlenet(s: Sketch, x: Tensor, sign: str) -> Tensor:
    """BVLC/caffe's bvlc_googlenet, `sign` between the parts of its names."""

    def conv(path: str, x: Tensor, out: int, k: int = 1, stride: int = 1) -> Tensor:
        return F.relu(s.conv(path.replace("/", sign), x, out, k, stride, bias=True))

    def pool(x: Tensor) -> Tensor:
        return F.max_pool2d(x, 3, 2, ceil_mode=True)

    x = response_norm(pool(conv("conv1/7x7_s2", x, 64, 7, 2)), 1e-4 / 5, 1)
    x = conv("conv2/3x3", conv("conv2/3x3_reduce", x, 64), 192, 3)
    x = pool(response_norm(x, 1e-4 / 5, 1))
    for name, (plain, reduce3, out3, reduce5, out5, project) in MODULES.items():
        at, x = f"inception_{name}", pool(x) if name in ("4a", "5a") else x
        three = conv(f"{at}/3x3", conv(f"{at}/3x3_reduce", x, reduce3), out3, 3)
        five = conv(f"{at}/5x5", conv(f"{at}/5x5_reduce", x, reduce5), out5, 5)
        pooled = conv(f"{at}/pool_proj", F.max_pool2d(x, 3, 1, 1), project)
        x = torch.cat((conv(f"{at}/1x1", x, plain), three, five, pooled), 1)
    return s.head(f"loss3{sign}classifier", x)


def squeezenet(s: Sketch, x: Tensor, sign: str, first: tuple[int, int], pools: str, padding: int) -> Tensor:
    """forresti/SqueezeNet; `pools` are the layers before which it pools."""

    def conv(path: str, x: Tensor, out: int, k: int = 1, **more: int) -> Tensor:
        return F.relu(s.conv(path, x, out, k, bias=True, **more))

    x = conv("conv1", x, first[0], first[1], stride=2, padding=0)
    for i, squeezed in enumerate((16, 16, 32, 32, 48, 48, 64, 64), 2):
        x = F.max_pool2d(x, 3, 2, ceil_mode=True) if str(i) in pools else x
        at = f"fire{i}{sign}"
        x = conv(f"{at}squeeze1x1", x, squeezed)
        x = torch.cat([conv(f"{at}expand{k}x{k}", x, 4 * squeezed, k) for k in (1, 3)], 1)
    return conv("conv10", x, 1000, padding=padding).mean((2, 3))


def resnext_cifar(s: Sketch, x: Tensor) -> Tensor:
    """prlz77/ResNeXt.pytorch, 32 groups of 4."""
    x = F.relu(s.norm("bn_1", s.conv("conv_1_3x3", x, 64, 3)))
    for stage in (1, 2, 3):
        for b in range(2):
            at = f"stage_{stage}.stage_{stage}_bottleneck_{b}"
            stride, inner = 2 if stage > 1 and b == 0 else 1, 128 * 2 ** (stage - 1)
            y = F.relu(s.norm(f"{at}.bn_reduce", s.conv(f"{at}.conv_reduce", x, inner)))
            y = F.relu(s.norm(f"{at}.bn", s.conv(f"{at}.conv_conv", y, inner, 3, stride, groups=32)))
            y = s.norm(f"{at}.bn_expand", s.conv(f"{at}.conv_expand", y, 128 * 2**stage))
            if b == 0:
                x = s.conv(f"{at}.shortcut.shortcut_conv", x, y.shape[1], 1, stride)
                x = s.norm(f"{at}.shortcut.shortcut_bn", x)
            x = F.relu(x + y)
    return s.head("classifier", x, 10)


def resnext(s: Sketch, x: Tensor) -> Tensor:
    """Cadene/pretrained-models.pytorch, resnext101_32x4d: converted from Torch, where all is a row."""
    x = F.max_pool2d(F.relu(s.norm("features.1", s.conv("features.0", x, 64, 7, 2))), 3, 2, 1)
    for stage in range(4):
        for b in range(2):
            at, stride, inner = f"features.{stage + 4}.{b}.0", 2 if stage and not b else 1, 128 * 2**stage
            y = F.relu(s.norm(f"{at}.0.0.1", s.conv(f"{at}.0.0.0", x, inner)))
            y = F.relu(s.norm(f"{at}.0.0.4", s.conv(f"{at}.0.0.3", y, inner, 3, stride, groups=32)))
            y = s.norm(f"{at}.0.2", s.conv(f"{at}.0.1", y, 2 * inner))
            if b == 0:
                x = s.norm(f"{at}.1.1", s.conv(f"{at}.1.0", x, 2 * inner, 1, stride))
            x = F.relu(x + y)
    return s.head("last_linear", x)


OLD_SQUEEZENET = partial(squeezenet, sign="/", first=(96, 7), pools="259", padding=1)
NEW_SQUEEZENET = partial(squeezenet, sign="_", first=(64, 3), pools="246", padding=0)
PORTED = {
    "mobilenet_v2_100": [
        ("tonylins", partial(mobilenet_v2, tail="features.6", classifier="classifier.1"), {"rows": V2_ROWS}),
        ("d-li14", partial(mobilenet_v2, tail="conv", classifier="classifier"), {"rows": V2_ROWS}),
    ],
    "mobilenet_v3_small_100": [("d-li14", mobilenet_v3, {"eps": 1e-5, "gate_first": True})],
    "mixnet_s": [("romulus0914", mixnet, {})],
    "alexnet": [("jiecaoyu", alexnet, {"norm": "batch", "hidden": 64, "num_classes": 64})],
    "googlenet": [
        ("Caffe", partial(googlenet, sign="/"), {}),
        ("Caffe, ported", partial(googlenet, sign="_"), {}),
    ],
    "squeezenet1_0_official": [("Caffe", OLD_SQUEEZENET, {})],
    "squeezenet1_1": [("Caffe, ported", NEW_SQUEEZENET, {})],
    "resnext29_32x4d": [("prlz77", resnext_cifar, {"depths": (2, 2, 2)})],
    "resnext101_32x4d": [("Cadene", resnext, {"depths": (2, 2, 2, 2)})],
}
"""Network -> whose, the function, and what ours must be told to be the same."""


def ported() -> dict[str, list[Reference]]:
    return {
        name: [
            Reference(whose, partial(Sketch, run, 67 if name == "alexnet" else 64), options)
            for whose, run, options in rows
        ]
        for name, rows in PORTED.items()
    }
