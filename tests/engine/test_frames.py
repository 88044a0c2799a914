"""Frames of videos that are made one batch of images, and back, run natively on both sides."""

import pytest
import torch
from torch import nn

import regroup


class Video(nn.Module):
    """A network of images, on each frame of each video, and a network of what they have in common."""

    def __init__(self, merge):
        super().__init__()
        self.merge = merge
        self.frame = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(),
            nn.Conv2d(8, 8, 3, 1, 1, groups=4), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        )  # fmt: skip
        self.video = nn.Linear(8, 4)

    def forward(self, x):
        images = x.flatten(0, 1) if self.merge == "flatten" else x.reshape(-1, *x.shape[2:])
        y = self.frame(images).unflatten(0, x.shape[:2])
        return self.video(y.mean(1)), y, self.video(y.flatten(0, 1)) + self.frame(x[:, 0])[:1, :4]


def whole(module):
    for parameter in (*module.parameters(), *module.buffers()):
        if parameter.is_floating_point():
            parameter.data.copy_(torch.randint(-2, 3, parameter.shape))
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_var.fill_(1 - norm.eps)
    return module.eval()


@pytest.mark.parametrize("merge", ["flatten", "reshape"])
@pytest.mark.parametrize("frames", [1, 2, 5])
def test_any_number_of_videos_of_any_length(merge, frames):
    model = whole(Video(merge))
    fast = regroup.compile(model, torch.zeros(2, frames, 3, 8, 8))
    for videos in (2, 1, 3, 5, 2):
        x = torch.randint(-2, 3, (videos, frames, 3, 8, 8)).float()
        with torch.no_grad():
            right = model.double()(x.double())
            model.float()
        for got, exact in zip(fast(x), right, strict=True):
            assert got.shape == exact.shape
            assert (got - exact).abs().max() <= 2**-20 * exact.abs().max()
    told = fast.explain(json=True)
    assert not told["why_pytorch"]
    convolutions = [
        p for s in told["segments"] for step in s.get("steps", ()) for p in step["parts"] if p["macs"]
    ]
    assert len(convolutions) >= 4
