"""The definitions of the condensed, dynamic and groupable networks, as sketches."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regroup.networks import list_models, networks
from tests.networks.sketch import Definition, Sketch


def shuffle(x: Tensor, groups: int) -> Tensor:
    n, c, h, w = x.shape
    return x.view(n, groups, c // groups, h, w).transpose(1, 2).reshape(n, c, h, w)


def condensed(s: Sketch, at: str, x: Tensor, out: int, groups: int, act) -> Tensor:
    index = s.buffer(f"{at}.index", lambda: torch.randint(x.shape[1], (x.shape[1],)))
    x = act(s.norm(f"{at}.norm", x.index_select(1, index)))
    return shuffle(s.conv(f"{at}.conv", x, out, groups=groups), groups)


# ---- CondenseNet for CIFAR: ShichenLiu/CondenseNet, converted


def condensenet(s: Sketch, x: Tensor, depths, growth, groups, small) -> Tensor:
    x = s.conv("features.init_conv", x, 2 * growth[0], 3, 1 if small else 2)
    for i, depth in enumerate(depths):
        x = F.avg_pool2d(x, 2) if i else x
        for b in range(depth):
            at = f"features.denseblock_{i + 1}.denselayer_{b + 1}"
            y = condensed(s, f"{at}.conv_1", x, 4 * growth[i], groups, F.relu)
            y = F.relu(s.norm(f"{at}.conv_2.norm", y))
            y = s.conv(f"{at}.conv_2.conv", y, growth[i], 3, groups=groups)
            x = torch.cat([x, y], 1)
    x = F.relu(s.norm("features.norm_last", x)).mean((2, 3))
    half = x.shape[1] // 2
    index = s.buffer("classifier.index", lambda: torch.randint(x.shape[1], (half,)))
    return s.linear("classifier.linear", x.index_select(1, index), 10 if small else 1000)


# ---- CondenseNet V2: jianghaojun/CondenseNetV2, converted


def reactivated(s: Sketch, at: str, x: Tensor, out: int, groups: int, act) -> Tensor:
    """Scatters by the official matrix of zeros and ones."""
    x = act(s.norm(f"{at}.norm", x))
    x = s.conv(f"{at}.conv", shuffle(x, x.shape[1] // groups), out, groups=groups)
    matrix = s.buffer(f"{at}.index", lambda: F.one_hot(torch.randint(out, (out,)), out))
    return torch.einsum("nchw,cd->ndhw", x, matrix.to(x))


def gate(s: Sketch, at: str, x: Tensor, hidden: int) -> Tensor:
    y = F.relu(s.linear(f"{at}.fc.0", x.mean((2, 3)), hidden, bias=False))
    return x * s.linear(f"{at}.fc.2", y, x.shape[1], bias=False).sigmoid()[:, :, None, None]


def condensenetv2(s: Sketch, x: Tensor, depths, growth, groups, hidden) -> Tensor:
    x = s.conv("features.init_conv", x, 2 * growth[0], 3, 2)
    for i, depth in enumerate(depths):
        act = F.hardswish if i >= 2 else F.relu
        x = F.avg_pool2d(x, 2) if i else x
        for b in range(depth):
            at = f"features.denseblock_{i + 1}.denselayer_{b + 1}"
            y = condensed(s, f"{at}.conv_1", x, 4 * growth[i], groups, act)
            y = s.conv(f"{at}.conv_2.conv", act(s.norm(f"{at}.conv_2.norm", y)), growth[i], 3, groups=groups)
            y = gate(s, f"{at}.se", y, growth[i]) if i >= 3 else y
            x = torch.cat([x + reactivated(s, f"{at}.sfr", y, x.shape[1], groups, act), y], 1)
    x = F.relu(s.norm("features.norm_last", x)).mean((2, 3), keepdim=True)
    x = gate(s, "features.se_last", x, x.shape[1] // 16).flatten(1)
    return s.linear("classifier", F.hardswish(s.linear("fc", x, hidden)))


def _condensenets() -> dict[str, Definition]:
    found = {}
    for name in list_models("condensenet*"):
        c = networks[name].config
        options = {"depths": tuple(min(d, 2) for d in c.depths)}
        numbers = {**options, "growth": c.growth, "groups": c.groups}
        if name.startswith("condensenetv2"):
            run, side = partial(condensenetv2, **numbers, hidden=c.hidden), 64
        else:
            run, side = partial(condensenet, **numbers, small=c.small), 8 if c.small else 64
        found[name] = partial(Sketch, run, side), options
    return found


# ---- DGC: hellozhuo/dgc


def dynamic(
    s: Sketch, at: str, x: Tensor, out: int, k: int = 1, stride: int = 1, gate: float = 0.25
) -> Tensor:
    """Four heads; what is at most as salient as the n-th least salient input of an image is left out."""
    c = x.shape[1]
    inactive = int(s.buffer(f"{at}._inactive_channels", lambda: torch.tensor([round(c * (1 - gate))])))
    x = F.relu(s.norm(f"{at}.norm", x))
    parts = []
    for i in range(4):
        head = f"{at}.headconv_{i}"
        hidden = F.relu(s.linear(f"{head}.fc1", x.mean((2, 3)), c // (8 if c < 80 else 16), bias=False))
        saliency = F.relu(s.linear(f"{head}.fc2", hidden, c))
        limit = saliency.detach().sort(1).values[:, inactive - 1 : inactive]
        saliency = torch.where(saliency.detach() <= limit, torch.zeros_like(saliency), saliency)
        parts.append(s.conv(f"{head}.conv", x * saliency[:, :, None, None], out // 4, k, stride))
    return shuffle(torch.cat(parts, 1), 4)


def dgc_condensenet(s: Sketch, x: Tensor, depths, growth, small) -> Tensor:
    x = s.conv("features.init_conv", x, 2 * growth[0], 3, 1 if small else 2)
    for i, depth in enumerate(depths):
        x = F.avg_pool2d(x, 2) if i else x
        for b in range(depth):
            at = f"features.denseblock_{i + 1}.denselayer_{b + 1}"
            y = dynamic(s, f"{at}.conv_1", x, 4 * growth[i])
            y = F.relu(s.norm(f"{at}.conv_2.norm", y))
            x = torch.cat([x, s.conv(f"{at}.conv_2.conv", y, growth[i], 3, groups=4)], 1)
    return s.head("classifier", F.relu(s.norm("bn_last", x)), 10 if small else 1000)


def dgc_resnet(s: Sketch, x: Tensor) -> Tensor:
    x = F.max_pool2d(F.relu(s.norm("bn1", s.conv("conv1", x, 64, 7, 2))), 3, 2, 1)
    for i in range(4):
        for b in range(2):
            at, out, stride = f"layer{i + 1}.{b}", 64 * 2**i, 2 if i and not b else 1
            y = F.relu(s.norm(f"{at}.bn1", dynamic(s, f"{at}.conv1", x, out, 3, stride, 0.45)))
            y = s.norm(f"{at}.bn2", dynamic(s, f"{at}.conv2", y, out, 3, 1, 0.45))
            if x.shape[1] != out:
                x = dynamic(s, f"{at}.downsample.0", x, out, 1, stride, 0.45)
                x = s.norm(f"{at}.downsample.1.norm", x)
            x = F.relu(x + y)
    return s.head("fc", x)


def _dgc() -> dict[str, Definition]:
    found = {"dgc_resnet18": (partial(Sketch, dgc_resnet), {})}
    for name in list_models("dgc_condensenet*"):
        c = networks[name].config
        options = {"depths": tuple(min(d, 2) for d in c.depths)}
        run = partial(dgc_condensenet, **options, growth=c.growth, small=c.small)
        found[name] = partial(Sketch, run, 8 if c.small else 64), options
    return found


# ---- G-ResNeXt: d-li14/dgconv.pytorch


def groupable(s: Sketch, at: str, x: Tensor, stride: int) -> Tensor:
    """The kernel times the Kronecker product of the gates' 2 x 2 matrices; the gradient passes the step."""
    c = x.shape[1]
    count = c.bit_length() - 1
    gate = s.parameter(f"{at}.gate", lambda: torch.randn(count))
    ones = s.buffer(f"{at}.I", lambda: torch.ones(2, 2, dtype=torch.int64))
    eye = s.buffer(f"{at}.D", lambda: torch.eye(2, dtype=torch.int64))
    step = (gate.detach() > 0).to(x) + gate - gate.detach()
    mask = torch.ones(1, 1).to(x)
    for g in step:
        mask = torch.kron(mask, g * ones + (1 - g) * eye)
    weight = s.layer(f"{at}.conv", lambda: nn.Conv2d(c, c, 3, bias=False)).weight
    return F.conv2d(x, weight * mask[:, :, None, None], stride=stride, padding=1)


