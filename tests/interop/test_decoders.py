"""What others build on feature maps takes our networks: torchvision's pyramids, DeepLab, smp's decoders."""

from __future__ import annotations

import os

import pytest
import segmentation_models_pytorch as smp
import torch
from torch import nn
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.feature_extraction import create_feature_extractor
from torchvision.models.segmentation.deeplabv3 import DeepLabHead, DeepLabV3

import regroup
import regroup.interop.timm as interop
from regroup.errors import NetworkError
from regroup.networks import create_model, networks
from regroup.networks.backbone import Backbone
from regroup.ops.shapes import without_numbers
from tests.engine.models import randomise
from tests.engine.test_compiled import assert_as_good_as_pytorch
from tests.networks.representatives import representatives, shallow, side

ONE_TENSOR = [n for n in representatives() if networks[n].build.join is Backbone.join]
"""Networks between whose stages one tensor flows: of a pair, torchvision's getters show the pair."""

TRACEABLE = [n for n in ONE_TENSOR if not n.startswith(("dgc_", "g_resnext"))]
"""What FX can follow: the others choose channels while they run."""

LEAVES = {"autowrap_functions": interop.untraceable}

ENCODERS = [n for n in representatives() if n in interop.registered]

HALVING = [
    "shufflenet_v1_g3_050_official",
    "igcv3_025",
    "mixnet_s",
    "condensenetv2_a",
    "oct_mobilenetv1_075_a0375",
    "bl_resnet50_a4b4",
]
"""Networks, one a family, whose maps are the image halved exactly five times, as these decoders assume."""


def shadow(name: str, **options: object) -> Backbone:
    with without_numbers():
        return create_model(name, **options).eval()


def images(name: str) -> torch.Tensor:
    multiple = -(-side(name) // 32) * 32
    return torch.empty(2, 3, multiple, multiple)


@pytest.mark.parametrize("name", TRACEABLE)
@without_numbers()
def test_torchvision_extracts_what_feature_info_names(name: str) -> None:
    model, x = shadow(name, **shallow(name)), images(name)
    nodes = {info["module"]: str(info["reduction"]) for info in model.feature_info}
    extractor = create_feature_extractor(model, nodes, tracer_kwargs=LEAVES)
    expected = model.forward_intermediates(x, intermediates_only=True)
    assert [feature.shape for feature in extractor(x).values()] == [feature.shape for feature in expected]


@pytest.mark.parametrize("name", ONE_TENSOR)
@without_numbers()
def test_torchvision_builds_a_pyramid_on_stem_and_stages(name: str) -> None:
    model, x = shadow(name, **shallow(name)), images(name)
    parts = nn.ModuleDict({"stem": model.stem, **{f"stages_{i}": s for i, s in enumerate(model.stages)}})
    levels = {info["module"].replace(".", "_"): str(info["reduction"]) for info in model.feature_info}
    pyramid = BackboneWithFPN(parts, levels, [info["num_chs"] for info in model.feature_info], 16)
    *maps, _ = pyramid(x).values()
    expected = model.forward_intermediates(x, intermediates_only=True)
    assert [m.shape for m in maps] == [(2, 16, *feature.shape[2:]) for feature in expected]


@pytest.mark.parametrize("name", HALVING[:4])
@without_numbers()
def test_torchvisions_deeplab_segments(name: str) -> None:
    model, x = shadow(name, **shallow(name)), images(name)
    (info,) = [info for info in model.feature_info if info["reduction"] == 16]
    body = create_feature_extractor(model, {info["module"]: "out"}, tracer_kwargs=LEAVES)
    deeplab = DeepLabV3(body, DeepLabHead(info["num_chs"], 4))
    assert deeplab(x)["out"].shape == (2, 4, *x.shape[2:])


@pytest.mark.parametrize("name", ENCODERS)
@without_numbers()
def test_a_unet_takes_all_feature_maps(name: str) -> None:
    model, x = shadow(name, **shallow(name)), images(name)
    depth = model.feature_info[-1]["reduction"].bit_length() - 1
    widths = (64, 32, 16, 16, 8)[:depth]
    given = {"encoder_depth": depth, "decoder_channels": widths, "classes": 4, **shallow(name)}
    unet = smp.Unet(f"tu-{name}", encoder_weights=None, **given)
    found = set()
    unet.encoder.register_forward_hook(lambda *call: found.update(feature.shape for feature in call[-1]))
    assert unet(x).shape == (2, 4, *x.shape[2:])
    assert found >= {feature.shape for feature in model.forward_intermediates(x, intermediates_only=True)}


@pytest.mark.parametrize("decoder", [smp.FPN, smp.Linknet, smp.UPerNet])
@pytest.mark.parametrize("name", HALVING)
@without_numbers()
def test_other_decoders_segment(name: str, decoder: type[nn.Module]) -> None:
    x = images(name)
    model = decoder(f"tu-{name}", encoder_weights=None, classes=4, **shallow(name))
    assert model(x).shape == (2, 4, *x.shape[2:])


def test_a_decoder_that_wants_another_stride_is_told_that_networks_have_one() -> None:
    with pytest.raises(NetworkError, match="output_stride=16"):
        smp.DeepLabV3Plus("tu-shufflenet_v1_g3_050", encoder_weights=None)


COMPILED = [("Unet", "resnet18"), ("Unet", "mit_b0")]  # the latter's first feature map has no channels
DECODERS = ["Unet", "UnetPlusPlus", "MAnet", "Linknet", "FPN", "PSPNet", "DeepLabV3", "DeepLabV3Plus", "PAN"]
DECODERS += ["UPerNet", "Segformer"]
ENCODED = ["resnet18", "mit_b0", "mobileone_s0", "vgg11", "densenet121", "mobilenet_v2", "xception", "dpn68"]
EVERY = [(decoder, encoder) for decoder in DECODERS for encoder in ENCODED]


@pytest.mark.parametrize(("decoder", "encoder"), EVERY if "REGROUP_FUZZ" in os.environ else COMPILED)
def test_a_compiled_decoder_is_as_good_as_pytorch(decoder: str, encoder: str) -> None:
    try:
        model = randomise(getattr(smp, decoder)(encoder, encoder_weights=None))
    except ValueError as error:
        pytest.skip(f"smp has no such pair: {error}")
    x = torch.randn(2, 3, 128 if decoder == "PAN" else 64, 64 if decoder != "PAN" else 128)
    assert_as_good_as_pytorch(model, regroup.compile(model, x)(x), x)
