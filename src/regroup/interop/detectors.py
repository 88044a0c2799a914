"""Networks that detect, by name: torchvision's detectors on any backbone.

>>> model = detector("fcos", "shufflenet_v2_050", num_classes=7, pyramid_channels=64)
>>> (found,) = model.eval()(torch.zeros(1, 3, 64, 64))
>>> sorted(found)
['boxes', 'labels', 'scores']

`fcos:shufflenet_v1_g3_100` is how a name says it, wherever a network is named. Images are taken as they are:
normalised, of any sizes; no detector of a name with a backbone resizes them.
"""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.fcos import FCOSHead
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.models.detection.ssd import SSD
from torchvision.models.detection.ssdlite import SSDLiteHead, _extra_block
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import (
    FeaturePyramidNetwork,
    LastLevelMaxPool,
    LastLevelP6P7,
)

from regroup.errors import NetworkError, first_line
from regroup.interop.features import Levels
from regroup.networks.anywhere import create_any_model

_OWN = ("first_level", "pyramid_channels", "anchor_size", "head_convs", "head_channels", "maps")
_GIVEN = ("self", "backbone", "num_classes", "kwargs")
_OF_IMAGES = ("min_size", "max_size", "image_mean", "image_std", "size")  # which stay as they are


class Pyramid(nn.Module):
    """Maps of equal width, each half as large as the one before: what FCOS, RetinaNet and Faster R-CNN read.

    Args:
        levels: the backbone.
        first: the finest map is the image halved so many times.
        out_channels: of every map.
        pooled: one more by subsampling, as Faster R-CNN has it, instead of two by convolutions.

    Source: Lin et al., Feature Pyramid Networks for Object Detection (arXiv:1612.03144).
    """

    def __init__(self, levels: Levels, first: int, out_channels: int, pooled: bool) -> None:
        super().__init__()
        self.levels, self.out_channels = levels, out_channels
        self.chosen = [k for k in range(first, levels.depth + 1) if levels.out_channels[k]]
        if not self.chosen:
            allowed = f"at most {levels.depth}: the backbone halves the image so often"
            raise NetworkError("first_level", first, allowed)
        extra = LastLevelMaxPool() if pooled else LastLevelP6P7(out_channels, out_channels)
        widths = [levels.out_channels[k] for k in self.chosen]
        self.fpn = FeaturePyramidNetwork(widths, out_channels, extra)
        last = self.chosen[-1]
        self.strides = [2**k for k in (*self.chosen, *range(last + 1, last + (2 if pooled else 3)))]

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        maps = self.levels(x)
        return self.fpn(OrderedDict((str(i), maps[k]) for i, k in enumerate(self.chosen)))


class Shrinking(nn.Module):
    """The backbone's maps and further ones, each half as large as the one before: what SSDLite reads.

    Args:
        levels: the backbone.
        first: the finest map is the image halved so many times.
        count: of maps.
        norm: makes a normalisation of so many channels.

    Source: Sandler et al., MobileNetV2 (arXiv:1801.04381), section 6.2.
    """

    def __init__(self, levels: Levels, first: int, count: int, norm: Callable[..., nn.Module]) -> None:
        super().__init__()
        self.levels = levels
        self.chosen = [k for k in range(first, levels.depth + 1) if levels.out_channels[k]]
        if not 1 <= len(self.chosen) <= count:
            raise NetworkError(
                "first_level", first, f"such that the backbone has 1 to {count} maps from there on"
            )
        widths = [levels.out_channels[k] for k in self.chosen]
        further = [512, 256, 256, 128, *[128] * count][: count - len(widths)]
        pairs = zip([widths[-1], *further], further, strict=False)
        self.extra = nn.ModuleList(_extra_block(before, after, norm) for before, after in pairs)
        self.out_channels = [*widths, *further]

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        levels = self.levels(x)
        maps = [levels[k] for k in self.chosen]
        for block in self.extra:
            maps.append(block(maps[-1]))
        return OrderedDict((str(i), feature) for i, feature in enumerate(maps))


class AsGiven(GeneralizedRCNNTransform):
    """torchvision's transform of images, which here are normalised and keep their size."""

    def __init__(self, size_divisible: int) -> None:
        super().__init__(1, 1, [0.0], [1.0], size_divisible)

    def normalize(self, image: Tensor) -> Tensor:
        """Return the image."""
        return image

    def resize(self, image: Tensor, target: Any = None) -> tuple[Tensor, Any]:
        """Return the image and its target."""
        return image, target


def detector(
    head: str,
    backbone: str,
    *,
    num_classes: int,
    in_chans: int = 3,
    pretrained: bool = False,
    **options: Any,
) -> nn.Module:
    """Return a detector of torchvision's: images (N, C, H, W), or a list of them -> boxes, labels, scores.

    In training mode it takes targets besides and gives losses.

    Args:
        head: one of `DETECTORS`.
        backbone: name of a network of ours or of timm's.
        num_classes: of objects, and the background, which is 0.
        in_chans: channels of the image.
        pretrained: give the backbone the weights that its hub has.
        options: of the detector: first_level, the finest map that is read: the image halved so many times;
            pyramid_channels; anchor_size, in strides of the anchors' map; head_convs, head_channels, maps;
            and those of torchvision's class, such as score_thresh. Others are the backbone's.

    Raises:
        UnknownNameError: nobody has the backbone.
        NetworkError: it is none for this detector, or an option is of nobody.
    """
    build, takes = DETECTORS[head]
    known = {*_OWN, *inspect.signature(takes).parameters} - {*_GIVEN, *_OF_IMAGES}
    own = {name: value for name, value in options.items() if name in known}
    others = {name: value for name, value in options.items() if name not in known}
    levels = Levels(create_any_model(backbone, in_chans=in_chans, pretrained=pretrained, **others), in_chans)
    try:
        model = build(levels, num_classes, **own)
    except (ValueError, TypeError, RuntimeError, AssertionError) as error:
        if isinstance(error, NetworkError):
            raise
        allowed = f"a backbone and options that the detector {head} takes"
        raise NetworkError("model", f"{head}:{backbone}", allowed, first_line(error)) from error
    model.transform = AsGiven(1 if head == "ssdlite" else max(32, levels.output_stride))
    return model


