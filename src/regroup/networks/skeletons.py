"""Skeletons that several networks share; each network gives the blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from regroup.errors import NetworkError
from regroup.networks.backbone import Backbone
from regroup.networks.blocks import ConvNorm, Stage
from regroup.ops.scripting import traceable


def check_depths(depths: Sequence[int], stages: int) -> None:
    """Hold that there is a depth for each stage.

    Raises:
        NetworkError: there are more or fewer, or one is no int of at least 1.
    """
    if len(depths) != stages or any(not isinstance(depth, int) or depth < 1 for depth in depths):
        raise NetworkError("depths", depths, f"{stages} ints of at least 1, one for each stage")


class ResNetLike(Backbone):
    """A stem, then stages of blocks; each stage after the first halves the size.

    Args:
        config: says depths; and `small`, if it can be: a 3x3 stem with stride 1, and no pooling after it.
        channels: of the stem.
        outs: channels after each stage.
        block: (in_channels, stage, index, stride) -> the block with that number in its stage.
        eps: of the stem's batch norm.
        stem: in place of the 7x7 convolution; it halves the size, too.
        pool: in place of the max pooling.
        tail: what follows the last stage before the pooling.
    """

    def __init__(
        self,
        config: Any,
        channels: int,
        outs: Sequence[int],
        block: Callable[[int, int, int, int], nn.Module],
        *,
        eps: float = 1e-5,
        stem: nn.Module | None = None,
        pool: nn.Module | None = None,
        tail: nn.Module | None = None,
    ) -> None:
        check_depths(config.depths, len(outs))
        small = getattr(config, "small", False)
        kernel_size, stride, pool = 7, 2, pool or nn.MaxPool2d(3, stride=2, padding=1)
        if small:
            kernel_size, stride, pool = 3, 1, None
        stem = stem or ConvNorm(config.in_chans, channels, kernel_size, stride, eps=eps)
        stages, entering = [], channels
        for stage, (depth, out) in enumerate(zip(config.depths, outs, strict=True)):
            first = block(entering, stage, 0, 2 if stage else 1)
            rest = [block(out, stage, index, 1) for index in range(1, depth)]
            stages.append(Stage([first, *rest], None if stage else pool))
            entering = out
        reductions = [stride, *((1 if small else 4) * 2**stage for stage in range(len(stages)))]
        super().__init__(config, stem, stages, [channels, *outs], reductions, tail=tail)


class MobileNetLike(Backbone):
    """A 3x3 convolution with stride 2, then blocks in a row; a stage begins where the stride is not 1.

    What comes before the first of those belongs to the stem.

    Args:
        config: the numbers the network was built from.
        conv: the first convolution.
        blocks: (block, its stride, its output channels).
        tail: what follows the last block before the pooling.
    """

    def __init__(
        self,
        config: Any,
        conv: ConvNorm,
        blocks: Iterable[tuple[nn.Module, int, int]],
        *,
        tail: ConvNorm | None = None,
        hidden: tuple[nn.Module, int] | None = None,
    ) -> None:
        first: list[nn.Module] = [conv]
        stages: list[list[nn.Module]] = []
        widths = [conv.conv.out_channels]
        for block, stride, out_channels in blocks:
            if stride != 1:
                stages.append([])
                widths.append(out_channels)
            (stages[-1] if stages else first).append(block)
            widths[-1] = out_channels
        super().__init__(
            config,
            nn.Sequential(*first),
            [Stage(stage) for stage in stages],
            widths,
            [2 ** (i + 1) for i in range(len(widths))],
            tail=tail,
            num_features=tail.conv.out_channels if tail else None,
            hidden=hidden,
        )


class DenseNetLike(Backbone):
    """A 3x3 convolution, stages of layers that each add channels, average pooling between the stages.

    Args:
        config: says depths, growth, and whether the images are small.
        layer: (stage, in_channels) -> a layer that adds the growth of the stage.
        hidden: see `Backbone`.
    """

    min_size = 32

    def __init__(
        self,
        config: Any,
        layer: Callable[[int, int], nn.Module],
        hidden: tuple[nn.Module, int] | None = None,
    ) -> None:
        check_depths(config.depths, len(config.growth))
        channels, step = 2 * config.growth[0], 1 if config.small else 2
        stem = nn.Conv2d(config.in_chans, channels, 3, step, 1, bias=False)
        widths, stages = [channels], []
        for index, (depth, growth) in enumerate(zip(config.depths, config.growth, strict=True)):
            layers = [layer(index, channels + i * growth) for i in range(depth)]
            stages.append(Stage(layers, nn.AvgPool2d(2) if index else None))
            channels += depth * growth
            widths.append(channels)
        tail = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU())
        reductions = [step, *(step * 2**i for i in range(len(stages)))]
        super().__init__(config, stem, stages, widths, reductions, tail=tail, hidden=hidden)
        self.min_size = step * 2 ** (len(stages) - 1)


class Supervised(Backbone):
    """A backbone with auxiliary heads behind inner blocks: in training it gives a tuple of logits.

    Args:
        heads: block, as "stage_block" -> head; the last layer of a head is its `classifier`.
    """

    def __init__(self, *parts: Any, heads: Mapping[str, nn.Module], **options: Any) -> None:
        super().__init__(*parts, **options)
        self.heads = nn.ModuleDict(heads)
        self.heads.apply(self.init_layer)

    @traceable
    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:  # type: ignore[override]
        """Return logits (N, num_classes); in training with heads, theirs too, the last head's first."""
        if not (self.training and len(self.heads)):
            return super().forward(x)
        x, extra = self.stem(x), []
        for s, stage in enumerate(self.stages):
            for name, block in stage.named_children():
                x = block(x)
                if f"{s}_{name}" in self.heads:
                    extra.insert(0, self.heads[f"{s}_{name}"](x))
        return self.forward_head(self.tail(x)), *extra

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifiers; without classes the heads go too."""
        super().reset_classifier(num_classes, global_pool)
        heads = getattr(self, "heads", {})  # not there yet when the backbone makes its own classifier
        for head in heads.values():
            head.classifier = nn.Linear(head.classifier.in_features, num_classes)
            self.init_layer(head.classifier)
        if not num_classes:
            self.heads = nn.ModuleDict()