def g_resnext(s: Sketch, x: Tensor, depths, middle) -> Tensor:
    x = F.max_pool2d(F.relu(s.norm("bn1", s.conv("conv1", x, 64, 7, 2))), 3, 2, 1)
    for i, depth in enumerate(depths):
        for b in range(depth):
            at, out, stride = f"layer{i + 1}.{b}", 256 * 2**i, 2 if i and not b else 1
            y = F.relu(s.norm(f"{at}.bn1", s.conv(f"{at}.conv1", x, middle[i])))
            y = F.relu(s.norm(f"{at}.bn2", groupable(s, f"{at}.conv2", y, stride)))
            y = s.norm(f"{at}.bn3", s.conv(f"{at}.conv3", y, out))
            if x.shape[1] != out:
                x = s.norm(f"{at}.downsample.1", s.conv(f"{at}.downsample.0", x, out, 1, stride))
            x = F.relu(x + y)
    return s.head("fc", x)


def _g_resnexts() -> dict[str, Definition]:
    """Narrow and shallow ones: the learning networks are dense."""
    found = {}
    for name, middle in (("g_resnext50", (16, 32, 64, 128)), ("g_resnext101", (32, 64, 64, 128))):
        options = {"depths": (1, 2, 2, 1), "middle": middle}
        found[name] = partial(Sketch, partial(g_resnext, **options)), options
    return found


DEFINITIONS: dict[str, Definition] = {**_condensenets(), **_dgc(), **_g_resnexts()}
