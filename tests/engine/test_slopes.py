"""PReLU, natively: fused into what makes its input, sorted with its channels, changed with its weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from regroup import compile


def integers(model: nn.Module) -> nn.Module:
    for parameter in model.parameters():
        parameter.data = torch.randint(-2, 3, parameter.shape).float()
    return model.eval()


class Sloped(nn.Module):
    """Slopes after sums, channel orders, concatenations and products, of channels and of all."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.each, self.all, self.last = nn.PReLU(8), nn.PReLU(), nn.PReLU(5)
        self.shuffle, self.linear = nn.ChannelShuffle(4), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.shuffle(self.each(self.a(x) + x))
        y = self.all(self.b(y))
        y = torch.cat([self.each(y), y], 1)[:, 4:12]
        y = self.each(y * nn.functional.adaptive_max_pool2d(y, 1))
        return self.last(self.linear(nn.functional.adaptive_max_pool2d(y, 1).flatten(1))), self.each(x)


def test_slopes_are_fused_and_follow_their_channels_and_their_weights():
    torch.manual_seed(0)
    model, x = integers(Sloped()), torch.randint(-2, 3, (2, 8, 9, 7)).float()
    fast = compile(model, x)

    def same() -> bool:
        return all(torch.equal(y, want) for y, want in zip(fast(x), model(x), strict=True))

    assert same()
    with torch.no_grad():
        model.each.weight.add_(1)
        model.all.weight.mul_(2)
    assert same()
    model.last.weight.data = torch.arange(5.0)
    assert same()
    segments = fast.explain(json=True)["segments"]
    assert [segment["runs"] for segment in segments] == ["native"]
    words = [part["work"] for step in segments[0]["steps"] for part in step["parts"]]
    assert "conv + add + prelu" in words and "linear + prelu" in words


def test_slopes_run_within_a_chain():
    torch.manual_seed(0)
    depthwise = nn.Conv2d(64, 64, 3, 1, 1, groups=64)
    model = nn.Sequential(
        nn.Conv2d(3, 64, 3, 2, 1), nn.PReLU(64), depthwise, nn.PReLU(64), nn.Conv2d(64, 8, 1)
    )
    model, x = integers(model), torch.randint(-2, 3, (2, 3, 112, 96)).float()
    assert torch.equal(compile(model, x)(x), model(x))
