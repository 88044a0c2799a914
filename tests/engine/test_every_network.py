"""Published networks against PyTorch in float64: a few on every run, all with REGROUP_FUZZ set (hours)."""

from __future__ import annotations

import os

import pytest
import torch
from torch import nn

from regroup.engine.running.compiled import compile
from regroup.errors import SpecError
from regroup.networks import list_models
from regroup.networks.anywhere import create_any_model
from tests.engine.models import randomise, settle
from tests.engine.test_compiled import assert_as_good_as_pytorch

FEW = ["condensenet_cifar_50", "shufflenet_v1_g3_025", "igcv3_025", "resnet20"]

FAMILIES = """
    resnet18 resnetv2_50 resnext50_32x4d seresnet50 skresnet18 resnest14d ecaresnet50d
    densenet121 dpn68 vgg11_bn inception_v3 xception41 mobilenetv2_100 mobilenetv3_large_100
    mobilenetv4_conv_small efficientnet_b0 mixnet_s mnasnet_100 ghostnet_100 ghostnetv2_100
    lcnet_050 hardcorenas_a regnetx_002 regnety_002 repvgg_a0 mobileone_s0 convnext_atto
    convnextv2_atto cspresnet50 darknet53 dla34 dla60_res2net res2net50_26w_4s hrnet_w18_small
    selecsls42 rexnet_100 nf_resnet50 gernet_s vovnet39a ese_vovnet19b_dw starnet_s1
    edgenext_xx_small fastvit_t8 hgnetv2_b0 repghostnet_050 poolformer_s12 resnet50_gn
    rdnet_tiny mambaout_femto efficientvit_b0 repvit_m0_9 gcresnet33ts
    inception_resnet_v2 inception_v4 legacy_seresnet18 tresnet_m fasternet_t0 inception_next_atto
    lcnetv2_small cspnext_tiny shvit_s1 csatv2 visformer_tiny swiftformer_xs hgnet_tiny fbnetc_100
    spnasnet_100 tinynet_e tf_efficientnet_b0 bat_resnext26ts resnetaa34d seresnextaa101d_32x8d
    eca_nfnet_l0 ghostnetv3_050 convmixer_1024_20_ks9_p14 cspdarknet53 xception41p resnetrs50
    efficientformer_l1
"""

EVERY = [*list_models(), *(f"timm:{name}" for name in FAMILIES.split())]


def _input(model: nn.Module) -> torch.Tensor:
    """Return two small images, or as large ones as the network insists on."""
    channels, *size = getattr(model, "pretrained_cfg", {}).get("input_size", (3, 224, 224))
    x = torch.randn(2, channels, 96, 96)
    try:
        with torch.no_grad():
            model(x)
    except (RuntimeError, AssertionError, SpecError):
        return torch.randn(2, channels, *size)
    return x


@pytest.mark.parametrize("name", EVERY if "REGROUP_FUZZ" in os.environ else FEW)
def test_a_network_is_as_good_as_pytorch(name):
    torch.manual_seed(0)
    model = randomise(create_any_model(name))
    x = _input(model)
    settle(model, x)
    assert_as_good_as_pytorch(model, compile(model, x)(x), x)
