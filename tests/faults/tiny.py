"""A network that is trained in a moment, in a file of its own: whatever a file imports counts as source."""

from torch import nn


class Tiny(nn.Sequential):
    """Convolutions enough to be grouped, and a head."""

    def __init__(self, classes=4, channels=1, width=8):
        super().__init__(
            nn.Conv2d(channels, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(width, classes),
        )
