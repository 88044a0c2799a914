"""Random small networks of exact arithmetic: integers in float64, so that a reordered sum is the same."""

from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from regroup.ops.order import ChannelOrder, ChannelShuffle

SIDE = 4
WIDTHS = (4, 6, 8)


class Gate(nn.Module):
    """Squeeze and excitation with a clamp for its sigmoid."""

    def __init__(self, channels):
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, 4, 1), nn.Conv2d(4, channels, 1)

    def forward(self, x):
        return x * self.up(F.relu(self.down(x.mean((2, 3), keepdim=True)))).clamp(-2, 3)


class Widen(nn.Module):
    """Pad channels with zeros, as ResNet's shortcuts A do."""

    def forward(self, x):
        return F.pad(x, (0, 0, 0, 0, 1, 2))


class Full(nn.Module):
    """Multiply by what is made in forward."""

    def forward(self, x):
        return x * torch.full((1, x.shape[1], 1, 1), 2.0, dtype=x.dtype).transpose(2, 3)


class Reads(nn.Module):
    """Read a weight by name, apart from its layer."""

    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 1)

    def forward(self, x):
        return self.conv(x) + self.conv.weight.sum(1).view(1, -1, 1, 1)


class Mixes(nn.Module):
    """A view that mixes channels with space."""

    def forward(self, x):
        return x.transpose(1, 2).reshape(x.shape)


@dataclass(frozen=True)
class Step:
    """What a step does to which of the tensors that there are."""

    kind: str
    first: int
    second: int
    number: int


LAYERS = {
    "conv": lambda c, n: nn.Conv2d(c, WIDTHS[n % 3], 1 + 2 * (n % 2), padding=n % 2),
    "dilated": lambda c, n: nn.Conv2d(c, WIDTHS[n % 3], 3, padding=2, dilation=2, bias=False),
    "grouped": lambda c, n: nn.Conv2d(c, (2, 4)[n % 2] * c // 2, 1, groups=2 if n % 3 or c % 4 else 4),
    "depthwise": lambda c, n: nn.Conv2d(c, c * (1 + n % 2), 3, padding=1, groups=c),
    "norm": lambda c, n: nn.BatchNorm2d(c, eps=0),
    "prelu": lambda c, n: nn.PReLU(c),
    "relu": lambda c, n: nn.LeakyReLU(2.0),
    "gate": lambda c, n: Gate(c),
    "up": lambda c, n: nn.Sequential(nn.Upsample(scale_factor=2), nn.MaxPool2d(2)),
    "transposed": lambda c, n: nn.Sequential(
        nn.ConvTranspose2d(c, WIDTHS[n % 2 * 2], 2, stride=2, groups=1 + n % 2), nn.AvgPool2d(2)
    ),
    "shuffle": lambda c, n: ChannelShuffle(2),
    "order": lambda c, n: ChannelOrder(torch.randperm(c, generator=torch.Generator().manual_seed(n))),
    "select": lambda c, n: ChannelOrder([(i * (n + 1)) % c for i in range(6)]),
    "pixels": lambda c, n: nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(4 * c, 16, 1), nn.PixelShuffle(2)),
    "widen": lambda c, n: Widen(),
    "full": lambda c, n: Full(),
    "reads": lambda c, n: Reads(c),
    "mixes": lambda c, n: Mixes(),
    "parametrized": lambda c, n: nn.utils.parametrizations.weight_norm(nn.Conv2d(c, 4, 1)),
}
EXACT = [k for k in LAYERS if k != "parametrized"]


class Net(nn.Module):
    """Run steps on a growing list of tensors; add, cat, split and share are between several."""

    def __init__(self, steps, head):
        super().__init__()
        self.steps, self.head = steps, head
        self.stem = nn.Conv2d(3, 8, 1)
        self.layers = nn.ModuleDict()
        widths = [8]
        self.plan = []
        for i, step in enumerate(steps):
            widths += self._plan(f"s{i}", step, widths)
        self.classifier = nn.Linear(widths[-1] * (SIDE * SIDE if head == "flatten" else 1), 3)

    def _plan(self, name, step, widths):
        a, b = step.first % len(widths), step.second % len(widths)
        c = widths[a]
        kind = step.kind
        if kind == "split":
            self.plan.append((kind, name, a, b))
            return [c // 2, c - c // 2]
        if kind == "add":
            b = next((i for i in range(len(widths) - 1, -1, -1) if widths[i] == c and i != a), a)
            self.plan.append((kind, name, a, b))
            return [c]
        if kind == "cat":
            self.plan.append((kind, name, a, b))
            return [c + widths[b]]
        if kind == "shared":
            self.layers[name] = nn.Conv2d(c, c, 1)
            self.plan.append((kind, name, a, b))
            return [c]
        if kind in ("grouped", "shuffle") and c % 2:
            kind = "relu"
        if kind == "transposed" and c % 2:
            kind = "conv"
        self.layers[name] = LAYERS[kind](c, step.number)
        self.plan.append(("layer", name, a, b))
        with torch.no_grad():
            return [self.layers[name].eval()(torch.zeros(1, c, SIDE, SIDE)).shape[1]]

    def forward(self, x):
        known = [self.stem(x)]
        for kind, name, a, b in self.plan:
            if kind == "split":
                c = known[a].shape[1]
                known += known[a].split([c // 2, c - c // 2], 1)
            elif kind == "add":
                known.append(known[a] + known[b])
            elif kind == "cat":
                known.append(torch.cat([known[a], known[b]], 1))
            elif kind == "shared":
                known.append(self.layers[name](self.layers[name](known[a])))
            else:
                known.append(self.layers[name](known[a]))
        last = known[-1]
        return self.classifier(last.flatten(1) if self.head == "flatten" else last.mean((2, 3)))


KINDS = [*EXACT, "split", "add", "cat", "shared"]


def nets(kinds=KINDS, most=8):
    """Draw networks of at most so many steps."""
    numbers = st.integers(0, 11)
    # mostly what came last, so that networks are deep
    first = st.one_of(st.just(-1), st.just(-1), numbers)
    steps = st.lists(
        st.builds(Step, st.sampled_from(kinds), first, numbers, numbers), min_size=1, max_size=most
    )
    return st.builds(Net, steps, st.sampled_from(["flatten", "mean"]))


def whole_numbers(model, seed=0, most=2):
    """Give a model small integers as weights, in float64: all its sums are exact."""
    generator = torch.Generator().manual_seed(seed)
    model.double().eval()
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if not tensor.is_floating_point() or "original" in name:
            continue
        low = 0 if "running_var" in name else -most
        with torch.no_grad():
            drawn = torch.randint(low, most + 1, tensor.shape, generator=generator)
            tensor.copy_(torch.ones_like(tensor) if low == 0 else drawn)
    return model


def image(batch=2, seed=1, side=SIDE):
    """Draw an image of integers."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-3, 4, (batch, 3, side, side), generator=generator).double()