def _anchors(strides: Sequence[int], size: float, scales: Sequence[float], ratios: Sequence[float]) -> Any:
    sizes = tuple(tuple(size * stride * scale for scale in scales) for stride in strides)
    return AnchorGenerator(sizes, (tuple(ratios),) * len(strides))


@dataclass(frozen=True)
class _OneStage:
    """Detectors that say of every place of a pyramid what is there.

    Attributes:
        made: torchvision's class.
        head: of so many channels, anchors and classes.
        scales: of the anchors of one place.
        ratios: height over width, likewise.
        usual: what options are where nobody says otherwise.
    """

    made: Callable[..., nn.Module]
    head: Callable[..., nn.Module]
    scales: Sequence[float]
    ratios: Sequence[float]
    usual: Mapping[str, Any]

    def __call__(self, levels: Levels, num_classes: int, **options: Any) -> nn.Module:
        own = {"first_level": 3, "pyramid_channels": 256, "head_convs": 4, **self.usual, **options}
        first, channels, size, convs = (
            own.pop(name) for name in ("first_level", "pyramid_channels", "anchor_size", "head_convs")
        )
        if not isinstance(convs, int) or not 0 <= convs <= 4:
            raise NetworkError("head_convs", convs, "0 to 4")
        pyramid = Pyramid(levels, first, channels, pooled=False)
        head = self.head(channels, len(self.scales) * len(self.ratios), num_classes)
        for branch in head.children():
            layers: Any = branch.conv  # four convolutions, each with as much behind it
            branch.conv = layers[: convs * len(layers) // 4]
        anchors = _anchors(pyramid.strides, size, self.scales, self.ratios)
        return self.made(pyramid, num_classes, anchor_generator=anchors, head=head, **own)


_fcos = _OneStage(FCOS, FCOSHead, (1,), (1.0,), {"anchor_size": 1, "score_thresh": 0.05})
_retinanet = _OneStage(
    RetinaNet,
    partial(RetinaNetHead, norm_layer=partial(nn.GroupNorm, 32)),
    (1, 2 ** (1 / 3), 2 ** (2 / 3)),
    (0.5, 1.0, 2.0),
    {"anchor_size": 4},
)


def _faster_rcnn(
    levels: Levels,
    num_classes: int,
    first_level: int = 2,
    pyramid_channels: int = 256,
    anchor_size: float = 8,
    head_channels: int = 1024,
    **more: Any,
) -> nn.Module:
    pyramid = Pyramid(levels, first_level, pyramid_channels, pooled=True)
    pool = MultiScaleRoIAlign([str(i) for i in range(len(pyramid.chosen))], 7, 2)
    anchors = _anchors(pyramid.strides, anchor_size, (1,), (0.5, 1.0, 2.0))
    box_head = TwoMLPHead(pyramid_channels * 7 * 7, head_channels)
    given = {"rpn_anchor_generator": anchors, "box_roi_pool": pool, "box_head": box_head}
    return FasterRCNN(pyramid, box_predictor=FastRCNNPredictor(head_channels, num_classes), **given, **more)


def _ssdlite(levels: Levels, num_classes: int, first_level: int = 4, maps: int = 6, **more: Any) -> nn.Module:
    norm = partial(nn.BatchNorm2d, eps=0.001, momentum=0.03)
    backbone = Shrinking(levels, first_level, maps, norm)
    anchors = DefaultBoxGenerator([[2, 3]] * maps, min_ratio=0.2, max_ratio=0.95)
    head = SSDLiteHead(backbone.out_channels, anchors.num_anchors_per_location(), num_classes, norm)
    published: dict[str, Any] = {
        "score_thresh": 0.001,
        "nms_thresh": 0.55,
        "detections_per_img": 300,
        "topk_candidates": 300,
    }
    return SSD(backbone, anchors, (320, 320), num_classes, head=head, **published | more)


DETECTORS: dict[str, tuple[Callable[..., nn.Module], type]] = {
    "fcos": (_fcos, FCOS),
    "retinanet": (_retinanet, RetinaNet),
    "fasterrcnn": (_faster_rcnn, FasterRCNN),
    "ssdlite": (_ssdlite, SSD),
}
"""Name -> what builds the detector, and the class of torchvision's whose options it takes."""


def normalised_outside(model: nn.Module) -> nn.Module:
    """Let a whole detector of torchvision's take normalised images, as all other networks do.

    What it subtracted and divided by stands in `pretrained_cfg`, where timm's tools and ours look for it.
    """
    transform = getattr(model, "transform", None)
    if isinstance(transform, GeneralizedRCNNTransform):
        levels = {"mean": tuple(transform.image_mean), "std": tuple(transform.image_std)}
        least: Any = transform.min_size
        side = transform.fixed_size or (least[-1],) * 2
        model.pretrained_cfg = {"input_size": (3, *side), "crop_pct": 1.0, **levels}  # type: ignore[assignment]
        transform.image_mean, transform.image_std = [0.0], [1.0]
    return model
