"""Networks that segment, by name: a decoder of segmentation_models_pytorch or torchvision on any backbone.

>>> model = segmenter("lraspp", "shufflenet_v2_050", num_classes=7)
>>> model.eval()(torch.zeros(1, 3, 64, 64))["out"].shape
torch.Size([1, 7, 64, 64])

`unet:shufflenet_v1_g3_100` is how a name says it, wherever a network is named.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from regroup.errors import NetworkError, first_line, needed
from regroup.interop.dilation import dilate
from regroup.interop.features import Levels
from regroup.networks.anywhere import create_any_model

OF_SMP = ("unet", "unetplusplus", "manet", "linknet", "fpn", "pan", "pspnet", "upernet", "segformer")
OF_SMP += ("deeplabv3", "deeplabv3plus")
"""Decoders of segmentation_models_pytorch; DeepLab's want backbones of fewer strides, see `dilation`."""

DECODERS = (*OF_SMP, "lraspp")
"""All decoders."""

_WIDTHS = (256, 128, 64, 32, 16)
_OF_DECODER = (
    "decoder_",
    "upsampling",
    "activation",
    "encoder_output_stride",
)  # beginnings of options that are not the backbone's


def segmenter(
    decoder: str,
    backbone: str,
    *,
    num_classes: int,
    in_chans: int = 3,
    pretrained: bool = False,
    **options: Any,
) -> nn.Module:
    """Return a network that segments: images (N, C, H, W) -> scores (N, classes, H, W), or {"out": scores}.

    Args:
        decoder: one of `DECODERS`.
        backbone: name of a network of ours or of timm's.
        num_classes: classes of a pixel, the background among them.
        in_chans: channels of the image.
        pretrained: give the backbone the weights that its hub has.
        options: those of the decoder, such as decoder_channels=[128,64,32,32,16], or encoder_output_stride of
            DeepLab's; others are the backbone's.

    Raises:
        UnknownNameError: nobody has the backbone.
        NetworkError: it is none for this decoder, or an option is of nobody.
        RegroupError: the package of the decoder is not installed.
    """
    own = {name: value for name, value in options.items() if name.startswith(_OF_DECODER)}
    others = {name: value for name, value in options.items() if name not in own}
    body = create_any_model(backbone, in_chans=in_chans, pretrained=pretrained, **others)
    levels = Levels(body, in_chans)
    if decoder == "lraspp":
        return _lraspp(levels, num_classes, own)
    smp = needed("segmentation_models_pytorch", "see")
    if decoder in ("unet", "unetplusplus", "manet"):
        own.setdefault("decoder_channels", _WIDTHS[-levels.depth :])
    depth = min(3, levels.depth) if decoder == "pspnet" else levels.depth
    if decoder in ("fpn", "pspnet"):
        own.setdefault("upsampling", 2 ** (depth - 3) if decoder == "fpn" else 2**depth)
    if decoder == "pan":
        own.setdefault("encoder_output_stride", 32)
    try:
        with _named(levels, backbone) as name:
            given = {"encoder_weights": None, "in_channels": in_chans, "classes": num_classes}
            return smp.create_model(decoder, name, **given, encoder_depth=depth, **own)
    except (ValueError, TypeError, RuntimeError, IndexError, AssertionError) as error:
        if isinstance(error, NetworkError):
            raise
        allowed = f"a backbone and options that the decoder {decoder} takes"
        raise NetworkError("model", f"{decoder}:{backbone}", allowed, first_line(error)) from error


@contextmanager
def _named(levels: Levels, backbone: str) -> Iterator[str]:
    """Let segmentation_models_pytorch, which takes encoders by name, know this one while it is asked."""
    encoders = needed("segmentation_models_pytorch.encoders", "see").encoders
    name = f"regroup-{backbone}"  # stays in the network, by which a run is known again
    encoders[name] = {"encoder": _Given(levels), "params": {}, "pretrained_settings": {}}
    try:
        yield name
    finally:
        del encoders[name]


class _Given:
    """What segmentation_models_pytorch calls to make an encoder, which is there already."""

    def __init__(self, levels: Levels) -> None:
        self._levels = levels

    def __call__(self, depth: int, output_stride: int) -> nn.Module:
        return _Encoder(self._levels, depth)


class _Encoder(nn.Module):
    """Levels as segmentation_models_pytorch asks for them."""

    def __init__(self, levels: Levels, depth: int) -> None:
        super().__init__()
        self.levels, self._depth = levels, depth
        self.out_channels = levels.out_channels[: depth + 1]
        self.output_stride = 2**depth

    def set_in_channels(self, in_channels: int, pretrained: bool = False) -> None:
        """Do nothing: the network has been built for its images."""

    def make_dilated(self, output_stride: int) -> None:
        """Let the last map be the image divided by this, where it would be smaller."""
        dilate(self.levels, output_stride)
        self.output_stride = min(2**self._depth, output_stride)

    def forward(self, x: Tensor) -> list[Tensor]:
        return self.levels(x)[: self._depth + 1]


class _LowAndHigh(nn.Module):
    """The two maps that LR-ASPP reads: the image halved three times, and the last."""

    def __init__(self, levels: Levels) -> None:
        super().__init__()
        self.levels = levels
        self.low = min(3, levels.depth - 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        maps = self.levels(x)
        return OrderedDict(low=maps[self.low], high=maps[-1])


def _lraspp(levels: Levels, num_classes: int, options: dict[str, Any]) -> nn.Module:
    from torchvision.models.segmentation.lraspp import LRASPP

    if options:
        name, value = next(iter(options.items()))
        raise NetworkError(name, value, "left out: the decoder lraspp has no options")
    backbone = _LowAndHigh(levels)
    low, high = levels.out_channels[backbone.low], levels.out_channels[-1]
    if not low:
        raise NetworkError(
            "model", type(levels.body).__name__, "a network with a map of an eighth of the image"
        )
    return LRASPP(backbone, low, high, num_classes)
