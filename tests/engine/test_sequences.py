"""Networks of sound run natively, as images of one row, and compute what PyTorch does."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import regroup
from regroup.ops.accelerate import accelerated

from .test_accuracy import MOST, times_worse


class Block(nn.Module):
    """What speech is made of: convolutions over time, GLU, norms over channels, squeeze-and-excitation."""

    def __init__(self, channels=12):
        super().__init__()
        self.stem = nn.Conv1d(6, channels, 5, stride=2, padding=2)
        self.norm, self.prelu = nn.BatchNorm1d(channels), nn.PReLU(channels)
        self.layer_norm, self.global_norm = nn.LayerNorm(channels), nn.GroupNorm(1, channels)
        self.wide = nn.Conv1d(channels, 2 * channels, 1)
        self.depthwise = nn.Conv1d(channels, channels, 31, padding=15, groups=channels)
        self.causal = nn.Conv1d(channels, channels, 3, dilation=4, groups=4)
        self.squeeze = nn.Sequential(nn.AdaptiveAvgPool1d(1), nn.Conv1d(channels, 4, 1), nn.ReLU())
        self.excite = nn.Sequential(nn.Conv1d(4, channels, 1), nn.Sigmoid())
        self.pools = nn.Sequential(nn.MaxPool1d(3, 2, 1), nn.AvgPool1d(2))
        self.head = nn.Linear(channels, 5)

    def forward(self, x):
        x = self.prelu(self.norm(self.stem(x)))
        y = self.layer_norm(x.transpose(1, 2)).transpose(1, 2)
        y = F.silu(self.depthwise(F.glu(self.wide(y), 1)))
        y = self.global_norm(x + self.causal(F.pad(y, (8, 0))))
        y = y.unflatten(1, (3, -1)).transpose(1, 2).flatten(1, 2)
        y = y * self.excite(self.squeeze(y))
        halves = y.chunk(2, 1)
        y = self.pools(torch.cat([halves[1], halves[0] - 1], 1))
        return torch.cat([self.head(y.mean(-1)), y[..., 1:].flatten(1)], 1)


def block():
    torch.manual_seed(0)
    model = Block().eval()
    for tensor in (*model.norm.parameters(), model.norm.running_mean, model.norm.running_var):
        nn.init.uniform_(tensor, 0.5, 1.5)
    return model


def test_a_block_runs_natively_at_any_length_and_batch_size():
    model, x = block(), torch.randn(2, 6, 50)
    compiled = regroup.compile(model, x, strict=True)
    assert "aten::convolution" not in compiled.explain()
    for images, steps in ((2, 50), (1, 50), (3, 50), (2, 51), (1, 333)):
        assert times_worse(model, compiled, torch.randn(images, 6, steps)) <= MOST


def test_accelerated_convolutions_are_native_too():
    model, x = block(), torch.randn(2, 6, 50)
    with accelerated(model):
        found = regroup.compile(model, x, strict=True)(x)
    expected = regroup.compile(model, x)(x)
    assert torch.equal(found, expected)


class Drawn(nn.Module):
    """Layers drawn at random, with small integers as weights, so that float32 is exact."""

    def __init__(self, names):
        super().__init__()
        self.names, self.layers = names, nn.ModuleList(map(self.layer, names))
        for parameter in self.parameters():
            parameter.data = torch.randint_like(parameter, -1, 2)

    def layer(self, name):
        return {
            "conv": lambda: nn.Conv1d(8, 8, 3, padding=1, bias=False),
            "strided": lambda: nn.Conv1d(8, 8, 4, 2, 3, groups=2),
            "transposed": lambda: nn.ConvTranspose1d(8, 8, 4, 2, 1, 1, groups=2),
            "depthwise": lambda: nn.Conv1d(8, 8, 5, padding=4, dilation=2, groups=8),
            "max": lambda: nn.MaxPool1d(2, 2, ceil_mode=True),
        }.get(name, nn.Identity)()

    def forward(self, x):
        kept = x
        for name, layer in zip(self.names, self.layers, strict=True):
            x = layer(x)
            if name == "shuffle":
                x = x.view(x.shape[0], 2, 4, -1).transpose(1, 2).reshape(x.shape)
            elif name == "halves":
                a, b = x.split(4, 1)
                x = torch.cat([b, F.relu(a)], 1)
            elif name == "constant":
                x = x * torch.arange(8.0).sub(4)[:, None] + 1
            elif name == "residual" and kept.shape == x.shape:
                x = x + kept
            elif name == "later":
                x = F.pad(x, (3, 1))[..., 1:]
            elif name == "turned":
                x = (x.transpose(1, 2) + 1).transpose(1, 2)
            elif name == "first":
                x = x + x[..., :1]
            elif name == "keep":
                kept = x
            x = x.clamp(-3, 3)
        return x, kept


NAMES = ["conv", "strided", "depthwise", "max", "shuffle", "halves", "constant", "residual", "later"]
NAMES += ["transposed", "turned", "first", "keep"]


@given(st.lists(st.sampled_from(NAMES), min_size=1, max_size=7), st.integers(1, 3), st.integers(9, 40))
@settings(max_examples=25, deadline=None, derandomize=True)
def test_drawn_networks_of_sound_are_exact(names, images, steps):
    model = Drawn(["conv", *names]).eval()
    x = torch.randint(-3, 4, (images, 8, steps)).float()
    found, expected = regroup.compile(model, x)(x), model(x)
    assert all(map(torch.equal, found, expected))
