"""Flattened CNN (arXiv:1412.5474): three 5x5 layers made of 1-D convolutions; and its dense baseline.

The official repository has the layers only. Filter numbers and kernel are the paper's; the width of the
hidden layer is not stated in anything we could read, so that it is a parameter, 256 by default.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from regroup.networks import Claims, Family
from regroup.networks.backbone import Backbone, Config
from regroup.networks.blocks import Stage
from regroup.spec import ConvSpec
from regroup.strategies.dense import Dense
from regroup.strategies.flattened import Flattened


@dataclass(frozen=True, kw_only=True)
class FlattenedConfig(Config):
    """Numbers of a flattened CNN.

    Args:
        widths: filters of the layers.
        kernel_size: of the layers.
        rounds: how often lateral, vertical and horizontal convolution follow each other in a layer; 0 is the
            dense baseline.
        hidden: width of the layer before the classifier.
    """

    widths: tuple[int, ...] = (96, 128, 256)
    kernel_size: int = 5
    rounds: int = 2
    hidden: int = 256
    num_classes: int = 10


class FlattenedLayer(nn.Module):
    """A flattened convolution that keeps the size, and a ReLU."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, rounds: int) -> None:
        super().__init__()
        spec = ConvSpec(in_channels, out_channels, 1, bias=True).with_kernel(kernel_size)
        strategy = Flattened(stages=rounds) if rounds else Dense()
        self.conv = strategy.build(spec)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.conv(x))


class FlattenedCNN(Backbone):
    """Layers with max-pooling after each, and a perceptron with one hidden layer on the last 4 x 4 map."""

    min_size = 8

    def __init__(self, config: FlattenedConfig) -> None:
        channels, layers = config.in_chans, []
        for width in config.widths:
            layers.append(FlattenedLayer(channels, width, config.kernel_size, config.rounds))
            channels = width
        stages = [Stage([layer], nn.MaxPool2d(2)) for layer in layers[1:]]
        stages.append(Stage([nn.MaxPool2d(2)]))
        head = nn.Sequential(nn.Flatten(), nn.Linear(16 * channels, config.hidden), nn.ReLU())
        super().__init__(
            config,
            layers[0],
            stages,
            [*config.widths, channels],
            [2**i for i in range(len(layers) + 1)],
            hidden=(head, config.hidden),
            pooled=4,
        )

    def init_weights(self) -> None:
        """Start as the official layers do: uniform within the inverse root of the inputs, kernel ignored."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                bound = module.in_channels**-0.5
                for parameter in module.parameters():
                    nn.init.uniform_(parameter, -bound, bound)


family = Family(FlattenedCNN, paper="arXiv:1412.5474", source="jhjin/flattened-cnn")

# The repository states no errors, and we could not read the tables of the paper: none is quoted.
for name, rounds, counts in (
    ("flattened_cnn", 2, (1_200_362, 27.4)),
    ("flattened_cnn_dense", 0, (2_185_482, 139.5)),
):
    family.add(
        name,
        FlattenedConfig(rounds=rounds),
        Claims(*counts, size=(32, 32), counted="O", data="CIFAR-10"),
    )
